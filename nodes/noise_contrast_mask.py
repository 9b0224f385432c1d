"""RetouchNoiseContrastMask: where two prompts would change the picture, by the model itself (methods.md 13; DiffEdit)."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..retouch_core.editing.contrast_maps import DRAWS, STRENGTH, check_draws
from ..retouch_core.regions.contrast import (
    BLUR,
    RATIO,
    check_contrast,
    contrast,
    difference,
    in_pixels,
    nothing,
)
from . import _host
from ._conditioning import check_conditioning, misfit
from ._contrast import level_of, maps_of
from ._latents import check_model, given_latent
from ._regions import check_number
from ._sampling import SEEDS
from ._types import schema

MAX_DRAWS = 100
MAX_BLUR = 16.0
CELL = 8
"""Pixels on a side of one latent cell where a host does not say."""


class RetouchNoiseContrastMask(io.ComfyNode):
    """Noise the latent, ask both prompts what lies under the noise, and keep where they disagree."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RetouchNoiseContrastMask",
            display_name="Noise Contrast Mask",
            description="Finds what to change without a segmenter or a scorer: where the model's predictions for what is "
            "there and for what shall be there differ most (DiffEdit).",
            search_aliases=["diffedit", "automatic mask", "difference mask", "text to mask", "text retouch"],
            inputs=[
                io.Model.Input("model", tooltip="The model that will edit; any picture model."),
                io.Latent.Input("latent", tooltip="The picture, from VAE Encode."),
                io.Conditioning.Input("referring", tooltip="What is there now; an empty prompt works too."),
                io.Conditioning.Input("target", tooltip="What shall be there."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=SEEDS - 1,
                    control_after_generate=True,
                    tooltip="Noise of the first draw; draw k uses seed + k.",
                ),
                io.Int.Input(
                    "draws",
                    default=DRAWS,
                    min=1,
                    max=MAX_DRAWS,
                    tooltip="How many draws of noise are averaged; each costs about as much as a sampling step.",
                ),
                io.Float.Input(
                    "strength",
                    default=STRENGTH,
                    min=0.01,
                    max=0.99,
                    step=0.01,
                    tooltip="How much noise: 0.5 as published. More finds whole things, less finds details.",
                ),
                io.Float.Input(
                    "ratio",
                    default=RATIO,
                    min=0.1,
                    max=20.0,
                    step=0.1,
                    tooltip="The mask holds cells that differ by more than half of this many times the mean; more keeps less.",
                ),
                io.Float.Input(
                    "blur",
                    default=BLUR,
                    min=0.0,
                    max=MAX_BLUR,
                    step=0.1,
                    advanced=True,
                    tooltip="Blur before the cut, in cells of the latent; 0 as published.",
                ),
            ],
            outputs=[
                io.Mask.Output("mask", tooltip="What the two prompts would change, in whole cells."),
                io.Mask.Output("heat", tooltip="How much they differ, the largest differences cut off."),
                io.String.Output("report", tooltip="How much of the picture, or why nothing."),
            ],
        )

    @classmethod
    @torch.no_grad()
    def execute(
        cls,
        model: Any,
        latent: Any,
        referring: Any,
        target: Any,
        seed: int = 0,
        draws: int = DRAWS,
        strength: float = STRENGTH,
        ratio: float = RATIO,
        blur: float = BLUR,
    ) -> io.NodeOutput:
        check_model(model)
        for name, conditioning in (("referring", referring), ("target", target)):
            check_conditioning(conditioning, name)
        check_number(seed, "seed", 0, SEEDS - 1, whole=True)
        check_number(strength, "strength", 0, 1)
        check_draws(strength, draws)
        check_number(draws, "draws", 1, MAX_DRAWS, whole=True)
        check_contrast(ratio, blur)
        check_number(blur, "blur", 0, MAX_BLUR)
        samples = latent.get("samples") if isinstance(latent, dict) else None
        pictures = given_latent(
            latent, model, len(samples) if isinstance(samples, Tensor) and samples.ndim else 1
        )
        if not len(pictures):
            raise ValueError("latent is a batch of no pictures; connect at least one")
        cell = int(getattr(model.get_model_object("latent_format"), "spacial_downscale_ratio", CELL))
        size = (pictures.shape[-2] * cell, pictures.shape[-1] * cell)
        sigmas = level_of(model, strength)
        bar = _host.progress(len(pictures) * draws)
        made, lines, total = [], [], [0]

        def tell(done: int) -> None:
            total[0] += done
            bar(total[0], len(pictures) * draws)

        for number, picture in enumerate(pictures.split(1), 1):
            _host.check_cancelled()
            try:
                maps = maps_of(model, picture, referring, target, sigmas, seed, draws, tell)
            except RuntimeError as error:
                told = misfit(error)
                if told is None:
                    raise
                raise told from error
            one = contrast(difference(*maps), ratio=ratio, blur=blur)
            made.append(in_pixels(one, size))
            share = 100 * float(one.mask.float().mean())
            which = f"Picture {number}: " if len(pictures) > 1 else ""
            said = f"{share:.1f} % of the picture, from {draws} draws at sigma {float(sigmas[0]):.3g}."
            lines.append(which + (said if one.mask.any() else nothing(one.mean)))
        heats, masks = (torch.cat(list(parts)) for parts in zip(*made, strict=True))
        return io.NodeOutput(_host.to_wire(masks.float()), _host.to_wire(heats), "\n".join(lines))
