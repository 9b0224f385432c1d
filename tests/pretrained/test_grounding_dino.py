"""Grounding DINO as a detector: against the published processor, and by hand where boxes are made."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from folder_faults import FAULTS, check_refused
from tiny_referrers import eight_bit, grounding_dino_folder, picture, sam2_folder

from retouch_core.models.pretrained.referrers.box_masks import BoxSegmenter
from retouch_core.models.pretrained.referrers.detector_referrer import Detector, DetectorReferrer
from retouch_core.models.pretrained.referrers.grounding_dino import GroundingDinoDetector, caption
from retouch_core.models.protocols import InstanceReferrer
from retouch_core.tensors.checks import InputWarning


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return grounding_dino_folder(tmp_path_factory.mktemp("models") / "dino")


@pytest.fixture()
def detector(folder: Path) -> GroundingDinoDetector:
    return GroundingDinoDetector.from_folder(folder)


def published(detector: GroundingDinoDetector, folder: Path, image: torch.Tensor) -> tuple[Any, torch.Tensor]:
    """Inputs by the published processor, and the scores of all boxes by the model's forward pass."""
    from transformers import GroundingDinoProcessor

    processor = GroundingDinoProcessor.from_pretrained(folder)
    inputs = processor(images=eight_bit(image), text="a red car.", return_tensors="pt")
    with torch.no_grad():
        out = detector.model(**inputs)
    return inputs, torch.cat([out.pred_boxes[0], torch.sigmoid(out.logits[0]).amax(-1, keepdim=True)], 1)


def test_boxes_are_those_of_the_published_pipeline(folder: Path) -> None:
    image = picture(32, 51)  # its shorter side is the network's, so that resizing has no part in it
    detector = GroundingDinoDetector.from_folder(folder, threshold=0.0, text_threshold=0.0)
    _, expected = published(detector, folder, image)
    boxes, scores = detector.boxes(image, "A  red Car")
    assert len(scores) == 12
    centre, half = expected[:, :2], expected[:, 2:4] / 2
    corners = torch.cat([centre - half, centre + half], 1) * torch.tensor([51.0, 32.0, 51.0, 32.0])
    torch.testing.assert_close(boxes, corners, atol=1e-2, rtol=0)
    torch.testing.assert_close(scores, expected[:, 4], atol=1e-4, rtol=0)
    again = detector.boxes(image, "A  red Car")
    assert torch.equal(boxes, again[0]) and torch.equal(scores, again[1])


