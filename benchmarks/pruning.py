"""Best of many candidates with pruning against without: calls of the denoiser, and how often the best is right.

Both runs share seeds, so scene by scene they differ in nothing but who was painted to the end. Scenes are drawn, masks
exact, and the strict judge decides (class, colour and silhouette).

    python -m benchmarks.pruning
    python -m benchmarks.pruning --split tune --scenes 40 --prune 0.3 0.5 0.6 0.125
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from retouch_core.pipeline import Retoucher
from retouch_core.recipes import HALVING
from retouch_core.result import Result
from training.evaluation import edit
from training.evaluation.cases import Case, edits
from training.evaluation.numbers import Estimate, Share
from training.judge import load

GOAL_CALLS, GOAL_POINTS = 0.45, 0.02
"""Largest share of the rows that go through the denoiser, and the largest loss of success."""
TUNE_FIRST = 30_000
"""First tune scene: others chose the recipes' values."""


class Cost:
    """Counts what the editor's denoiser is asked for."""

    def __init__(self, editor: Any) -> None:
        self.rows = 0
        self._denoise = editor.denoise
        editor.denoise = self

    def __call__(self, x: Any, *rest: Any, **named: Any) -> Any:
        self.rows += len(x)
        return self._denoise(x, *rest, **named)


def run(
    cases: Sequence[Case], retoucher: Retoucher, judge: Any, cost: Cost, **changes: Any
) -> tuple[list[edit.Verdict], int, float]:
    """Verdicts, rows that went through the denoiser, and seconds without the judge's."""
    before, spent = cost.rows, 0.0

    def keep(_: int, case: Case, result: Result, verdict: edit.Verdict) -> None:
        nonlocal spent
        spent += sum(result.report.timings.values())

    bar = tqdm(cases, desc=" ".join(f"{k}={v}" for k, v in changes.items()), mininterval=30)
    verdicts = edit.run(bar, retoucher, judge, keep=keep, **changes)
    return verdicts, cost.rows - before, spent


def best_of(verdicts: Sequence[edit.Verdict]) -> list[bool]:
    """Whether the candidate that the ranking puts first is right, case by case."""
    return [bool(v.strict[v.best]) for v in verdicts]


def main() -> int:
    """Print the table; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(prog="benchmarks.pruning")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--split", choices=("test", "tune"), default="test")
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--recipe", default="blended")
    parser.add_argument(
        "--prune", type=float, nargs="+", help="share of the steps, share that goes on, and so on"
    )
    options = parser.parse_args()
    flat = options.prune or [number for pair in HALVING for number in pair]
    points = tuple(zip(flat[::2], flat[1::2], strict=True))
    retoucher, judge = Retoucher.embedded(), load()
    cost = Cost(retoucher.plain if options.recipe == "blended" else retoucher.editor)
    cases = list(edits(options.split, options.scenes, start=TUNE_FIRST if options.split == "tune" else 0))
    common = {"settings": options.recipe, "candidates": options.candidates, "seed": 7000}
    begun = time.perf_counter()
    whole, rows, seconds = run(cases, retoucher, judge, cost, **common)
    cut, cut_rows, cut_seconds = run(cases, retoucher, judge, cost, prune=points, **common)

    single = [bool(v.strict[0]) for v in whole]
    best, pruned = best_of(whole), best_of(cut)
    lost = Estimate.mean([float(b) - float(a) for a, b in zip(best, pruned, strict=True)])
    gained = Estimate.mean([float(b) - float(a) for a, b in zip(single, pruned, strict=True)])
    print(
        f"{options.recipe}, best of {options.candidates}, {len(cases)} {options.split} scenes, cuts {points}, "
        f"{(time.perf_counter() - begun) / 60:.0f} min"
    )
    print(f"strict, the first candidate alone          {Share.of(single)}")
    print(f"strict, best of {options.candidates}, all painted           {Share.of(best)}")
    print(f"strict, best of {options.candidates}, pruned                {Share.of(pruned)}")
    print(
        f"strict, any of {options.candidates}                         {Share.of([bool(v.strict.any()) for v in whole])}"
    )
    print(f"pruned less all painted, scene by scene    {lost}")
    print(f"pruned less the first alone                {gained}")
    print(f"denoiser rows, pruned / all painted        {cut_rows / rows:.3f} (goal {GOAL_CALLS})")
    print(f"seconds, pruned / all painted              {cut_seconds / seconds:.3f}")
    met = cut_rows <= GOAL_CALLS * rows and lost.value >= -GOAL_POINTS and gained.low > 0
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
