"""`Retoucher`: a picture, what to change and what it becomes -> the changed picture, with everything that led to it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .editing.changed import changed, detailed, tightened
from .editing.crop import CropPlan, crop, crop_mask, placed, stitch_parts, uncrop_mask
from .editing.crop_plans import WorkSize, plan_crops, work_side
from .editing.halving import check_points, cuts_of, rows_of
from .editing.losses import Perceptual
from .editing.sampler import Candidates
from .finding import check_finder, find, given
from .learning import as_found, learn
from .metrics.feature_distance import LpipsDistance, perceptual_distance
from .models.protocols import Attention, Editor, Referrer, Scorer, Segmenter
from .painting import BATCH, decoded, editor_for, losses_of, paint, words_of
from .ranking.rank import Ranking, rank, rank_removal
from .recipes import DEFAULT, Recipe
from .recipes import recipe as recipe_named
from .regions.edit_mask import EditMask, edit_mask, surroundings
from .regions.search import Found
from .report import Report, not_found
from .result import Result, pasted
from .tensors.boxes import Box
from .tensors.checks import check_image, check_text, clamped
from .tensors.notes import noted

Progress = Callable[[float, str], None]
"""(share done in 0..1, what is going on); whatever it raises stops the run."""


class Retoucher:
    """The main job: find by text, edit by text, keep the rest, pick the best.

    Any models fit that fill the three roles of `models.protocols`.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        scorer: Scorer,
        editor: Editor,
        plain: Editor | None = None,
        referrer: Referrer | None = None,
        *,
        attention: Attention | None = None,
        perceptual: Perceptual | None = None,
        tiny_decoder: Any = None,
    ) -> None:
        """Take the models.

        Args:
            plain: an editor without mask input, and referrer: what finds by itself, for the recipes that ask for one.
            attention: where learnable regions look; None takes the scorer's image tower.
            perceptual: what losses weigh the background with; None takes LPIPS with VGG where it is on disk, else the
                scorer's features.
            tiny_decoder: a small decoder of the editor's latents, which losses look through on the paths `tiny` and
                `tiny_half`; None takes the editor's own.
        """
        self.segmenter, self.scorer, self.editor = segmenter, scorer, editor
        self.plain, self.referrer = plain, referrer
        self.attention, self.tiny_decoder = attention, tiny_decoder
        self._perceptual = perceptual

    @classmethod
    def embedded(cls, folder: Path | None = None, *, device: torch.device | str | None = None) -> Retoucher:
        """With the models that ship with the library.

        Raises:
            WeightsError: their files are missing or damaged.
        """
        from .models.embedded import FOLDER, load_embedded

        parts = load_embedded(folder or FOLDER, device=device)
        return cls(parts.segmenter, parts.scorer, parts.editor, parts.plain, parts.referrer)

    def with_segmenter(self, segmenter: Segmenter) -> Retoucher:
        """The same models with another segmenter."""
        other = copy.copy(self)
        other.segmenter = segmenter
        return other

    @torch.no_grad()
    def retouch(
        self,
        image: Tensor,
        query: str = "",
        prompt: str = "",
        recipe: str | Recipe = DEFAULT,
        candidates: int | None = None,
        seed: int = 0,
        *,
        steps: int | None = None,
        work_size: int | str | None = None,
        prune: Sequence[tuple[float, float]] | None = None,
        mask: Tensor | None = None,
        negatives: Sequence[str] = (),
        batch: int | None = None,
        progress: Progress | None = None,
    ) -> Result:
        """Change what `query` names into what `prompt` says.

        Args:
            image: IMAGE [1,H,W,3] float in 0..1, sides of at least 16 px.
            query: what to change ("the red car on the left", "background").
            prompt: what it becomes; "" removes it.
            recipe: a name from `recipes.RECIPES`, or a `Recipe`.
            candidates: how many to make (None: as the recipe says); candidate k uses seed + k.
            seed: 0 or more.
            steps: sampling steps (None: as the recipe says).
            work_size: `full`, `auto` or the side in px of a crop around the region (None: as the recipe says).
            prune: when which share of the candidates goes on, such as `recipes.HALVING`; () paints all of them to the end
                (None: as the recipe says).
            mask: MASK [1,H,W] that replaces the search; the query then only names what is there now.
            negatives: phrases for what is not meant; they compete with the query in the presence gate.
            batch: candidates at once.
            progress: called with the share done and a word.

        Raises:
            TypeError, ValueError: one sentence that names the input and says what to do.
        """
        # Pictures are small beside the networks, which stay where they are.
        image = check_image(image, batch=1).cpu()
        settings = _settled(recipe_named(recipe) if isinstance(recipe, str) else recipe, candidates, steps)
        settings = settings if work_size is None else replace(settings, work_size=work_size)
        settings = settings if prune is None else replace(settings, prune=tuple(prune))
        check_points(settings.prune)
        learning = settings.find == "learn" and mask is None
        query = query.strip() if mask is not None or learning else check_text(query)
        if not isinstance(prompt, str):
            raise TypeError(
                f"prompt must be text, got {type(prompt).__name__}; use '' to remove what is there"
            )
        if not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed must be a whole number from 0 up, got {seed!r}; use 0 if you do not care")
        run = _Run(query, prompt.strip(), _name_of(recipe), seed, settings, batch or BATCH, progress)
        with noted() as run.notes:
            seen = clamped(image)
            if torch.equal(seen, image):
                seen = image  # large pictures are held once
            run.tell(0.02, "looking for it")
            if mask is None:
                check_finder(settings, self.referrer)
            editor = editor_for(settings, self.editor, self.plain)
            if learning:
                return self._learned(image, seen, editor, run)
            with run.clock("search"):
                found = given(mask, image) if mask is not None else self._found(seen, editor, run, negatives)
            areas = _areas(found, editor, settings) if found.present else []
            if not areas:
                return _unchanged(image, found, self._report(image, found, run))
            return self._painted(image, seen, found, areas, editor, run)

    def _found(self, seen: Tensor, editor: Editor, run: _Run, negatives: Sequence[str]) -> Found:
        return find(
            seen,
            run.query,
            run.prompt,
            run.settings,
            segmenter=self.segmenter,
            scorer=self.scorer,
            editor=editor,
            referrer=self.referrer,
            negatives=negatives,
            seed=run.seed,
        )

    def _painted(
        self,
        image: Tensor,
        seen: Tensor,
        found: Found,
        areas: list[tuple[CropPlan, EditMask]],
        editor: Editor,
        run: _Run,
    ) -> Result:
        settings, old = run.settings, found.text or run.query
        run.tell(0.2, "painting")
        shown = run.prompt or settings.removal_prompt
        guidance = losses_of(settings, shown, self.scorer, self.perceptual, run.seed, self.tiny_decoder)
        pieces: list[tuple[Tensor, CropPlan, Tensor]] = []
        opened: list[Tensor] = []
        bare: list[Tensor] = []
        lived: list[Candidates] = []
        window = reduce(Box.__or__, (plan.box for plan, _ in areas))
        for plan, edit in areas:
            with run.clock("paint"):
                work = crop(seen, plan)
                z0 = editor.encode(work)
                drawn = paint(
                    editor,
                    work,
                    z0,
                    edit,
                    words_of(run.prompt, old, edit, settings),
                    settings,
                    guidance,
                    seed=run.seed,
                    batch=run.batch,
                    judge=self._judge_of(work, edit, old, run) if settings.prune else None,
                    tell=run.steps_of(len(pieces), len(areas)),
                )
                lived.append(drawn)
            with run.clock("decode"):
                made = decoded(editor, work, drawn.latents, edit, settings)
                own = uncrop_mask(edit.composite, plan).to(image)
                own = own * (uncrop_mask(edit.painted, plan) > 0)
                opened.append(placed(own, plan))
                laid = made
                if settings.change_min:
                    before = editor.decode(z0)
                    what = _what_changed(before, made, found, plan, settings.change_min)
                    own = torch.minimum(own, what.to(image))
                    laid = detailed(made, before, work.to(made), settings.change_min)
                bare.append(made.to(image))
                pieces.append((laid.to(image), plan.within(window), own.expand(len(made), -1, -1)))
        rows, columns = window.slices
        with run.clock("decode"):
            patches = stitch_parts(image[:, rows, columns], pieces)
            masks = reduce(torch.maximum, (placed(own, local) for _, local, own in pieces))
        run.tell(0.9, "choosing")
        taken = masks.amax(0, keepdim=True)
        with run.clock("rank"):
            ranking = self._rank(
                seen[:, rows, columns], patches.clamp(0, 1), taken, old, run.prompt, settings
            )
        extra = [*_cut_of(areas, settings), *_pruned_of(lived, settings)]
        if guidance is not None:
            extra.append({"stage": "losses", **guidance.described()})
        mask = pasted(image.new_zeros(1, *image.shape[1:3]), window, taken)
        report = self._report(image, found, run, ranking, mask, extra)
        run.tell(1.0, "done")
        return Result(
            source=image,
            image=pasted(image, window, patches[ranking.best : ranking.best + 1]),
            mask=mask,
            window=window,
            patches=patches,
            patch_masks=masks,
            area=reduce(torch.maximum, opened),
            scores=ranking.scores,
            best=ranking.best,
            regions=found.regions,
            selected=found.selected,
            report=report,
            painted=tuple((plan, made) for (plan, _), made in zip(areas, bare, strict=True)),
        )

    def _learned(self, image: Tensor, seen: Tensor, editor: Editor, run: _Run) -> Result:
        """Learnable regions (S01): every anchor's best box is a candidate with a mask of its own."""

        def tell(done: int, of: int) -> None:
            run.tell(0.05 + 0.85 * done / of, f"trying boxes, {done} of {of}")

        with run.clock("learn"):
            learned, ranking = learn(
                seen,
                run.query,
                run.prompt,
                run.settings,
                editor=editor,
                scorer=self.scorer,
                seed=run.seed,
                attention=self.attention,
                tell=tell,
            )
        found = as_found(learned, image, run.query)
        masks = learned.masks.to(image)
        made = torch.where(learned.masks[..., None], learned.edited.to(image), image)
        taken = masks.amax(0, keepdim=True)
        report = self._report(image, found, run, ranking, taken)
        run.tell(1.0, "done")
        return Result(
            source=image,
            image=made[ranking.best : ranking.best + 1],
            mask=taken,
            window=Box.whole((image.shape[1], image.shape[2])),
            patches=made,
            patch_masks=masks,
            area=taken,
            scores=ranking.scores,
            best=ranking.best,
            regions=found.regions,
            selected=found.selected,
            report=report,
        )

    def perceptual(self) -> Perceptual:
        """What weighs perceptual distances for losses: LPIPS with VGG where that is on disk, else the scorer's features."""
        if self._perceptual is None:
            self._perceptual = perceptual_distance(self.scorer)
            place = getattr(self.editor, "device", None)
            if place is not None and isinstance(self._perceptual, LpipsDistance):
                self._perceptual.network.to(place)
        return self._perceptual

    def _judge_of(self, work: Tensor, edit: EditMask, query: str, run: _Run) -> Callable[[Tensor], Tensor]:
        """What scores unfinished candidates of one canvas: the ranking of the finished ones."""

        def judge(seen: Tensor) -> Tensor:
            scores = self._rank(work, seen, edit.composite, query, run.prompt, run.settings).scores
            return scores.cpu()

        return judge

    def _rank(
        self, source: Tensor, made: Tensor, mask: Tensor, query: str, prompt: str, settings: Recipe
    ) -> Ranking:
        if query and not prompt:
            return rank_removal(source, made, mask, self.scorer, query)
        return rank(
            source,
            made,
            mask,
            self.scorer,
            prompt,
            mode=settings.rank_mode,
            alpha=settings.alpha,
            normalise=settings.normalise,
            region=settings.rank_region,
        )

    def _report(
        self,
        image: Tensor,
        found: Found,
        run: _Run,
        ranking: Ranking | None = None,
        taken: Tensor | None = None,
        stages: Sequence[dict[str, Any]] = (),
    ) -> Report:
        """The report of a run: of its ranking and of what it took, or that nothing was found."""
        message = ""
        if ranking is None:
            message = found.message or not_found(
                run.query,
                _scores_of(found),
                gate=found.gate,
                unknown_words=self.scorer.unknown_words(run.query),
            )
        count = run.settings.candidates if ranking is None else len(ranking.scores)
        return Report(
            query=run.query,
            prompt=run.prompt,
            recipe=run.recipe,
            seed=run.seed,
            size=image.shape[1:3],
            candidates=count,
            batch_size=min(run.batch, count) if ranking is not None else 0,
            found=ranking is not None,
            message=message,
            region_scores=_scores_of(found),
            selected=found.selected.nonzero()[:, 0].tolist() if ranking is not None else (),
            mask_share=0.0 if taken is None else float((taken > 0).float().mean()),
            candidate_scores=() if ranking is None else ranking.scores.tolist(),
            ranking=() if ranking is None else ranking.order.tolist(),
            stages=(*found.regions.trace, *stages),
            timings=run.clock.seconds,
            settings=run.settings.settings(),
            device=str(image.device),
            warnings=list(dict.fromkeys([*found.notes, *run.notes])),
            fallback=[ranking.fallback] if ranking is not None and ranking.fallback else [],
        )


