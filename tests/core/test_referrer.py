"""The embedded referrer's network against transformers' tower, its files, and what happens without them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from retouch_core.models.embedded import FOLDER, WeightsError, load_embedded
from retouch_core.models.protocols import InstanceReferrer, Referrer
from retouch_core.models.referrer import EmbeddedReferrer, load_network, load_referrer, save_network
from retouch_core.models.referring_network import ReferringNetwork, Shape, make_network


class SomeWords:
    """Embeddings drawn from the length of a phrase."""

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        rows = [torch.randn(128, generator=torch.Generator().manual_seed(len(t))) for t in texts]
        return F.normalize(torch.stack(rows), dim=-1)

    def unknown_words(self, text: str) -> tuple[str, ...]:
        return ("dragon",) if "dragon" in text else ()


@pytest.fixture(scope="module")
def network() -> ReferringNetwork:
    """The shipped tower under a decoder of random weights that says something."""
    torch.manual_seed(0)
    made = make_network(Shape(), load_file(FOLDER / "clip" / "model.safetensors")).eval()
    with torch.no_grad():
        made.decoder.weights.weight.mul_(8)
    return made


@pytest.fixture(scope="module")
def clip() -> Any:
    from transformers import CLIPModel

    return CLIPModel.from_pretrained(FOLDER / "clip", local_files_only=True).float().eval()


@pytest.mark.parametrize("size", [(64, 64), (128, 128), (96, 160)])
def test_the_tower_is_that_of_transformers(
    network: ReferringNetwork, clip: Any, size: tuple[int, int]
) -> None:
    pixels = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        try:
            out = clip.vision_model(
                pixels, output_hidden_states=True, interpolate_pos_encoding=size != (64, 64)
            )
        except TypeError:
            pytest.skip("this transformers does not interpolate position embeddings")
        ours = network.tower(pixels)
    grid = (size[0] // 8, size[1] // 8)
    theirs = [h[:, 1:].transpose(1, 2).unflatten(-1, grid) for h in out.hidden_states[1 : 1 + Shape().taps]]
    assert torch.allclose(ours, torch.cat(theirs, 1), atol=1e-4)


def test_what_is_trained_is_small_and_the_tower_is_frozen(network: ReferringNetwork) -> None:
    assert sum(p.numel() for p in network.decoder.parameters()) < 0.6e6
    assert not any(p.requires_grad for p in network.tower.parameters())
    assert all(p.requires_grad for p in network.decoder.parameters())


def test_maps_are_probabilities_of_the_pictures_size(network: ReferringNetwork) -> None:
    referrer = EmbeddedReferrer(network, SomeWords())
    assert isinstance(referrer, Referrer) and not isinstance(referrer, InstanceReferrer)
    image = torch.rand(1, 90, 150, 3, generator=torch.Generator().manual_seed(2))
    phrases = ["a" * (k + 1) for k in range(18)]  # more than go through at once
    maps = referrer.heat_maps(image, phrases)
    assert maps.shape == (18, 90, 150) and 0 <= float(maps.min()) < float(maps.max()) <= 1
    assert torch.allclose(referrer.heat_maps(image, phrases[16:17])[0], maps[16], atol=1e-5)
    assert not torch.allclose(maps[0], maps[1], atol=1e-2)
    assert referrer.heat_maps(image, []).shape == (0, 90, 150)
    assert referrer.unknown_words("a dragon") == ("dragon",)


def test_each_phrase_is_about_its_own_picture(network: ReferringNetwork) -> None:
    pixels = torch.rand(3, 3, 128, 128, generator=torch.Generator().manual_seed(3))
    told = SomeWords().encode_texts(["a", "bb", "ccc", "dddd"])
    owner = torch.tensor([2, 0, 2, 1])
    with torch.no_grad():
        together = network(pixels, told, owner)
        for row, k in enumerate(owner.tolist()):
            alone = network(pixels[k : k + 1], told[row : row + 1])
            assert torch.allclose(together[row], alone[0], atol=1e-3)


@pytest.fixture
def bundle(tmp_path: Path, network: ReferringNetwork) -> Path:
    (tmp_path / "clip").mkdir()
    shutil.copy(FOLDER / "clip" / "model.safetensors", tmp_path / "clip")
    save_network(network, tmp_path)
    return tmp_path


def test_saved_and_read_again(bundle: Path, network: ReferringNetwork) -> None:
    assert {t.dtype for t in load_file(bundle / "referrer" / "model.safetensors").values()} == {torch.float16}
    image = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(4))
    again = load_referrer(SomeWords(), bundle).heat_maps(image, ["a", "bb"])
    assert torch.allclose(
        again, EmbeddedReferrer(network, SomeWords()).heat_maps(image, ["a", "bb"]), atol=0.02
    )


def refusal(folder: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        load_network(folder)
    message = str(caught.value)
    assert "\n" not in message and "python -m training.referrer" in message
    return message


def test_missing_weights_are_named(bundle: Path) -> None:
    (bundle / "referrer" / "model.safetensors").unlink()
    message = refusal(bundle)
    assert (
        message.startswith("the embedded referrer's weights are missing: there is no ")
        and "model.safetensors" in message
    )
    shutil.rmtree(bundle / "referrer")
    assert "config.json" in refusal(bundle)


def test_damaged_weights_are_refused(bundle: Path) -> None:
    path = bundle / "referrer" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    assert refusal(bundle).startswith("the embedded referrer's weights are damaged: ")


def test_a_network_of_another_scorer_is_refused(bundle: Path) -> None:
    path = bundle / "referrer" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"clip_sha256": "0" * 64}))
    assert "belong to another scorer" in refusal(bundle)


def test_weights_that_come_late_are_asked_for_late() -> None:
    def absent() -> ReferringNetwork:
        raise WeightsError("the embedded referrer's weights are missing: there is no x; make them")

    referrer = EmbeddedReferrer(absent, SomeWords())
    with pytest.raises(WeightsError, match="weights are missing"):
        referrer.heat_maps(torch.rand(1, 32, 32, 3), ["a"])


def test_a_bundle_with_a_referrer_gives_it_and_one_without_gives_none(
    tmp_path: Path, network: ReferringNetwork
) -> None:
    folder = tmp_path / "embedded"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("referrer"))
    listed = json.loads((folder / "manifest.json").read_text())
    kept = {name: entry for name, entry in listed.items() if not name.startswith("referrer/")}
    (folder / "manifest.json").write_text(json.dumps(kept))
    assert load_embedded(folder).referrer is None
    save_network(network, folder)
    referrer = load_embedded(folder).referrer
    assert isinstance(referrer, Referrer)
    image = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(5))
    maps = referrer.heat_maps(image, ["the red ball", "a blue fish on the left"])
    assert maps.shape == (2, 128, 128) and not torch.allclose(maps[0], maps[1])
    assert referrer.unknown_words("a red dragon") == ("dragon",)
