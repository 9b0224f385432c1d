"""Two or more ways to do the same, timed in turns, so that what the machine does besides hits all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def interleaved(
    runs: Mapping[str, Callable[[], Any]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of every run, `rounds` times each, in changing order; run each once before for what is only done once."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name in runs if number % 2 == 0 else reversed(list(runs)):
            began = clock()
            runs[name]()
            seconds[name].append(clock() - began)
    return seconds


def ratios(over: list[float], under: list[float]) -> list[float]:
    """Pair by pair."""
    return [a / b for a, b in zip(over, under, strict=True)]


def told(over: list[float], under: list[float]) -> str:
    """Median of the ratios of pairs, and their range."""
    found = ratios(over, under)
    return f"median ratio {statistics.median(found):.3f} over {len(found)} pairs (from {min(found):.3f} to {max(found):.3f})"
