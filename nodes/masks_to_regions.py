"""RetouchMasksToRegions: masks of another pack, of the core's SAM3 or of a brush, as regions."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..retouch_core.tensors.checks import check_image, check_mask, fit_mask
from ..retouch_core.tensors.regions import Regions as FoundRegions
from . import _host
from ._regions import overlay, union
from ._types import Regions, schema

ON = 0.5
"""A soft mask holds a pixel from above this value on."""


class RetouchMasksToRegions(io.ComfyNode):
    """One region for each mask of the batch that is not empty."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RetouchMasksToRegions",
            display_name="Masks to Regions",
            description="Takes a batch of masks (SAM3 with individual masks, a brush, another pack) as the regions to search.",
            search_aliases=["sam3", "masks", "segs", "convert", "text retouch"],
            has_intermediate_output=True,
            inputs=[
                io.Mask.Input(
                    "masks", tooltip="One mask for each region of ONE picture; empty ones are dropped."
                ),
                io.Image.Input("image", optional=True, tooltip="Their picture, to draw the numbers on."),
            ],
            outputs=[
                Regions.Output("regions", tooltip="The masks as numbered regions."),
                io.Mask.Output("mask", tooltip="All of them together."),
            ],
        )

    @classmethod
    def execute(cls, masks: Tensor, image: Any = None) -> io.NodeOutput:
        given = check_mask(_host.to_work(masks) if isinstance(masks, Tensor) else masks, "masks")
        picture, note = None, None
        if image is not None:
            picture = check_image(
                _host.to_work(_host.rgb(image)) if isinstance(image, Tensor) else image, batch=1
            )
            given, note = fit_mask(given, (picture.shape[1], picture.shape[2]), "masks", "image")
        kept = (given > ON).any(2).any(1)
        held = given[kept] > ON
        overlapping = bool((held.sum(0) > 1).any())
        regions = FoundRegions(
            held,
            None,
            (held.shape[1], held.shape[2]),
            # A region keeps the place of its mask in the batch as its number.
            labels=tuple(str(k + 1) for k in kept.nonzero()[:, 0].tolist()),
            picture=picture,
        ).traced("masks", given=len(given), empty=len(given) - len(held), overlap=overlapping, note=note)
        return io.NodeOutput(regions, union(regions), ui=_host.preview(overlay(regions), cls))
