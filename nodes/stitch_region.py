"""RetouchStitchRegion: an edited crop back in its picture, which stays as it was outside the mask."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..retouch_core.tensors.checks import check_image
from . import _crops, _host, _types
from .crop_region import check_crop


class RetouchStitchRegion(io.ComfyNode):
    """The inverse of RetouchCropRegion."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets."""
        return _types.schema(
            node_id="RetouchStitchRegion",
            display_name="Stitch Region",
            description="Puts edited crops back into their pictures at their own place and size. Outside the mask the "
            "result is the source bit for bit.",
            search_aliases=["inpaint stitch", "crop and stitch", "uncrop", "paste back", "text retouch"],
            inputs=[
                io.Image.Input(
                    "edited",
                    tooltip="The crops after the edit, at the size they came in: one for each, or several candidates for "
                    "each, one crop's after the other's.",
                ),
                _types.Crop.Input("crop", tooltip="From Crop Region."),
                io.Image.Input(
                    "source",
                    optional=True,
                    tooltip="Another picture of the same size to put them into; otherwise the one that was cropped.",
                ),
            ],
            outputs=[
                io.Image.Output("image", tooltip="The whole picture, one per candidate."),
                io.Mask.Output("mask", tooltip="Where it was taken from the edit."),
            ],
        )

    @classmethod
    def execute(cls, edited: Tensor, crop: Any, source: Any = None) -> io.NodeOutput:
        """Check and put back."""
        crops = check_crop(crop)
        edited = check_image(_host.rgb(edited), "edited")
        rows, (height, width) = len(crops.rows), crops.work
        if tuple(edited.shape[1:3]) != (height, width):
            raise ValueError(
                f"edited is {edited.shape[2]}x{edited.shape[1]} px but crop is {width}x{height}; "
                "scale edited to that size first"
            )
        if not len(edited) or len(edited) % rows:
            raise ValueError(
                f"edited holds {len(edited)} pictures but crop {rows} crops; give one for each, or as many for each"
            )
        if source is None:
            source = crops.source
        else:
            size, wanted = check_image(_host.rgb(source), "source").shape[1:3], crops.source.shape[1:3]
            if size != wanted:
                raise ValueError(
                    f"source is {size[1]}x{size[0]} px but crop was cut from {wanted[1]}x{wanted[0]}; "
                    "give a picture of that size, or none"
                )
            if len(source) not in (1, len(crops.plans)):
                raise ValueError(
                    f"source holds {len(source)} pictures but crop was cut from {len(crops.plans)}; "
                    "give one, or as many"
                )
        made, mask = _crops.stitched(crops, edited, source)
        return io.NodeOutput(_host.to_wire(made), _host.to_wire(mask))
