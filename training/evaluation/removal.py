"""How well things are removed and grounds are changed, against scenes that are redrawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from retouch_core.pipeline import Retoucher
from retouch_core.result import Result

from ..judge import NOTHING, Judge, grounds_of
from ..world.grounds import GROUND_NAMES
from .cases import Case
from .edit import alone, read, untouched, without_target
from .numbers import Estimate, Row, Share, goal
from .search import ExactMasks, selects_mask

SEED = 5000


@dataclass(frozen=True)
class Gone:
    """What became of one thing that was to go.

    Attributes:
        gone: the judge sees no thing there, in the best picture.
        error, restored: mean squared error in the area to edit against the scene redrawn without the thing, of the best picture
            and of the autoencoder alone.
        untouched: the source is the same bit for bit wherever the mask is 0.
    """

    gone: bool
    error: float
    restored: float
    untouched: bool


@torch.no_grad()
def removal(case: Case, result: Result, judge: Judge, retoucher: Retoucher) -> Gone:
    """The verdict on the picture that was chosen."""
    ground = without_target(case)
    area = result.area > 0
    if not result.report.found or not selects_mask(result.regions.masks[result.selected].any(0), case):
        return Gone(False, 1.0, 1.0, untouched(case.image, result))
    said, _ = read(judge, alone(case, result.image, area), area)
    own = retoucher.editor.decode(retoucher.editor.encode(ground[None]))[0]
    ours, restored = (float((p - ground)[area[0]].square().mean()) for p in (result.image[0], own))
    return Gone(bool(said[0] == NOTHING), ours, restored, untouched(case.image, result))


def _retouched(case: Case, retoucher: Retoucher, number: int) -> Result:
    worker = retoucher.with_segmenter(ExactMasks(case.masks))
    return worker.retouch(case.image, case.query, case.prompt, seed=SEED + 100 * number)


def removal_rows(cases: Sequence[Case], retoucher: Retoucher, judge: Judge) -> list[Row]:
    """Things that are to go, with exact masks and the default recipe."""
    gone = [removal(c, _retouched(c, retoucher, k), judge, retoucher) for k, c in enumerate(cases)]
    return [
        goal("removal: gone, best of 4", Share.of([g.gone for g in gone]), 0.95),
        goal("  PSNR in the mask, dB", Estimate.mean([g.error for g in gone]).decibels(), 24),
        Row("  of the autoencoder alone, dB", Estimate.mean([g.restored for g in gone]).decibels()),
        goal("  outside the mask identical", Share.of([g.untouched for g in gone]), 1.0),
    ]


def ground_rows(cases: Sequence[Case], retoucher: Retoucher, judge: Judge) -> list[Row]:
    """Grounds that are to become others, with exact masks and the default recipe, by the asked kind."""
    right: dict[str, list[bool]] = {kind: [] for kind in GROUND_NAMES}
    same = []
    for number, case in enumerate(cases):
        result = _retouched(case, retoucher, number)
        things = case.masks.any(0, keepdim=True)
        with torch.no_grad():
            stood = judge(grounds_of(result.image.movedim(-1, 1), things))[2].argmax(1)
        right[case.name].append(GROUND_NAMES[int(stood[0])] == case.name)
        same.append(untouched(case.image, result))
    every = [value for values in right.values() for value in values]
    rows = [Row("background: the asked kind is seen, best of 4", Share.of(every))]
    rows += [Row(f"  {kind}", Share.of(values)) for kind, values in right.items() if values]
    return [*rows, goal("  outside the mask identical", Share.of(same), 1.0)]
