"""SAM 2 with random weights, from the file to masks."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_segmenters import picture, published_masks, sam2_processor, saved, tiny_sam2

from retouch_core.models.pretrained.loading import ModelError
from retouch_core.models.pretrained.segmenters.automatic_masks import point_grid
from retouch_core.models.pretrained.segmenters.sam2 import Sam2Segmenter

LOOSE = {
    "points_per_side": 4,
    "points_at_once": 5,
    "pred_iou_min": 0.0,
    "stability_min": 0.0,
    "box_iou_max": 1.0,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("sam2"), tiny_sam2(), sam2_processor())


@pytest.mark.parametrize("size", [(64, 64), (50, 77), (97, 40)])
def test_the_published_classes_find_the_same(folder: Path, size: tuple[int, int]) -> None:
    inner = (64, 64)
    segmenter = Sam2Segmenter.from_folder(folder, **LOOSE | {"stability_min": 0.3})
    image = picture(*size)
    masks, _ = segmenter(image)
    points = point_grid(4) * torch.tensor([size[1], size[0]])
    expected = published_masks(
        segmenter.model, sam2_processor(), image, points, inner, padded=False, stability_min=0.3
    )
    assert len(masks) == len(expected) > 2
    for mask in expected:
        assert min(int((mask ^ one).sum()) for one in masks) <= 2


def test_points_reach_every_part_of_a_picture_that_is_not_square(folder: Path) -> None:
    segmenter = Sam2Segmenter.from_folder(folder, **LOOSE)
    asked: list[torch.Tensor] = []
    encoded: list[torch.Tensor] = []
    forward, encode = segmenter.model.forward, segmenter.model.get_image_embeddings

    def seen(**inputs: Any) -> Any:
        asked.append(inputs["input_points"])
        assert inputs["multimask_output"] and inputs["input_labels"].eq(1).all()
        return forward(**inputs)

    def counted(pixels: torch.Tensor) -> Any:
        encoded.append(pixels)
        return encode(pixels)

    segmenter.model.forward, segmenter.model.get_image_embeddings = seen, counted
    segmenter(picture(30, 90))
    points = torch.cat(asked, dim=1)[0, :, 0]
    line = torch.tensor([8.0, 24.0, 40.0, 56.0])
    assert torch.allclose(points, torch.cartesian_prod(line, line).flip(1))
    assert [len(chunk[0]) for chunk in asked] == [5, 5, 5, 1] and len(encoded) == 1


def test_the_folders_that_are_published_are_those_of_the_video_model(tmp_path: Path) -> None:
    folder = saved(tmp_path, tiny_sam2("Sam2Video"), sam2_processor())
    segmenter = Sam2Segmenter.from_folder(folder, **LOOSE)
    assert type(segmenter.model).__name__ == "Sam2Model"
    assert segmenter(picture(40, 60))[0].shape[1:] == (40, 60)


def test_other_inputs_than_the_network_takes_are_refused(folder: Path) -> None:
    segmenter = Sam2Segmenter.from_folder(folder, **LOOSE)
    processor = sam2_processor()
    processor.size = {"height": 32, "width": 64}
    with pytest.raises(ModelError, match="makes inputs of 32x64 px, but this SAM 2 network takes 64x64"):
        Sam2Segmenter(segmenter.model, processor)
    with pytest.raises(ValueError, match="image must have shape"):
        segmenter(picture(40, 60)[0])
    with pytest.raises(ValueError, match="image must hold 1 picture"):
        segmenter(picture(40, 60).repeat(2, 1, 1, 1))
    with pytest.raises(ValueError, match="points_per_side must be at least 1"):
        Sam2Segmenter.from_folder(folder, points_per_side=0)


def test_an_older_transformers_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _name: "4.50.1")
    with pytest.raises(ModelError, match=r"SAM 2 needs transformers 4.56 or later, but 4.50.1 is installed"):
        Sam2Segmenter.from_folder(folder)
