"""RetouchConditionalCFG: guidance away from what is there now, for the artist's own sampler graph."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..retouch_core.tensors.checks import check_range
from . import _host
from ._conditioning import check_conditioning
from ._guider import guider_of
from ._latents import check_model
from ._losses import losses_of
from ._types import Guidance, schema

MAX_CFG = 100.0


class RetouchConditionalCFG(io.ComfyNode):
    """The referring prompt in the place of the empty one (ROM, section 4.4)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RetouchConditionalCFG",
            display_name="Conditional CFG",
            description=(
                "A guider for SamplerCustomAdvanced that leads towards the target and away from a mix of the empty prompt "
                "and of what is there now."
            ),
            search_aliases=["guider", "classifier-free guidance", "negative prompt", "dual cfg", "referring"],
            inputs=[
                io.Model.Input("model", tooltip="Any model; its own hooks keep working."),
                io.Conditioning.Input("target", tooltip="What should appear."),
                io.Conditioning.Input(
                    "referring", optional=True, tooltip="What is there now; used where λ is above 0."
                ),
                io.Conditioning.Input(
                    "empty", optional=True, tooltip="The empty (or negative) prompt; used where λ is below 1."
                ),
                io.Float.Input(
                    "cfg",
                    default=3.0,
                    min=0.0,
                    max=MAX_CFG,
                    step=0.1,
                    round=0.01,
                    tooltip="Guidance scale; 1 means no guidance and half the time.",
                ),
                io.Float.Input(
                    "lam",
                    display_name="λ",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.001,
                    tooltip="Share of the referring prompt in what guidance leads away from: 0 is plain guidance, 1 is ROM's.",
                ),
                Guidance.Input(
                    "guidance",
                    optional=True,
                    tooltip="Losses that lead the sampler besides the prompts; needs vae, image and mask too.",
                ),
                io.Vae.Input(
                    "vae", optional=True, tooltip="With guidance: the VAE that belongs to the model."
                ),
                io.Image.Input(
                    "image", optional=True, tooltip="With guidance: the picture whose latent is sampled."
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="With guidance: the region that its prompt means."
                ),
            ],
            outputs=[io.Guider.Output("guider", tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        target: Any,
        cfg: float,
        lam: float,
        referring: Any = None,
        empty: Any = None,
        guidance: Any = None,
        vae: Any = None,
        image: Any = None,
        mask: Any = None,
    ) -> io.NodeOutput:
        """A guider that is ready to sample."""
        check_model(model)
        for name, conditioning in (("target", target), ("referring", referring), ("empty", empty)):
            if conditioning is not None or name == "target":
                check_conditioning(conditioning, name)
        check_range(cfg, "cfg", 0, MAX_CFG, hint="1 is without guidance, 3 to 8 is usual")
        check_range(lam, "lam", 0, 1, hint="0 is plain guidance, 1 replaces empty by referring")
        with _host.noted():  # a scale below 1 is unusual, but it is what the widget says
            losses = losses_of(guidance, vae, image, mask)
            return io.NodeOutput(guider_of(model, target, referring, empty, cfg, lam, losses))
