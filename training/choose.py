"""Measure settings of the default recipe on tune scenes and write the curve into training/choices.md.

python -m training.choose [--scenes 48]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from retouch_core.pipeline import Retoucher

from .evaluation import edit
from .evaluation.cases import edits
from .evaluation.numbers import Share
from .judge import load

CURVES: dict[str, tuple[dict[str, Any], ...]] = {
    "guidance scale": tuple({"scale": s} for s in (1.0, 2.0, 3.0, 4.0, 6.0)),
    "steps": tuple({"steps": n} for n in (10, 20)),
    "shape of the edited area": ({"shape": "box"}, {"shape": "mask"}),
    "growth of the region (k)": tuple({"dilate": k} for k in (3, 5, 7)),
    "share of the referring prompt": tuple({"lam": value} for value in (0.0, 0.5, 1.0)),
}
CHOICES = Path(__file__).with_name("choices.md")
FIRST = 20_000
"""First tune scene of this measurement; others serve for the gate and the demo."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scenes", type=int, default=48)
    parser.add_argument("--curves", nargs="+", choices=list(CURVES), default=list(CURVES))
    args = parser.parse_args()
    retoucher, judge = Retoucher.embedded(), load()
    cases = list(edits("tune", args.scenes, start=FIRST))
    lines = [
        f"{args.scenes} tune scenes, exact masks, 2 candidates each; the other values are the recipe's.",
        "",
        "| setting | single: class and colour | old thing still there | nothing seen |",
        "|---|---|---|---|",
    ]
    for name in args.curves:
        for change in CURVES[name]:
            verdicts = edit.run(cases, retoucher, judge, candidates=2, **change)
            both = Share.of([bool(x) for v in verdicts for x in v.both])
            leaked = Share.of([bool(x) for v in verdicts for x in v.leaked])
            nothing = Share.of([bool(x) for v in verdicts for x in v.nothing])
            (value,) = change.values()
            lines.append(
                f"| {name} {value} | {both} | {100 * leaked.value:.1f} % | {100 * nothing.value:.1f} % |"
            )
            print(lines[-1], flush=True)
    CHOICES.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
