"""One repaint: pictures and masks to latents, candidates of each, and back over the pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import comfy.samplers
import torch
from torch import Tensor

from ..retouch_core.editing.composite import composite
from ..retouch_core.editing.halving import Cut, cuts_of
from ..retouch_core.editing.loss_terms import Guidance
from ..retouch_core.report import plain
from ..retouch_core.tensors.checks import check_batches, check_image, check_range, clamped, fit_mask
from . import _conditioning, _host, _latents, _sampling
from ._guider import ConditionalCFGGuider, guider_of
from ._kept import Keep
from ._losses import HostLosses
from ._pruning import Pruning, over_source, sample_pruned

INPAINT_INPUTS = ["masked", "unmasked"]
MAX_CFG = 100.0
MAX_CANDIDATES = 64
MAX_STEPS = 10_000


@dataclass(frozen=True)
class Widgets:
    """The sampler's numbers, checked."""

    seed: int
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    denoise: float
    lam: float
    candidates: int
    inpaint_input: str

    def __post_init__(self) -> None:
        for name in ("seed", "steps", "candidates"):
            value = getattr(self, name)
            if not isinstance(value, int):
                raise TypeError(f"{name} must be a whole number, got {value!r}; use 1 or more")
        for name in ("cfg", "denoise", "lam"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)):
                raise TypeError(f"{name} must be a number, got {value!r}; choose one in its range")
        check_range(self.steps, "steps", 1, MAX_STEPS, hint="try 20")
        check_range(self.candidates, "candidates", 1, MAX_CANDIDATES, hint="try 4")
        check_range(self.cfg, "cfg", 0, MAX_CFG, hint="1 is without guidance, 3 to 8 is usual")
        check_range(self.lam, "lam", 0, 1, hint="0 is plain guidance, 1 replaces empty by referring")
        check_range(self.denoise, "denoise", 0, 1, hint="1 repaints, less keeps more of what is there")
        if 0 < self.denoise < self.steps / _sampling.MAX_SCHEDULE:
            raise ValueError(f"denoise is {self.denoise!r}, less than a step; use 0 or at least 0.01")
        for name, known in (
            ("sampler", comfy.samplers.KSampler.SAMPLERS),
            ("scheduler", comfy.samplers.KSampler.SCHEDULERS),
            ("inpaint_input", INPAINT_INPUTS),
        ):
            value = getattr(self, name)
            if value not in known:
                label = "sampler_name" if name == "sampler" else name
                raise ValueError(f"{label} {value!r} is unknown to this host; choose one of its list")


@dataclass(frozen=True)
class Scene:
    """P pictures and where to repaint them.

    image: [P,H,W,3] as it came, for the composite; mask: [1,H,W] or [P,H,W] soft; frame: padded size in pixels;
    latents: [P,C,(T,)h,w]; soft: [P,1,h,w], the largest mask value of each cell; cells: the same in {0,1}.
    """

    image: Tensor
    mask: Tensor
    frame: tuple[int, int]
    cell: int
    latents: Tensor
    soft: Tensor

    @property
    def cells(self) -> Tensor:
        """[P,1,h,w] in {0,1}: 1 where anything of the cell is to be repainted."""
        return (self.soft > 0).to(self.soft)

    def of_rows(self, planes: Tensor, pictures: list[int]) -> Tensor:
        """One of our batches, of 1 or P, with the picture of each row."""
        return planes if len(planes) == 1 else planes[pictures]


def prepare(image: Tensor, mask: Tensor, model: Any, vae: Any, latent: Any, notes: list[str]) -> Scene:
    """Check what came, fit it together and encode it."""
    image = check_image(_host.rgb(image) if isinstance(image, Tensor) else image)
    _latents.check_model(model)
    _latents.check_vae(vae)
    _latents.check_pair(model, vae)
    fitted, note = fit_mask(mask, (image.shape[1], image.shape[2]), picture="image")
    if note:
        notes.append(note)
    if not (len(image) and len(fitted)):
        empty = "mask" if len(image) else "image"
        raise ValueError(f"{empty} is a batch of no pictures; connect at least one")
    check_batches(len(image), len(fitted))
    pictures = max(len(image), len(fitted))
    image = image.expand(pictures, -1, -1, -1)
    fitted = fitted.clamp(0, 1).float().to(image.device)

    cell, patch = _latents.cell_of(vae), _latents.patch_of(model)
    given = None if latent is None else _latents.given_latent(latent, model, pictures)
    frame = _latents.frame_of((image.shape[1], image.shape[2]), cell, patch, given)
    if given is None:
        given = _latents.encode(vae, model, _latents.padded(clamped(image, "image"), *frame))
    # At the size of the latent that came, not of the frame: some autoencoders keep a border.
    soft = _latents.cell_values(_latents.padded(fitted, *frame), cell, patch)
    soft = soft.expand(pictures, -1, -1, -1).to(given.device)
    if soft.shape[-2:] != given.shape[-2:]:
        raise ValueError(
            f"vae made a latent of {list(given.shape[-2:])} cells for an image of {list(soft.shape[-2:])}; "
            "use the VAE that belongs to the model"
        )
    return Scene(image, fitted, frame, cell, given, soft)


