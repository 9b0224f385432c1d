"""What a retouch costs against picture size, region size, number of regions and number of candidates.

The embedded models, masks given, crops at the model's own size (`work_size` auto). Every line is the median of
interleaved rounds, with the fastest and slowest, and its ratio to the first line of its curve in the same rounds.

    python -m benchmarks.curves
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from retouch_core.pipeline import Retoucher
from retouch_core.recipes import HALVING, recipe

STEPS = 10
SEED = 5


def picture(height: int, width: int) -> Tensor:
    """IMAGE [1,height,width,3] of noise."""
    return torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(SEED))


def discs(height: int, width: int, radius: int, count: int = 1) -> Tensor:
    """MASK [1,height,width] with `count` discs in a row."""
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
    mask = torch.zeros(1, height, width)
    for k in range(count):
        x = round((k + 0.5) * width / count)
        mask[0][(rows - height // 2) ** 2 + (columns - x) ** 2 < radius**2] = 1
    return mask


def lines(retoucher: Retoucher) -> dict[str, list[tuple[str, Callable[[], Any]]]]:
    """Curve -> (what varies, a function to time)."""

    def job(
        height: int, width: int, radius: int, count: int = 1, m: int = 1, **changes: Any
    ) -> Callable[[], Any]:
        image, mask = picture(height, width), discs(height, width, radius, count)
        settings = replace(recipe("default"), work_size="auto", steps=STEPS, change_min=0.0, **changes)
        return lambda: retoucher.retouch(
            image, "red star", "blue fish", recipe=settings, candidates=m, seed=SEED, mask=mask
        )

    def loop(m: int) -> Callable[[], Any]:
        """What one would write: a retouch for each candidate, which finds, encodes and ranks anew."""
        one = job(512, 512, 30)
        return lambda: [one() for _ in range(m)]

    return {
        "picture, px (disc of 60 px)": [
            (f"{side} x {side}", job(side, side, 30)) for side in (128, 512, 2048, 4096)
        ],
        "region, px across (picture of 1024 px)": [
            (str(2 * radius), job(1024, 1024, radius)) for radius in (15, 30, 120, 480)
        ],
        "regions far apart (discs of 60 px, 512 x 2048 px)": [
            (str(count), job(512, 2048, 30, count)) for count in (1, 2, 4, 8)
        ],
        "candidates (disc of 60 px, 512 x 512 px)": [(str(m), job(512, 512, 30, m=m)) for m in (1, 4, 16)]
        + [("16, pruned", job(512, 512, 30, m=16, prune=HALVING)), ("16, plain loop", loop(16))],
    }


def main() -> None:
    """Print the curves."""
    parser = argparse.ArgumentParser(prog="benchmarks.curves")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    curves = lines(Retoucher.embedded())
    print(f"embedded models, {STEPS} steps, {torch.get_num_threads()} threads, {options.rounds} rounds")
    for title, jobs in curves.items():
        seconds: list[list[float]] = [[] for _ in jobs]
        for number in range(options.rounds + 1):
            for k, (_, run) in enumerate(jobs):
                begun = time.perf_counter()
                run()
                seconds[k] += [time.perf_counter() - begun] if number else []
        print(f"\n{title}")
        for (name, _), values in zip(jobs, seconds, strict=True):
            ratio = statistics.median(a / b for a, b in zip(values, seconds[0], strict=True))
            print(
                f"  {name:<14} {statistics.median(values):7.3f} s ({min(values):.3f} to {max(values):.3f})   "
                f"{ratio:6.2f} times the first"
            )


if __name__ == "__main__":
    main()
