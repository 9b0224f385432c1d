"""`python -m retouch_core eval --pairs DIR`: its arguments and what it prints."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ..command_line import BAD_INPUT, CANCELLED, DONE, Parser, whole
from ..model_names import (
    DTYPE,
    DTYPES,
    JUDGE,
    add_model_options,
    fingerprints,
    load_models,
    names_of,
    places_of,
)

OUTPUT = "evaluation"

Progress = Callable[[float, str], None]
Bar = Callable[[bool], AbstractContextManager[Progress]]
"""(quiet) -> a context that gives the function to tell progress to."""

HELP = """\
lists, told by the files in the folder:
  pairs.jsonl          one object a line: image, query, prompt ("" removes); if you like id, mask, group
  mapping_file.json    PIE-Bench, with annotation_images/ beside it
  captions_*.json      COCO, here or in annotations/, with instances_*.json beside it
  results_20130124.token or results.csv
                       Flickr30K, better with the Sentences/ of Flickr30k Entities beside it
docs/evaluation.md describes them, and what every column of the table means.

models: the command models lists the backends, and what of them is on this machine; nothing is downloaded here.

what is written: table.md, table.json, results.jsonl (a line a pair), results/, sheets/, features/, settings.json.
Run the same command again to go on after an interruption, or with a larger --limit.

Without --pairs, all arguments go to the measurement of the embedded models (python -m training.evaluate), which needs
the repository.
"""


def parser(prog: str) -> argparse.ArgumentParser:
    """All arguments of the command; loads nothing heavy."""
    made = Parser(
        prog=prog,
        usage=f"{prog} --pairs DIR [options], or: {prog} [arguments of training.evaluate]",
        description="Retouch and measure every pair of a list.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument(
        "--pairs", metavar="DIR", required=True, help="folder with the list, or the list's file"
    )
    made.add_argument(
        "-o", "--output", metavar="DIR", default=OUTPUT, help="gets everything (default: %(default)s)"
    )
    made.add_argument("--recipe", metavar="NAME", default="default", help="the command recipes lists them")
    made.add_argument("--limit", metavar="N", type=whole(1, 10**9), help="the first N pairs alone")
    made.add_argument("--candidates", metavar="M", type=whole(1, 10_000), help="how many to choose from")
    made.add_argument("--steps", metavar="N", type=whole(1, 1000), help="sampling steps")
    made.add_argument("--seed", metavar="N", type=whole(0, 2**62), default=0, help="same seed, same table")
    made.add_argument(
        "--size", metavar="PX", type=whole(16, 16_384), help="longer side that pictures are brought to first"
    )
    made.add_argument("--prune", action="store_true", help="paint only the most promising to the end")
    made.add_argument(
        "--region",
        metavar="WHICH",
        default="found",
        help="found: the query is searched for; list: the list's mask is edited (default: %(default)s)",
    )
    made.add_argument(
        "--choices",
        metavar="WAYS",
        default="recipe",
        help="one row for each way to choose among the same candidates, with commas between: recipe, first, and S00's "
        "Table 1: cma, iqa, cma+iqa (default: %(default)s)",
    )
    add_model_options(made)
    made.add_argument(
        "--judge",
        metavar="NAME",
        help="a second scorer for the CLIP score (default: the scorer, which also ranked)",
    )
    made.add_argument(
        "--lpips", metavar="NET", default="vgg", help="backbone of LPIPS, such as alex (default: %(default)s)"
    )
    made.add_argument(
        "--sheets", metavar="N", type=whole(0, 10**9), help="draw sheets of the first N (default: all)"
    )
    made.add_argument("--fresh", action="store_true", help="start anew where the folder holds other settings")
    made.add_argument("--json", action="store_true", help="print the table as JSON")
    made.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    return made


def run(arguments: Sequence[str], prog: str, bar: Bar, say: Callable[[str], None]) -> int:
    """Do it; returns the exit code.

    Raises:
        ValueError: one sentence for input that cannot be used.
    """
    try:
        options = parser(prog).parse_args(arguments)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else BAD_INPUT
    began = [0.0]
    try:
        with bar(options.quiet) as progress:

            def tell(share: float, text: str) -> None:
                began[0] = share
                progress(share, text)

            table = _evaluated(options, tell, say)
    except KeyboardInterrupt:
        say(f"cancelled at {100 * began[0]:.0f} %; run the same command again to go on from there")
        return CANCELLED
    if options.json:
        print(json.dumps(table.plain(), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print(table.markdown())
        print(f"Wrote table.md, table.json and a picture a pair to {options.output}")
    return DONE


def _evaluated(options: argparse.Namespace, tell: Progress, say: Callable[[str], None]) -> Any:
    from .measures import Gauges
    from .pairs import check_pictures, read_pairs
    from .run import Options, evaluate

    # Everything that can be wrong with the list is found before models are loaded.
    tell(0.0, "reading the list")
    pairs = read_pairs(options.pairs)
    check_pictures(pairs.pairs[: options.limit])
    names = {**names_of(options), JUDGE: options.judge or options.scorer}
    if options.dtype != DTYPES[0]:  # it decides numbers too
        names[DTYPE] = options.dtype
    how = Options(
        recipe=options.recipe,
        candidates=options.candidates,
        steps=options.steps,
        prune=options.prune,
        seed=options.seed,
        size=options.size,
        region=options.region,
        choices=tuple(name.strip() for name in options.choices.split(",")),
        models=fingerprints(names),
        lpips=options.lpips,
    )
    tell(0.0, "loading models")
    models = load_models(names, places_of(options))
    gauges = Gauges.of(models.judge, options.lpips, options.device)
    return evaluate(
        pairs,
        how,
        models.retoucher,
        gauges,
        options.output,
        limit=options.limit,
        sheets=options.sheets,
        fresh=options.fresh,
        title=f"Evaluation of {Path(options.pairs).resolve().name}",
        progress=tell,
        say=say,
    )
