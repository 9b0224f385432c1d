"""EoMT with random weights, from the file to masks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_segmenters import eomt_processor, picture, saved, tiny_eomt

from retouch_core.models.pretrained.loading import ModelError
from retouch_core.models.pretrained.segmenters.eomt import EomtSegmenter

LOOSE = {"score_min": 0.3, "overlap_min": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("eomt"), tiny_eomt(), eomt_processor())


@pytest.mark.parametrize("size", [(50, 77), (97, 40), (64, 64)])
def test_masks_are_those_of_the_published_classes(folder: Path, size: tuple[int, int]) -> None:
    segmenter = EomtSegmenter.from_folder(folder, **LOOSE)
    image = picture(*size)
    masks, _ = segmenter(image)
    assert len(masks) > 0

    processor = eomt_processor()
    pixels = processor(images=image[0].movedim(-1, 0), do_rescale=False, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        out = segmenter.model(pixel_values=pixels)
    expected = processor.post_process_panoptic_segmentation(
        out, [size], threshold=0.3, overlap_mask_area_threshold=0.0
    )[0]
    assert len(expected["segments_info"]) == len(masks)
    for segment in expected["segments_info"]:
        wanted = expected["segmentation"] == segment["id"]
        assert min(int((wanted ^ mask).sum()) for mask in masks) <= 2


def test_padding_is_cut_off_before_masks_are_resized(folder: Path) -> None:
    """Of a picture twice as wide as high the lower half of the square is padding."""
    segmenter = EomtSegmenter.from_folder(folder)
    maps = torch.full((1, 1, 16, 16), -9.0)
    maps[..., :10, :8] = 9.0
    classes = torch.tensor([[[9.0, 0.0, 0.0, 0.0, 0.0]]])
    out = type("Out", (), {"masks_queries_logits": maps, "class_queries_logits": classes})
    segmenter.model.forward = lambda **_inputs: out
    masks, scores = segmenter(picture(40, 80))
    assert masks.shape == (1, 40, 80) and float(scores) > 0.99
    assert masks[0, :, :40].all() and not masks[0, :, 40:].any()


def test_nothing_sure_is_no_mask(folder: Path) -> None:
    segmenter = EomtSegmenter.from_folder(folder)
    segmenter.model.class_predictor.bias[-1] = 1e4
    masks, scores = segmenter(picture(30, 41))
    assert masks.shape == (0, 30, 41) and scores.shape == (0,)


def test_semantic_weights_and_other_sizes_are_refused(folder: Path) -> None:
    model = EomtSegmenter.from_folder(folder).model
    with pytest.raises(ModelError, match="these are semantic weights of EoMT; choose a panoptic model"):
        EomtSegmenter(model, eomt_processor(do_split_image=True))
    with pytest.raises(ModelError, match="inputs of 32x96 px, but this EoMT network takes 64x64"):
        EomtSegmenter(model, eomt_processor(size={"shortest_edge": 32, "longest_edge": 96}))


def test_options_and_pictures_out_of_range(folder: Path) -> None:
    segmenter = EomtSegmenter.from_folder(folder)
    assert segmenter.score_min == 0.8
    with pytest.raises(ValueError, match=r"score_min must be in \[0, 1\), got 1.0"):
        EomtSegmenter.from_folder(folder, score_min=1.0)
    with pytest.raises(ValueError, match="image must have shape"):
        segmenter(picture(40, 60)[0])
