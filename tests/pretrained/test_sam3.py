"""SAM 3 as a referrer: against the published processor, and by hand where instances are chosen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from folder_faults import FAULTS, check_refused
from tiny_referrers import eight_bit, picture, sam3_folder

from retouch_core.models.pretrained.loading import ModelError
from retouch_core.models.pretrained.referrers.sam3 import Sam3Referrer, kept
from retouch_core.models.protocols import InstanceReferrer
from retouch_core.regions.referring import refer
from retouch_core.tensors.checks import InputWarning

INSTALLED = hasattr(transformers, "Sam3Model")
needs_sam3 = pytest.mark.skipif(not INSTALLED, reason="this version of transformers has no SAM 3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sam3_folder(tmp_path_factory.mktemp("models") / "sam3")


@pytest.fixture()
def referrer(folder: Path) -> Sam3Referrer:
    return Sam3Referrer.from_folder(folder, threshold=0.0)


@pytest.mark.skipif(INSTALLED, reason="this version of transformers has SAM 3")
def test_an_older_transformers_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"SAM 3 needs transformers 5\.0 or later"):
        Sam3Referrer.from_folder(tmp_path)


def published(
    referrer: Sam3Referrer, folder: Path, image: torch.Tensor
) -> tuple[Any, dict[str, torch.Tensor]]:
    """The published processor's inputs and its instances, best first."""
    from transformers import Sam3Processor

    processor = Sam3Processor.from_pretrained(folder)
    inputs = processor(images=eight_bit(image), text="red car", return_tensors="pt")
    with torch.no_grad():
        out = referrer.model(**{n: inputs[n] for n in ("pixel_values", "input_ids", "attention_mask")})
    size = [(image.shape[1], image.shape[2])]
    found = processor.image_processor.post_process_instance_segmentation(out, 0.0, 0.5, target_sizes=size)[0]
    order = found["scores"].argsort(descending=True, stable=True)
    return inputs, {name: value[order] for name, value in found.items()}


@needs_sam3
def test_instances_are_those_of_the_published_pipeline(referrer: Sam3Referrer, folder: Path) -> None:
    image = picture(56, 56)  # the size the network sees, so that resizing has no part in it
    _, expected = published(referrer, folder, image)
    found = referrer.instances(image, " red car ")
    assert found.masks.shape == (10, 56, 56) and float(found.masks.std()) > 1e-3
    torch.testing.assert_close(found.scores, expected["scores"], atol=1e-4, rtol=0)
    torch.testing.assert_close(found.boxes, expected["boxes"].clamp(0, 56), atol=1e-2, rtol=0)
    differ = (found.masks > 0.5) != expected["masks"].bool()
    assert bool(((found.masks - 0.5).abs()[differ] < 1e-3).all())
    again = referrer.instances(image, "red car")
    assert torch.equal(found.masks, again.masks) and torch.equal(found.boxes, again.boxes)


@needs_sam3
def test_pictures_are_squashed_as_the_processor_does_it(
    referrer: Sam3Referrer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = picture(47, 90)
    inputs, _ = published(referrer, folder, image)
    seen: dict[str, torch.Tensor] = {}
    run = referrer.model.get_vision_features
    monkeypatch.setattr(
        referrer.model, "get_vision_features", lambda **given: (seen.update(given), run(**given))[1]
    )
    found = referrer.instances(image, "red car")
    assert float((seen["pixel_values"] - inputs["pixel_values"]).abs().max()) < 1 / 255 / 0.5 + 1e-3
    assert found.masks.shape == (10, 47, 90) and found.masks.dtype == torch.float32


@needs_sam3
def test_maps_are_the_best_product_and_the_picture_is_seen_once(
    referrer: Sam3Referrer, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, told, seen = picture(47, 90), [], []
    one = referrer.instances(image, "red car")
    run = referrer.model.get_vision_features
    monkeypatch.setattr(
        referrer.model, "get_vision_features", lambda **given: (seen.append(1), run(**given))[1]
    )
    heat = referrer.heat_maps(image, ["red car", "cat"], tell=lambda done, of: told.append((done, of)))
    assert heat.shape == (2, 47, 90) and len(seen) == 1 and told == [(1, 2), (2, 2)]
    torch.testing.assert_close(heat[0], (one.masks * one.scores[:, None, None]).amax(0))
    assert referrer.heat_maps(image, []).shape == (0, 47, 90)


def test_scores_boxes_and_their_order_by_hand() -> None:
    """In a picture 100 wide and 40 high; the phrase is there by 0.8, which its instances' own scores are times."""
    logits = torch.logit(torch.tensor([0.7, 0.9, 0.6, 0.8]))
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.4, 0.2, 0.6, 0.3], [0, 0, 1, 1], [-0.1, 0.5, 0.2, 1.2]])
    masks = torch.arange(4.0).view(4, 1, 1).expand(4, 2, 2)
    presence = torch.logit(torch.tensor([[0.8]]))
    some, placed, scores = kept(masks, boxes, logits, presence, (40, 100), 0.5, 32)
    torch.testing.assert_close(scores, torch.tensor([0.72, 0.64, 0.56]))
    torch.testing.assert_close(placed, torch.tensor([[40.0, 8, 60, 12], [0, 20, 20, 40], [0, 0, 50, 20]]))
    assert some[:, 0, 0].tolist() == [1, 3, 0]
    assert len(kept(masks, boxes, logits, None, (40, 100), 0.5, 32)[2]) == 4
    assert kept(masks, boxes, logits, presence, (40, 100), 0.5, 1)[0][:, 0, 0].tolist() == [1]
    none = kept(masks, boxes, logits, presence, (40, 100), 0.9, 32)
    assert none[0].shape == (0, 2, 2) and none[1].shape == (0, 4)


