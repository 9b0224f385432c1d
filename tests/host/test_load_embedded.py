"""The shipped networks as objects of the host compute what diffusers and transformers compute with them."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.host

Pack = Callable[[str], ModuleType]


@pytest.fixture(scope="module", params=["inpaint", "blended"])
def denoiser(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def loaded(pack: Pack, denoiser: str) -> dict[str, Any]:
    names = ("model", "clip", "vae", "segmenter", "scorer", "referrer")
    made = pack("nodes.load_embedded").RetouchLoadEmbedded.execute(denoiser).args
    return dict(zip(names, made, strict=True))


@pytest.fixture(scope="module")
def editor(pack: Pack, denoiser: str) -> Any:
    return pack("retouch_core.models.embedded").load_editor(denoiser=denoiser)


@pytest.mark.parametrize("sigma", [14.0, 2.5, 0.3, 0.05])
def test_the_denoiser_gives_the_librarys_estimate(loaded: dict[str, Any], editor: Any, sigma: float) -> None:
    """D(x, sigma) of both, each by its own schedule, scaling and prediction type, on mask and masked picture."""
    import comfy.model_management

    model = loaded["model"]
    comfy.model_management.load_models_gpu([model])
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 4, 16, 12, generator=generator) * (1 + sigma**2) ** 0.5
    words = editor.encode_prompts(["a blue fish", ""])
    cells = masked = seen = None
    if editor.inpaint:
        cells = (torch.rand(2, 1, 16, 12, generator=generator) > 0.5).float()
        masked = torch.randn(2, 4, 16, 12, generator=generator)
        seen = torch.cat([cells, masked], 1)
    # A level that is a training timestep: both round to the nearest, and ties are nobody's error.
    levels = model.get_model_object("model_sampling").sigmas
    level = levels[(levels - sigma).abs().argmin()].expand(2)
    with torch.no_grad():
        host = model.model.apply_model(x, level, c_concat=seen, c_crossattn=words)
        library = editor.denoise(x, level, words, cells, masked)
    scale = float(library.abs().max())
    assert scale > 0.1
    assert float((host - library).abs().max()) <= 1e-4 * max(1.0, scale)


def test_pictures_and_words_are_encoded_and_decoded_as_in_the_library(
    loaded: dict[str, Any], editor: Any
) -> None:
    image = torch.rand(1, 64, 48, 3, generator=torch.Generator().manual_seed(1))
    scale = loaded["model"].get_model_object("latent_format").scale_factor
    host = loaded["vae"].encode(image) * scale
    assert torch.allclose(host, editor.encode(image), atol=1e-4)
    assert torch.allclose(loaded["vae"].decode(host / scale), editor.decode(host), atol=1e-4)
    words = loaded["clip"].encode_from_tokens_scheduled(loaded["clip"].tokenize("a blue fish"))[0][0]
    assert torch.allclose(words, editor.encode_prompts(["a blue fish"]), atol=1e-4)


def test_what_arrives_on_the_sockets_is_the_hosts_own(pack: Pack, loaded: dict[str, Any]) -> None:
    import comfy.model_patcher
    import comfy.sd

    assert isinstance(loaded["clip"], comfy.sd.CLIP)
    assert isinstance(loaded["vae"], comfy.sd.VAE)
    for output in (loaded["model"], *(loaded[name].patcher for name in ("clip", "vae", "scorer"))):
        assert isinstance(output, comfy.model_patcher.CoreModelPatcher)
    protocols = pack("retouch_core.models.protocols")
    assert isinstance(loaded["segmenter"], protocols.Segmenter)
    assert isinstance(loaded["scorer"], protocols.Scorer)
    assert isinstance(loaded["referrer"], protocols.Referrer)


def test_unloading_leaves_none_of_ours(loaded: dict[str, Any]) -> None:
    import comfy.model_management

    scorer = loaded["scorer"]
    scorer.encode_texts(["moon"])
    scorer.encode_images(torch.rand(1, 3, scorer.image_size, scorer.image_size))

    def ours() -> list[Any]:
        # Other tests may have left the host a model of theirs that they still hold.
        patchers = [loaded["model"], loaded["clip"].patcher, loaded["vae"].patcher, scorer.patcher]
        there = comfy.model_management.loaded_models()
        return [patcher for patcher in patchers if any(patcher is one for one in there)]

    assert scorer.patcher in ours()
    comfy.model_management.unload_all_models()
    assert ours() == []


def test_a_damaged_bundle_is_refused_in_one_sentence(
    pack: Pack, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    node = pack("nodes.load_embedded")
    shutil.copytree(node.FOLDER, tmp_path / "bundle")
    file = tmp_path / "bundle" / "vae" / "diffusion_pytorch_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    monkeypatch.setattr(node, "FOLDER", tmp_path / "bundle")
    with pytest.raises(ValueError, match=r"weights are damaged: .*vae") as refusal:
        node.RetouchLoadEmbedded.execute("inpaint")
    assert "\n" not in str(refusal.value)


def test_a_denoiser_that_is_not_shipped_is_refused(pack: Pack) -> None:
    with pytest.raises(ValueError, match="denoiser must be one of inpaint, blended, got 'plain'"):
        pack("nodes.load_embedded").RetouchLoadEmbedded.execute("plain")
