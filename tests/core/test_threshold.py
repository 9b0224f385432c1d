"""The adaptive threshold against the table of methods.md 3.4 and its named properties."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from retouch_core.regions.threshold import adaptive_threshold, soft_map, threshold_regions
from retouch_core.tensors.regions import Regions

ROW1 = [0.29, 0.285, 0.25, 0.22, 0.20]
ROW2 = [0.31, 0.24, 0.23, 0.22]
ROW3 = [0.28, 0.28, 0.20]
GIVEN = [0.5, 0.3, 0.15, 0.05]

cosines = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("scores", "shares"),
    [
        (ROW1, [0.61505, 0.37305, 0.01127, 0.00056, 0.00008]),
        (ROW2, [0.99863, 0.00091, 0.00034, 0.00012]),
        (ROW3, [0.49992, 0.49992, 0.00017]),
    ],
)
def test_shares(scores: list[float], shares: list[float]) -> None:
    assert adaptive_threshold(torch.tensor(scores)).probs.tolist() == pytest.approx(shares, abs=6e-6)


@pytest.mark.parametrize(
    ("scores", "u", "reattention", "quantile"),
    [
        (ROW1, 0.6, 0, 1),
        (ROW1, 0.95, 1, 2),
        (ROW2, 0.6, 0, 1),
        (ROW2, 0.95, 0, 1),
        (ROW3, 0.6, 1, 2),
        (ROW3, 0.95, 1, 2),
    ],
)
def test_counts_of_the_table(scores: list[float], u: float, reattention: int, quantile: int) -> None:
    values = torch.tensor(scores)
    assert adaptive_threshold(values, u=u, mode="reattention", min_keep=0).k == reattention
    assert adaptive_threshold(values, u=u, mode="quantile").k == quantile
    assert adaptive_threshold(values, u=u, mode="reattention").k == max(1, reattention)


@pytest.mark.parametrize(("scores", "k"), [(ROW1, 2), (ROW2, 1), (ROW3, 2)])
def test_maxstep_of_the_table(scores: list[float], k: int) -> None:
    assert adaptive_threshold(torch.tensor(scores), mode="maxstep").k == k


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("u", "reattention", "quantile"),
    [(0.4, 0, 1), (0.6, 1, 2), (0.95, 2, 3), (1.0, 3, 4), (0.5, 0, 1), (0.8, 1, 2)],
)
def test_shares_given_directly(u: float, reattention: int, quantile: int, dtype: torch.dtype) -> None:
    values = torch.tensor(GIVEN, dtype=dtype)
    assert adaptive_threshold(values, u=u, norm="sum").k == quantile
    assert adaptive_threshold(values, u=u, norm="sum", mode="reattention").k == max(1, reattention)
    assert adaptive_threshold(values, u=u, norm="sum", mode="reattention", min_keep=0).k == reattention


def test_division_by_the_sum_is_almost_uniform() -> None:
    result = adaptive_threshold(torch.tensor([0.31, 0.24, 0.23, 0.22]), norm="sum", u=0.6)
    assert result.cumulative.tolist() == pytest.approx([0.31, 0.55, 0.78, 1.0], abs=1e-6)
    assert result.k == 3
    assert adaptive_threshold(torch.tensor(ROW2), norm="sum", u=0.6, mode="reattention").k == 2


@settings(max_examples=60, deadline=None)
@given(values=cosines, u=st.floats(0.01, 1))
def test_quantile_is_reattention_plus_one(values: list[float], u: float) -> None:
    scores = torch.tensor(values, dtype=torch.float64)
    shares = sorted(adaptive_threshold(scores).probs.tolist(), reverse=True)
    running = [math.fsum(shares[: k + 1]) for k in range(len(shares) - 1)]
    assume(all(abs(total - u) > 1e-5 for total in running))
    below = sum(total < u for total in running)
    assert adaptive_threshold(scores, u=u, mode="reattention", min_keep=0).k == below
    assert adaptive_threshold(scores, u=u).k == below + 1


@settings(max_examples=60, deadline=None)
@given(values=cosines, shift=st.floats(-1, 1), mode=st.sampled_from(["quantile", "reattention", "maxstep"]))
def test_a_constant_changes_nothing(values: list[float], shift: float, mode: str) -> None:
    scores = torch.tensor(values, dtype=torch.float64)
    here, there = adaptive_threshold(scores, mode=mode), adaptive_threshold(scores + shift, mode=mode)
    gaps = (
        (here.cumulative - 0.8).abs().min(),
        *(a - b for a, b in zip(sorted(values)[1:], sorted(values), strict=False)),
    )
    assume(all(gap == 0 or gap > 1e-4 for gap in map(float, gaps)))
    drops = here.probs[here.order].diff().abs().sort(descending=True).values
    assume(mode != "maxstep" or len(drops) < 2 or float(drops[0] - drops[1]) > 1e-6)
    assume(len(set((scores + shift).tolist())) == len(set(values)))
    assert torch.equal(here.selected, there.selected)
    assert torch.allclose(here.probs, there.probs, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    values=cosines,
    seed=st.integers(0, 1000),
    mode=st.sampled_from(["quantile", "reattention", "maxstep", "fixed", "fixed_prob"]),
)
def test_permuting_scores_permutes_the_selection(values: list[float], seed: int, mode: str) -> None:
    scores = torch.tensor(values, dtype=torch.float64)
    mix = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(
        adaptive_threshold(scores, mode=mode).selected[mix],
        adaptive_threshold(scores[mix], mode=mode).selected,
    )


@settings(max_examples=60, deadline=None)
@given(
    values=cosines,
    u=st.floats(0.01, 1),
    v=st.floats(0.01, 1),
    mode=st.sampled_from(["quantile", "reattention"]),
)
def test_the_selection_grows_with_u(values: list[float], u: float, v: float, mode: str) -> None:
    small, large = (adaptive_threshold(torch.tensor(values), u=w, mode=mode).selected for w in sorted((u, v)))
    assert bool((small <= large).all())


def test_ties_stay_together_except_in_argmax() -> None:
    scores = torch.tensor([0.3, 0.3, 0.1])
    assert adaptive_threshold(scores, mode="argmax").selected.tolist() == [True, False, False]
    assert adaptive_threshold(scores, mode="topk", k=1).selected.tolist() == [True, False, False]
    for mode in ("quantile", "reattention", "maxstep"):
        assert adaptive_threshold(scores, mode=mode, u=0.4).selected.tolist() == [True, True, False]
    assert adaptive_threshold(scores, max_keep=1).selected.tolist() == [True, True, False]


def test_fixed_modes_may_keep_nothing() -> None:
    assert adaptive_threshold(torch.tensor(ROW1), mode="fixed").selected.all()
    assert adaptive_threshold(torch.tensor([0.2, 0.19999]), mode="fixed").selected.tolist() == [True, False]
    empty = adaptive_threshold(torch.tensor([0.1, 0.19]), mode="fixed")
    assert not empty.selected.any() and empty.k == 0 and empty.tau == 0.2
    likely = adaptive_threshold(torch.tensor(ROW1), mode="fixed_prob", tau=0.3)
    assert likely.selected.tolist() == [True, True, False, False, False]
    assert adaptive_threshold(torch.tensor(ROW1), mode="fixed", max_keep=2).selected.sum() == 2


def test_bounds_of_the_count() -> None:
    scores = torch.tensor(ROW2)
    assert adaptive_threshold(scores, min_keep=3).selected.tolist() == [True, True, True, False]
    assert adaptive_threshold(scores, u=1.0, max_keep=2).k == 2
    assert adaptive_threshold(scores, min_keep=9).selected.all()
    assert adaptive_threshold(scores, mode="topk", k=9).selected.all()


def test_keeping_none_is_possible_when_asked_for() -> None:
    result = adaptive_threshold(torch.tensor(ROW2), mode="reattention", min_keep=0)
    assert result.k == 0 and not result.selected.any() and result.tau > 0.31
    assert adaptive_threshold(torch.tensor(ROW2), mode="reattention").selected.tolist() == [
        True,
        False,
        False,
        False,
    ]


def test_tau_is_the_lowest_selected_score() -> None:
    result = adaptive_threshold(torch.tensor([0.25, 0.29, 0.285]), u=0.95)
    assert result.tau == pytest.approx(0.285) and result.order.tolist() == [1, 2, 0]
    assert float(result.cumulative[-1]) == 1.0


def test_one_region_is_certain() -> None:
    for mode in ("quantile", "reattention", "maxstep", "argmax", "topk"):
        result = adaptive_threshold(torch.tensor([-0.3]), mode=mode)
        assert result.selected.tolist() == [True] and result.probs.tolist() == [1.0]


@pytest.mark.parametrize("norm", ["sum", "minmax_sum"])
def test_equal_scores_share_evenly(norm: str) -> None:
    assert adaptive_threshold(torch.zeros(4), norm=norm).probs.tolist() == [0.25] * 4
    assert adaptive_threshold(torch.zeros(4), norm=norm).selected.all()


def test_minmax_sum() -> None:
    probs = adaptive_threshold(torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64), norm="minmax_sum").probs
    assert probs.tolist() == pytest.approx([0, 0.25, 0.75])


def test_nothing_in_nothing_out() -> None:
    result = adaptive_threshold(torch.zeros(0))
    assert result.selected.shape == (0,) and result.k == 0 and result.tau == 0
    assert (
        soft_map(result.probs, torch.zeros(0, 4, 5, dtype=torch.bool)).tolist()
        == torch.zeros(1, 4, 5).tolist()
    )


def test_regions_are_selected_and_traced() -> None:
    masks = torch.eye(4, dtype=torch.bool).view(4, 2, 2)
    regions = Regions(masks, torch.tensor(ROW2), (2, 2))
    chosen = threshold_regions(regions, u=0.6)
    assert torch.equal(chosen.masks, masks[:1])
    assert chosen.trace[-1]["selected"] == [0] and chosen.trace[-1]["k"] == 1
    json.dumps(chosen.trace, allow_nan=False)
    with pytest.raises(ValueError, match="no scores"):
        threshold_regions(Regions(masks, None, (2, 2)))


def test_soft_map_sums_shares() -> None:
    masks = torch.tensor([[[1, 1, 0, 0]], [[0, 1, 1, 0]]], dtype=torch.bool)
    assert soft_map(torch.tensor([0.75, 0.25]), masks).tolist() == [[[0.75, 1.0, 0.25, 0.0]]]
    with pytest.raises(ValueError, match="one share a region"):
        soft_map(torch.tensor([0.75]), masks)


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        ([0.1, torch.nan], {}, "NaN"),
        ([0.1, torch.inf], {}, "infinite"),
        ([[0.1]], {}, r"scores must have shape \[N\]"),
        ([0.1], {"u": 0}, r"u must be in \(0, 1\], got 0; give a share"),
        ([0.1], {"u": 1.3}, r"u must be in \(0, 1\], got 1.3; give a share of probability mass such as 0.8"),
        ([0.1], {"u": math.nan}, "u must be in"),
        ([0.1, -0.1], {"norm": "sum"}, "softmax"),
        ([0.1], {"norm": "max"}, "norm must be one of"),
        ([0.1], {"mode": "best"}, "mode must be one of"),
        ([0.1], {"beta": 0}, "beta must be above 0"),
        ([0.1], {"mode": "topk", "k": 0}, "k must be at least 1"),
        ([0.1], {"min_keep": -1}, "min_keep must be at least 0"),
        ([0.1], {"min_keep": 3, "max_keep": 2}, "max_keep must be at least min_keep"),
    ],
)
def test_bad_input_is_one_sentence(scores, options, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        adaptive_threshold(torch.tensor(scores), **options)
