"""Shares with their intervals, and the table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Z = 1.96
"""Normal quantile of a 95 % interval."""


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

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.1f} % ({100 * low:.1f}–{100 * high:.1f}, n {self.count})"


@dataclass(frozen=True)
class Row:
    """One line of the table: what was measured, the goal, and whether it was met (None: no goal)."""

    name: str
    value: Any
    goal: str = ""
    met: bool | None = None

    @property
    def shown(self) -> str:
        return f"{self.value:.3f}" if isinstance(self.value, float) else str(self.value)

    def plain(self) -> dict[str, Any]:
        value: Any = self.value
        if isinstance(value, Share):
            low, high = value.interval
            value = {
                "share": value.value,
                "low": low,
                "high": high,
                "right": value.right,
                "count": value.count,
            }
        return {"name": self.name, "value": value, "goal": self.goal, "met": self.met}


def table(rows: Sequence[Row]) -> str:
    """The rows as aligned text."""
    wide = max(len(r.name) for r in rows)
    mid = max(len(r.shown) for r in rows)
    marks = {True: "met", False: "MISSED", None: ""}
    lines = [f"{'what':<{wide}}  {'measured':<{mid}}  goal"]
    lines += [f"{r.name:<{wide}}  {r.shown:<{mid}}  {r.goal:<10} {marks[r.met]}".rstrip() for r in rows]
    return "\n".join(lines)
