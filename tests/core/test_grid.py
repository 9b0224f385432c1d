"""Cells of the grid and the order of operations against methods.md 4.1 and 4.3."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retouch_core.regions.grid import cell_of, centroid, grid_lines, in_half, locate, overlaps
from retouch_core.regions.location import Location, parse_location
from retouch_core.tensors.regions import Regions


def dots(points: list[tuple[float, float]], scores: list[float], side: int = 90) -> Regions:
    """A 4x4 px square for each (x, y), given as shares of the side."""
    masks = torch.zeros(len(points), side, side, dtype=torch.bool)
    for mask, (x, y) in zip(masks, points, strict=True):
        left, top = round(x * side) - 2, round(y * side) - 2
        mask[top : top + 4, left : left + 4] = True
    return Regions(masks, torch.tensor(scores), (side, side))


def chosen(regions: Regions, query: str, **options: object) -> tuple[list[int], str | None]:
    entry = locate(regions, parse_location(query), **options).trace[-1]  # type: ignore[arg-type]
    return entry["selected"], entry["fallback"]


IN_A_ROW = dots([(0.2, 0.5), (0.5, 0.5), (0.8, 0.5)], [0.30, 0.31, 0.30])


@pytest.mark.parametrize(("length", "counts"), [(10, [3, 4, 3]), (9, [3, 3, 3])])
def test_columns_of_the_grid(length: int, counts: list[int]) -> None:
    assert torch.bincount(grid_lines(length)).tolist() == counts


@given(length=st.integers(1, 200))
def test_grid_lines_agree_with_the_definition(length: int) -> None:
    centres = np.arange(length) + 0.5
    assert grid_lines(length).tolist() == np.minimum(2, np.floor(3 * centres / length)).astype(int).tolist()


def test_an_angle_has_its_centroid_where_it_is_not() -> None:
    mask = torch.zeros(9, 9, dtype=torch.bool)
    mask[:, :3] = True
    mask[:3, 3:] = True
    assert mask.sum() == 45 and [float(c) for c in centroid(mask)] == pytest.approx([3.3, 3.3])
    assert cell_of(mask) == (1, 1) and not mask[3:6, 3:6].any()
    assert cell_of(mask, "majority") == (0, 1)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), height=st.integers(1, 24), width=st.integers(1, 24))
def test_cells_agree_with_a_count_by_hand(seed: int, height: int, width: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.3
    mask[0, 0] = True
    rows, columns = np.nonzero(mask)
    y, x = (rows + 0.5).mean(), (columns + 0.5).mean()
    tensor = torch.from_numpy(mask)
    if (
        min(abs(3 * y / height - n) for n in (1, 2)) > 1e-9
        and min(abs(3 * x / width - n) for n in (1, 2)) > 1e-9
    ):
        assert cell_of(tensor) == (int(3 * y / height), int(3 * x / width))
    counts = np.zeros((3, 3))
    for row, col in zip(rows, columns, strict=True):
        counts[min(2, int(3 * (row + 0.5) / height)), min(2, int(3 * (col + 0.5) / width))] += 1
    assert counts[cell_of(tensor, "majority")] == counts.max()
    cells = {(0, 0), (1, 2), (2, 2)}
    assert overlaps(tensor, cells) == (sum(counts[c] for c in cells) >= 0.5 * mask.sum())
    assert in_half(tensor, "left") == ((columns + 0.5 < width / 2).mean() >= 0.5)
    assert in_half(tensor, "bottom") == ((rows + 0.5 >= height / 2).mean() >= 0.5)


def test_majority_ties_go_to_the_first_cell() -> None:
    mask = torch.zeros(9, 9, dtype=torch.bool)
    mask[4, 1] = mask[4, 7] = True
    assert cell_of(mask, "majority") == (1, 0)


def test_three_in_a_row() -> None:
    assert chosen(IN_A_ROW, "the dog on the left") == ([0], None)
    assert chosen(IN_A_ROW, "dog second from the right") == ([1], None)
    assert chosen(IN_A_ROW, "the rightmost dog") == ([2], None)
    assert chosen(IN_A_ROW, "the dog in the top left corner") == ([0], "relaxed")


def test_no_place_leaves_the_threshold_alone() -> None:
    regions = dots([(0.2, 0.5), (0.8, 0.5)], [0.35, 0.20])
    assert chosen(regions, "the dog") == ([0], None)
    kept = locate(regions, parse_location("the dog"))
    assert torch.equal(kept.masks, regions.masks[:1]) and torch.equal(kept.scores, regions.scores[:1])


def test_relations_are_left_alone_with_a_warning() -> None:
    entry = locate(IN_A_ROW, parse_location("the dog to the left of the house")).trace[-1]
    assert entry["selected"] == [0, 1, 2] and "the house" in entry["warning"]


def test_the_wrong_one_of_two_equals_is_replaced() -> None:
    regions = dots([(0.2, 0.5), (0.8, 0.5), (0.5, 0.1)], [0.25, 0.33, 0.10])
    assert chosen(regions, "the dog") == ([1], None)
    assert chosen(regions, "the dog on the left") == ([0], "relocated")
    assert chosen(regions, "the dog at the bottom") == ([1], "location_ignored")


def test_the_threshold_runs_again_among_those_in_place() -> None:
    regions = dots([(0.2, 0.2), (0.2, 0.8), (0.8, 0.5)], [0.20, 0.25, 0.40])
    entry = locate(regions, parse_location("the dog on the left")).trace[-1]
    assert entry["selected"] == [1] and entry["fallback"] == "relocated"
    assert entry["tau"] == pytest.approx(0.25) and entry["thresholded"] == [2]


def test_the_middle_relaxes_to_its_column_then_its_row() -> None:
    both = dots([(0.5, 0.1), (0.1, 0.5)], [0.3, 0.3])
    assert chosen(both, "the dog in the middle") == ([0], "relaxed")
    assert chosen(both.select(torch.tensor([1])), "the dog in the middle") == ([0], "relaxed")
    corner = dots([(0.1, 0.1)], [0.3])
    assert chosen(corner, "the dog in the middle") == ([0], "location_ignored")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("the dog at the top centre", [0]),
        ("the dog in the middle left", [0, 1]),
        ("the dog, bottom right", [1, 2, 3]),
    ],
)
def test_other_cells_relax_along_the_frame(query: str, expected: list[int]) -> None:
    regions = dots([(0.1, 0.1), (0.1, 0.9), (0.9, 0.5), (0.5, 0.9)], [0.3, 0.3, 0.3, 0.3])
    assert chosen(regions, query) == (expected, "relaxed")


def test_halves() -> None:
    regions = dots([(0.45, 0.5), (0.6, 0.5)], [0.3, 0.3])
    assert chosen(regions, "the dog in the left half") == ([0], None)
    assert chosen(regions, "the dog in the right half") == ([1], None)
    one = dots([(0.2, 0.5), (0.8, 0.5)], [0.2, 0.4])
    assert chosen(one, "the dog in the left half") == ([0], "relocated")


def test_ranks_are_counted_in_a_wider_pool() -> None:
    regions = dots([(0.2, 0.5), (0.5, 0.5), (0.8, 0.5), (0.95, 0.5)], [0.300, 0.325, 0.300, 0.10])
    assert chosen(regions, "the dog") == ([1], None)
    assert chosen(regions, "the leftmost dog") == ([0], None)
    assert chosen(regions, "the rightmost dog") == ([2], None)
    assert chosen(regions, "the rightmost dog", u_pool=1.0) == ([3], None)


def test_rank_ties_go_by_the_other_axis_then_by_score() -> None:
    stacked = dots([(0.5, 0.8), (0.5, 0.2)], [0.3, 0.3])
    assert chosen(stacked, "the leftmost dog") == ([1], None)
    same = Regions(stacked.masks[[0, 0]], torch.tensor([0.30, 0.31]), (90, 90))
    assert chosen(same, "the leftmost dog") == ([1], None)


def test_vertical_ranks() -> None:
    regions = dots([(0.5, 0.2), (0.4, 0.5), (0.3, 0.8)], [0.3, 0.3, 0.3])
    assert chosen(regions, "the topmost dog")[0] == [0]
    assert chosen(regions, "the lowest dog")[0] == [2]
    assert chosen(regions, "second dog from the bottom")[0] == [1]


def test_a_rank_beyond_the_pool() -> None:
    with pytest.raises(ValueError, match=r"number 4 from the left, but only 3 region"):
        chosen(IN_A_ROW, "fourth dog from the left")
    assert chosen(IN_A_ROW, "fourth dog from the left", on_rank="last") == ([2], "rank_clipped")


def test_a_query_that_is_nothing_but_a_place() -> None:
    regions = dots([(0.2, 0.9), (0.8, 0.9), (0.5, 0.1)], [0.0, 0.0, 0.0])
    for mode in ("quantile", "argmax", "fixed"):
        assert chosen(regions, "the bottom", threshold_kwargs={"mode": mode}) == ([0, 1], None)
        assert chosen(regions, "second from the left", threshold_kwargs={"mode": mode}) == ([2], None)
    assert chosen(regions.select(torch.tensor([2])), "the bottom") == ([], "nothing_there")


def test_modes_that_keep_nothing_stay_empty() -> None:
    weak = dots([(0.2, 0.5), (0.8, 0.5)], [0.1, 0.1])
    for query in ("the dog", "the dog on the left", "the leftmost dog", "the dog in the left half"):
        assert chosen(weak, query, threshold_kwargs={"mode": "fixed"}) == ([], None)


def test_nobody_strong_enough_in_place_keeps_the_selection() -> None:
    regions = dots([(0.2, 0.5), (0.8, 0.5)], [0.1, 0.3])
    assert chosen(regions, "the dog on the left", threshold_kwargs={"mode": "fixed"}) == (
        [1],
        "location_ignored",
    )


@pytest.mark.parametrize("rule", ["centroid", "majority", "overlap"])
def test_all_rules_agree_on_small_regions(rule: str) -> None:
    assert chosen(IN_A_ROW, "the dog on the right", rule=rule) == ([2], None)


def test_nothing_in_nothing_out() -> None:
    empty = Regions(torch.zeros(0, 20, 30, dtype=torch.bool), torch.zeros(0), (20, 30))
    for query in ("the dog", "the dog on the left", "the leftmost dog", "the left half", "the bottom"):
        assert len(locate(empty, parse_location(query))) == 0


def test_the_trace_is_plain_json() -> None:
    for query in (
        "the dog",
        "the dog top left",
        "second dog from the left",
        "left half",
        "dog left of the sofa",
    ):
        json.dumps(locate(IN_A_ROW, parse_location(query)).trace, allow_nan=False)


def test_bad_input_is_one_sentence() -> None:
    here = Location("cells", cells=frozenset({(0, 0)}), text="dog")
    with pytest.raises(ValueError, match="no scores"):
        locate(Regions(IN_A_ROW.masks, None, (90, 90)), here)
    with pytest.raises(ValueError, match="rule must be one of"):
        locate(IN_A_ROW, here, rule="nearest")
    with pytest.raises(ValueError, match="on_rank must be"):
        locate(IN_A_ROW, here, on_rank="skip")
    with pytest.raises(ValueError, match="is empty; drop empty regions"):
        cell_of(torch.zeros(9, 9, dtype=torch.bool))
    with pytest.raises(ValueError, match="rule must be centroid or majority"):
        cell_of(IN_A_ROW.masks[0], "overlap")
    with pytest.raises(ValueError, match="half must be one of"):
        in_half(IN_A_ROW.masks[0], "middle")
    with pytest.raises(ValueError, match=r"\[H,W\]"):
        cell_of(IN_A_ROW.masks)
