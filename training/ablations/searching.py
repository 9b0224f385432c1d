"""Ablations of the search: which regions a query means, by masks that are known exactly."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from retouch_core.metrics.background import mask_iou
from retouch_core.recipes import recipe
from retouch_core.regions.location import parse_location
from retouch_core.regions.search import search
from retouch_core.regions.threshold import adaptive_threshold

from ..evaluation.cases import TOLD, Case, naming, twins
from ..evaluation.search import selects_mask
from ..world.phrases import thing_phrase
from ..world.scenes import scene
from .bench import SPLIT, TUNE, Bench
from .design import Ablation, Measured
from .editing import size_of

IOU = "mask IoU"
JUST_IT = "just the right one"
BEST = "best"
"""Instead of a threshold: the one that serves the tune scenes best."""
GRID = np.round(np.arange(-0.2, 1.0, 0.01), 2)
"""Fixed thresholds that are tried on tune scenes."""
FIRST = 60_000
"""First tune scene of this measurement; the gate, the choices and the demo have others."""


@dataclass(frozen=True)
class Asked:
    """A scene with scored regions, and what the query means.

    Attributes:
        scores: [N] of the regions; masks: bool [N,H,W]; truth: bool [H,W].
    """

    scores: Tensor
    masks: Tensor
    truth: Tensor

    def iou(self, selected: Tensor) -> float:
        """Of the union of the selected regions with what is meant; 0 where none is."""
        union = self.masks[selected].any(0) if bool(selected.any()) else torch.zeros_like(self.truth)
        return float(mask_iou(union[None].float(), self.truth[None].float()))


def several(split: str, count: int, start: int = 0) -> Iterator[tuple[Case, Tensor]]:
    """`count` scenes with two or more things of one class and colour, a query true of all of them, and their mask."""
    for index in range(start, start + count):
        drawn = scene(split, index, twins=True)
        first = drawn.spec.things[0]
        rng = random.Random(f"{split}-several-{index}")
        same = [(t.name, t.colour) == (first.name, first.colour) for t in drawn.spec.things]
        case = Case(drawn, thing_phrase(first.name, first.colour, None, rng), 0, "both")
        yield case, case.masks[torch.tensor(same)].any(0)


def questions(split: str, count: int, start: int = 0) -> Iterator[tuple[Case, Tensor]]:
    """`count` scenes: a quarter each named by colour and class, by class, by colour, and a quarter that mean several."""
    part = -(-count // 4)
    named = chain.from_iterable(naming(split, part, told, start + 10_000 * i) for i, told in enumerate(TOLD))
    single = ((case, case.masks[case.target]) for case in named)
    for number, asked in enumerate(chain(single, several(split, part, start))):
        if number < count:
            yield asked


def scored(bench: Bench, ablation: Ablation, split: str, count: int, start: int = 0) -> list[Asked]:
    """Regions of the segmenter with the scores that the recipe gives them; the gate is off, since all is there."""
    settings = replace(recipe(ablation.recipe), **(ablation.base | {"gate": False})).settings()
    asked = []
    for case, truth in tqdm(
        questions(split, count, start), total=count, desc=f"{split} queries", leave=False
    ):
        found = search(
            case.image, case.query, bench.retoucher.segmenter, bench.retoucher.scorer, settings=settings
        )
        if found.regions.scores is not None:
            asked.append(Asked(found.regions.scores, found.regions.masks, truth))
    return asked


def best_fixed(asked: Sequence[Asked], grid: Sequence[float] | np.ndarray = GRID) -> float:
    """The fixed threshold with the highest mean IoU; the lowest of equal ones."""
    means = [np.mean([a.iou(a.scores >= tau) for a in asked]) for tau in grid]
    return float(grid[int(np.argmax(means))])


def measure_threshold(bench: Bench, ablation: Ablation) -> Measured:
    """The variants' options of `adaptive_threshold` on the same scores."""
    settings = recipe(ablation.recipe)
    shared: dict[str, Any] = {
        "u": settings.u,
        "norm": settings.norm,
        "beta": settings.beta or bench.retoucher.scorer.logit_scale,
    }
    _, count = size_of(bench, ablation)
    asked = scored(bench, ablation, SPLIT, count)
    notes: tuple[str, ...] = ()
    values = {}
    for variant in ablation.variants:
        options = shared | variant.changes
        if options.get("tau") == BEST:
            options["tau"] = best_fixed(scored(bench, ablation, TUNE, count, FIRST))
            notes = (f"the best fixed threshold of {count} tune scenes is {options['tau']:g}",)
        values[variant.name] = {IOU: [a.iou(adaptive_threshold(a.scores, **options).selected) for a in asked]}
    return Measured(values, notes=notes)


def measure_location(bench: Bench, ablation: Ablation) -> Measured:
    """Twins with a place word that is true of one of them, and the same query with the place word taken out."""
    _, count = size_of(bench, ablation)
    settings = replace(recipe(ablation.recipe), **ablation.base).settings()
    values: dict[str, dict[str, list[float]]] = {v.name: {IOU: [], JUST_IT: []} for v in ablation.variants}
    for case in tqdm(twins(SPLIT, count), total=count, desc="twins", leave=False):
        for variant in ablation.variants:
            query = case.query if variant.changes["place"] else parse_location(case.query).text
            segmenter, scorer = bench.retoucher.segmenter, bench.retoucher.scorer
            found = search(case.image, query, segmenter, scorer, settings=settings)
            regions = found.regions.masks
            union = (
                regions[found.selected].any(0) if found.present else regions.new_zeros(case.masks.shape[1:])
            )
            truth = case.masks[case.target]
            values[variant.name][IOU].append(float(mask_iou(union[None].float(), truth[None].float())))
            values[variant.name][JUST_IT].append(float(found.present and selects_mask(union, case)))
    return Measured(values)