def shown_picture(scene: Scene, model: Any, vae: Any, inpaint_input: str) -> Tensor:
    """Latents [P,C,...] of what an inpainting network sees: the picture, opened pixels grey unless `unmasked`."""
    picture = _latents.padded(scene.image.clamp(0, 1), *scene.frame)
    if inpaint_input == "masked":
        hidden = _latents.in_pixels(scene.cells, scene.cell)[:, 0, :, :, None].to(picture)
        picture = torch.where(hidden > 0, _latents.FILL_GREY, picture)
    return _latents.encode(vae, model, picture)


class Repainted(NamedTuple):
    """Latents [N,C,...], the picture of each row, picture after picture, how many rows went in one call, and, where some
    were given up, how many steps each candidate lived."""

    samples: Tensor
    rows: list[int]
    size: int
    lived: list[int] | None


def repaint(
    scene: Scene,
    model: Any,
    vae: Any,
    conds: list[Any],
    widgets: Widgets,
    notes: list[str],
    guidance: Guidance | None = None,
    pruning: Pruning | None = None,
) -> Repainted:
    """Sample the candidates of every picture whose mask opens anything, led by the losses of `guidance` if any.

    With `pruning` only the most promising candidates of each picture run through all of the steps.
    """
    opened = [k for k in range(len(scene.latents)) if scene.cells[k].any()]
    pictures = [k for k in opened for _ in range(widgets.candidates)]
    seeds = [_sampling.seed_of(widgets.seed, k) for _ in opened for k in range(widgets.candidates)]
    source, cells = scene.latents[pictures], scene.cells[pictures]
    sigmas = _sampling.sigmas_for(model, widgets.sampler, widgets.scheduler, widgets.steps, widgets.denoise)
    shown = None
    if _conditioning.takes_picture(model):
        if any(_conditioning.has_picture(cond) for cond in conds if cond is not None):
            notes.append(
                "the conditionings bring a picture for the inpainting model; inpaint_input was not used there"
            )
        shown = shown_picture(scene, model, vae, widgets.inpaint_input)[pictures]

    # With a mask function of the artist's own, soft values say when a cell opens; otherwise it is open or not.
    own = "denoise_mask_function" in model.model_options
    strict = _sampling.keeping_closed(model)
    mask = _latents.like_latent(scene.soft[pictures] if own else cells, source)

    def guider_for(rows: Sequence[int]) -> ConditionalCFGGuider:
        part = list(rows)
        held = conds
        if shown is not None:
            seen, hole = shown[part], _latents.like_latent(cells, source)[part]
            held = [cond and _conditioning.with_picture(cond, seen, hole) for cond in conds]
        target, referring, empty = held
        losses = None
        if guidance is not None:
            shares = scene.mask.expand(len(scene.image), -1, -1)
            losses = HostLosses(guidance, vae, scene.image, shares, [pictures[k] for k in part])
        guider = guider_of(strict, target, referring, empty, widgets.cfg, widgets.lam, losses)
        guider.schedule = sigmas
        return guider

    def judge(estimates: Tensor, rows: Sequence[int]) -> Tensor:
        assert pruning is not None
        part = list(rows)
        made = model.model.process_latent_out(estimates.float())
        made = torch.where(_latents.like_latent(cells[part], source) > 0, made.to(source), source[part])
        frame = (scene.image.shape[1], scene.image.shape[2])
        found = []
        for picture in dict.fromkeys(pictures[k] for k in part):
            mine = [place for place, k in enumerate(part) if pictures[k] == picture]
            before = scene.image[picture : picture + 1].clamp(0, 1)
            area = scene.of_rows(scene.mask, [picture])
            painted = torch.cat([_latents.decode(vae, made[k : k + 1], frame) for k in mine])
            found.append(pruning.scores(before, over_source(before, painted, area), area).cpu())
        return torch.cat(found)

    whole = bool((mask == 1).all())
    cuts: tuple[Cut, ...] = ()
    if pruning is not None and source.ndim == 4:
        cuts = cuts_of(pruning.points, len(sigmas) - 1, widgets.candidates)
    elif pruning is not None:
        notes.append("pruning ranks pictures, not video, so every candidate was painted to the end")
    try:
        done = sample_pruned(
            strict,
            guider_for,
            source,
            None if whole else mask,
            seeds,
            pictures,
            widgets.sampler,
            sigmas,
            cuts,
            judge,
        )
    except RuntimeError as error:
        told = _conditioning.misfit(error)
        if told is None:
            raise
        raise told from error
    samples, alive = done.samples, done.rows
    _conditioning.finite(samples, sigmas, widgets.cfg)
    opened_cells = _latents.like_latent(cells[alive], source)
    samples = torch.where(opened_cells > 0, samples.to(source), source[alive])
    return Repainted(samples, [pictures[k] for k in alive], done.size, done.lived if cuts else None)


