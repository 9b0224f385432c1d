"""`Retoucher`: a picture, what to change and what it becomes -> the changed picture, with everything that led to it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image as PillowImage
from torch import Tensor

from .editing.changed import changed, tightened
from .editing.crop import CropPlan, crop, crop_mask, placed, stitch_parts, uncrop_mask
from .editing.crop_plans import WorkSize, plan_crops, work_side
from .editing.guidance import guided_denoiser
from .editing.sampler import retouch_latent
from .editing.schedule import sigmas_of
from .models.protocols import Editor, Scorer, Segmenter
from .ranking.rank import Ranking, rank, rank_removal
from .recipes import DEFAULT, Recipe
from .recipes import recipe as recipe_named
from .regions.edit_mask import EditMask, edit_mask, surroundings
from .regions.grid import cell_of
from .regions.location import CELL_PHRASES, parse_location
from .regions.search import Found, search
from .report import Report, not_found
from .sheet import contact_sheet
from .tensors.boxes import Box
from .tensors.checks import InputWarning, check_image, check_text, clamped, fit_mask
from .tensors.regions import Regions

Progress = Callable[[float, str], None]
"""(share done in 0..1, what is going on); whatever it raises stops the run."""

DENOISER_KINDS = ("any", "plain")
BATCH = 8
"""Candidates that are sampled at once unless the caller says otherwise."""


@dataclass(frozen=True)
class Result:
    """What one retouch gave.

    Attributes:
        source: IMAGE [1,H,W,3], what was given.
        image: IMAGE [1,H,W,3] on the CPU, the best candidate, or the source where nothing was found.
        mask: the composite mask, MASK [1,H,W]; where it is 0, `image` and every candidate equal the source bit for bit.
        candidates: IMAGE [m,H,W,3] in the order of their seeds; m = 0 where nothing was found.
        area: MASK [1,H,W], the composite mask before what hardly changed was taken out of it.
        candidate_masks: MASK [m,H,W], the part of `mask` that each candidate took; all alike without `change_min`.
        scores: [m], higher is better.
        best: index of the best candidate; 0 where there is none.
        regions: every entity of the picture with its score.
        selected: bool [N], those that were edited.
        report: everything that decided the result.
    """

    source: Tensor
    image: Tensor
    mask: Tensor
    candidates: Tensor
    area: Tensor
    candidate_masks: Tensor
    scores: Tensor
    best: int
    regions: Regions
    selected: Tensor
    report: Report

    def sheet(self) -> PillowImage:
        """Everything at a glance, drawn as one picture: input, regions with scores, mask, candidates with scores, best."""
        return contact_sheet(
            self.source,
            self.regions,
            self.selected,
            self.mask,
            self.candidates,
            self.scores,
            self.best if len(self.candidates) else None,
            self.report.title,
        )


class Retoucher:
    """The main job: find by text, edit by text, keep the rest, pick the best.

    Any models fit that fill the three roles of `models.protocols`.
    """

    def __init__(
        self, segmenter: Segmenter, scorer: Scorer, editor: Editor, plain: Editor | None = None
    ) -> None:
        """`plain` is an editor without mask input, for the recipes that ask for one."""
        self.segmenter, self.scorer, self.editor, self.plain = segmenter, scorer, editor, plain

    @classmethod
    def embedded(cls, folder: Path | None = None, *, device: torch.device | str | None = None) -> Retoucher:
        """With the models that ship with the library.

        Raises:
            WeightsError: their files are missing or damaged.
        """
        from .models.embedded import FOLDER, load_embedded

        parts = load_embedded(folder or FOLDER, device=device)
        return cls(parts.segmenter, parts.scorer, parts.editor, parts.plain)

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
            mask: MASK [1,H,W] that replaces the search; the query then only names what is there now.
            negatives: phrases for what is not meant; they compete with the query in the presence gate.
            batch: candidates at once.
            progress: called with the share done and a word.

        Raises:
            TypeError, ValueError: one sentence that names the input and says what to do.
        """
        image = check_image(
            image, batch=1
        ).cpu()  # pictures are small beside the networks, which stay where they are
        settings = _settled(recipe_named(recipe) if isinstance(recipe, str) else recipe, candidates, steps)
        settings = settings if work_size is None else replace(settings, work_size=work_size)
        query = check_text(query) if mask is None else query.strip()
        if not isinstance(prompt, str):
            raise TypeError(
                f"prompt must be text, got {type(prompt).__name__}; use '' to remove what is there"
            )
        prompt = prompt.strip()
        if not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed must be a whole number from 0 up, got {seed!r}; use 0 if you do not care")
        tell = progress or (lambda share, text: None)
        clock = _Clock()
        with _noted() as notes:
            seen = clamped(image)
            if torch.equal(seen, image):
                seen = image  # large pictures are held once
            tell(0.02, "looking for it")
            with clock("search"):
                if mask is None:
                    found = search(
                        seen,
                        query,
                        self.segmenter,
                        self.scorer,
                        settings=settings.settings(),
                        negatives=negatives,
                    )
                else:
                    found = _given(mask, image)
            editor = self._editor_for(settings)
            areas = _areas(found, editor, settings) if found.present else []
            if not areas:
                report = self._nothing(image, found, query, prompt, recipe, seed, settings, clock, notes)
                return _unchanged(image, found, report)
            tell(0.2, "painting")
            pieces: list[tuple[Tensor, CropPlan, Tensor]] = []
            opened: list[Tensor] = []
            for plan, edit in areas:
                with clock("paint"):
                    work = crop(seen, plan)
                    z0 = self.editor.encode(work)
                    words = _words(prompt, edit, settings)
                    told = _part_of(tell, len(pieces), len(areas))
                    latents = _paint(
                        editor, work, z0, edit, found.text or query, words, settings, seed, batch, told
                    )
                with clock("decode"):
                    decoded = torch.cat([editor.decode(z[None]) for z in latents])
                    own = uncrop_mask(edit.composite, plan).to(image)
                    own = own * (uncrop_mask(edit.painted, plan) > 0)
                    opened.append(placed(own, plan))
                    if settings.change_min:
                        what = _what_changed(editor.decode(z0), decoded, found, plan, settings.change_min)
                        own = torch.minimum(own, what.to(image))
                    masks = placed(own, plan).expand(len(decoded), -1, -1)
                    pieces.append((decoded.to(image), plan, masks))
            with clock("decode"):
                made = stitch_parts(image, pieces)
                soft = reduce(torch.maximum, opened)
                own = reduce(torch.maximum, (mask for _, _, mask in pieces))
            tell(0.9, "choosing")
            with clock("rank"):
                taken = own.amax(0, keepdim=True)
                ranking = self._rank(
                    *_seen_of(areas, seen, made, taken), found.text or query, prompt, settings
                )
        report = Report(
            query=query,
            prompt=prompt,
            recipe=_name_of(recipe),
            seed=seed,
            size=image.shape[1:3],
            candidates=len(made),
            batch_size=min(batch or BATCH, len(made)),
            found=True,
            region_scores=_scores_of(found),
            selected=found.selected.nonzero()[:, 0].tolist(),
            mask_share=float((taken > 0).float().mean()),
            candidate_scores=ranking.scores.tolist(),
            ranking=ranking.order.tolist(),
            stages=(*found.regions.trace, *_cut_of(areas, settings)),
            timings=clock.seconds,
            settings=settings.settings(),
            device=str(image.device),
            warnings=list(dict.fromkeys([*found.notes, *notes])),
            fallback=[ranking.fallback] if ranking.fallback else [],
        )
        tell(1.0, "done")
        best = ranking.best
        return Result(
            image,
            made[best : best + 1],
            taken,
            made,
            soft,
            own,
            ranking.scores,
            best,
            found.regions,
            found.selected,
            report,
        )

    def _editor_for(self, settings: Recipe) -> Editor:
        if settings.denoiser not in DENOISER_KINDS:
            raise ValueError(
                f"denoiser must be one of {', '.join(DENOISER_KINDS)}, got {settings.denoiser!r}; any suits every model"
            )
        if settings.denoiser == "any" or not self.editor.inpaint:
            return self.editor
        if self.plain is None:
            warnings.warn(
                "the recipe wants a denoiser without mask input, but only an inpainting one is there, which was used",
                InputWarning,
                stacklevel=3,
            )
        return self.plain or self.editor

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

    def _nothing(
        self,
        image: Tensor,
        found: Found,
        query: str,
        prompt: str,
        recipe: str | Recipe,
        seed: int,
        settings: Recipe,
        clock: _Clock,
        notes: list[str],
    ) -> Report:
        message = found.message or not_found(
            query, _scores_of(found), gate=found.gate, unknown_words=self.scorer.unknown_words(query)
        )
        return Report(
            query=query,
            prompt=prompt,
            recipe=_name_of(recipe),
            seed=seed,
            size=image.shape[1:3],
            candidates=settings.candidates,
            batch_size=0,
            found=False,
            message=message,
            region_scores=_scores_of(found),
            stages=found.regions.trace,
            timings=clock.seconds,
            settings=settings.settings(),
            device=str(image.device),
            warnings=list(dict.fromkeys([*found.notes, *notes])),
        )


