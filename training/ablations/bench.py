"""Where candidates come from: made once for all ablations that ask for the same ones, and kept on disk scene by scene."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

from retouch_core.models.embedded import FOLDER, MANIFEST
from retouch_core.pipeline import Retoucher
from retouch_core.recipes import Recipe

from ..evaluation.cases import Case, edits, removals
from ..evaluation.search import ExactMasks
from ..judge import WEIGHTS, Judge
from .perceptual import Distance, perceptual
from .records import Record, joined, record

SPLIT, TUNE = "test", "tune"
SEED, APART = 7000, 100
"""Seed of the first scene's first candidate, and how far apart the scenes' seeds lie."""
RANKING_FIELDS = ("candidates", "rank_mode", "alpha", "normalise", "rank_region")
"""Fields of a recipe that change nothing about a candidate: records carry what every ranking needs."""


TASKS: dict[str, Callable[[str, int], Iterator[Case]]] = {"edit": edits, "removal": removals}
"""What is done to the scenes."""


@lru_cache(maxsize=4)
def cases_of(task: str, count: int) -> tuple[Case, ...]:
    """The first `count` test scenes of a task."""
    return tuple(TASKS[task](SPLIT, count))


@dataclass
class Bench:
    """Models, scenes and what was measured on them before.

    Attributes:
        retoucher, judge: the models.
        scenes: how many scenes an ablation has that asks for all of them.
        steps: sampling steps; None as each recipe says.
        candidates: None as each ablation says.
        full: the published steps and samples of each ablation.
        folder: where records are kept, one line a scene; None keeps them in memory only.
        judge_file: the judge's weights, which the records depend on.
        seconds, made: time spent on candidates, and how many of them.
        shared: what ablations with a measure of their own keep for each other while the program runs.
    """

    retoucher: Retoucher
    judge: Judge
    scenes: int = 200
    steps: int | None = 25
    candidates: int | None = None
    full: bool = False
    folder: Path | None = None
    judge_file: Path = WEIGHTS
    seconds: float = 0.0
    made: int = 0
    shared: dict[Any, Any] = field(default_factory=dict)
    _kept: dict[str, list[Record]] = field(default_factory=dict)

    @cached_property
    def weights(self) -> str:
        """A short digest of the embedded models and the judge."""
        digest = hashlib.sha256((FOLDER / MANIFEST).read_bytes())
        digest.update(self.judge_file.read_bytes())
        return digest.hexdigest()[:12]

    @cached_property
    def distance(self) -> Distance:
        return perceptual(self.retoucher.scorer)

    def recipe(self, recipe: Recipe) -> Recipe:
        """The recipe with the bench's number of steps."""
        return replace(recipe, steps=self.steps) if self.steps else recipe

    def key(self, recipe: Recipe, exact: bool, task: str) -> str:
        """Names everything that a candidate depends on."""
        settings = {k: v for k, v in recipe.settings().items() if k not in RANKING_FIELDS}
        told = json.dumps([settings, exact, task, SEED, self.weights], sort_keys=True, default=str)
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def records(
        self, recipe: Recipe, candidates: int, count: int, *, exact: bool = True, task: str = "edit"
    ) -> list[Record]:
        """Of the first `count` scenes, each with at least `candidates` candidates, or none where nothing was found.

        Candidate k of a scene has a seed of its own, so those that were made before are taken and only the rest is made.
        """
        key = self.key(recipe, exact, task)
        kept = self._kept.setdefault(key, list(self._read(key)))
        cases = cases_of(task, count)
        bar = tqdm(range(count), desc=f"{recipe.title[:24]} {key[:4]}", leave=False)
        for number in bar:
            before = kept[number] if number < len(kept) else None
            if before is not None and (before["m"] >= candidates or not before["m"]):
                continue
            note = self._made(cases[number], recipe, number, before, candidates, exact)
            if before is None:
                kept.append(note)
            else:
                kept[number] = note
            self._write(key, number, note)
        return kept[:count]

    def missing(
        self, recipe: Recipe, candidates: int, count: int, *, exact: bool = True, task: str = "edit"
    ) -> int:
        """How many candidates `records` would have to make."""
        key = self.key(recipe, exact, task)
        kept = self._kept.setdefault(key, list(self._read(key)))
        there = [note["m"] or candidates for note in kept[:count]]
        return sum(max(0, candidates - have) for have in [*there, *[0] * (count - len(there))])

    def _made(
        self, case: Case, recipe: Recipe, number: int, before: Record | None, candidates: int, exact: bool
    ) -> Record:
        have = before["m"] if before else 0
        segmenter = ExactMasks(case.masks) if exact else self.retoucher.segmenter
        worker = self.retoucher.with_segmenter(segmenter)
        begun = time.perf_counter()
        result = worker.retouch(
            case.image,
            case.query,
            case.prompt,
            recipe=recipe,
            candidates=candidates - have,
            seed=SEED + APART * number + have,
        )
        note = record(case, result, self.retoucher, self.judge, self.distance)
        self.seconds += time.perf_counter() - begun
        self.made += candidates - have
        return joined(before, note) if before else note

    def _file(self, key: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{key}.jsonl"

    def _read(self, key: str) -> Iterator[Record]:
        """Records in the order of the scenes; of a scene that was written twice the later line counts."""
        path = self._file(key)
        if path is None or not path.is_file():
            return
        found: dict[int, Record] = {}
        for line in path.read_text().splitlines():
            try:
                number, note = json.loads(line)
            except ValueError:
                continue  # the last line of a run that was cut off
            found[number] = note
        for number in range(len(found)):
            if number not in found:
                return
            yield found[number]

    def _write(self, key: str, number: int, note: Record) -> None:
        path = self._file(key)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as lines:
            lines.write(json.dumps([number, note]) + "\n")


def share_of(scenes: int, share: float) -> int:
    """How many scenes a share of them is, at least two."""
    return max(2, round(scenes * share))