@needs_sam3
def test_it_is_an_instance_referrer(referrer: Sam3Referrer, folder: Path) -> None:
    assert isinstance(referrer, InstanceReferrer) and len(referrer.networks) == 1
    nothing = Sam3Referrer.from_folder(folder, threshold=1.0)
    assert nothing.instances(picture(20, 30), "cat").masks.shape == (0, 20, 30)
    assert not refer(picture(20, 30), "cat", nothing).present
    with pytest.warns(InputWarning, match="was cut to 32"):
        referrer.instances(picture(20, 30), "a phrase of very many letters and more of them")


@needs_sam3
def test_bfloat16_weights(referrer: Sam3Referrer) -> None:
    for network in referrer.networks:
        network.bfloat16()
    found = referrer.instances(picture(40, 50), "red car")
    assert found.masks.dtype == torch.float32 and torch.isfinite(found.masks).all()


@needs_sam3
def test_the_published_video_model_holds_the_picture_model(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = tmp_path / "video"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({"model_type": "sam3_video", "detector_config": config}))
    weights = {
        "detector_model." + name: value for name, value in load_file(copy / "model.safetensors").items()
    }
    weights["tracker_model.memory"] = torch.zeros(3)
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    image = picture(40, 50)
    video = Sam3Referrer.from_folder(copy, threshold=0.0).instances(image, "red car")
    plain = Sam3Referrer.from_folder(folder, threshold=0.0).instances(image, "red car")
    # Weights lie elsewhere in memory, which may change the last bit.
    torch.testing.assert_close(video.masks, plain.masks, atol=1e-6, rtol=0)
    torch.testing.assert_close(video.scores, plain.scores, atol=1e-6, rtol=0)


@needs_sam3
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_wrong_folders(folder: Path, tmp_path: Path, fault: Callable[[Path], str]) -> None:
    check_refused(folder, tmp_path / "copy", fault, Sam3Referrer.from_folder)


@needs_sam3
def test_wrong_options_and_input(folder: Path, referrer: Sam3Referrer) -> None:
    with pytest.raises(ValueError, match="threshold must be in"):
        Sam3Referrer.from_folder(folder, threshold=2.0)
    with pytest.raises(ValueError, match="most must be"):
        Sam3Referrer.from_folder(folder, most=0)
    with pytest.raises(ValueError, match="phrase is empty"):
        referrer.instances(picture(20, 20), "")
    with pytest.raises(ValueError, match="must hold 1 picture"):
        referrer.heat_maps(torch.zeros(2, 20, 20, 3), ["cat"])
    out = SimpleNamespace(
        pred_masks=torch.zeros(1, 1, 2, 2),
        pred_boxes=torch.full((1, 1, 4), float("nan")),
        pred_logits=torch.zeros(1, 1),
        presence_logits=None,
    )
    referrer.model.forward = lambda **given: out
    with pytest.raises(ValueError, match="SAM 3 gave NaN"):
        referrer.instances(picture(20, 20), "cat")
