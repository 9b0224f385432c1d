"""SAM with random weights, from the file to masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_segmenters import picture, published_masks, sam_processor, saved, tiny_sam

from retouch_core.models.pretrained.loading import ModelError
from retouch_core.models.pretrained.segmenters.automatic_masks import point_grid
from retouch_core.models.pretrained.segmenters.sam import SamSegmenter

LOOSE = {
    "points_per_side": 4,
    "points_at_once": 5,
    "pred_iou_min": 0.0,
    "stability_min": 0.0,
    "box_iou_max": 1.0,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("sam"), tiny_sam(), sam_processor())


@pytest.mark.parametrize(
    ("size", "inner"), [((64, 64), (64, 64)), ((50, 77), (42, 64)), ((97, 40), (64, 26))]
)
def test_the_published_classes_find_the_same(
    folder: Path, size: tuple[int, int], inner: tuple[int, int]
) -> None:
    segmenter = SamSegmenter.from_folder(folder, **LOOSE | {"stability_min": 0.3})
    image = picture(*size)
    masks, _ = segmenter(image)
    points = point_grid(4) * torch.tensor([size[1], size[0]])
    expected = published_masks(
        segmenter.model, sam_processor(), image, points, inner, padded=True, stability_min=0.3
    )
    assert len(masks) == len(expected) > 2
    for mask in expected:
        assert min(int((mask ^ one).sum()) for one in masks) <= 2


def test_padding_is_cut_off_before_masks_are_resized(folder: Path) -> None:
    """Where the upper half of the square is picture, its upper left quarter and more is the picture's left half."""
    segmenter = SamSegmenter.from_folder(folder, **LOOSE | {"points_per_side": 1})

    def stub(**inputs: Any) -> Any:
        assert torch.allclose(inputs["input_points"], torch.tensor([32.0, 16.0]))
        logits = torch.full((1, 1, 1, 16, 16), -5.0)
        logits[..., :10, :8] = 5.0
        return type("Out", (), {"pred_masks": logits, "iou_scores": torch.full((1, 1, 1), 0.9)})

    segmenter.model.forward = stub
    masks, scores = segmenter(picture(32, 64))
    assert masks.shape == (1, 32, 64)
    assert masks[0, :, :32].all() and not masks[0, :, 32:].any()
    # One line of the square, four pixels a cell.
    large = torch.nn.functional.interpolate(
        torch.tensor([[[5.0] * 8 + [-5.0] * 8]]), size=64, mode="linear", align_corners=False
    )
    assert float(scores) == pytest.approx(0.9 * int((large > 1).sum()) / int((large > -1).sum()))


def test_other_inputs_than_the_network_takes_are_refused(folder: Path) -> None:
    segmenter = SamSegmenter.from_folder(folder, **LOOSE)
    processor = sam_processor()
    processor.size = {"longest_edge": 32}
    with pytest.raises(ModelError, match="inputs of 32 px padded to 64x64, but this SAM network takes 64x64"):
        SamSegmenter(segmenter.model, processor)
    with pytest.raises(ValueError, match="image must have shape"):
        segmenter(picture(40, 60)[0])