@pytest.mark.parametrize("size", [(47, 90), (90, 47), (40, 100), (64, 64)])
def test_pictures_are_resized_as_the_processor_does_it(
    detector: GroundingDinoDetector, folder: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    image = picture(*size)
    inputs, _ = published(detector, folder, image)
    seen: dict[str, torch.Tensor] = {}
    run = detector.model.forward
    monkeypatch.setattr(detector.model, "forward", lambda **given: (seen.update(given), run(**given))[1])
    detector.boxes(image, "a red car")
    assert seen["input_ids"].tolist() == inputs["input_ids"].tolist()
    assert seen["pixel_values"].shape == inputs["pixel_values"].shape
    # The processor rounds to 8 bits after resizing, once an axis.
    assert float((seen["pixel_values"] - inputs["pixel_values"]).abs().max()) < 1 / 255 / 0.224 + 1e-3


def stubbed(
    detector: GroundingDinoDetector, boxes: Any, probabilities: dict[tuple[int, int], float]
) -> dict[str, Any]:
    """Let the forward pass give these boxes cxcywh and, of each (box, token), a probability; returns what it got."""
    given: dict[str, Any] = {}

    def forward(**inputs: Any) -> SimpleNamespace:
        given.update(inputs)
        logits = torch.full((1, len(boxes), 256), -math.inf)
        for (box, token), value in probabilities.items():
            logits[0, box, token] = math.log(value / (1 - value))
        return SimpleNamespace(logits=logits, pred_boxes=torch.tensor([boxes]))

    detector.model.forward = forward
    return given


def test_box_format_and_order_of_sizes_by_hand(detector: GroundingDinoDetector) -> None:
    """In a picture 100 wide and 40 high: centre (0.5, 0.25) and size (0.2, 0.1) reach from (40, 8) to (60, 12)."""
    boxes = [[0.5, 0.25, 0.2, 0.1], [0.5, 0.5, 1.0, 1.0], [0.1, 0.5, 0.2, 0.5], [0.5, 0.5, 0.5, 0.5]]
    # Tokens: 0 [CLS], 1 r, 2 ##e, 3 ##d, 4 ".", 5 [SEP]. The second misses the threshold; the last two have a
    # high score from [CLS] and "." only, and name no word.
    given = stubbed(detector, boxes, {(0, 2): 0.9, (1, 1): 0.29, (2, 0): 0.8, (3, 4): 0.7})
    found, scores = detector.boxes(picture(40, 100), " RED.")
    torch.testing.assert_close(found, torch.tensor([[40.0, 8.0, 60.0, 12.0]]))
    torch.testing.assert_close(scores, torch.tensor([0.9]))
    assert (
        detector.processor.tokenizer.decode(given["input_ids"][0], skip_special_tokens=True).replace(" ", "")
        == "red."
    )
    assert given["pixel_values"].shape[-1] > given["pixel_values"].shape[-2]


def test_a_word_must_reach_its_own_threshold(folder: Path) -> None:
    for text_threshold, count in ((0.25, 1), (0.6, 0)):
        detector = GroundingDinoDetector.from_folder(folder, text_threshold=text_threshold)
        stubbed(detector, [[0.5, 0.5, 0.5, 0.5]], {(0, 1): 0.5})
        assert len(detector.boxes(picture(40, 100), "red")[1]) == count


def test_both_names_of_the_threshold(detector: GroundingDinoDetector) -> None:
    """Before 4.51 it was `box_threshold`, and names came as `labels`."""
    seen: list[dict[str, Any]] = []

    def older(
        outputs: Any,
        input_ids: Any,
        box_threshold: float = 0.25,
        text_threshold: float = 0.25,
        target_sizes: Any = None,
    ) -> Any:
        seen.append({"threshold": box_threshold, "text": text_threshold, "sizes": target_sizes})
        return [{"scores": torch.tensor([0.5]), "boxes": torch.zeros(1, 4), "labels": ["red"]}]

    def newer(
        outputs: Any,
        input_ids: Any,
        threshold: float = 0.25,
        text_threshold: float = 0.25,
        target_sizes: Any = None,
    ) -> Any:
        return older(outputs, input_ids, threshold, text_threshold, target_sizes)

    tokenizer = detector.processor.tokenizer
    for run in (older, newer):
        stubbed(detector, [[0.5, 0.5, 0.5, 0.5]], {})
        detector.processor = SimpleNamespace(tokenizer=tokenizer, post_process_grounded_object_detection=run)
        assert detector.boxes(picture(40, 100), "red")[1].tolist() == [0.5]
    assert seen == [{"threshold": 0.3, "text": 0.25, "sizes": [(40, 100)]}] * 2


def test_captions() -> None:
    assert caption("  The RED\n car ") == "the red car."
    assert caption("a cat. A dog..") == "a cat. a dog."
    with pytest.raises(ValueError, match="has no words"):
        caption(" . ")
    with pytest.raises(ValueError, match="phrase is empty"):
        caption(" ")


def test_unknown_words_and_long_phrases(detector: GroundingDinoDetector) -> None:
    assert detector.unknown_words("the Red 7 車") == ("7", "車")
    with pytest.warns(InputWarning, match="was cut to 64"):
        detector.boxes(picture(32, 40), "very " * 20)


def test_nothing_found_is_legal(folder: Path) -> None:
    detector = GroundingDinoDetector.from_folder(folder, threshold=1.0)
    boxes, scores = detector.boxes(picture(33, 47), "cat")
    assert boxes.shape == (0, 4) and scores.shape == (0,) and boxes.dtype == torch.float32


def test_bfloat16_weights(folder: Path) -> None:
    detector = GroundingDinoDetector.from_folder(folder, threshold=0.0, text_threshold=0.0)
    for network in detector.networks:
        network.bfloat16()
    boxes, scores = detector.boxes(picture(32, 51), "a red car")
    assert len(scores) == 12 and boxes.dtype == scores.dtype == torch.float32 and torch.isfinite(boxes).all()


def test_joined_with_sam_2(folder: Path, tmp_path: Path) -> None:
    detector = GroundingDinoDetector.from_folder(folder, threshold=0.0, text_threshold=0.0)
    assert isinstance(detector, Detector)
    referrer = DetectorReferrer(
        detector, BoxSegmenter.from_folder(sam2_folder(tmp_path / "sam2")), most=5, overlap=1.0
    )
    assert isinstance(referrer, InstanceReferrer) and len(referrer.networks) == 2
    image = picture(37, 53)
    with pytest.warns(InputWarning, match="the best 5"):
        found = referrer.instances(image, "red car")
        heat = referrer.heat_maps(image, ["red car", "cat"])
    assert found.masks.shape == (5, 37, 53) and found.boxes.shape == (5, 4)
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    torch.testing.assert_close(heat[0], (found.masks * found.scores[:, None, None]).amax(0))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_wrong_folders(folder: Path, tmp_path: Path, fault: Callable[[Path], str]) -> None:
    check_refused(folder, tmp_path / "copy", fault, GroundingDinoDetector.from_folder)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threshold": 1.5}, "threshold must be in"),
        ({"text_threshold": -0.1}, "text_threshold must be in"),
        ({"shortest": 0}, "shortest must be"),
        ({"shortest": 100, "longest": 50}, "longest must be at least shortest"),
    ],
)
def test_wrong_options(folder: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        GroundingDinoDetector.from_folder(folder, **options)


def test_nan_is_said(detector: GroundingDinoDetector) -> None:
    stubbed(detector, [[0.5, 0.5, 0.5, math.nan]], {(0, 1): 0.5})
    with pytest.raises(ValueError, match="Grounding DINO gave NaN"):
        detector.boxes(picture(40, 100), "red")
