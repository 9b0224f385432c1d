"""Ablations of learnable regions (S01): boxes that are found without a mask, by attention, by learning, or at random."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from retouch_core.metrics.background import mask_iou
from retouch_core.models.clip_attention import ClipTower, tower_of
from retouch_core.pipeline import Retoucher
from retouch_core.ranking.rank import rank
from retouch_core.recipes import Recipe
from retouch_core.regions.learnable.learn import Learned, Settings, learn_regions
from retouch_core.regions.learnable.losses import Weights

from ..evaluation.cases import Case
from ..judge import Judge
from .bench import APART, SEED, Bench, cases_of
from .design import Ablation, Measured
from .editing import recipe_of, size_of
from .records import seen_in
from .searching import IOU

LOSSES = ("clip", "direction", "structure")


@dataclass
class Boxes:
    """The edit callback of one scene: every box is edited once, with the scene's seed, for all variants."""

    retoucher: Retoucher
    case: Case
    recipe: Recipe
    seed: int
    caption: str
    kept: dict[tuple[int, ...], Tensor] = field(default_factory=dict)

    def __call__(self, image: Tensor, boxes: Tensor) -> Tensor:
        return torch.cat([self._edited(tuple(box)) for box in boxes.tolist()])

    def _edited(self, box: tuple[int, ...]) -> Tensor:
        if box not in self.kept:
            x0, y0, x1, y1 = box
            mask = torch.zeros(1, *self.case.image.shape[1:3])
            mask[:, y0:y1, x0:x1] = 1
            made = self.retoucher.retouch(
                self.case.image,
                self.caption,
                self.case.prompt,
                recipe=self.recipe,
                candidates=1,
                seed=self.seed,
                mask=mask,
            )
            self.kept[box] = made.image
        return self.kept[box]


def learned(boxes: Boxes, tower: ClipTower, anchors: int, changes: dict[str, Any]) -> Learned:
    """What a variant finds in one scene; `changes` are fields of `Settings`, or weights of the losses by name."""
    weights = Weights(**{k: v for k, v in changes.items() if k in LOSSES})
    told = {k: v for k, v in changes.items() if k not in LOSSES}
    scorer, prompt = boxes.retoucher.scorer, boxes.case.prompt

    def choose(source: Tensor, made: Tensor) -> tuple[Tensor, int]:
        ranking = rank(source, made, None, scorer, prompt, mode="quality")
        return ranking.scores, ranking.best

    return learn_regions(
        boxes.case.image,
        prompt,
        boxes.caption,
        attention=tower,
        perception=tower,
        scorer=scorer,
        edit=boxes,
        settings=Settings(count=anchors, weights=weights, seed=boxes.seed, **told),
        choose=choose,
    )


def judged(case: Case, found: Learned, judge: Judge) -> dict[str, float]:
    """How much of the thing the winning box covers, whether the asked thing is in it, and what is left of the old one."""
    area, made = found.masks[found.winner, None], found.edited[found.winner, None]
    overlap = float(mask_iou(area.float(), case.masks[case.target, None].float()))
    return {IOU: overlap, **seen_in(case, made, area, judge)}


def measure_learned(bench: Bench, ablation: Ablation) -> Measured:
    """Every variant on the same scenes; `candidates` of the ablation is the number of anchors K."""
    anchors, count = size_of(bench, ablation)
    made = recipe_of(bench, ablation, {})
    worker = bench.retoucher
    tower = tower_of(worker.scorer)  # type: ignore[arg-type]
    values: dict[str, dict[str, list[float]]] = {
        v.name: {metric.name: [] for metric in ablation.metrics} for v in ablation.variants
    }
    edited = 0
    for number, case in enumerate(tqdm(cases_of("edit", count), desc="learned regions", leave=False)):
        caption = case.scene.spec.things[case.target].name
        key = (bench.key(made, True, "learned"), number)
        boxes = bench.shared.setdefault(key, Boxes(worker, case, made, SEED + APART * number, caption))
        before = len(boxes.kept)
        for variant in ablation.variants:
            said = judged(case, learned(boxes, tower, anchors, variant.changes), bench.judge)
            for name, column in values[variant.name].items():
                column.append(said[name])
        edited += len(boxes.kept) - before
    return Measured(values, notes=(f"{edited} boxes were edited, each once for all variants and ablations",))
