"""From queries to disjoint masks: by hand, and against the published post-processing."""

from __future__ import annotations

import pytest
import torch
from tiny_segmenters import eomt_processor
from torch import Tensor
from torch.nn import functional

from retouch_core.models.pretrained.pictures import fitted_size
from retouch_core.models.pretrained.segmenters.maps import stretched, uncovered
from retouch_core.models.pretrained.segmenters.panoptic_masks import panoptic_masks


def classes_of(*scores: float) -> Tensor:
    """Class logits [Q,3] whose softmax gives the first label these probabilities; a negative one goes to "nothing"."""
    rows = []
    for score in scores:
        sure, rest = abs(score), (1 - abs(score)) / 2
        rows.append([sure, rest, rest] if score > 0 else [rest, rest, sure])
    return torch.tensor(rows).log()


def maps_of(*rows: list[float]) -> Tensor:
    """Mask logits [Q,2,n] of probabilities, both lines alike."""
    return torch.tensor(rows)[:, None].expand(-1, 2, -1).logit()


def test_pixels_go_to_the_best_query_by_hand() -> None:
    # Columns:             0     1     2     3    4     5
    maps = maps_of(
        [0.99, 0.99, 0.60, 0.10, 0.1, 0.10],
        [0.10, 0.10, 0.90, 0.90, 0.3, 0.10],
        [0.99, 0.99, 0.99, 0.99, 0.9, 0.99],
        [0.10, 0.10, 0.10, 0.10, 0.1, 0.99],
    )
    # The third is sure of nothing, the last not sure enough.
    classes = classes_of(0.9, 0.95, -0.99, 0.7)
    masks, scores = panoptic_masks(maps, classes, stretched, (2, 6))
    # The second wins column 2 with 0.95 * 0.9 against 0.9 * 0.6, which leaves the first 2 of its 3 columns: too few.
    assert scores.tolist() == pytest.approx([0.95])
    assert masks[0].tolist() == [[False, False, True, True, False, False]] * 2

    masks, scores = panoptic_masks(maps, classes, stretched, (2, 6), overlap_min=0.6)
    assert scores.tolist() == pytest.approx([0.95, 0.9])
    assert masks[1].tolist() == [[True, True, False, False, False, False]] * 2


@pytest.mark.parametrize("size", [(64, 64), (50, 77), (97, 40), (33, 130)])
@pytest.mark.parametrize("seed", range(3))
def test_the_published_post_processing_gives_the_same(size: tuple[int, int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    coarse = 4 * torch.randn(1, 30, 4, 4, generator=generator)
    maps = functional.interpolate(coarse, size=(16, 16), mode="bicubic")
    classes = 4 * torch.randn(1, 30, 5, generator=generator)
    outputs = type("Out", (), {"masks_queries_logits": maps, "class_queries_logits": classes})
    expected = eomt_processor().post_process_panoptic_segmentation(
        outputs, [size], threshold=0.6, overlap_mask_area_threshold=0.3
    )[0]
    inner = fitted_size(size, 64, 64)
    masks, scores = panoptic_masks(
        maps[0],
        classes[0],
        lambda some, target: uncovered(some, (64, 64), inner, target),
        size,
        score_min=0.6,
        overlap_min=0.3,
    )
    segments = expected["segments_info"]
    assert len(masks) == len(segments) > 0
    assert int(masks.sum(0).max()) == 1
    by_score = sorted(segments, key=lambda segment: -segment["score"])
    for mask, score, segment in zip(masks, scores, by_score, strict=True):
        assert float(score) == pytest.approx(segment["score"], abs=1e-5)
        assert torch.equal(mask, expected["segmentation"] == segment["id"])


def test_no_query_no_mask() -> None:
    masks, scores = panoptic_masks(maps_of([0.9, 0.9]), classes_of(-0.9), stretched, (7, 9))
    assert masks.shape == (0, 7, 9) and masks.dtype == torch.bool and scores.shape == (0,)


def test_numbers_that_overflowed_are_refused() -> None:
    classes = torch.tensor([[torch.nan, 0.0]])
    with pytest.raises(ValueError, match="class logits hold 1 of 2 values that are not finite"):
        panoptic_masks(maps_of([0.9]), classes, stretched, (2, 2))


def test_a_query_that_wins_nothing_is_no_mask() -> None:
    maps = maps_of([0.9, 0.9, 0.1], [0.8, 0.8, 0.1])
    masks, scores = panoptic_masks(maps, classes_of(0.85, 0.84), stretched, (2, 3), overlap_min=0.0)
    assert len(masks) == 1 and scores.tolist() == pytest.approx([0.85])


def test_equal_queries_keep_their_order() -> None:
    """Where scores and probabilities are 1 in float32 the first query wins, as in the published argmax."""
    maps = torch.full((2, 2, 2), 40.0)
    maps[1, 0] = -40.0
    classes = torch.tensor([[60.0, 0.0], [60.0, 0.0]])
    masks, scores = panoptic_masks(maps, classes, stretched, (2, 2), overlap_min=0.0)
    assert len(masks) == 1 and masks[0].all() and scores.tolist() == [1.0]


def test_progress_counts_the_queries_that_are_skipped() -> None:
    told: list[tuple[int, int]] = []
    maps, classes = maps_of([0.9, 0.1], [0.9, 0.9], [0.1, 0.9]), classes_of(0.9, -0.9, 0.95)
    panoptic_masks(maps, classes, stretched, (2, 2), tell=lambda done, of: told.append((done, of)))
    assert told == [(2, 3), (3, 3)]
