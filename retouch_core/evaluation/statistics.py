"""Means and shares with their 95 % intervals, the same bits for the same numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 4000
"""Bootstrap samples of a mean."""
ENOUGH = 5
"""Pairs below which a mean has no interval: resampling so few says little but how few they are."""
AT_ONCE = 2_000_000
"""Numbers that are drawn at once, which bounds the memory."""
Z = 1.959963984540054
"""Normal quantile of a 95 % interval."""


@dataclass(frozen=True)
class Estimate:
    """A number over `count` pairs, with the ends of its 95 % interval, or None where it has none."""

    value: float
    low: float | None
    high: float | None
    count: int

    def plain(self) -> dict[str, float | int | None]:
        return {"value": self.value, "low": self.low, "high": self.high, "count": self.count}


def mean(values: Sequence[float]) -> Estimate | None:
    """Mean with its bootstrap percentile interval (Efron, 1979), from `ENOUGH` values on; none has no mean."""
    if not values:
        return None
    numbers = np.asarray(values, np.float64)
    count = len(numbers)
    middle = math.fsum(numbers) / count
    if count < ENOUGH:
        return Estimate(middle, None, None, count)
    draw = np.random.default_rng(0)
    rows = max(1, AT_ONCE // count)
    means = np.concatenate(
        [
            numbers[draw.integers(count, size=(min(rows, RESAMPLES - done), count))].mean(1)
            for done in range(0, RESAMPLES, rows)
        ]
    )
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(middle, float(low), float(high), count)


def share(values: Sequence[bool]) -> Estimate | None:
    """Share of True with its Wilson interval (1927), which stays inside 0..1."""
    if not values:
        return None
    n, p = len(values), sum(values) / len(values)
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    reach = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    return Estimate(p, max(0.0, centre - reach), min(1.0, centre + reach), n)
