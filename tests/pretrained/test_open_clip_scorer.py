"""open_clip's models out of folders and single files, against open_clip's own loading, preprocessing and logits."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_open_clip import PLAIN, PREPROCESS, TEXT, published
from tiny_towers import drawn, tokenizer, write

from retouch_core.models.pretrained.loading import ModelError
from retouch_core.models.pretrained.scorers import open_clip_scorer as module
from retouch_core.models.pretrained.scorers.open_clip_scorer import OpenClipScorer
from retouch_core.models.protocols import Scorer
from retouch_core.tensors.checks import InputWarning

open_clip = pytest.importorskip("open_clip")

TEXTS = ["a red car", "the blue star"]
CUSTOM = {
    "embed_dim": 64,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {
        "image_size": 160,
        "timm_model_name": "test_vit",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "none",
    },
    "text_cfg": {
        **TEXT,
        "context_length": 8,
        "vocab_size": 12,
        "hf_tokenizer_name": "somebody/else",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "no_causal_mask": True,
        "pool_type": "last",
    },
}


@pytest.fixture(scope="module", autouse=True)
def no_network() -> Any:
    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("a socket was opened")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "socket", refused)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(tmp_path_factory.mktemp("plain"), PLAIN)


@pytest.fixture(scope="module")
def custom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = published(tmp_path_factory.mktemp("custom"), CUSTOM)
    tokenizer(lower=False).save_pretrained(found)
    return found


@pytest.fixture(scope="module")
def scorer(folder: Path) -> OpenClipScorer:
    return OpenClipScorer.from_folder(folder)


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_fills_the_socket(scorer: OpenClipScorer) -> None:
    assert isinstance(scorer, Scorer) and scorer.networks == (scorer.model,)
    assert scorer.image_size == 32 and scorer.gate is None and scorer.rivals == () and scorer.quick_gelu
    assert scorer.logit_scale == pytest.approx(1 / 0.07, rel=1e-5)
    assert not any(weight.requires_grad for weight in scorer.model.parameters()) and not scorer.model.training


@pytest.mark.parametrize("kind", ["plain", "custom"])
def test_logits_are_open_clips_own(folder: Path, custom: Path, kind: str) -> None:
    """open_clip reads the same folder, and its own transforms turn the same picture of 8 bits into numbers."""
    place = folder if kind == "plain" else custom
    mine = OpenClipScorer.from_folder(place)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{place}")
    words = open_clip.get_tokenizer(f"local-dir:{place}")(TEXTS)
    pictures = np.random.default_rng(5).integers(
        0, 256, (3, mine.image_size, mine.image_size, 3), dtype=np.uint8
    )
    with torch.no_grad():
        logits, _ = model.eval().get_logits(
            torch.stack([preprocess(Image.fromarray(picture)) for picture in pictures]), words
        )
    seen = mine.encode_images(torch.from_numpy(pictures).movedim(-1, 1) / 255)
    read = mine.encode_texts(TEXTS)
    bias = 0 if model.logit_bias is None else float(model.logit_bias)
    assert seen.dtype == read.dtype == torch.float32 and seen.shape == (
        3,
        16 if kind == "plain" else 64,
    )
    torch.testing.assert_close(seen @ read.T * mine.logit_scale + bias, logits, rtol=1e-4, atol=1e-4)
    assert torch.equal(seen, mine.encode_images(torch.from_numpy(pictures).movedim(-1, 1) / 255))


def test_the_curve_follows_the_config(folder: Path, copied: Path, scorer: OpenClipScorer) -> None:
    config = json.loads((copied / module.CONFIG).read_text())
    config["model_cfg"]["quick_gelu"] = False
    write(copied / module.CONFIG, config)
    other = OpenClipScorer.from_folder(copied)
    assert not other.quick_gelu
    assert not torch.allclose(other.encode_images(drawn()), scorer.encode_images(drawn()), atol=1e-4)
    called = copied.rename(copied.parent / "vit_base_patch16_clip_224.openai")
    with pytest.warns(InputWarning, match="asks for GELU, but OpenAI's weights need QuickGELU"):
        OpenClipScorer.from_folder(called)


@pytest.mark.parametrize("form", ["bin", "training", "half"])
def test_other_forms_of_the_same_weights(copied: Path, scorer: OpenClipScorer, form: str) -> None:
    state = load_file(copied / module.WEIGHTS[0])
    (copied / module.WEIGHTS[0]).unlink()
    if form == "training":
        wrapped = {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}
        torch.save(wrapped, copied / module.WEIGHTS[2])
    elif form == "bin":
        torch.save(state, copied / module.WEIGHTS[2])
    else:
        save_file({name: value.half() for name, value in state.items()}, copied / module.WEIGHTS[0])
    mine = OpenClipScorer.from_folder(copied)
    assert next(mine.model.parameters()).dtype == torch.float32
    rough = 2e-2 if form == "half" else 0
    torch.testing.assert_close(mine.encode_images(drawn()), scorer.encode_images(drawn()), rtol=0, atol=rough)
    torch.testing.assert_close(mine.encode_texts(TEXTS), scorer.encode_texts(TEXTS), rtol=0, atol=rough)


def test_loading_leaves_the_random_numbers_alone(folder: Path) -> None:
    torch.manual_seed(9)
    expected = torch.rand(2)
    torch.manual_seed(9)
    OpenClipScorer.from_folder(folder)
    assert torch.equal(torch.rand(2), expected)


def test_chunks_and_half_precision(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, views, told = OpenClipScorer.from_folder(folder), drawn(5), []
    whole = mine.encode_images(views)
    monkeypatch.setattr(module, "chunk_for", lambda device, tokens: 2)
    parts = mine.encode_images(views, tell=lambda done, of: told.append((done, of)))
    assert told == [(2, 5), (4, 5), (5, 5)]
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)
    assert mine.encode_images(views[:0]).shape == mine.encode_texts([]).shape == (0, 16)
    words = mine.encode_texts(TEXTS)
    mine.networks[0].to(torch.bfloat16)
    for rough, exact in ((mine.encode_images(views), whole), (mine.encode_texts(TEXTS), words)):
        assert rough.dtype == torch.float32
        # bfloat16 keeps 8 bits of each number.
        assert float((rough * exact).sum(-1).min()) > 0.99


def test_features_are_open_clips_own(scorer: OpenClipScorer, custom: Path) -> None:
    views = drawn(2)
    with torch.no_grad():
        states = scorer.model.visual.forward_intermediates(
            scorer._pixels(views), output_fmt="NLC", intermediates_only=True
        )["image_intermediates"]
    found = scorer.features(views)
    assert len(found) == 3 and found[0].shape == (2, 16, 64)
    for mine, theirs in zip(found, states, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    half = scorer.features(views, 0.5)
    assert len(half) == 2 and torch.equal(half[1], found[1])
    # Others have no such attribute, which the perceptual stand-in asks for.
    assert not hasattr(OpenClipScorer.from_folder(custom), "features")


@pytest.mark.parametrize("kind", ["plain", "custom"])
@pytest.mark.parametrize("inference", [False, True])
def test_views_that_want_a_gradient_get_it(
    folder: Path, custom: Path, kind: str, inference: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "chunk_for", lambda device, tokens: 2)
    with torch.inference_mode(inference):
        mine = OpenClipScorer.from_folder(folder if kind == "plain" else custom)
        with torch.inference_mode(False), torch.enable_grad():
            views = drawn(3, mine.image_size).requires_grad_()
            way = torch.randn(views.shape, generator=torch.Generator().manual_seed(2)) * 1e-2
            (slope,) = torch.autograd.grad(mine.encode_images(views)[:, 3].sum(), views)
            with torch.no_grad():
                up, down = (float(mine.encode_images(views + s * way)[:, 3].double().sum()) for s in (1, -1))
            if kind == "plain":
                (deep,) = torch.autograd.grad(mine.features(views, 0.5)[1].square().sum(), views)
                assert bool((deep.flatten(1).abs().amax(1) > 0).all())
    assert float((slope * way).sum()) == pytest.approx((up - down) / 2, rel=5e-2, abs=1e-5)


def test_words(scorer: OpenClipScorer, custom: Path) -> None:
    with pytest.warns(InputWarning, match="has 42 tokens and was cut to 10; say it in fewer words"):
        cut = scorer.encode_texts(["red " * 40])
    assert torch.equal(cut, scorer.encode_texts(["red " * 8]))
    assert scorer.unknown_words("a zebra") == ()
    mine = OpenClipScorer.from_folder(custom)
    with pytest.warns(InputWarning, match="has 22 tokens and was cut to 8"):
        mine.encode_texts(["red " * 20])
    # The config asks for canonical texts: small letters, no punctuation.
    assert torch.equal(mine.encode_texts(["A Red, CAR!"]), mine.encode_texts(["a red car"]))
    assert mine.unknown_words("a zebra") == ("zebra",)


# ------------------------------------------------------------------------------------------- single files


@pytest.fixture
def named(tmp_path: Path) -> str:
    """A model name of open_clip's for the tiny network."""
    from open_clip import factory

    write(tmp_path / "tiny-clip.json", PLAIN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
        patch.setattr(factory, "_MODEL_CONFIG_PATHS", list(factory._MODEL_CONFIG_PATHS))
        open_clip.add_model_config(tmp_path / "tiny-clip.json")
        yield "tiny-clip"


def test_a_single_file_and_a_name(folder: Path, scorer: OpenClipScorer, named: str) -> None:
    path = folder / module.WEIGHTS[0]
    mine = OpenClipScorer.from_checkpoint(path, named, mean=PREPROCESS["mean"], std=PREPROCESS["std"])
    assert torch.equal(mine.encode_images(drawn()), scorer.encode_images(drawn()))
    assert torch.equal(mine.encode_texts(TEXTS), scorer.encode_texts(TEXTS))
    usual = OpenClipScorer.from_checkpoint(path, named)
    assert not torch.allclose(usual.encode_images(drawn()), scorer.encode_images(drawn()), atol=1e-4)
    assert not OpenClipScorer.from_checkpoint(path, named, quick_gelu=False).quick_gelu
    with pytest.raises(ModelError, match=r"what was given .*mean must be three numbers"):
        OpenClipScorer.from_checkpoint(path, named, mean=[0.5])


def test_files_called_after_openais_need_quickgelu(tmp_path: Path) -> None:
    path = tmp_path / "ViT-B-16-openai.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match="QuickGELU, but ViT-B-16 has GELU; choose ViT-B-16-quickgelu"):
        OpenClipScorer.from_checkpoint(path, "ViT-B-16")
    other = path.rename(tmp_path / "ViT-B-16-laion2B-s34B-b88K.safetensors")
    with pytest.raises(ModelError, match="does not fit the model"):
        OpenClipScorer.from_checkpoint(other, "ViT-B-16")


def test_published_weights_say_how_views_are_normalised() -> None:
    assert module._published("ViT-B-16-SigLIP", "")["mean"] == (0.5, 0.5, 0.5)
    assert module._published("ViT-B-16", "vit_b_16_laion2b_s34b_b88k") is not None
    assert module._published("ViT-B-16", "mine") is None
    assert module._published("ViT-B-16", "ViT-B-16") is None
    assert module._published("no such model", "") is None


def test_names_that_are_no_models(folder: Path) -> None:
    for name in ("ViT-Z-16", "hf-hub:somebody/model", "local-dir:/tmp"):
        with pytest.raises(ModelError, match="open_clip knows no model"):
            OpenClipScorer.from_checkpoint(folder / module.WEIGHTS[0], name)
    with pytest.raises(ModelError, match=r"none.pt does not exist"):
        OpenClipScorer.from_checkpoint(folder / "none.pt", "ViT-B-16")


def test_programs_are_not_run(tmp_path: Path) -> None:
    import zipfile

    path = tmp_path / "ViT-B-16.pt"
    with zipfile.ZipFile(path, "w") as archive:  # how TorchScript archives are laid out
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"archive/{name}", b"")
    with pytest.raises(ModelError, match="TorchScript archive, which carries code"):
        OpenClipScorer.from_checkpoint(path, "ViT-B-16-quickgelu")