def _words(prompt: str, edit: EditMask, settings: Recipe) -> str:
    """The prompt, and where the recipe asks for it the part of the frame, unless the prompt names one itself."""
    if not (prompt and settings.place_prompt) or parse_location(prompt).kind != "none":
        return prompt
    return f"{prompt} {CELL_PHRASES[cell_of(edit.painted[0] > 0)]}"


def _paint(
    editor: Editor,
    work: Tensor,
    z0: Tensor,
    edit: EditMask,
    referring: str,
    words: str,
    settings: Recipe,
    seed: int,
    batch: int | None,
    tell: Progress,
) -> Tensor:
    """Latents [m,C,h,w] of the candidates."""
    removal = not words
    scale = settings.removal_scale if removal else settings.scale
    target, old, empty = editor.encode_prompts([words or settings.removal_prompt, referring, ""]).split(1)
    extra: dict[str, Any] = {}
    if editor.inpaint:
        hole = edit.painted[..., None] if settings.inpaint_input == "masked" or removal else torch.zeros(1)
        extra = {"mask": edit.latent, "masked_latents": editor.encode(torch.where(hole > 0, 0.5, work))}
    denoise = guided_denoiser(
        lambda x, sigma, told: editor.denoise(x, sigma, told, **extra),
        target,
        old if settings.lam > 0 else None,
        empty,
        scale,
        0.0 if removal else settings.lam,
    )
    sigmas = sigmas_of(editor.scheduler, settings.steps, settings.strength)
    size = batch or BATCH
    total = settings.candidates

    def step(done: int, steps: int, _: Tensor, which: range) -> None:
        share = (which.start + (which.stop - which.start) * done / steps) / total
        tell(0.2 + 0.6 * share, f"painting, step {done} of {steps}")

    return retouch_latent(
        denoise,
        z0,
        edit.latent.to(z0),
        sigmas,
        seed=seed,
        candidates=total,
        start=settings.start,
        noise_mode=settings.noise_mode,
        progressive=settings.progressive,
        batch=size,
        callback=step,
    )


