"""Measure the shipped models on test scenes: prints the table, writes eval.json and a sheet of unselected edits.

python -m training.evaluate [--quick] [--only PART ...] [-o eval.json] [--sheet training/sheets/edits.jpg]
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from retouch_core.demo import PICTURES, read_cases
from retouch_core.metrics.fidelity import psnr
from retouch_core.pictures import read_picture
from retouch_core.pipeline import Retoucher
from retouch_core.result import Result

from .evaluation import edit, search
from .evaluation.cases import TOLD, Case, absent, edits, grounds, naming, removals, twins
from .evaluation.limits import limit_rows
from .evaluation.numbers import Estimate, Row, Share, goal, table
from .evaluation.paths import gain_rows, halo_rows, lenient_rows, oracle, picked, single, strict_rows
from .evaluation.removal import ground_rows, removal_rows
from .evaluation.sheet import edit_sheet
from .judge import Judge, crops_of, load
from .world.icons import CLASSES, COLOUR_NAMES
from .world.scenes import scene

PARTS = ("judge", "autoencoder", "search", "edits", "blended", "ranking", "removal", "grounds", "demo")
SPLIT = "test"
FRESH = 60_000
"""First scene of those on which the ranking is measured again: it was revised after a look at the first ones."""
SHOWN = 24
"""Edits on the sheet: the first ones, whatever they look like."""


def autoencoder_rows(retoucher: Retoucher, count: int) -> list[Row]:
    """PSNR of scenes through the autoencoder: mean over pictures, and pooled over the pixels of objects."""
    whole, errors, pixels = [], [], []
    for index in tqdm(range(count), desc="autoencoder", leave=False):
        drawn = scene(SPLIT, index)
        image = torch.from_numpy(drawn.image).float()[None] / 255
        restored = retoucher.editor.decode(retoucher.editor.encode(image))
        whole.append(float(psnr(image, restored)))
        on_things = (image - restored)[0][torch.from_numpy(drawn.masks).any(0)]
        errors.append(float(on_things.square().sum()))
        pixels.append(on_things.numel())
    objects = Estimate.ratio(errors, pixels).decibels()
    return [
        goal("autoencoder PSNR, mean per picture, dB", Estimate.mean(whole), 31),
        goal("autoencoder PSNR, object pixels, dB", objects, 28),
    ]


def search_rows(retoucher: Retoucher, size: int) -> list[Row]:
    """Finding: `size` is 200 for the whole table."""
    segmenter, scorer = retoucher.segmenter, retoucher.scorer
    cases = chain.from_iterable(naming(SPLIT, size, told, start=10_000 * i) for i, told in enumerate(TOLD))
    rows = []
    named = search.naming_rows(tqdm(cases, total=3 * size, desc="naming", leave=False), segmenter, scorer)
    for name, share in named.items():
        least = 0.98 if "exact masks," in name and name.startswith("pick") else None
        least = 0.94 if name.endswith("segmenter, all") else least
        rows.append(goal(name, share, least))
    rows.append(goal("twins told apart by a place word", search.twin_row(twins(SPLIT, size), scorer), 0.95))
    third = -(-size // 3)
    there = [c for i, told in enumerate(TOLD) for c in naming(SPLIT, third, told, start=40_000 + 10_000 * i)][
        :size
    ]
    presence = search.presence_rows(
        tqdm(there, desc="present", leave=False),
        tqdm(absent(SPLIT, size), total=size, desc="absent", leave=False),
        segmenter,
        scorer,
    )
    rows.append(goal("absent: answered not found", presence["absent: answered not found"], 0.90))
    rows.append(goal("present: lost", presence["present: lost"], None, 0.03))
    best, recall = search.entity_rows(SPLIT, size, segmenter)
    rows.append(goal("segmenter: mean best IoU of objects", best, 0.87))
    return [*rows, goal("segmenter: recall at IoU 0.5", recall)]


def identical_row(verdicts: Sequence[edit.Verdict]) -> Row:
    return goal("outside the mask identical (torch.equal)", Share.of([v.untouched for v in verdicts]), 1.0)


def blended_rows(retoucher: Retoucher, judge: Judge, size: int) -> list[Row]:
    """The path without mask input with exact masks, and what ranking is worth there."""
    bar = tqdm(list(edits(SPLIT, size)), desc="edits, blended", leave=False)
    verdicts = edit.run(bar, retoucher, judge, settings="blended")
    return [
        *strict_rows(verdicts, None, "blended path, "),
        *lenient_rows(verdicts, (0.75, 0.90, 0.97)),
        *gain_rows(verdicts),
        identical_row(verdicts),
    ]


def ranking_rows(retoucher: Retoucher, judge: Judge, size: int) -> list[Row]:
    """What ranking is worth on the path without mask input, on scenes that no choice has seen."""
    bar = tqdm(list(edits(SPLIT, size, FRESH)), desc="ranking, blended", leave=False)
    verdicts = edit.run(bar, retoucher, judge, settings="blended")
    flags = [v.strict for v in verdicts]
    return [
        Row("blended path, other scenes, strict, single", single(flags)),
        Row("  strict, best of 4 by the ranking", picked(flags, verdicts)),
        Row("  strict, any of 4", oracle(flags)),
        *gain_rows(verdicts),
        identical_row(verdicts),
    ]


def edit_rows(retoucher: Retoucher, judge: Judge, size: int, sheet: Path | None) -> list[Row]:
    """Editing: `size` cases with exact masks, then some with our segmenter and as S00 has it."""
    cases = list(edits(SPLIT, size))
    shown: list[tuple[Case, Result]] = []

    def keep(number: int, case: Case, result: Result, verdict: edit.Verdict) -> None:
        if number < SHOWN:
            shown.append((case, result))

    def judged(part: Sequence[Case], name: str, **options: Any) -> list[edit.Verdict]:
        return edit.run(tqdm(part, desc=f"edits, {name}", leave=False), retoucher, judge, **options)

    inpaint = judged(cases, "inpaint", keep=keep)
    own = judged(cases[: size // 2], "own masks", exact=False)
    s00 = judged(cases[: size // 8], "s00", settings="s00_text_guided")
    if sheet is not None:
        edit_sheet(shown, sheet)
    ends = [v.both & v.found for v in own]
    strict = [v.strict & v.found for v in own]
    return [
        *strict_rows(inpaint, (0.75, 0.85), "inpaint path, "),
        *lenient_rows(inpaint),
        *halo_rows(cases, inpaint),
        goal("end to end with own segmenter, strict, best of 4", picked(strict, own)),
        goal("  class and colour, best of 4", picked(ends, own)),
        goal("recipe s00_text_guided, class and colour, best of 4", picked([v.both for v in s00], s00)),
        goal("  any of 4", oracle([v.both for v in s00])),
        identical_row([*inpaint, *own, *s00]),
    ]


@torch.no_grad()
def demo_row(retoucher: Retoucher, judge: Judge) -> Row:
    """How many shipped cases the judge accepts."""
    right = []
    for case in read_cases():
        image = read_picture(PICTURES / case.picture)
        result = retoucher.retouch(image, case.query, case.prompt, seed=case.seed)
        words = case.prompt.split()
        name = next((w for w in words if w in CLASSES), None)
        colour = next((w for w in words if w in COLOUR_NAMES), None)
        if not result.report.found or name is None:
            right.append(bool(result.report.found and name is None))
            continue
        said, painted, _ = judge(crops_of(result.image.movedim(-1, 1), result.area > 0))
        right.append(
            CLASSES.index(name) == int(said.argmax(1))
            and (colour is None or int(painted.argmax(1)) == COLOUR_NAMES.index(colour))
        )
    return Row("demo cases the judge accepts", Share.of(right), "5 of 6", sum(right) >= 5)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("eval.json"))
    parser.add_argument(
        "--only",
        nargs="+",
        choices=PARTS,
        default=list(PARTS),
        help="these; the others stay as the output has them",
    )
    parser.add_argument("--sheet", type=Path, default=Path("training/sheets/edits.jpg"))
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the scenes: a smoke test, not a result"
    )
    args = parser.parse_args()
    size = 20 if args.quick else 200
    begun = time.perf_counter()
    retoucher, judge = Retoucher.embedded(), load()

    def bar(cases: Any, name: str) -> Any:
        return tqdm(list(cases), desc=name, leave=False)

    parts: dict[str, Callable[[], list[Row]]] = {
        "judge": lambda: limit_rows(bar(edits(SPLIT, size), "judge"), judge, retoucher.editor),
        "autoencoder": lambda: autoencoder_rows(retoucher, size),
        "search": lambda: search_rows(retoucher, size),
        "edits": lambda: edit_rows(retoucher, judge, size, None if args.quick else args.sheet),
        "blended": lambda: blended_rows(retoucher, judge, size),
        "ranking": lambda: ranking_rows(retoucher, judge, size * 3 // 2),
        "removal": lambda: removal_rows(bar(removals(SPLIT, size, 20_000), "removals"), retoucher, judge),
        "grounds": lambda: ground_rows(bar(grounds(SPLIT, size, 30_000), "grounds"), retoucher, judge),
        "demo": lambda: [demo_row(retoucher, judge)],
    }
    notes: dict[str, Any] = {
        "scenes": size,
        "split": SPLIT,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
    }
    kept = _measured_before(args.output, notes)
    rows: list[Row] = []
    for name in args.only:
        since = time.perf_counter()
        made = parts[name]()
        if name == "demo":
            seconds = edit.seconds_per_retouch(next(iter(edits(SPLIT, 1))), retoucher)
            made.append(Row("one retouch, 4 candidates, 20 steps, 128 px, s", seconds, "< 3", seconds < 3))
        minutes = (time.perf_counter() - since) / 60
        kept[name] = {"rows": [row.plain() for row in made], "minutes": round(minutes, 2)}
        rows += made
        print(f"{name}: {minutes:.1f} min", flush=True)
        args.output.write_text(json.dumps(notes | {"parts": kept}, indent=1) + "\n")
    print(table(rows))
    print(f"took {(time.perf_counter() - begun) / 60:.1f} min on {torch.get_num_threads()} threads")


def _measured_before(path: Path, notes: dict[str, Any]) -> dict[str, Any]:
    """The parts that the file holds, if they were measured the same way."""
    before: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return before.get("parts", {}) if notes.items() <= before.items() else {}


if __name__ == "__main__":
    main()
