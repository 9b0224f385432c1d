"""RetouchCropRegion: the region with its surroundings, at the size that the model wants."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..retouch_core.editing.crop_plans import CONTEXT, MAX_CONTEXT, MAX_ENLARGE, MAX_SIDE, WorkSize
from . import _crops, _host, _types

ASPECTS: dict[str, float | None] = {
    "square": 1.0,
    "free": None,
    "4:3": 4 / 3,
    "3:4": 3 / 4,
    "3:2": 3 / 2,
    "2:3": 2 / 3,
    "16:9": 16 / 9,
    "9:16": 9 / 16,
}
PARTS = ["together", "apart"]


class RetouchCropRegion(io.ComfyNode):
    """Cut a region out for a sampler; RetouchStitchRegion puts it back."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return _types.schema(
            node_id="RetouchCropRegion",
            display_name="Crop Region",
            description="Cuts the masked region out with its surroundings, at the size a model works best on, so that a "
            "small change in a huge picture costs what the region costs. Stitch Region puts the result back.",
            search_aliases=["inpaint crop", "crop and stitch", "crop by mask", "detailer", "text retouch"],
            inputs=[
                io.Image.Input("image", tooltip="The picture, or several; each gets its own crop."),
                io.Mask.Input(
                    "mask",
                    tooltip="What is to be changed, and by its soft values how the result is laid over the picture. One "
                    "mask, or one for each picture.",
                ),
                io.Int.Input(
                    "size",
                    default=1024,
                    min=0,
                    max=MAX_SIDE,
                    step=8,
                    tooltip="Side of a square that the model was trained on: 512 for SD1.5, 1024 for most others. Nothing is "
                    "scaled where the region fits. 0: as large as region and context are, never scaled.",
                ),
                io.Float.Input(
                    "context",
                    default=CONTEXT,
                    min=0.0,
                    max=MAX_CONTEXT,
                    step=0.05,
                    tooltip="Surroundings on every side, as a share of the region's longer side.",
                ),
                io.Int.Input(
                    "multiple",
                    default=64,
                    min=1,
                    max=256,
                    tooltip="Both sides of the crop are multiples of it: 8 for SD1.5, 64 for SDXL, 16 for most others.",
                ),
                io.Combo.Input(
                    "aspect",
                    options=list(ASPECTS),
                    default="square",
                    tooltip="Width to height of the crop, with as many pixels as the square; free follows the region.",
                ),
                io.Combo.Input(
                    "parts",
                    options=PARTS,
                    default="together",
                    tooltip="together: one crop around the whole mask. apart: far-apart parts of the mask get a crop each, "
                    "one after the other in the batch.",
                ),
                io.Float.Input(
                    "enlarge",
                    default=1.0,
                    min=1.0,
                    max=MAX_ENLARGE,
                    step=0.1,
                    advanced=True,
                    tooltip="How many times a small region may be enlarged to fill the crop; 1 never enlarges.",
                ),
            ],
            outputs=[
                io.Image.Output("image", tooltip="The crops, all of one size."),
                io.Mask.Output("mask", tooltip="The mask of each crop."),
                _types.Crop.Output("crop", tooltip="What Stitch Region needs to put the result back."),
                io.String.Output("report", tooltip="Where each crop lies, and by what it was scaled."),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        mask: Tensor,
        size: int = 1024,
        context: float = CONTEXT,
        multiple: int = 64,
        aspect: str = "square",
        parts: str = "together",
        enlarge: float = 1.0,
    ) -> io.NodeOutput:
        """Plan, cut and report."""
        for name, value, known in (("aspect", aspect, list(ASPECTS)), ("parts", parts, PARTS)):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r:.60}; choose one")
        want = WorkSize(size or None, multiple, ASPECTS[aspect], context, enlarge)
        notes: list[str] = []
        crops = _crops.cut(image, mask, want, parts == "apart", notes)
        if not crops.mask.any():
            notes.append(
                "the mask is empty, so the whole picture is shown and nothing of it will be replaced"
            )
        said = [crops.told(), *(f"Note: {note}." for note in notes)]
        return io.NodeOutput(
            _host.to_wire(crops.images()), _host.to_wire(crops.masks()), crops, "\n".join(said)
        )


def check_crop(crop: Any) -> _crops.Crops:
    """Return `crop` if it comes from Crop Region, else raise TypeError."""
    if not isinstance(crop, _crops.Crops):
        raise TypeError(
            f"crop must come from Crop Region, got {type(crop).__name__}; connect its crop output"
        )
    return crop
