"""RetouchLoadAttention: self-supervised image transformers on disk, which say where learnable regions look."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ._pretrained import ANY, dtype_input, model_input, opened
from ._types import Attention, schema

ROLE = "attention"


class RetouchLoadAttention(io.ComfyNode):
    """DINO, as in the paper of learnable regions (S01), or DINOv2."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RetouchLoadAttention",
            display_name="Load Attention",
            description="Loads DINO or DINOv2, whose attention says where Learn Region tries its boxes. The published method "
            "takes DINO; without this node the scorer's own image tower takes its place.",
            search_aliases=["dino", "dinov2", "attention", "learnable regions", "text retouch"],
            inputs=[
                io.DynamicCombo.Input(
                    "backend",
                    options=[
                        io.DynamicCombo.Option(name, [model_input(ROLE, name)]) for name in ("dino", "dinov2")
                    ],
                    tooltip="dino: what the paper takes, ViT-B/8 as published. dinov2: newer and larger patches.",
                ),
                dtype_input(),
            ],
            outputs=[Attention.Output("attention", tooltip="For Learn Region.")],
        )

    @classmethod
    def execute(cls, backend: dict[str, Any], dtype: str = ANY) -> io.NodeOutput:
        return io.NodeOutput(opened(ROLE, backend["backend"], backend.get("model", ANY), dtype))