def paste(
    scene: Scene, vae: Any, samples: Tensor, pictures: list[int], size: int, keep: Keep | None = None
) -> tuple[Tensor, Tensor]:
    """Decode latents [N,C,...] and lay them over the pictures.

    Returns:
        IMAGE [N,H,W,3], or [N*T,H,W,3] for T frames, and the MASK of each, or the one of all.
    """
    made: list[Tensor] = []
    masks: list[Tensor] = []
    restored: dict[int, Tensor] = {}
    height, width = scene.image.shape[1:3]
    for first in range(0, len(samples), size):
        _host.check_cancelled()
        part, of = samples[first : first + size], pictures[first : first + size]
        painted = _latents.decode(vae, part, (height, width))
        rows = [k for k in of for _ in range(len(painted) // len(part))]
        source = scene.image[rows]
        mask = scene.of_rows(scene.mask, rows).to(source)
        if keep is not None:
            for k in {*of} - {*restored}:
                restored[k] = _latents.decode(vae, scene.latents[k : k + 1], (height, width)).to(painted)
            before = torch.cat([restored[k] for k in of])
            mask = keep.of(mask, painted, before, rows)
            masks.append(mask)
            painted = keep.detailed(painted, before, source)
        made.append(composite(source, painted, mask))
    return torch.cat(made), torch.cat(masks) if masks else scene.mask


def union_of(scene: Scene, masks: Tensor, pictures: list[int]) -> Tensor:
    """MASK [P,H,W] of what any candidate of each picture took of [N*T,H,W]; nothing where there is none."""
    frames = len(masks) // max(1, len(pictures))
    out = masks.new_zeros(len(scene.image), *masks.shape[1:])
    for mask, k in zip(masks, (k for k in pictures for _ in range(frames)), strict=True):
        out[k] = torch.maximum(out[k], mask)
    return out


def report_of(
    scene: Scene,
    widgets: Widgets,
    taken: Tensor,
    made: int,
    size: int,
    notes: list[str],
    guidance: Guidance | None = None,
    lived: list[int] | None = None,
) -> str:
    """What was done, to read and to repeat: a sentence, then the values as JSON."""
    share = float((taken > 0).float().mean())
    height, width = scene.image.shape[1:3]
    calls = math.ceil(made / size) if size else 0
    said = f"{made} candidates of {width}x{height} px in {calls} calls; the mask covers {100 * share:.1f} %."
    values = {
        **vars(widgets),
        "batch_size": size,
        "calls": calls,
        "mask_share": share,
        "cells_open": float(scene.cells.mean()),
        "padded_to": list(scene.frame),
        "notes": list(dict.fromkeys(notes)),
    }
    if lived is not None:
        values["steps_lived"] = lived
        said += f" {len(lived) - made} more were given up on the way."
    if guidance is not None:
        values["guidance"] = guidance.described()
    return said + "\n" + json.dumps(plain(values), indent=2, ensure_ascii=False)
