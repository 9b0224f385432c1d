"""Shares and estimates with their 95 % intervals, and the table."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Z = 1.96
"""Normal quantile of a 95 % interval."""
RESAMPLES = 4000


@dataclass(frozen=True)
class Share:
    """`right` of `count`, with its 95 % Wilson interval."""

    right: int
    count: int

    @classmethod
    def of(cls, values: Sequence[bool]) -> Share:
        return cls(sum(map(bool, values)), len(values))

    @property
    def value(self) -> float:
        return self.right / self.count if self.count else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson, 1927: stays inside 0..1 and is honest near its ends."""
        if not self.count:
            return math.nan, math.nan
        n, p = self.count, self.value
        centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
        reach = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
        return max(0.0, centre - reach), min(1.0, centre + reach)

    def plain(self) -> dict[str, float | int]:
        low, high = self.interval
        return {"share": self.value, "low": low, "high": high, "right": self.right, "count": self.count}

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.1f} % ({100 * low:.1f}–{100 * high:.1f}, n {self.count})"


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % bootstrap percentile interval over `count` cases (Efron, 1979)."""

    value: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, statistic: Callable[..., Any], *columns: Sequence[float]) -> Estimate:
        """`statistic(*arrays, axis)` of columns of equal length, whose rows are resampled together."""
        from scipy.stats import DegenerateDataWarning, bootstrap

        arrays = [np.asarray(column, np.float64) for column in columns]
        value = float(statistic(*arrays, axis=-1))
        if len(arrays[0]) < 2:
            return cls(value, math.nan, math.nan, len(arrays[0]))
        with warnings.catch_warnings():
            # Equal values have an interval of no width, of which scipy warns.
            warnings.simplefilter("ignore", RuntimeWarning)
            warnings.simplefilter("ignore", DegenerateDataWarning)
            found = bootstrap(
                arrays,
                statistic,
                n_resamples=RESAMPLES,
                paired=True,
                vectorized=True,
                batch=200,
                method="percentile",
                rng=np.random.default_rng(0),
            )
        low, high = found.confidence_interval
        return cls(value, float(low), float(high), len(arrays[0]))

    @classmethod
    def mean(cls, values: Sequence[float]) -> Estimate:
        return cls.of(np.mean, values)

    @classmethod
    def ratio(cls, parts: Sequence[float], wholes: Sequence[float]) -> Estimate:
        """Sum of the parts over the sum of the wholes."""

        def share(a: np.ndarray, b: np.ndarray, axis: int) -> Any:
            with np.errstate(divide="ignore", invalid="ignore"):
                return a.sum(axis) / b.sum(axis)

        return cls.of(share, parts, wholes)

    def root(self) -> Estimate:
        """The square root of all of it: ratios of squared errors become ratios of errors."""
        value, low, high = (math.sqrt(max(v, 0.0)) for v in (self.value, self.low, self.high))
        return Estimate(value, low, high, self.count)

    def decibels(self) -> Estimate:
        """Mean squared errors of values in 0..1 as PSNR."""
        value, low, high = (-10 * math.log10(v) for v in (self.value, self.high, self.low))
        return Estimate(value, low, high, self.count)

    def plain(self) -> dict[str, float | int]:
        return {"value": self.value, "low": self.low, "high": self.high, "count": self.count}

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f}–{self.high:.3f}, n {self.count})"


Measured = Share | Estimate | float


@dataclass(frozen=True)
class Row:
    """One line of the table: what was measured, the goal, and whether it was met (None: no goal)."""

    name: str
    value: Measured
    goal: str = ""
    met: bool | None = None

    @property
    def shown(self) -> str:
        return f"{self.value:.3f}" if isinstance(self.value, float) else str(self.value)

    def plain(self) -> dict[str, Any]:
        value = self.value if isinstance(self.value, float) else self.value.plain()
        return {"name": self.name, "value": value, "goal": self.goal, "met": self.met}


def goal(name: str, value: Measured, least: float | None = None, most: float | None = None) -> Row:
    """A row with the goal that `value` be at least, or at most, a number (shares: in 0..1)."""
    number = value if isinstance(value, float) else value.value
    bound = least if least is not None else most
    if bound is None:
        return Row(name, value)
    said = f"{100 * bound:g} %" if isinstance(value, Share) else f"{bound:g}"
    met = number >= bound if least is not None else number <= bound
    return Row(name, value, f"{'>=' if least is not None else '<='} {said}", met)


def table(rows: Sequence[Row]) -> str:
    """The rows as aligned text."""
    wide = max(len(r.name) for r in rows)
    mid = max(len(r.shown) for r in rows)
    marks = {True: "met", False: "MISSED", None: ""}
    lines = [f"{'what':<{wide}}  {'measured':<{mid}}  goal"]
    lines += [f"{r.name:<{wide}}  {r.shown:<{mid}}  {r.goal:<10} {marks[r.met]}".rstrip() for r in rows]
    return "\n".join(lines)
