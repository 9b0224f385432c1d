"""Mask2Former with random weights, from the file to masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_segmenters import check_prepared, mask2former_processor, picture, saved, tiny_mask2former
from torch.nn import functional

from retouch_core.models.pretrained.loading import ModelError
from retouch_core.models.pretrained.segmenters.mask2former import Mask2FormerSegmenter
from retouch_core.models.protocols import Segmenter

LOOSE = {"score_min": 0.3, "overlap_min": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("mask2former"), tiny_mask2former(), mask2former_processor())


@pytest.mark.parametrize("size", [(50, 77), (97, 40), (64, 64)])
def test_masks_are_those_of_the_paper(folder: Path, size: tuple[int, int]) -> None:
    segmenter = Mask2FormerSegmenter.from_folder(folder, **LOOSE)
    assert isinstance(segmenter, Segmenter)
    image = picture(*size)
    masks, scores = segmenter(image)
    assert masks.shape == (len(scores), *size) and masks.dtype == torch.bool and len(masks) > 0
    assert scores.dtype == torch.float32 and int(masks.sum(0).max()) == 1
    again = segmenter(image)
    assert torch.equal(masks, again[0]) and torch.equal(scores, again[1])

    pixels = mask2former_processor()(images=image[0].movedim(-1, 0), do_rescale=False, return_tensors="pt")[
        "pixel_values"
    ]
    with torch.no_grad():
        out = segmenter.model(pixel_values=pixels)
    sure, labels = out.class_queries_logits[0].softmax(-1).max(-1)
    kept = (labels < 4) & (sure > 0.3)
    large = functional.interpolate(out.masks_queries_logits, size, mode="bilinear", align_corners=False)[
        0, kept
    ]
    weighted = large.sigmoid() * sure[kept][:, None, None]
    for query in range(int(kept.sum())):
        wanted = (weighted.argmax(0) == query) & (large[query].sigmoid() >= 0.5)
        assert not wanted.any() or min(int((wanted ^ mask).sum()) for mask in masks) <= 2


def test_pictures_are_prepared_as_the_published_processor_does(folder: Path) -> None:
    segmenter = Mask2FormerSegmenter.from_folder(folder)
    seen: list[torch.Tensor] = []
    forward = segmenter.model.forward

    def keep(pixel_values: torch.Tensor) -> Any:
        seen.append(pixel_values)
        return forward(pixel_values=pixel_values)

    segmenter.model.forward = keep
    for size, fitted in (((50, 77), (64, 96)), ((64, 64), (64, 64)), ((300, 120), (96, 64))):
        image = picture(*size)
        segmenter(image)
        assert tuple(seen[-1].shape[2:]) == fitted
        check_prepared(seen[-1], mask2former_processor(), image)


def test_sizes_and_options_out_of_range(folder: Path) -> None:
    model = Mask2FormerSegmenter.from_folder(folder).model
    processor = mask2former_processor()
    processor.size = {"longest_edge": 96}
    with pytest.raises(
        ModelError, match="Mask2Former needs shortest_edge and longest_edge or height and width"
    ):
        Mask2FormerSegmenter(model, processor)
    with pytest.raises(ValueError, match=r"overlap_min must be in \[0, 1\), got -1"):
        Mask2FormerSegmenter.from_folder(folder, overlap_min=-1)
