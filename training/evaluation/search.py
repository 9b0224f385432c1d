"""How well things are found: picking, twins, presence, entities."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from retouch_core.metrics.background import mask_iou
from retouch_core.models.protocols import Scorer, Segmenter
from retouch_core.recipes import DEFAULT, recipe
from retouch_core.regions.entities import disjoint
from retouch_core.regions.search import Found, search

from ..world.scenes import scene
from .cases import Case
from .numbers import Estimate, Share

RIGHT_IOU = 0.5


class ExactMasks:
    """A segmenter that knows the answer, to measure what comes after it."""

    def __init__(self, masks: Tensor) -> None:
        self.masks = masks

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.masks, torch.ones(len(self.masks))


def find(case: Case, segmenter: Segmenter | None, scorer: Scorer) -> Found:
    """Search a case with the default recipe; None as segmenter means exact masks."""
    settings = recipe(DEFAULT).settings()
    return search(case.image, case.query, segmenter or ExactMasks(case.masks), scorer, settings=settings)


def picks(found: Found, case: Case) -> bool:
    """Whether the region with the highest score is the right object."""
    if found.regions.scores is None or not len(found.regions):
        return False
    best = found.regions.masks[found.regions.scores.argmax()]
    return selects_mask(best, case)


def selects(found: Found, case: Case) -> bool:
    """Whether the search selected the right object and nothing else."""
    return found.present and selects_mask(found.regions.masks[found.selected].any(0), case)


def selects_mask(mask: Tensor, case: Case) -> bool:
    """Whether a mask bool [H,W] is the object that the case means."""
    return bool(mask_iou(mask[None].float(), case.masks[case.target][None].float()) > RIGHT_IOU)


def naming_rows(cases: Iterable[Case], segmenter: Segmenter, scorer: Scorer) -> dict[str, Share]:
    """Picking by what was said, with exact masks and with our segmenter; and the whole search."""
    rows: dict[str, list[bool]] = {}

    def note(key: str, right: bool) -> None:
        rows.setdefault(key, []).append(right)

    for case in cases:
        exact, own = find(case, None, scorer), find(case, segmenter, scorer)
        note(f"pick, exact masks, {case.told}", picks(exact, case))
        note(f"pick, own segmenter, {case.told}", picks(own, case))
        note("pick, own segmenter, all", picks(own, case))
        note("whole search selects just it, exact masks", selects(exact, case))
        note("whole search selects just it, own segmenter", selects(own, case))
    return {key: Share.of(values) for key, values in rows.items()}


def twin_row(cases: Iterable[Case], scorer: Scorer) -> Share:
    """Twins told apart by a place word, with exact masks."""
    return Share.of([selects(find(case, None, scorer), case) for case in cases])


def presence_rows(
    there: Iterable[Case], missing: Iterable[Case], segmenter: Segmenter, scorer: Scorer
) -> dict[str, Share]:
    """Absent things refused, and present things lost, both with our segmenter."""
    return {
        "absent: answered not found": Share.of([not find(c, segmenter, scorer).present for c in missing]),
        "present: lost": Share.of([not find(c, segmenter, scorer).present for c in there]),
    }


def entity_rows(split: str, count: int, segmenter: Segmenter) -> tuple[Estimate, Share]:
    """Best IoU of every object among the entities: mean, and share above 0.5."""
    best: list[float] = []
    for index in range(count):
        drawn = scene(split, index)
        image = torch.from_numpy(drawn.image).float()[None] / 255
        regions = disjoint(*segmenter(image))
        for mask in torch.from_numpy(drawn.masks):
            if len(regions):
                target = mask[None].float().expand(len(regions), -1, -1)
                best.append(float(mask_iou(regions.masks.float(), target).max()))
            else:
                best.append(0.0)
    return Estimate.mean(best), Share.of([v > RIGHT_IOU for v in best])
