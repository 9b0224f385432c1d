"""Ablations of editing: variants of a recipe on the same scenes with the same seeds."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from retouch_core.ranking.rank import ALPHA, normalise
from retouch_core.recipes import Recipe, recipe

from .bench import Bench, share_of
from .design import Ablation, Measured, Variant
from .records import FAILED, Record
from .statistics import expected_best

FULL_SCENES = 20
"""Scenes of a run with the published steps and samples."""


def recipe_of(bench: Bench, ablation: Ablation, changes: dict[str, Any]) -> Recipe:
    """The ablation's recipe with its shared values, a variant's changes and the bench's steps."""
    chosen = bench.recipe(replace(recipe(ablation.recipe), **(ablation.base | changes)))
    told = {k: v for k, v in ablation.full.items() if k != "candidates"}
    return replace(chosen, **(told | changes)) if bench.full else chosen


def size_of(bench: Bench, ablation: Ablation) -> tuple[int, int]:
    """Candidates of a scene, and scenes."""
    if bench.full:
        return ablation.full.get("candidates", ablation.candidates), min(FULL_SCENES, bench.scenes)
    return bench.candidates or ablation.candidates, share_of(bench.scenes, ablation.scenes)


def chosen(note: Record, pick: str, count: int) -> int:
    """Which of the first `count` candidates a ranking takes."""
    if pick == "first":
        return 0
    if pick in ("localised", "masked"):
        return _first_best(torch.tensor(note[pick][:count]))
    cosines, distances = (torch.tensor(note[name][:count]) for name in ("cosine", "distance"))
    if pick == "cma":
        return _first_best(cosines)
    if pick == "iqa":
        return _first_best(-distances)
    return _first_best(normalise(cosines, "minmax") - ALPHA * distances)


def value(note: Record, name: str, pick: str, count: int) -> float:
    """A metric of one scene: the mean over its first `count` candidates, or that of the chosen one."""
    numbers = note.get(name, [])[:count]
    if not numbers:
        return FAILED.get(name, math.nan)
    if pick == "every" or not note["found"]:
        return math.fsum(numbers) / len(numbers)
    return numbers[chosen(note, pick, count)]


def measure_edits(bench: Bench, ablation: Ablation) -> Measured:
    """Every variant on the same scenes, with the same seeds."""
    count, scenes = size_of(bench, ablation)
    values: dict[str, dict[str, list[float]]] = {}
    features: dict[str, tuple[Tensor, Tensor]] = {}
    for variant in ablation.variants:
        made = recipe_of(bench, ablation, variant.changes)
        notes = bench.records(made, count, scenes, exact=ablation.exact, task=ablation.task)
        values[variant.name] = {
            metric.name: [value(note, metric.name, variant.pick, count) for note in notes]
            for metric in ablation.metrics
            if metric.of_set is None
        }
        if any(metric.of_set for metric in ablation.metrics):
            features[variant.name] = _features(notes, variant, count)
    return Measured(values, features)


def measure_best_of(bench: Bench, ablation: Ablation) -> Measured:
    """Expected best of m by each ranking, for every m up to the number of candidates, from one run."""
    count, scenes = size_of(bench, ablation)
    notes = bench.records(
        recipe_of(bench, ablation, {}), count, scenes, exact=ablation.exact, task=ablation.task
    )
    values: dict[str, dict[str, list[float]]] = {}
    for variant in ablation.variants:
        m = int(variant.changes["m"])
        if m <= count:
            values[variant.name] = {
                metric.name: [_expected(note, metric.name, m, count) for note in notes]
                for metric in ablation.metrics
            }
    return Measured(values)


def _expected(note: Record, ranking: str, m: int, count: int) -> float:
    """Share of subsets of m candidates whose best one, by that ranking, is right by the strict judge."""
    if not note["m"] or not note["found"]:
        return FAILED["strict"]
    right = note["strict"][:count]
    scores = right if ranking == ORACLE else note[ranking][:count]
    return expected_best(right, scores, m)


ORACLE = "any of them"
"""The metric of `measure_best_of` that knows which candidates are right."""


def _features(notes: list[Record], variant: Variant, count: int) -> tuple[Tensor, Tensor]:
    """Features of sources and of chosen results, of the scenes in which something was edited."""
    edited = [note for note in notes if note["found"]]
    pick = "first" if variant.pick == "every" else variant.pick
    results = [note["features"][chosen(note, pick, count)] for note in edited]
    return torch.tensor([note["source"] for note in edited]), torch.tensor(results)


def _first_best(scores: Tensor) -> int:
    """Index of the highest score, the lowest of equal ones."""
    return int(torch.sort(scores, descending=True, stable=True).indices[0])
