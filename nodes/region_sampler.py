"""RetouchRegionSampler: repaint what the mask opens, several times over, with any checkpoint of the host."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import comfy.samplers
import torch
from comfy_api.latest import io
from torch import Tensor

from ..retouch_core.editing.composite import composite
from ..retouch_core.report import plain
from ..retouch_core.tensors.checks import check_batches, check_image, check_range, clamped, fit_mask
from . import _conditioning, _host, _latents, _sampling, _types
from ._guider import ConditionalCFGGuider, guider_of

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


def repaint(
    scene: Scene, model: Any, vae: Any, conds: list[Any], widgets: Widgets, notes: list[str]
) -> tuple[Tensor, list[int], int]:
    """Sample the candidates of every picture whose mask opens anything.

    Returns:
        latents [N,C,...], the picture of each row, picture after picture, and how many rows went in one call.
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

    def guider_for(rows: range) -> ConditionalCFGGuider:
        part = slice(rows.start, rows.stop)
        held = conds
        if shown is not None:
            seen, hole = shown[part], _latents.like_latent(cells, source)[part]
            held = [cond and _conditioning.with_picture(cond, seen, hole) for cond in conds]
        target, referring, empty = held
        return guider_of(strict, target, referring, empty, widgets.cfg, widgets.lam)

    whole = bool((mask == 1).all())
    try:
        samples, size = _sampling.sample_rows(
            strict, guider_for, source, None if whole else mask, seeds, widgets.sampler, sigmas
        )
    except RuntimeError as error:
        told = _conditioning.misfit(error)
        if told is None:
            raise
        raise told from error
    _conditioning.finite(samples, sigmas, widgets.cfg)
    return torch.where(_latents.like_latent(cells, source) > 0, samples.to(source), source), pictures, size


