"""Measure the published ablations on test scenes: `docs/ablations.md`, with its numbers as JSON beside it.

python -m training.ablations [--only KEY ...] [--scenes 200] [--steps 25] [--full] [--again] [--jobs 2]
                             [-o docs/ablations.md]

Ablations that were measured before with the same settings and models are kept, and so are single scenes of an ablation
that was cut off, so a run can be stopped and started again. `--list` prints the keys, `--cost` what there is to do.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from retouch_core.pipeline import Retoucher
from retouch_core.regions.learnable.proposals import SIZES

from ..judge import WEIGHTS, load
from .bench import Bench
from .catalogue import ABLATIONS
from .design import Ablation
from .editing import measure_best_of, measure_edits, recipe_of, size_of
from .jobs import divided, measured_by
from .report import load as load_report
from .report import save
from .results import Plain, machine, result, same
from .searching import measure_location, measure_threshold

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "ablations"
SECONDS_A_SCENE, SECONDS_A_CANDIDATE = 0.2, 0.12
"""Search, encoding and drawing for a scene, and decoding and judging for a candidate, on two cores."""
SECONDS_A_STEP, SECONDS_A_ROW = 0.006, 0.006
"""A call of the network, and each of its rows (measured: 20 steps with 8 rows take about 1.1 s)."""
SECONDS_A_LOSS = 0.015
"""What guidance losses add to a row of a step, by the half-size decoder."""
SECONDS_A_SEARCH = 0.15
SEARCHES = (measure_threshold, measure_location)
"""Measured without a single candidate."""


def setup(bench: Bench, ablation: Ablation) -> Plain:
    """What a result depends on; the time it took is added."""
    candidates, scenes = size_of(bench, ablation)
    steps = 0 if ablation.measure in SEARCHES else recipe_of(bench, ablation, {}).steps
    return {
        "scenes": scenes,
        "candidates": candidates,
        "steps": steps,
        "full": bench.full,
        "weights": bench.weights,
        "variants": [[v.name, v.pick, {k: str(x) for k, x in v.changes.items()}] for v in ablation.variants],
        "base": {k: str(v) for k, v in ablation.base.items()},
        "minutes": 0.0,
    }


def makes_candidates(ablation: Ablation) -> bool:
    """Whether it takes its candidates from the bench."""
    return ablation.measure in (None, measure_best_of)


def cost(bench: Bench, ablations: Sequence[Ablation]) -> list[tuple[Ablation, int, float]]:
    """Candidates that each ablation has to make, less those that earlier ones share with it, and seconds."""
    planned: dict[str, tuple[int, int]] = {}
    found = []
    for ablation in ablations:
        count, scenes = size_of(bench, ablation)
        fresh, seconds = 0, 0.0
        if makes_candidates(ablation):
            changes = [v.changes for v in ablation.variants] if ablation.measure is None else [{}]
            for change in changes:
                made = recipe_of(bench, ablation, change)
                key = bench.key(made, ablation.exact, ablation.task)
                have, of = planned.get(key, (0, 0))
                missing = bench.missing(made, count, scenes, exact=ablation.exact, task=ablation.task)
                missing = max(0, missing - min(have, count) * min(of, scenes))
                planned[key] = max(have, count), max(of, scenes)
                # Without guidance the network has one row a candidate instead of two or three.
                rows = count * (1 if made.scale == 1 else 2 + (0 < made.lam < 1))
                fresh += missing
                scene = SECONDS_A_SCENE + count * SECONDS_A_CANDIDATE
                scene += made.steps * (SECONDS_A_STEP + rows * SECONDS_A_ROW)
                scene += made.steps * rows * SECONDS_A_LOSS * bool(made.loss_scale)
                seconds += missing / count * scene
        elif ablation.measure in SEARCHES:
            seconds = scenes * SECONDS_A_SEARCH * 2
        else:
            # Boxes: as good as all sizes of every anchor, one by one.
            made = recipe_of(bench, ablation, {})
            key = bench.key(made, True, "learned")
            fresh = 0 if key in planned else scenes * count * SIZES
            planned[key] = count, scenes
            one = SECONDS_A_SCENE + SECONDS_A_CANDIDATE + made.steps * (SECONDS_A_STEP + 2 * SECONDS_A_ROW)
            seconds = fresh * one
        found.append((ablation, fresh, seconds))
    return found


def measure(bench: Bench, ablation: Ablation) -> Plain:
    """An ablation's entry of the report."""
    begun = time.perf_counter()
    measured = (ablation.measure or measure_edits)(bench, ablation)
    entry = {"setup": setup(bench, ablation), **result(ablation, measured), "machine": machine()}
    entry["setup"]["minutes"] = round((time.perf_counter() - begun) / 60, 2)
    return entry


