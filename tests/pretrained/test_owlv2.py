"""OWLv2 as a detector: against the published processor, and by hand where boxes leave the padded square."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from folder_faults import FAULTS, check_refused
from tiny_referrers import eight_bit, owlv2_folder, owlv2_images, picture, sam_folder

from retouch_core.models.pretrained.referrers.box_masks import BoxSegmenter
from retouch_core.models.pretrained.referrers.detector_referrer import Detector, DetectorReferrer
from retouch_core.models.pretrained.referrers.owlv2 import Owlv2Detector, kept, square
from retouch_core.models.protocols import InstanceReferrer
from retouch_core.tensors.checks import InputWarning

PADS_BLACK = int(transformers.__version__.split(".")[0]) >= 5
"""Before that, transformers padded with grey."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return owlv2_folder(tmp_path_factory.mktemp("models") / "owlv2")


@pytest.fixture()
def detector(folder: Path) -> Owlv2Detector:
    return Owlv2Detector.from_folder(folder, threshold=0.0)


def published(detector: Owlv2Detector, image: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Pixels by the published processor; boxes and scores by the model's forward pass and the post-processing."""
    processor = owlv2_images(64)
    pixels = processor(eight_bit(image), return_tensors="pt")["pixel_values"]
    words = detector.tokenizer(["red car"], padding="max_length", max_length=16, return_tensors="pt")
    with torch.no_grad():
        out = detector.model(pixel_values=pixels, **words)
    size = [(image.shape[1], image.shape[2])]
    return pixels, processor.post_process_object_detection(out, threshold=0.0, target_sizes=size)[0]


@pytest.mark.parametrize("size", [(64, 64), (40, 64), (64, 47)])
def test_boxes_are_those_of_the_published_pipeline(detector: Owlv2Detector, size: tuple[int, int]) -> None:
    if size != (64, 64) and not PADS_BLACK:
        pytest.skip("this version of transformers pads with grey")
    image = picture(*size)
    _, expected = published(detector, image)
    boxes, scores = detector.boxes(image, "red car")
    # One of 16 may score 0 in so random a network, which is no more than the threshold.
    assert len(boxes) == len(expected["boxes"]) >= 12 and float(scores.std()) > 1e-4
    torch.testing.assert_close(boxes, expected["boxes"], atol=1e-2, rtol=0)
    torch.testing.assert_close(scores, expected["scores"], atol=1e-4, rtol=0)
    again = detector.boxes(image, "red car")
    assert torch.equal(boxes, again[0]) and torch.equal(scores, again[1])


@pytest.mark.parametrize("size", [(200, 200), (64, 64), (40, 40), (201, 113), (50, 150)])
def test_pictures_are_padded_blurred_and_resized_as_the_processor_does_it(
    detector: Owlv2Detector, size: tuple[int, int]
) -> None:
    if size[0] != size[1] and not PADS_BLACK:
        pytest.skip("this version of transformers pads with grey")
    image = picture(*size)
    pixels, _ = published(detector, image)
    seen = detector.look.normalised(square(image.movedim(-1, 1), 64))
    torch.testing.assert_close(seen, pixels, atol=2e-3, rtol=0)


def test_boxes_scale_by_the_longer_side() -> None:
    """In a picture 100 wide and 40 high, padded to 100: centre (0.5, 0.25), size (0.2, 0.1) is (40, 20) to (60, 30)."""
    logits = torch.tensor([[0.0, 2.0], [-3.0, -4.0]])
    places = torch.tensor([[0.5, 0.25, 0.2, 0.1], [0.5, 0.5, 1.0, 1.0]])
    boxes, scores = kept(logits, places, 100, 0.1)
    torch.testing.assert_close(boxes, torch.tensor([[40.0, 20.0, 60.0, 30.0]]))
    torch.testing.assert_close(scores, torch.sigmoid(torch.tensor([2.0])))
    out = SimpleNamespace(logits=logits[None], pred_boxes=places[None])
    library = owlv2_images(64).post_process_object_detection(out, threshold=0.1, target_sizes=[(40, 100)])[0]
    torch.testing.assert_close(boxes, library["boxes"])
    torch.testing.assert_close(scores, library["scores"])


def test_padding_lies_below_and_on_the_right() -> None:
    white = torch.ones(1, 3, 20, 60)
    seen = square(white, 60)
    assert torch.equal(seen[..., :20, :], white) and not seen[..., 20:, :].any()
    seen = square(white.transpose(2, 3), 60)
    assert bool((seen[..., :20] == 1).all()) and not seen[..., 20:].any()
    # At a third of the size, what lies far from the border keeps its colour.
    small = square(torch.ones(1, 3, 60, 180), 60)
    torch.testing.assert_close(small[..., :17, :], torch.ones(1, 3, 17, 60), atol=1e-4, rtol=0)
    assert float(small[..., 23:, :].max()) < 1e-4


def test_nothing_found_is_legal(folder: Path) -> None:
    boxes, scores = Owlv2Detector.from_folder(folder, threshold=1.0).boxes(picture(33, 47), "cat")
    assert boxes.shape == (0, 4) and scores.shape == (0,)


def test_bfloat16_weights(detector: Owlv2Detector) -> None:
    image = picture(33, 47)
    full, _ = detector.boxes(image, "red car")
    for network in detector.networks:
        network.bfloat16()
    boxes, scores = detector.boxes(image, "red car")
    assert boxes.dtype == scores.dtype == torch.float32 and torch.isfinite(boxes).all()
    assert float((boxes - full).abs().mean()) < 2


def test_joined_with_sam(detector: Owlv2Detector, tmp_path: Path) -> None:
    assert isinstance(detector, Detector)
    referrer = DetectorReferrer(detector, BoxSegmenter.from_folder(sam_folder(tmp_path / "sam")), overlap=1.0)
    assert isinstance(referrer, InstanceReferrer)
    image = picture(37, 53)
    found = referrer.instances(image, "red car")
    count = len(found.scores)
    assert count and found.masks.shape == (count, 37, 53)
    assert bool((found.boxes[:, 2] <= 53).all()) and bool((found.boxes[:, 3] <= 37).all())
    torch.testing.assert_close(
        referrer.heat_maps(image, ["red car"])[0], (found.masks * found.scores[:, None, None]).amax(0)
    )


def test_long_phrases_are_cut_with_a_warning(detector: Owlv2Detector) -> None:
    with pytest.warns(InputWarning, match="was cut to 16"):
        detector.boxes(picture(20, 20), "a phrase of very many letters")
    assert detector.unknown_words("red 車") == ()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_wrong_folders(folder: Path, tmp_path: Path, fault: Callable[[Path], str]) -> None:
    check_refused(folder, tmp_path / "copy", fault, Owlv2Detector.from_folder)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threshold": 1.5}, "threshold must be in"),
        ({"side": 96}, "side must be 64"),
    ],
)
def test_wrong_options(folder: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Owlv2Detector.from_folder(folder, **options)


def test_wrong_input(detector: Owlv2Detector) -> None:
    with pytest.raises(ValueError, match="phrase is empty"):
        detector.boxes(picture(20, 20), "")
    detector.model.box_head.dense2.bias.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="OWLv2 gave NaN"):
        detector.boxes(picture(20, 20), "cat")
