"""RetouchRegionSampler: repaint what the mask opens, several times over, with any checkpoint of the host."""

from __future__ import annotations

from typing import Any

import comfy.samplers
import torch
from comfy_api.latest import io
from torch import Tensor

from . import _conditioning, _crops, _host, _latents, _types
from ._kept import CHANGE_MIN, Keep, keep_of
from ._kept import inputs as kept_inputs
from ._losses import check_guidance
from ._pruning import check_pruning
from ._repaint import (
    INPAINT_INPUTS,
    MAX_CANDIDATES,
    MAX_CFG,
    MAX_STEPS,
    Widgets,
    paste,
    prepare,
    repaint,
    report_of,
    union_of,
)
from ._sampling import SEEDS


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
                    max=SEEDS - 1,
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
                *kept_inputs(),
                _types.Guidance.Input(
                    "guidance",
                    optional=True,
                    tooltip="Losses that lead the sampler besides the prompts; of Retouch Guidance.",
                ),
                io.Combo.Input(
                    "work_size",
                    options=_crops.WORK_SIZES,
                    default=_crops.FULL,
                    optional=True,
                    advanced=True,
                    tooltip="full: the whole picture. auto or a number of pixels: a crop of that size around the mask, cut "
                    "out before and put back after sampling, so that a huge picture costs what the region costs; "
                    "auto takes the model's own size. latent is then of the crop.",
                ),
                _types.Pruning.Input(
                    "pruning",
                    optional=True,
                    tooltip="Makes many candidates for less: the less promising are given up on the way; of Prune "
                    "Candidates.",
                ),
            ],
            outputs=[
                io.Image.Output("candidates", tooltip="One picture per candidate, finished."),
                io.Latent.Output(
                    "latent",
                    tooltip="The candidates before decoding, with the repainted cells as noise mask; of the crops where "
                    "work_size is not full.",
                ),
                io.Mask.Output(
                    "mask",
                    tooltip="The mask that the candidates were laid over the picture with; where region tightens it, what "
                    "any of them took.",
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
        region: Any = None,
        change_min: float = CHANGE_MIN,
        guidance: Any = None,
        work_size: str = _crops.FULL,
        pruning: Any = None,
    ) -> io.NodeOutput:
        """Encode, sample inside the mask, decode and paste."""
        widgets = Widgets(seed, steps, cfg, sampler_name, scheduler, denoise, lam, candidates, inpaint_input)
        conds = [target, referring, empty]
        guidance, pruning = check_guidance(guidance), check_pruning(pruning)
        for name, cond in zip(("target", "referring", "empty"), conds, strict=True):
            if cond is not None or name == "target":
                _conditioning.check_conditioning(cond, name)
        with _host.noted() as notes:
            crops = _crops.for_sampler(image, mask, work_size, model, vae, notes)
            if crops is None:
                scene = prepare(image, mask, model, vae, latent, notes)
                pictures, frame, pasted = len(scene.image), (image.shape[1], image.shape[2]), scene.mask
            else:
                scene = prepare(crops.images(), crops.masks(), model, vae, latent, notes)
                pictures, frame, pasted = len(crops.source), (image.shape[1], image.shape[2]), crops.mask
            keep = keep_of(region, change_min, pictures, frame, notes)
            if scene.cells.any():
                samples, rows, size, lived = repaint(
                    scene, model, vae, conds, widgets, notes, guidance, pruning
                )
                if crops is None:
                    made, taken = paste(scene, vae, samples, rows, size, keep)
                    pasted, of = union_of(scene, taken, rows) if keep else taken, rows
                else:
                    keep = keep and Keep(crops.masks(keep.region), keep.least)
                    made, pasted, of = _crops.paste_crops(
                        crops, vae, scene.latents, samples, rows, size, keep
                    )
            else:
                notes.append("the mask is empty, so image comes back unchanged; nothing was sampled")
                samples, rows, size, lived = scene.latents, list(range(len(scene.latents))), 0, None
                made, of = scene.image if crops is None else crops.source[..., :3], rows
        opened = _latents.in_pixels(scene.cells, scene.cell)[rows]
        return io.NodeOutput(
            _host.to_wire(made),
            {"samples": samples, "noise_mask": opened},
            _host.to_wire(scene.of_rows(pasted, of)),
            report_of(scene, widgets, pasted, len(made) if size else 0, size, notes, guidance, lived),
        )