@dataclass
class _Run:
    """What one call was asked for, and what it keeps while it works."""

    query: str
    prompt: str
    recipe: str
    seed: int
    settings: Recipe
    batch: int
    progress: Progress | None

    def __post_init__(self) -> None:
        self.clock = _Clock()
        self.notes: list[str] = []

    def tell(self, share: float, text: str) -> None:
        """Pass on how far it is."""
        if self.progress is not None:
            self.progress(share, text)

    def steps_of(self, part: int, parts: int) -> Callable[[int, int, int], None]:
        """Progress of the sampler in one crop of several."""
        settings, taken = self.settings, 0

        def step(done: int, steps: int, count: int) -> None:
            nonlocal taken
            taken += count
            cuts = cuts_of(settings.prune, steps, settings.candidates)
            share = min(1.0, taken / rows_of(cuts, steps, settings.candidates))
            self.tell(0.2 + 0.6 * (part + share) / parts, f"painting, step {done} of {steps}")

        return step


def _cut_of(areas: list[tuple[CropPlan, EditMask]], settings: Recipe) -> list[dict[str, Any]]:
    """Entry of the report: what was cut out, and by what it was scaled."""
    crops = [str(plan) for plan, _ in areas]
    return [] if settings.work_size == "full" else [{"stage": "crop", "crops": crops}]


