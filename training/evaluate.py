"""Measure the shipped models on test scenes: prints the table, writes eval.json and a sheet of unselected edits.

python -m training.evaluate [--quick] [-o eval.json] [--sheet training/sheets/edits.jpg]
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from retouch_core.demo import PICTURES, read_cases
from retouch_core.metrics.fidelity import psnr
from retouch_core.pictures import read_picture
from retouch_core.pipeline import Result, Retoucher

from .evaluation import edit, search
from .evaluation.cases import TOLD, Case, absent, edits, naming, twins
from .evaluation.numbers import Row, Share, table
from .judge import Judge, crops_of, load
from .world.icons import CLASSES, COLOUR_NAMES
from .world.scenes import scene

SPLIT = "test"


def autoencoder_rows(retoucher: Retoucher, count: int) -> list[Row]:
    """PSNR of scenes through the autoencoder: mean over pictures, and pooled over the pixels of objects."""
    whole, errors = [], []
    for index in tqdm(range(count), desc="autoencoder", leave=False):
        drawn = scene(SPLIT, index)
        image = torch.from_numpy(drawn.image).float()[None] / 255
        restored = retoucher.editor.decode(retoucher.editor.encode(image))
        whole.append(float(psnr(image, restored)))
        errors.append((image - restored)[0][torch.from_numpy(drawn.masks).any(0)].square())
    picture = sum(whole) / len(whole)
    objects = -10 * math.log10(float(torch.cat(errors).mean()))
    return [
        Row("autoencoder PSNR, mean per picture, dB", picture, "31", picture >= 31),
        Row("autoencoder PSNR, object pixels, dB", objects, "25", objects >= 25),
    ]


def goal(name: str, share: Share, least: float | None = None, most: float | None = None) -> Row:
    if least is not None:
        return Row(name, share, f">= {100 * least:g} %", share.value >= least)
    if most is not None:
        return Row(name, share, f"<= {100 * most:g} %", share.value <= most)
    return Row(name, share)


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
    for name, value in search.entity_rows(SPLIT, size, segmenter).items():
        met = value >= 0.87 if isinstance(value, float) else None
        rows.append(Row(name, value, "0.87" if met is not None else "", met))
    return rows


def edit_rows(retoucher: Retoucher, judge: Judge, size: int, sheet: Path | None) -> list[Row]:
    """Editing: `size` cases with exact masks, then with our segmenter."""
    cases = list(edits(SPLIT, size))
    shown: list[tuple[Case, Result]] = []

    def keep(number: int, case: Case, result: Result, verdict: edit.Verdict) -> None:
        if number < 24:
            shown.append((case, result))

    bar = tqdm(cases, desc="edits, exact masks", leave=False)
    exact = edit.run(bar, retoucher, judge, keep=keep)
    own = edit.run(
        tqdm(cases[: size // 2], desc="edits, own masks", leave=False), retoucher, judge, exact=False
    )
    s00 = edit.run(
        tqdm(cases[: size // 8], desc="edits, s00", leave=False),
        retoucher,
        judge,
        settings="s00",
    )
    if sheet is not None:
        edit.edit_sheet(shown, sheet)
    everything = exact + own + s00
    return [
        goal(
            "edit, single candidate, class and colour, exact masks",
            Share.of([bool(v.both[0]) for v in exact]),
            0.98,
        ),
        goal("  class", Share.of([bool(v.names[0]) for v in exact])),
        goal("  colour", Share.of([bool(v.colours[0]) for v in exact])),
        goal("  best of 4 by the ranking", Share.of([bool(v.both[v.best]) for v in exact])),
        goal("  any of 4", Share.of([bool(v.both.any()) for v in exact])),
        goal("  old class and colour still there", Share.of([bool(v.leaked[0]) for v in exact])),
        goal(
            "edit, end to end with own segmenter, single",
            Share.of([bool(v.found and v.both[0]) for v in own]),
        ),
        goal("  best of 4", Share.of([bool(v.found and v.both[v.best]) for v in own])),
        goal("recipe s00, best of 4", Share.of([bool(v.found and v.both[v.best]) for v in s00])),
        goal("outside the mask identical (torch.equal)", Share.of([v.untouched for v in everything]), 1.0),
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
        crop = crops_of(result.image.movedim(-1, 1), result.mask > 0)
        said, painted = (logits.argmax(1).item() for logits in judge(crop))
        right.append(
            said == CLASSES.index(name) and (colour is None or painted == COLOUR_NAMES.index(colour))
        )
    return Row("demo cases the judge accepts", Share.of(right), "5 of 6", sum(right) >= 5)


def judge_row(judge: Judge, size: int) -> Row:
    """The ceiling: how often the judge is right on real objects of test scenes."""
    right = []
    for index in range(size):
        drawn = scene(SPLIT, index)
        pixels = torch.from_numpy(drawn.image).movedim(-1, 0)[None].float() / 255
        masks = (
            torch.nn.functional.max_pool2d(torch.from_numpy(drawn.masks).float()[:, None], 9, 1, 4)[:, 0] > 0
        )
        with torch.no_grad():
            said, painted = judge(crops_of(pixels.expand(len(masks), -1, -1, -1), masks))
        for thing, name, colour in zip(drawn.spec.things, said.argmax(1), painted.argmax(1), strict=True):
            right.append(CLASSES[int(name)] == thing.name and COLOUR_NAMES[int(colour)] == thing.colour)
    return goal("judge on real objects (its ceiling)", Share.of(right))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("eval.json"))
    parser.add_argument("--sheet", type=Path, default=Path("training/sheets/edits.jpg"))
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the scenes: a smoke test, not a result"
    )
    args = parser.parse_args()
    size = 20 if args.quick else 200
    begun = time.perf_counter()
    retoucher, judge = Retoucher.embedded(), load()
    rows = [judge_row(judge, size), *autoencoder_rows(retoucher, size), *search_rows(retoucher, size)]
    rows += edit_rows(retoucher, judge, size, None if args.quick else args.sheet)
    rows.append(demo_row(retoucher, judge))
    seconds = edit.seconds_per_retouch(next(iter(edits(SPLIT, 1))), retoucher)
    rows.append(Row("one retouch, 4 candidates, 20 steps, 128 px, s", seconds, "< 3", seconds < 3))
    spent = time.perf_counter() - begun
    print(table(rows))
    print(f"took {spent / 60:.1f} min on {torch.get_num_threads()} threads")
    notes: dict[str, Any] = {
        "rows": [row.plain() for row in rows],
        "scenes": size,
        "split": SPLIT,
        "minutes": round(spent / 60, 2),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
    }
    args.output.write_text(json.dumps(notes, indent=1) + "\n")


if __name__ == "__main__":
    main()