def paste(scene: Scene, vae: Any, samples: Tensor, pictures: list[int], size: int) -> Tensor:
    """Decode latents [N,C,...] and lay them over the pictures: IMAGE [N,H,W,3], or [N*T,H,W,3] for T frames."""
    made: list[Tensor] = []
    height, width = scene.image.shape[1:3]
    for first in range(0, len(samples), size):
        _host.check_cancelled()
        part = samples[first : first + size]
        painted = _latents.decode(vae, part, (height, width))
        rows = [k for k in pictures[first : first + size] for _ in range(len(painted) // len(part))]
        source = scene.image[rows]
        made.append(composite(source, painted, scene.of_rows(scene.mask, rows).to(source)))
    return torch.cat(made)


class RetouchRegionSampler(io.ComfyNode):
    """Candidates for one region, the rest of the picture kept bit for bit."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets; KSampler's by their names and in their order."""
        samplers, schedulers = comfy.samplers.KSampler.SAMPLERS, comfy.samplers.KSampler.SCHEDULERS
        return _types.schema(
            node_id="RetouchRegionSampler",
            display_name="Region Sampler",
            description="Repaints what the mask covers with any checkpoint, several candidates at once, and pastes them "
            "into the picture: outside the mask nothing changes, not by one bit.",
            search_aliases=["inpaint", "ksampler", "masked sampler", "region", "candidates", "text retouch"],
            inputs=[
                io.Image.Input("image", tooltip="The picture. Each picture of a batch is edited by itself."),
                io.Mask.Input(
                    "mask",
                    tooltip="Where to repaint: cells of the latent with anything above 0 are repainted, and the result is "
                    "laid over the picture by the mask's soft values. One mask, or one for each picture.",
                ),
                io.Model.Input(
                    "model", tooltip="Any picture model; inpainting checkpoints are shown the masked picture."
                ),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model."),
                io.Conditioning.Input("target", tooltip="What shall be there."),
                io.Conditioning.Input(
                    "referring",
                    optional=True,
                    tooltip="What is there now; guidance leads away from it where λ is above 0.",
                ),
                io.Conditioning.Input(
                    "empty",
                    optional=True,
                    tooltip="The negative prompt, usually blank; used where λ is below 1.",
                ),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="Start from this instead of encoding the picture; of the same size.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=_sampling.SEEDS - 1,
                    control_after_generate=True,
                    tooltip="Noise of the first candidate; candidate k uses seed + k.",
                ),
                io.Int.Input("steps", default=20, min=1, max=MAX_STEPS, tooltip="Sampling steps."),
                io.Float.Input(
                    "cfg",
                    default=3.0,
                    min=0.0,
                    max=MAX_CFG,
                    step=0.1,
                    round=0.01,
                    tooltip="How strongly to follow the target; 1 needs neither referring nor empty and is fastest.",
                ),
                io.Combo.Input(
                    "sampler_name", options=samplers, default="euler", tooltip="Any sampler of the host."
                ),
                io.Combo.Input(
                    "scheduler",
                    options=schedulers,
                    default="simple",
                    tooltip="How noise falls over the steps.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="1 repaints the region; less keeps more of what is there.",
                ),
                io.Float.Input(
                    "lam",
                    display_name="λ",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="0: plain guidance against empty. 1: against referring. Between: a mix of both.",
                ),
                io.Int.Input(
                    "candidates",
                    default=4,
                    min=1,
                    max=MAX_CANDIDATES,
                    tooltip="How many to make; as many at once as memory allows.",
                ),
                io.Combo.Input(
                    "inpaint_input",
                    options=INPAINT_INPUTS,
                    default="masked",
                    advanced=True,
                    tooltip="What an inpainting checkpoint sees of the region: grey, or the original picture.",
                ),
            ],
            outputs=[
                io.Image.Output("candidates", tooltip="One picture per candidate, finished."),
                io.Latent.Output(
                    "latent",
                    tooltip="The candidates before decoding, with the repainted cells as noise mask.",
                ),
                io.Mask.Output(
                    "mask", tooltip="The mask that the candidates were laid over the picture with."
                ),
                io.String.Output("report", tooltip="Seed, steps, sampler, batch size, and what was noticed."),
            ],
        )

    @classmethod
    @torch.no_grad()
    def execute(
        cls,
        image: Tensor,
        mask: Tensor,
        model: Any,
        vae: Any,
        target: Any,
        referring: Any = None,
        empty: Any = None,
        latent: Any = None,
        seed: int = 0,
        steps: int = 20,
        cfg: float = 3.0,
        sampler_name: str = "euler",
        scheduler: str = "simple",
        denoise: float = 1.0,
        lam: float = 0.0,
        candidates: int = 4,
        inpaint_input: str = "masked",
    ) -> io.NodeOutput:
        """Encode, sample inside the mask, decode and paste."""
        widgets = Widgets(seed, steps, cfg, sampler_name, scheduler, denoise, lam, candidates, inpaint_input)
        conds = [target, referring, empty]
        for name, cond in zip(("target", "referring", "empty"), conds, strict=True):
            if cond is not None or name == "target":
                _conditioning.check_conditioning(cond, name)
        with _host.noted() as notes:
            scene = prepare(image, mask, model, vae, latent, notes)
            if scene.cells.any():
                samples, pictures, size = repaint(scene, model, vae, conds, widgets, notes)
                made = paste(scene, vae, samples, pictures, size)
            else:
                notes.append("the mask is empty, so image comes back unchanged; nothing was sampled")
                samples, pictures, size = scene.latents, list(range(len(scene.latents))), 0
                made = scene.image
        opened = _latents.in_pixels(scene.cells, scene.cell)[pictures]
        pasted = scene.of_rows(scene.mask, pictures)
        return io.NodeOutput(
            _host.to_wire(made),
            {"samples": samples, "noise_mask": opened},
            _host.to_wire(pasted),
            report_of(scene, widgets, len(made) if size else 0, size, notes),
        )


def report_of(scene: Scene, widgets: Widgets, made: int, size: int, notes: list[str]) -> str:
    """What was done, to read and to repeat: a sentence, then the values as JSON."""
    share = float((scene.mask > 0).float().mean())
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
    return said + "\n" + json.dumps(plain(values), indent=2, ensure_ascii=False)