def _part_of(tell: Progress, k: int, parts: int) -> Progress:
    """Progress of one crop of several, as that of the painting of all."""
    return lambda share, text: (
        tell(0.2 + (k * 0.6 + share - 0.2) / parts, text) if parts > 1 else tell(share, text)
    )


def _cut_of(areas: list[tuple[CropPlan, EditMask]], settings: Recipe) -> list[dict[str, Any]]:
    """Entry of the report: what was cut out, and by what it was scaled."""
    crops = [str(plan) for plan, _ in areas]
    return [] if settings.work_size == "full" else [{"stage": "crop", "crops": crops}]


def _seen_of(areas: list[tuple[CropPlan, EditMask]], *planes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The part of source, candidates and mask that was worked on, which is all that is ranked; candidates clamped."""
    box = Box(0, 0, 0, 0)
    for plan, _ in areas:
        box |= plan.box
    rows, columns = box.slices
    source, made, mask = (plane[:, rows, columns] for plane in planes)
    return source, made.clamp(0, 1), mask


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


def _given(mask: Tensor, image: Tensor) -> Found:
    """A search that the caller has done: one region, the mask itself."""
    height, width = image.shape[1:3]
    fitted, note = fit_mask(mask, (height, width))
    if len(fitted) != 1:
        raise ValueError(f"mask has batch {len(fitted)} but image has batch 1; join the masks first")
    regions = Regions(fitted > 0.5, None, (height, width)).traced("given mask", note=note)
    present = bool((fitted > 0.5).any())
    message = "" if present else "The mask is empty, so the picture is unchanged."
    return Found(regions, torch.tensor([present]), present, "", None, message, (note,) if note else ())


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
    nobody = torch.zeros(len(found.regions), dtype=torch.bool)
    return Result(
        image,
        image.clone(),
        empty,
        image[:0],
        empty,
        empty[:0],
        image.new_zeros(0),
        0,
        found.regions,
        nobody,
        report,
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


@contextmanager
def _noted() -> Iterator[list[str]]:
    """Collect our warnings as sentences for the report, and let every warning through."""
    notes: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always", InputWarning)
        show = warnings.showwarning

        def note(message: Any, category: Any, *rest: Any, **named: Any) -> None:
            if isinstance(message, InputWarning):
                notes.append(str(message))
            show(message, category, *rest, **named)

        warnings.showwarning = note
        yield notes
