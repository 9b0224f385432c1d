"""Measure settings of the recipes on tune scenes and write the curves into training/choices.json.

python -m training.choose [--scenes 40] [--paths default blended] [--curves ...]

Curves that were measured before and are not asked for stay in the file, so that they can be made one by one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from retouch_core.pipeline import Retoucher
from retouch_core.ranking.rank import rank
from retouch_core.result import Result

from .evaluation import edit
from .evaluation.cases import Case, edits
from .evaluation.numbers import Share
from .evaluation.paths import oracle, picked, single
from .evaluation.silhouette import NO_HALO
from .judge import load

CURVES: dict[str, tuple[Any, ...]] = {
    "scale": (1.0, 2.0, 3.0, 4.0, 5.0, 7.5),
    "lam": (0.0, 0.25, 0.5, 1.0),
    "steps": (10, 20, 30, 50),
    "dilate": (3, 5, 7, 9),
    "shape": ("box", "mask"),
    "change_min": (0.0, 0.1, 0.2, 0.3),
    "place_prompt": (False, True),
}
"""Fields of the recipe and the values that are tried; the others keep the recipe's."""
RANKINGS: tuple[dict[str, Any], ...] = (
    {"mode": "localised"},
    {"mode": "zero_shot"},
    {"mode": "masked"},
    {"mode": "cma"},
    {"mode": "iqa", "region": "background"},
    *({"mode": "s00", "region": "full", "alpha": alpha} for alpha in (0.0, 1.0, 5.0, 20.0)),
)
"""Ways to rank, tried on the same candidates."""
CHOICES = Path(__file__).with_name("choices.json")
FIRST = 20_000
"""First tune scene of this measurement; others serve for the gate and the demo."""
CANDIDATES, RANKED = 2, 4
"""Candidates of a case for the curves, and for the rankings."""


def curve(
    path: str, name: str, cases: Sequence[Case], retoucher: Retoucher, judge: Any
) -> list[dict[str, Any]]:
    """One line for each value of a field of the recipe `path`."""
    lines = []
    for value in CURVES[name]:
        bar = tqdm(cases, desc=f"{path}, {name} {value}", leave=False)
        verdicts = edit.run(
            bar, retoucher, judge, settings=path, candidates=CANDIDATES, seed=3000, **{name: value}
        )
        flags = {
            "strict": [bool(x) for v in verdicts for x in v.strict],
            "class and colour": [bool(x) for v in verdicts for x in v.both],
            "old class or colour": [bool(x) for v in verdicts for x in v.leaked],
            "nothing": [bool(x) for v in verdicts for x in v.nothing],
        }
        line: dict[str, Any] = {"value": value}
        line |= {key: Share.of(values).plain() for key, values in flags.items()}
        line["halo"] = sum((v.ring for v in verdicts), NO_HALO).ratio
        lines.append(line)
        print(path, name, value, " ".join(f"{k} {Share.of(v)}" for k, v in flags.items()), flush=True)
    return lines


def rankings(path: str, cases: Sequence[Case], retoucher: Retoucher, judge: Any) -> list[dict[str, Any]]:
    """One line for each way to rank the same candidates: how often the first is right by the strict judge."""
    kept: list[tuple[Case, Result, edit.Verdict]] = []
    bar = tqdm(cases, desc=f"{path}, candidates", leave=False)
    edit.run(
        bar,
        retoucher,
        judge,
        settings=path,
        candidates=RANKED,
        seed=4000,
        keep=lambda _, case, result, verdict: kept.append((case, result, verdict)),
    )
    strict = [verdict.strict for _, _, verdict in kept]
    lines: list[dict[str, Any]] = [
        {"ranking": "first candidate", "strict": single(strict).plain()},
        {"ranking": "oracle", "strict": oracle(strict).plain()},
    ]
    for options in RANKINGS:
        verdicts = []
        for case, result, verdict in kept:
            best = rank(
                case.image, result.candidates, result.mask, retoucher.scorer, case.prompt, **options
            ).best
            verdicts.append(replace(verdict, best=best))
        name = " ".join(str(value) for value in options.values())
        lines.append({"ranking": name, "strict": picked(strict, verdicts).plain()})
        print(path, name, picked(strict, verdicts), flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--paths", nargs="+", choices=("default", "blended"), default=["default", "blended"])
    parser.add_argument("--curves", nargs="+", choices=[*CURVES, "ranking"], default=[*CURVES, "ranking"])
    args = parser.parse_args()
    retoucher, judge = Retoucher.embedded(), load()
    cases = list(edits("tune", args.scenes, start=FIRST))
    stored: dict[str, Any] = json.loads(CHOICES.read_text()) if CHOICES.exists() else {}
    for path in args.paths:
        for name in args.curves:
            make = rankings(path, cases, retoucher, judge) if name == "ranking" else None
            lines = make or curve(path, name, cases, retoucher, judge)
            stored.setdefault(path, {})[name] = {"scenes": args.scenes, "lines": lines}
            CHOICES.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
