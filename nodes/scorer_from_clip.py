"""RetouchScorerFromCLIP: scores from the host's own CLIP and CLIP_VISION."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ._scorer import scorer_from_pair
from ._types import Scorer, schema


class RetouchScorerFromCLIP(io.ComfyNode):
    """One idea: two models that ComfyUI loads anyway, seen as the scorer that finds and ranks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RetouchScorerFromCLIP",
            display_name="Scorer from CLIP",
            description=(
                "Makes a scorer from a CLIP text encoder and the CLIP vision model of the same training, for photographs "
                "and every word that CLIP knows."
            ),
            search_aliases=["clip score", "clip vision", "text image similarity", "text retouch"],
            inputs=[
                io.Clip.Input(
                    "clip", tooltip="The text half, with its projection: clip_l.safetensors, for example."
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    tooltip="The image half of the same training: CLIP-ViT-L-14 goes with clip_l.",
                ),
            ],
            outputs=[Scorer.Output("scorer", tooltip="Tells how well a region fits a phrase.")],
        )

    @classmethod
    def execute(cls, clip: Any, clip_vision: Any) -> io.NodeOutput:
        return io.NodeOutput(scorer_from_pair(clip, clip_vision))
