"""Disjoint entities against methods.md 1.2-1.3 and a pixel-by-pixel reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from retouch_core.regions.entities import background_mask, coverage, disjoint, drop_nested


def columns(height: int, width: int, *spans: tuple[int, int]) -> torch.Tensor:
    """One mask per span of columns, both ends included."""
    masks = torch.zeros(len(spans), height, width, dtype=torch.bool)
    for mask, (first, last) in zip(masks, spans, strict=True):
        mask[:, first : last + 1] = True
    return masks


def rectangles(seed: int, count: int, side: int = 16) -> torch.Tensor:
    draw = np.random.default_rng(seed)
    masks = np.zeros((count, side, side), dtype=bool)
    for mask in masks:
        y, x = draw.integers(0, side - 2, 2)
        h, w = draw.integers(1, side, 2)
        mask[y : y + h, x : x + w] = True
    return torch.from_numpy(masks)


def by_hand(masks, scores, score_min, visible_min, min_area, refill):  # type: ignore[no-untyped-def]
    """The definition, pixel by pixel."""
    areas = masks.reshape(len(masks), -1).sum(1)
    alive = sorted(
        (i for i in range(len(masks)) if scores[i] >= score_min), key=lambda i: (-scores[i], -areas[i], i)
    )
    while True:
        owner = np.full(masks.shape[1:], -1)
        for y in range(owner.shape[0]):
            for x in range(owner.shape[1]):
                owner[y, x] = next((i for i in alive if masks[i, y, x]), -1)
        dropped = []
        for i in alive:
            rows, cols = np.nonzero(owner == i)
            if (
                len(rows) < max(1, min_area)
                or len(rows) < visible_min * areas[i]
                or rows.max() == rows.min()
                or cols.max() == cols.min()
            ):
                dropped.append(i)
        alive = [i for i in alive if i not in dropped]
        if not refill or not dropped:
            return alive, [owner == i for i in alive]


THREE = columns(2, 6, (0, 2), (2, 4), (1, 2))
THREE_SCORES = torch.tensor([0.9, 0.8, 0.7])


def test_three_overlapping_columns() -> None:
    regions = disjoint(THREE, THREE_SCORES, min_area=1)
    assert torch.equal(regions.masks, columns(2, 6, (0, 2), (3, 4)))
    assert torch.allclose(regions.scores, torch.tensor([0.9, 0.8]))
    assert torch.equal(background_mask(regions), columns(2, 6, (5, 5)).float())
    assert coverage(regions) == pytest.approx(5 / 6, abs=1e-7)


def test_three_overlapping_columns_with_a_visible_share() -> None:
    regions = disjoint(THREE, THREE_SCORES, min_area=1, visible_min=0.8)
    assert torch.equal(regions.masks, columns(2, 6, (0, 2)))
    assert torch.equal(background_mask(regions), columns(2, 6, (3, 5)).float())
    assert coverage(regions) == 0.5


def test_refill_gives_the_pixels_of_dropped_ones_back() -> None:
    masks, scores = columns(2, 6, (0, 5), (0, 0)), torch.tensor([0.5, 0.9])
    assert torch.equal(disjoint(masks, scores, min_area=3, refill=False).masks, columns(2, 6, (1, 5)))
    assert disjoint(masks, scores, min_area=3).masks.all()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 6),
    visible_min=st.sampled_from([0.0, 0.5, 0.8]),
    min_area=st.integers(0, 20),
    refill=st.booleans(),
)
def test_agrees_with_the_definition(
    seed: int, count: int, visible_min: float, min_area: int, refill: bool
) -> None:
    masks = rectangles(seed, count)
    scores = np.random.default_rng(seed).integers(0, 6, count) / 5
    regions = disjoint(
        masks, torch.from_numpy(scores), visible_min=visible_min, min_area=min_area, refill=refill
    )
    alive, owned = by_hand(masks.numpy(), scores, 0.2, visible_min, min_area, refill)
    assert regions.scores.tolist() == pytest.approx([scores[i] for i in alive])
    assert len(regions) == len(owned)
    for ours, expected in zip(regions.masks, owned, strict=True):
        assert np.array_equal(ours.numpy(), expected)
    assert int(regions.masks.sum(0).max() if len(regions) else 0) <= 1


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 7),
    leftovers=st.sampled_from(["ignore", "one_entity", "components"]),
)
def test_order_of_input_does_not_matter_and_twice_is_once(seed: int, count: int, leftovers: str) -> None:
    masks = rectangles(seed, count)
    scores = torch.from_numpy(np.random.default_rng(seed).permutation(count) / (2 * count) + 0.3)
    once = disjoint(masks, scores, min_area=4, visible_min=0.3, leftovers=leftovers)
    shuffled = torch.from_numpy(np.random.default_rng(seed + 1).permutation(count))
    other = disjoint(masks[shuffled], scores[shuffled], min_area=4, visible_min=0.3, leftovers=leftovers)
    assert torch.equal(once.masks, other.masks) and torch.equal(once.scores, other.scores)
    again = disjoint(once.masks, once.scores, min_area=4, visible_min=0.3, leftovers=leftovers)
    assert torch.equal(once.masks, again.masks) and torch.equal(once.scores, again.scores)


def test_ties_go_to_the_larger_then_to_the_first() -> None:
    masks = columns(4, 10, (4, 9), (0, 5), (2, 7))
    regions = disjoint(masks, torch.tensor([0.5, 0.5, 0.5]), min_area=1)
    assert torch.equal(regions.masks, columns(4, 10, (4, 9), (0, 3)))


def test_one_pixel_wide_is_dropped_even_when_large() -> None:
    masks = columns(100, 20, (3, 3), (5, 6))
    assert torch.equal(disjoint(masks, torch.ones(2)).masks, columns(100, 20, (5, 6)))


def test_default_smallest_area() -> None:
    masks = torch.zeros(2, 400, 400, dtype=torch.bool)
    masks[0, :8, :9] = True  # 72 px, under 0.0005 * 160000 = 80
    masks[1, 20:28, :11] = True  # 88 px
    assert len(disjoint(masks, torch.ones(2))) == 1
    assert len(disjoint(masks[:, :100, :100], torch.ones(2))) == 2


def test_the_best_hundred_stay() -> None:
    masks = torch.zeros(120, 48, 40, dtype=torch.bool)
    for i in range(120):
        masks[i, i // 10 * 4 : i // 10 * 4 + 4, i % 10 * 4 : i % 10 * 4 + 4] = True
    scores = torch.linspace(0.3, 0.9, 120)
    regions = disjoint(masks, scores, min_area=1)
    assert torch.equal(regions.scores, scores.flip(0)[:100])


def test_leftovers_as_one_or_as_parts() -> None:
    masks = columns(8, 30, (10, 19))
    masks[0, :2, 12] = False
    scores = torch.tensor([0.9])
    one = disjoint(masks, scores, min_area=16, leftovers="one_entity")
    assert len(one) == 2 and one.scores[1] == 0 and coverage(one) == 1
    parts = disjoint(masks, scores, min_area=16, leftovers="components")
    labelled, count = ndimage.label(~masks[0].numpy(), structure=np.ones((3, 3)))
    large = [labelled == i for i in range(1, count + 1) if (labelled == i).sum() >= 16]
    assert len(parts) == 1 + len(large) == 3
    for ours, expected in zip(parts.masks[1:], large, strict=True):
        assert np.array_equal(ours.numpy(), expected)
    assert parts.scores[1:].tolist() == [0, 0]


def test_leftover_parts_touching_at_a_corner_are_one() -> None:
    masks = torch.ones(1, 12, 12, dtype=torch.bool)
    masks[0, :4, :4] = masks[0, 4:8, 4:8] = False
    assert len(disjoint(masks, torch.ones(1), min_area=1, leftovers="components")) == 2


def test_nothing_in_nothing_out() -> None:
    regions = disjoint(torch.zeros(0, 20, 30, dtype=torch.bool), torch.zeros(0))
    assert len(regions) == 0 and coverage(regions) == 0 and background_mask(regions).shape == (1, 20, 30)
    low = disjoint(columns(20, 30, (0, 9)), torch.tensor([0.1]))
    assert len(low) == 0 and low.masks.shape == (0, 20, 30)
    whole = disjoint(columns(20, 30, (0, 9)), torch.tensor([0.1]), leftovers="components")
    assert len(whole) == 1 and whole.masks.all()


def test_the_trace_says_what_happened() -> None:
    (entry,) = disjoint(THREE, THREE_SCORES, min_area=1).trace
    assert entry["stage"] == "entities" and entry["proposals"] == 3 and entry["entities"] == 2
    assert entry["coverage"] == pytest.approx(5 / 6)


def test_nested_parts_leave_when_their_score_is_close() -> None:
    masks = columns(4, 20, (0, 9), (2, 5), (2, 5), (8, 12))
    scores = torch.tensor([0.90, 0.86, 0.99, 0.9])
    kept, kept_scores = drop_nested(masks, scores)
    assert torch.equal(kept, masks[[0, 2, 3]]) and torch.equal(kept_scores, scores[[0, 2, 3]])
    twins, _ = drop_nested(masks[[0, 0]], torch.tensor([0.9, 0.9]))
    assert len(twins) == 1


@pytest.mark.parametrize(
    ("masks", "scores", "options", "message"),
    [
        (THREE.float(), THREE_SCORES, {}, "masks must be bool"),
        (THREE[0], THREE_SCORES, {}, "masks must be bool"),
        (THREE, THREE_SCORES[:2], {}, r"scores must have shape \[3\]"),
        (THREE, torch.tensor([0.9, torch.nan, 0.7]), {}, "NaN"),
        (THREE, THREE_SCORES, {"visible_min": 80}, "visible_min must be in"),
        (THREE, THREE_SCORES, {"max_entities": 0}, "max_entities must be at least 1"),
        (THREE, THREE_SCORES, {"leftovers": "all"}, "leftovers must be one of"),
    ],
)
def test_bad_input_is_one_sentence(masks, scores, options, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        disjoint(masks, scores, **options)


def test_many_large_proposals_hold_one_picture_and_boxes_in_memory() -> None:
    """Sixty proposals of 4 megapixels: what is allocated beside the result is a small part of what came in."""
    import tracemalloc

    masks = torch.zeros(60, 2000, 2000, dtype=torch.bool)
    for k, mask in enumerate(masks):
        mask[30 * k : 30 * k + 100, 25 * k : 25 * k + 300] = True
    scores = torch.linspace(0.3, 0.9, 60)
    tracemalloc.start()
    regions = disjoint(masks, scores, max_entities=5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(regions) == 5
    assert peak < 15 * masks[0].numel() < masks.numel() / 3
