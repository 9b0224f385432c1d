"""Mask2Former with random weights, from the file to masks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_segmenters import mask2former_processor, picture, saved, tiny_mask2former
from torch.nn import functional

from retouch_core.models.pretrained.loading import ModelError
from retouch_core.models.pretrained.segmenters.mask2former import Mask2FormerSegmenter

LOOSE = {"score_min": 0.3, "overlap_min": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("mask2former"), tiny_mask2former(), mask2former_processor())


@pytest.mark.parametrize("size", [(50, 77), (97, 40), (64, 64)])
def test_masks_are_those_of_the_paper(folder: Path, size: tuple[int, int]) -> None:
    segmenter = Mask2FormerSegmenter.from_folder(folder, **LOOSE)
    image = picture(*size)
    masks, _ = segmenter(image)
    assert len(masks) > 0

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
