"""Intervals against scipy and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from training.evaluation.numbers import Estimate, Row, Share, goal, table


@pytest.mark.parametrize(("right", "count"), [(0, 20), (7, 20), (20, 20), (193, 200)])
def test_wilson_is_scipys(right: int, count: int) -> None:
    expected = binomtest(right, count).proportion_ci(0.95, method="wilson")
    assert Share(right, count).interval == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_the_interval_of_a_mean_is_near_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    found = Estimate.mean(values.tolist())
    reach = norm.ppf(0.975) * values.std(ddof=1) / math.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((values.mean() - reach, values.mean() + reach), abs=0.03)
    assert Estimate.mean(values.tolist()) == found


def test_a_ratio_resamples_pairs() -> None:
    wholes = np.random.default_rng(2).uniform(1, 100, 50)
    found = Estimate.ratio((wholes / 4).tolist(), wholes.tolist())
    # Every pair has the same ratio, so no resampling changes it.
    assert (found.value, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))
    assert found.root().value == pytest.approx(0.5)


def test_decibels_turn_the_interval_around() -> None:
    found = Estimate(0.01, 0.001, 0.1, 9).decibels()
    assert (found.value, found.low, found.high) == pytest.approx((20, 10, 30))


def test_a_single_case_has_no_interval() -> None:
    found = Estimate.mean([2.0])
    assert found.value == 2.0 and math.isnan(found.low) and math.isnan(found.high)


def test_goals_and_the_table() -> None:
    rows = [goal("a", Share(9, 10), 0.95), goal("b", 31.5, 31), goal("c", 2.0, None, 1.3), Row("d", 0.5)]
    assert [r.met for r in rows] == [False, True, False, None]
    assert [r.goal for r in rows] == [">= 95 %", ">= 31", "<= 1.3", ""]
    lines = table(rows).splitlines()
    assert "90.0 % (59.6–98.2, n 10)" in lines[1] and lines[1].endswith("MISSED")
    assert rows[0].plain()["value"]["right"] == 9