def chosen(keys: Sequence[str] | None) -> list[Ablation]:
    """The ablations of these keys, or all that can be measured.

    Raises:
        ValueError: an unknown key.
    """
    known = {a.key: a for a in ABLATIONS}
    if not keys:
        return list(ABLATIONS)
    for key in keys:
        if key not in known:
            raise ValueError(f"--only {key!r} does not exist; choose among {', '.join(known)}")
    return [known[key] for key in keys]


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.ablations", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--only", nargs="+", metavar="KEY", help="measure these (see --list)")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--candidates", type=int, help="instead of the number that each ablation has")
    parser.add_argument("--full", action="store_true", help="published steps and samples on 20 scenes")
    parser.add_argument("--again", action="store_true", help="also what was measured before")
    parser.add_argument("--jobs", type=int, default=1, help="processes, each of one thread")
    parser.add_argument("--list", action="store_true", help="print the keys and stop")
    parser.add_argument("--cost", action="store_true", help="print what there is to do and stop")
    parser.add_argument("--judge", type=Path, default=WEIGHTS, help="weights of the judge")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where single scenes are kept")
    parser.add_argument(
        "-o", "--output", type=Path, help="default: docs/ablations.md, with --full docs/ablations_full.md"
    )
    args = parser.parse_args(arguments)
    args.output = args.output or Path("docs") / ("ablations_full.md" if args.full else "ablations.md")
    for name in ("scenes", "steps", "candidates", "jobs"):
        value = getattr(args, name)
        if value is not None and value < (2 if name == "scenes" else 1):
            parser.error(f"--{name} must be at least {2 if name == 'scenes' else 1}, got {value}")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    args = parsed(arguments)
    if args.list:
        for ablation in ABLATIONS:
            print(f"{ablation.key:<18} {ablation.title}")
        return
    try:
        wanted, measured = chosen(args.only), load_report(args.output.with_suffix(".json"))
    except ValueError as error:
        raise SystemExit(str(error)) from error
    retoucher = Retoucher.embedded()
    bench = Bench(
        retoucher,
        load(args.judge),
        scenes=args.scenes,
        steps=args.steps,
        candidates=args.candidates,
        full=args.full,
        folder=args.cache,
        judge_file=args.judge,
    )
    todo = [a for a in wanted if args.again or not _done(bench, a, measured)]
    plan = cost(bench, todo)
    for ablation, fresh, seconds in plan:
        print(f"{ablation.key:<18} {fresh:>6} candidates  {seconds / 60:>6.1f} min", flush=True)
    print(
        f"{'together':<18} {sum(p[1] for p in plan):>6} candidates  {sum(p[2] for p in plan) / 60:>6.1f} min"
    )
    if args.cost:
        return
    if args.jobs > 1 and len(todo) > 1:
        begun = time.perf_counter()
        for found in measured_by(args.jobs, divided(plan), _told_again(args)):
            measured |= found
            save(args.output, measured, ABLATIONS)
        minutes = (time.perf_counter() - begun) / 60
        print(f"{len(todo)} ablations in {minutes:.1f} min, {args.jobs} at a time", flush=True)
        return
    for ablation in todo:
        measured[ablation.key] = measure(bench, ablation)
        save(args.output, measured, ABLATIONS)
        minutes = measured[ablation.key]["setup"]["minutes"]
        print(f"{ablation.key}: {minutes:.1f} min, {_told(measured[ablation.key])}", flush=True)
    save(args.output, measured, ABLATIONS)
    if bench.made:
        print(
            f"{bench.made} candidates in {bench.seconds / 60:.1f} min, {bench.seconds / bench.made:.3f} s each"
        )


def _told_again(args: argparse.Namespace) -> list[str]:
    """The arguments that a process of `--jobs` is given, besides its keys."""
    told = ["--scenes", args.scenes, "--steps", args.steps, "--judge", args.judge, "--cache", args.cache]
    told += ["--candidates", args.candidates] if args.candidates else []
    return [*map(str, told), *(["--full"] if args.full else [])]


def _done(bench: Bench, ablation: Ablation, measured: dict[str, Plain]) -> bool:
    entry = measured.get(ablation.key)
    return entry is not None and same(entry["setup"], setup(bench, ablation))


def _told(entry: Plain) -> str:
    said = [claim["verdict"] for claim in entry["claims"]]
    return ", ".join(f"{said.count(word)} {word}" for word in dict.fromkeys(said)) or "no claims"


if __name__ == "__main__":
    main()
