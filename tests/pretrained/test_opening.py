"""Backends by their names, as README, the nodes and the command line ask for them, out of a folder of models."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_stable_diffusion
import torch
from tiny_referrers import grounding_dino_folder, picture, sam2_folder
from tiny_segmenters import eomt_processor, saved, tiny_eomt
from tiny_towers import clip_folder, dinov2_folder, taesd_folder

from retouch_core.models.pretrained.catalogue import BACKENDS
from retouch_core.models.pretrained.editors.load import load_editor
from retouch_core.models.pretrained.loading import ModelError
from retouch_core.models.pretrained.lookup import ENVIRONMENT
from retouch_core.models.pretrained.opening import CLASSES, backends_of, class_of, mask_makers, open_model
from retouch_core.models.protocols import Attention, InstanceReferrer, Scorer, Segmenter
from retouch_core.pipeline import Retoucher
from retouch_core.recipes import recipe


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models with one of each role."""
    root = tmp_path_factory.mktemp("models")
    for role in ("retouch_segmenters", "retouch_scorers", "retouch_referrers"):
        (root / role).mkdir()
    saved(root / "retouch_segmenters" / "tiny-eomt", tiny_eomt(), eomt_processor())
    sam2_folder(root / "retouch_segmenters" / "tiny-sam2")
    clip_folder(root / "retouch_scorers" / "tiny-clip")
    grounding_dino_folder(root / "retouch_referrers" / "tiny-dino")
    return root


@pytest.fixture(autouse=True)
def only_these(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the cache nor `./models` of whoever runs this counts."""
    from huggingface_hub import constants

    monkeypatch.setenv(ENVIRONMENT, str(models))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize("backend", CLASSES)
def test_every_name_is_a_class_that_reads_a_folder(backend: str) -> None:
    assert callable(class_of(backend).from_folder)
    assert backend in backends_of(BACKENDS[backend].role)


def test_no_role_of_the_search_has_a_name_without_a_class() -> None:
    for role in ("segmenter", "scorer", "referrer"):
        assert backends_of(role) == [name for name, way in BACKENDS.items() if way.role == role]


def test_the_readmes_lines_give_a_retoucher_that_retouches(tmp_path: Path) -> None:
    painter = tiny_stable_diffusion.save_folder(tmp_path, "sd1", tiny_stable_diffusion.networks("sd1"))
    retoucher = Retoucher(
        open_model("segmenter", "eomt", score_min=0.0, overlap_min=0.0),
        open_model("scorer", "clip"),
        load_editor(painter),
        referrer=open_model("referrer", "grounding_dino", threshold=0.0, text_threshold=0.0),
    )
    assert isinstance(retoucher.segmenter, Segmenter) and isinstance(retoucher.scorer, Scorer)
    assert isinstance(retoucher.referrer, InstanceReferrer)
    image = picture(64, 80)
    result = retoucher.retouch(image, "background", "a tree", candidates=1, steps=1)
    assert torch.equal(result.image[result.mask == 0], image[result.mask == 0])
    found = retoucher.retouch(image, "a tree", "a car", recipe=recipe("s03_rom"), candidates=1, steps=1)
    assert torch.equal(found.image[found.mask == 0], image[found.mask == 0])


def test_what_recipes_may_have_besides_opens_by_name_too(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path))
    dinov2_folder(tmp_path / "retouch_attention" / "tiny-dino")
    taesd_folder(tmp_path / "retouch_tiny_decoders" / "tiny-taesd")
    attention = open_model("attention", "dinov2", side=48)
    assert isinstance(attention, Attention) and attention(picture(60, 84))[0].shape == (6, 6)
    decoder = open_model("tiny_decoder", "taesd", dtype=torch.bfloat16)
    assert decoder.decode_pixels(torch.randn(1, 4, 4, 6)).shape == (1, 3, 32, 48)
    with pytest.raises(ModelError, match=r"no DINO model is in .*retouch_attention"):
        open_model("attention", "dino")


def test_precision_is_that_of_all_networks() -> None:
    referrer = open_model("referrer", "grounding_dino", masks="tiny-sam2", dtype=torch.bfloat16)
    kinds = {weight.dtype for network in referrer.networks for weight in network.parameters()}
    assert len(referrer.networks) == 2 and kinds == {torch.bfloat16}
    assert mask_makers() == ["tiny-sam2"]


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ModelError, match="models get"):
        open_model("segmenter", "segformer")
    with pytest.raises(ModelError, match="boxes become masks by SAM 2 or SAM, but"):
        open_model("referrer", "grounding_dino", masks="nothing")
    with pytest.raises(ValueError, match="there is no segmenter 'clip'; choose one of"):
        open_model("segmenter", "clip")
    with pytest.raises(ValueError, match="there is no backend 'yolo'; choose one of"):
        class_of("yolo")
