"""RetouchGuidance: losses on the picture that is forming, which lead the sampler besides the prompts."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..retouch_core.editing.clean_image import ESTIMATES
from ..retouch_core.editing.cutouts import CUTTINGS
from ..retouch_core.editing.loss_terms import (
    BOUND,
    CUTOUTS,
    GUIDED_SHARE,
    MAX_CUTOUTS,
    MAX_EVERY,
    PATHS,
    RDM_BACKGROUND,
    RDM_SCALE,
    UPDATES,
    WINDOWS,
    Guidance,
    LossTerms,
)
from ..retouch_core.editing.losses import DISTANCES
from ..retouch_core.tensors.checks import check_range
from . import _types
from ._latents import check_vae
from ._losses import check_guidance
from ._perceptual import check_perceptual, host_perceptual

MAX_WEIGHT = 1e6
"""S04 reports that weights of 1e5 to 1e6 make the edit spill; more means nothing."""


def _weight(name: str, default: float, tooltip: str, most: float = MAX_WEIGHT) -> Any:
    return io.Float.Input(name, default=default, min=0.0, max=most, step=0.05, round=0.0001, tooltip=tooltip)


class RetouchGuidance(io.ComfyNode):
    """CLIP guidance of the region and losses that keep the background (RDM eq. 7 and 8, S04, Blended Diffusion)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _types.schema(
            node_id="RetouchGuidance",
            display_name="Guidance",
            description=(
                "Losses on the picture that is forming: the region should look like a prompt, the background like the "
                "source. Their gradient moves every step of Region Sampler or Conditional CFG."
            ),
            search_aliases=[
                "clip guidance",
                "loss guidance",
                "lpips",
                "rdm",
                "blended diffusion",
                "text retouch",
            ],
            inputs=[
                _types.Scorer.Input("scorer", tooltip="Says how well the region fits the prompt."),
                io.String.Input(
                    "prompt", default="", multiline=True, tooltip="What the region should look like."
                ),
                _weight(
                    "scale", RDM_SCALE, "Multiplies all weights below; 0 switches guidance off. RDM uses 150."
                ),
                _weight("clip", 1.0, "Weight of the region's distance from the prompt."),
                _weight(
                    "perceptual",
                    RDM_BACKGROUND,
                    "Weight of the background's perceptual distance from the source: LPIPS of Load LPIPS, or with VGG "
                    "where that is on disk, else the scorer's features. The sampler's report says which.",
                ),
                _weight("l2", RDM_BACKGROUND, "Weight of the background's squared distance from the source."),
                _weight(
                    "value_range", 0.0, "Weight of what no picture can show. Blended Diffusion uses 0.05."
                ),
                io.Combo.Input(
                    "path",
                    options=list(PATHS),
                    default="detach_unet",
                    tooltip="Way of the gradient. detach_unet: through the VAE. full: through the model as well, slow. "
                    "tiny: through a small decoder. linear: colours only, nearly free. tiny_half: a small decoder at half size.",
                ),
                io.Combo.Input(
                    "distance",
                    options=list(DISTANCES),
                    default="cosine",
                    advanced=True,
                    tooltip="How the distance from the prompt is measured.",
                ),
                io.Int.Input(
                    "cutouts",
                    default=CUTOUTS,
                    min=1,
                    max=MAX_CUTOUTS,
                    advanced=True,
                    tooltip="Views of the region a step; more are steadier and slower.",
                ),
                io.Combo.Input(
                    "cutting",
                    options=list(CUTTINGS),
                    default="augment",
                    advanced=True,
                    tooltip="augment: the region and warped copies. crops: random squares of it, as RDM.",
                ),
                io.Combo.Input(
                    "estimate",
                    options=list(ESTIMATES),
                    default="x0",
                    advanced=True,
                    tooltip="What is looked at: the clean estimate, or its mixture with the noisy latent as in the "
                    "published codes.",
                ),
                io.Float.Input(
                    "bound",
                    default=BOUND,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    round=0.0001,
                    advanced=True,
                    tooltip="Largest change of one step, as a share of the estimate. 0 does not bound it.",
                ),
                io.Int.Input(
                    "every",
                    default=1,
                    min=1,
                    max=MAX_EVERY,
                    advanced=True,
                    tooltip="Guide each n-th step only.",
                ),
                io.Float.Input(
                    "until",
                    default=GUIDED_SHARE,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.001,
                    advanced=True,
                    tooltip="Share of the steps, from the first, that are guided.",
                ),
                io.Combo.Input(
                    "update",
                    options=list(UPDATES),
                    default="own",
                    advanced=True,
                    tooltip="Without a noise mask: own lets region terms act in the region and background terms outside; "
                    "everywhere lets all act anywhere.",
                ),
                io.Combo.Input(
                    "window",
                    options=list(WINDOWS),
                    default="region",
                    advanced=True,
                    tooltip="What is decoded for the losses: the region with a rim, or the whole frame.",
                ),
                _types.Guidance.Input(
                    "guidance",
                    optional=True,
                    tooltip="Terms to add these to; path and options are this node's.",
                ),
                io.Vae.Input(
                    "decoder",
                    optional=True,
                    tooltip="For the tiny paths: a small VAE, of Load VAE with taesd. Not needed where the VAE is one.",
                ),
                _types.Perceptual.Input(
                    "perceptual_distance",
                    optional=True,
                    tooltip="What perceptual weighs, of Load LPIPS. Left out: LPIPS where its VGG weights are on disk, else the "
                    "scorer's features.",
                ),
            ],
            outputs=[_types.Guidance.Output("guidance", tooltip="For Region Sampler or Conditional CFG.")],
        )

    @classmethod
    def execute(
        cls,
        scorer: Any,
        prompt: str,
        scale: float,
        clip: float,
        perceptual: float,
        l2: float,
        value_range: float,
        path: str,
        distance: str = "cosine",
        cutouts: int = CUTOUTS,
        cutting: str = "augment",
        estimate: str = "x0",
        bound: float = BOUND,
        every: int = 1,
        until: float = GUIDED_SHARE,
        update: str = "own",
        window: str = "region",
        guidance: Any = None,
        decoder: Any = None,
        perceptual_distance: Any = None,
    ) -> io.NodeOutput:
        """Terms with their options, joined to those that came."""
        if not hasattr(scorer, "encode_images"):
            raise TypeError(
                f"scorer must be a scorer, got {type(scorer).__name__}; connect Load Embedded Models, Load Scorer or Scorer from CLIP"
            )
        before, distinct = check_guidance(guidance), check_perceptual(perceptual_distance)
        if decoder is not None:
            check_vae(decoder)
        for name, value in (
            ("scale", scale),
            ("clip", clip),
            ("perceptual", perceptual),
            ("l2", l2),
            ("value_range", value_range),
        ):
            check_range(value, name, 0, MAX_WEIGHT, hint="0 switches it off")
        check_range(bound, "bound", 0, 10, hint="0.1 is usual, 0 does not bound")
        terms = LossTerms(
            prompt,
            scorer,
            (distinct or host_perceptual(scorer)) if perceptual else None,
            scale=scale,
            clip=clip,
            perceptual=perceptual,
            l2=l2,
            value_range=value_range,
            distance=distance,
            cutouts=cutouts,
            cutting=cutting,
        )
        mine = Guidance(
            (terms,),
            path=path,
            estimate=estimate,
            bound=bound or None,
            every=every,
            until=until,
            update=update,
            window=window,
            decoder=decoder,
        )
        return io.NodeOutput(mine.joined(before))