# ------------------------------------------------------------------------------------------- what cannot be used


def test_towers_of_two_models_are_refused(copied: Path) -> None:
    state = load_file(copied / module.WEIGHTS[0])
    state["visual.proj"] = torch.zeros(64, 24)
    save_file(state, copied / module.WEIGHTS[0])
    with pytest.raises(
        ModelError, match=r"text tower that gives vectors of 16 numbers .* image tower that gives 24"
    ):
        OpenClipScorer.from_folder(copied)


def test_configs_that_do_not_fit(copied: Path, custom: Path, tmp_path: Path) -> None:
    def changed(tower: str, **values: Any) -> None:
        config = {"model_cfg": json.loads(json.dumps(PLAIN)), "preprocess_cfg": PREPROCESS}
        config["model_cfg"][tower] |= values
        write(copied / module.CONFIG, config)

    changed("vision_cfg", layers=4)
    with pytest.raises(ModelError, match="does not fit the model that was named for it"):
        OpenClipScorer.from_folder(copied)
    changed("text_cfg", hf_model_name="somebody/roberta")
    with pytest.raises(
        ModelError, match="text tower 'somebody/roberta', which open_clip would have to download"
    ):
        OpenClipScorer.from_folder(copied)
    write(copied / module.CONFIG, {"model_cfg": {"embed_dim": 3}})
    with pytest.raises(ModelError, match="describes no model with an image and a text tower"):
        OpenClipScorer.from_folder(copied)
    (copied / module.CONFIG).write_text("{")
    with pytest.raises(ModelError, match=r"open_clip_config.json cannot be read"):
        OpenClipScorer.from_folder(copied)
    (copied / module.CONFIG).unlink()
    with pytest.raises(ModelError, match=r"has no open_clip_config.json"):
        OpenClipScorer.from_folder(copied)
    place = Path(shutil.copytree(custom, tmp_path / "words"))
    tokenizer(words=tuple(f"w{k}" for k in range(4)) + tuple(tokenizer().get_vocab())).save_pretrained(place)
    with pytest.raises(ModelError, match="a tokenizer of 16 tokens but a text tower for 12"):
        OpenClipScorer.from_folder(place)


def test_damaged_files(copied: Path, tmp_path: Path) -> None:
    path = copied / module.WEIGHTS[0]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="is damaged: it has"):
        OpenClipScorer.from_folder(copied)
    torch.save({"a": torch.zeros(2)}, path)
    with pytest.raises(ModelError, match="a pickle under the name of a safetensors file"):
        OpenClipScorer.from_folder(copied)
    path.unlink()
    with pytest.raises(ModelError, match=r"has no open_clip_model.safetensors"):
        OpenClipScorer.from_folder(copied)
    (copied / module.WEIGHTS[2]).write_bytes(b"<html>404</html>")
    with pytest.raises(ModelError, match="does not begin as torch's files do"):
        OpenClipScorer.from_folder(copied)
    torch.save({"state_dict": {"epoch": 3}}, copied / module.WEIGHTS[2])
    with pytest.raises(ModelError, match="it holds no table of weights"):
        OpenClipScorer.from_folder(copied)
    with pytest.raises(ModelError, match="does not exist, but a model folder"):
        OpenClipScorer.from_folder(tmp_path / "none")
