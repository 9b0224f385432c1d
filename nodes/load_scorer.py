"""RetouchLoadScorer: image-text models on disk, to find, to guide and to rank with."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ._pretrained import ANY, dtype_input, model_input, opened
from ._types import Scorer, schema

ROLE = "scorer"


class RetouchLoadScorer(io.ComfyNode):
    """One handle for everything that compares a picture with a phrase."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RetouchLoadScorer",
            display_name="Load Scorer",
            description="Loads an image-text model with both of its halves: what finds the region that a phrase means, leads "
            "the sampler, and ranks candidates. The host's own CLIP and CLIP vision go through Scorer from CLIP instead.",
            search_aliases=["clip", "open_clip", "siglip", "text image similarity", "text retouch"],
            inputs=[
                io.DynamicCombo.Input(
                    "backend",
                    options=[
                        io.DynamicCombo.Option(name, [model_input(ROLE, name)])
                        for name in ("open_clip", "clip", "siglip")
                    ],
                    tooltip="open_clip: folders of that library. clip: of transformers. siglip: SigLIP and SigLIP 2.",
                ),
                dtype_input(),
            ],
            outputs=[Scorer.Output("scorer", tooltip="Tells how well a region fits a phrase.")],
        )

    @classmethod
    def execute(cls, backend: dict[str, Any], dtype: str = ANY) -> io.NodeOutput:
        return io.NodeOutput(opened(ROLE, backend["backend"], backend.get("model", ANY), dtype))
