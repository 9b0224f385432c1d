"""RetouchLoadPerceptual: LPIPS from weights on disk, once for every graph that is guided by it."""

from __future__ import annotations

from comfy_api.latest import io

from ._perceptual import loaded_lpips
from ._pretrained import ANY, model_input
from ._types import Perceptual, schema


class RetouchLoadPerceptual(io.ComfyNode):
    """LPIPS (Zhang et al. 2018) with the backbone of the chosen file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RetouchLoadPerceptual",
            display_name="Load LPIPS",
            description="Loads LPIPS, with which Guidance weighs how different the background looks from the source.",
            search_aliases=["lpips", "perceptual loss", "perceptual distance", "vgg", "text retouch"],
            inputs=[model_input("perceptual", "lpips")],
            outputs=[Perceptual.Output("perceptual", tooltip="For Guidance.")],
        )

    @classmethod
    def execute(cls, model: str = ANY) -> io.NodeOutput:
        return io.NodeOutput(loaded_lpips("" if model == ANY else model))
