"""Paired intervals, shares of scenes won, and the expected best of m out of n candidates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..evaluation.numbers import Estimate

SET_RESAMPLES = 400
"""Bootstrap samples of numbers that belong to a whole set of pictures, each of which takes milliseconds."""

AGREES, DIFFERS, UNDECIDED = "agrees", "does not", "undecided"


def pairs(a: Sequence[float], b: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Both columns without the scenes in which either is NaN.

    Raises:
        ValueError: columns of unequal length.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape:
        raise ValueError(f"columns hold {len(first)} and {len(second)} scenes; measure both on the same ones")
    known = ~(np.isnan(first) | np.isnan(second))
    return first[known], second[known]


def mean(values: Sequence[float]) -> Estimate:
    """Mean over the scenes that have a number, with its 95 % bootstrap interval."""
    known = [v for v in values if not math.isnan(v)]
    return Estimate.mean(known) if known else Estimate(math.nan, math.nan, math.nan, 0)


def difference(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """Mean of a - b over scenes, with its paired 95 % bootstrap interval: scenes are resampled, not columns."""
    first, second = pairs(a, b)
    return mean((first - second).tolist())


def wins(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """Share of scenes in which a is above b, ties half, as pairwise preferences are counted."""
    first, second = pairs(a, b)
    return mean(((np.sign(first - second) + 1) / 2).tolist())


def of_set(
    distance: Callable[[Tensor, Tensor], Tensor], sources: Tensor, results: Tensor, base: Tensor | None = None
) -> Estimate:
    """A distance between two sets of features [N,D], with its 95 % bootstrap interval over the scenes.

    Args:
        distance: (sources, results) -> number.
        sources, results: features of the same scenes, row by row.
        base: features of other results of these scenes; given, the number is that of `results` less that of `base`,
            both taken from the same resampled scenes.
    """
    count = len(sources)

    def value(rows: Tensor) -> float:
        found = float(distance(sources[rows], results[rows]))
        return found if base is None else found - float(distance(sources[rows], base[rows]))

    everything = value(torch.arange(count))
    if count < 3:
        return Estimate(everything, math.nan, math.nan, count)
    draws = np.random.default_rng(0).integers(count, size=(SET_RESAMPLES, count))
    # Resampling repeats pictures, which narrows a set and shifts every such distance upwards; the shift of the middle
    # is taken out, so that the interval lies around the number itself.
    found = np.array([value(torch.from_numpy(rows)) for rows in draws])
    low, high = np.percentile(found - np.median(found), [2.5, 97.5]) + everything
    return Estimate(everything, float(low), float(high), count)


def verdict(gain: Estimate) -> str:
    """Whether a gain in the claimed direction is above 0 by its interval, below 0, or neither."""
    if gain.low > 0:
        return AGREES
    return DIFFERS if gain.high < 0 else UNDECIDED


def expected_best(values: Sequence[float], scores: Sequence[float], m: int) -> float:
    """Expected value of the candidate that ranks first among m candidates drawn from n without replacement.

    The candidate of rank r (from 0) is the best of a subset exactly if it is in it and the other m - 1 all rank lower:
    C(n - 1 - r, m - 1) of the C(n, m) subsets. Of equal scores the first candidate ranks higher, as in `rank`.

    Args:
        values: what each candidate is worth [n].
        scores: what it is ranked by [n], higher is better; `values` themselves give the oracle.
        m: 1..n.

    Raises:
        ValueError: m outside 1..n, or unequal lengths.
    """
    count = len(values)
    if len(scores) != count:
        raise ValueError(
            f"there are {count} values but {len(scores)} scores; give one of each for a candidate"
        )
    if not 1 <= m <= count:
        raise ValueError(f"m must lie in 1..{count}, got {m!r}; there are {count} candidates")
    order = sorted(range(count), key=lambda k: (-scores[k], k))
    total = math.comb(count, m)
    return math.fsum(values[k] * (math.comb(count - 1 - r, m - 1) / total) for r, k in enumerate(order))