def _pruned_of(drawn: Sequence[Candidates], settings: Recipe) -> list[dict[str, Any]]:
    """Entry of the report: which candidates were painted to the end in each crop, and how many steps each lived."""
    if not settings.prune:
        return []
    kept = [list(part.indices) for part in drawn]
    return [{"stage": "prune", "kept": kept, "steps_lived": [list(part.lived) for part in drawn]}]


def _what_changed(before: Tensor, decoded: Tensor, found: Found, plan: CropPlan, least: float) -> Tensor:
    """MASK [m,height,width] of what each candidate, decoded [m,S,S,3], changed in the box of the plan; before [1,S,S,3]."""
    core = crop_mask(found.regions.masks[found.selected], plan).amax(0, keepdim=True)
    every = torch.ones_like(core)
    return uncrop_mask(tightened(every, changed(decoded, before, least), core), plan)


def _settled(recipe: Recipe, candidates: int | None, steps: int | None) -> Recipe:
    for name, value in (("candidates", candidates), ("steps", steps)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(
                f"{name} must be a whole number from 1 up, got {value!r}; leave it out for the recipe's"
            )
    return replace(recipe, candidates=candidates or recipe.candidates, steps=steps or recipe.steps)


def _name_of(recipe: str | Recipe) -> str:
    return recipe if isinstance(recipe, str) else recipe.title


def _scores_of(found: Found) -> list[float]:
    scores = found.regions.scores
    return [] if scores is None else scores.tolist()


def _plans(found: Found, editor: Editor, settings: Recipe) -> list[CropPlan]:
    """What is worked on: the whole picture, or crops around the selected regions."""
    source = found.regions.source_size
    side = work_side(settings.work_size, editor.size, editor.cell)
    if side is None or max(source) <= side:
        return [CropPlan.whole(source, side or editor.size)]
    selected = found.regions.masks[found.selected].any(0, keepdim=True)
    return plan_crops(selected, WorkSize(side, editor.cell), apart=not found.is_ground)[0]


def _areas(found: Found, editor: Editor, settings: Recipe) -> list[tuple[CropPlan, EditMask]]:
    """Every crop with what may change of it; none where nothing may."""
    every = [
        (plan, _edit_area(found, plan, settings, editor.cell)) for plan in _plans(found, editor, settings)
    ]
    return [(plan, edit) for plan, edit in every if (edit.composite > 0).any()]


def _edit_area(found: Found, plan: CropPlan, settings: Recipe, cell: int) -> EditMask:
    chosen = found.regions.masks[found.selected]
    rest = found.regions.masks[~found.selected & found.things] if found.things is not None else chosen[:0]
    parts = crop_mask(chosen, plan, part_only=True) > 0
    neighbours = crop_mask(rest, plan) > 0
    selected = parts.any(0, keepdim=True).float()
    if not found.is_ground:
        neighbours = neighbours[~surroundings(selected, neighbours)]
    others = neighbours.any(0, keepdim=True).float()
    shape = settings.shape if not found.is_ground else "mask"
    fade = round(settings.feather * max(plan.work))
    return edit_mask(selected, others, cell=cell, shape=shape, dilate=settings.dilate, fade=fade, boxes=parts)


def _unchanged(image: Tensor, found: Found, report: Report) -> Result:
    empty = image.new_zeros(1, *image.shape[1:3])
    return Result(
        source=image,
        image=image.clone(),
        mask=empty,
        window=Box(0, 0, 0, 0),
        patches=image[:0, :0, :0],
        patch_masks=empty[:0, :0, :0],
        area=empty,
        scores=image.new_zeros(0),
        best=0,
        regions=found.regions,
        selected=torch.zeros(len(found.regions), dtype=torch.bool),
        report=report,
    )


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - begun
