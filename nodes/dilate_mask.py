"""RetouchDilateMask: from what was found to what may change (methods.md 6)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from comfy_api.latest import io
from torch import Tensor

from ..retouch_core.regions.edit_mask import edit_mask, surroundings
from ..retouch_core.regions.morphology import fill_holes as filled
from ..retouch_core.regions.search import are_things, spans_frame
from ..retouch_core.tensors.checks import check_mask, fit_mask
from . import _host
from ._regions import check_regions
from ._types import Regions, schema

SHAPES = ("auto", "box", "mask")
ON = 0.5


class RetouchDilateMask(io.ComfyNode):
    """Under-coverage is worse than over-coverage (ROM, figure 8): left-over pixels make the model redraw the old thing."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RetouchDilateMask",
            display_name="Dilate Mask",
            description="Grows a mask into the area to repaint, in whole cells of the latent, with a soft edge inside it. "
            "Neighbours stay closed.",
            search_aliases=["grow mask", "expand mask", "feather", "fill holes", "text retouch"],
            inputs=[
                io.Mask.Input("mask", tooltip="What was found."),
                Regions.Input(
                    "neighbours",
                    optional=True,
                    tooltip="All entities of the picture: those outside the mask stay as they are.",
                ),
                io.Combo.Input(
                    "shape",
                    options=list(SHAPES),
                    default="auto",
                    tooltip="box leaves room for another form, mask follows the outline; auto takes the box for things and "
                    "the outline for what spans the picture.",
                ),
                io.Int.Input(
                    "dilate",
                    default=5,
                    min=1,
                    max=63,
                    step=2,
                    tooltip="How far to grow: an odd kernel on a 64x64 grid; 5 grows by 3 % of the longer side, 1 not at all.",
                ),
                io.Int.Input(
                    "feather",
                    default=3,
                    min=0,
                    max=256,
                    tooltip="Pixels over which the edge fades, inside the area.",
                ),
                io.Boolean.Input("fill_holes", default=False, tooltip="Close what the mask encloses."),
                io.Int.Input(
                    "cell",
                    default=8,
                    min=1,
                    max=64,
                    tooltip="Pixels of a latent cell (8 for most models, 16 for some); 1 does not snap.",
                ),
            ],
            outputs=[io.Mask.Output("mask", tooltip="What may change; soft at its edge.")],
        )

    @classmethod
    def validate_inputs(cls, dilate: int = 5) -> bool | str:
        if isinstance(dilate, int) and dilate % 2 == 0:
            return f"dilate must be odd, got {dilate}; use {dilate + 1}"
        return True

    @classmethod
    def execute(
        cls,
        mask: Tensor,
        neighbours: Any = None,
        shape: str = "auto",
        dilate: int = 5,
        feather: int = 3,
        fill_holes: bool = False,
        cell: int = 8,
    ) -> io.NodeOutput:
        given = check_mask(_host.to_work(mask) if isinstance(mask, Tensor) else mask)
        if shape not in SHAPES:
            raise ValueError(f"shape must be one of {', '.join(SHAPES)}, got {shape!r}; auto is usual")
        if not isinstance(dilate, int) or dilate < 1 or dilate % 2 == 0:
            raise ValueError(f"dilate must be an odd number from 1 up, got {dilate!r}; 5 is usual")
        for name, value, least in (("feather", feather, 0), ("cell", cell, 1)):
            if not isinstance(value, int) or value < least:
                raise ValueError(
                    f"{name} must be a whole number from {least} up, got {value!r}; see its tooltip"
                )
        if neighbours is not None:
            height, width = check_regions(neighbours, "neighbours").source_size
            given, _ = fit_mask(given, (height, width), picture="the picture of neighbours")
        given = filled(given) if fill_holes else given
        grown = [_grown(one[None], neighbours, shape, dilate, feather, cell) for one in given]
        return io.NodeOutput(_host.to_wire(torch.cat(grown) if grown else given))


def _grown(mask: Tensor, neighbours: Any, shape: str, dilate: int, feather: int, cell: int) -> Tensor:
    """MASK [1,H,W] -> the composite mask [1,H,W] of its edit."""
    height, width = mask.shape[1:]
    held = mask > ON
    if not held.any():
        return torch.zeros_like(mask)
    parts, others, ground = _around(held, neighbours)
    outline = shape == "mask" or (shape == "auto" and ground)
    selected, parts, closed = (_in_cells(m.float(), cell) for m in (held, parts, others.any(0, keepdim=True)))
    while True:
        edit = edit_mask(
            selected,
            closed,
            cell=cell,
            shape="mask" if outline else "box",
            dilate=dilate,
            fade=feather,
            boxes=parts > 0,
        )
        if edit.composite.any() or feather == 0:
            return edit.composite[:, :height, :width].to(mask)
        # The area is thinner than twice the fade: nothing would be left of it.
        feather //= 2


def _around(held: Tensor, neighbours: Any) -> tuple[Tensor, Tensor, bool]:
    """The entities in a mask bool [1,H,W], those beside it that stay closed (both bool [N,H,W]), and whether it is ground."""
    if neighbours is None or not len(neighbours):
        return held, held[:0], bool(spans_frame(held).any())
    masks, things = neighbours.masks.cpu(), are_things(neighbours)
    inside = (masks & held).flatten(1).sum(1) > ON * masks.flatten(1).sum(1)
    parts = masks[inside] & held if inside.any() else held
    spanning = spans_frame(masks[inside]) | ~things[inside] if inside.any() else spans_frame(held)
    others = masks[~inside & things] & ~held
    if not spanning.all():
        others = others[~surroundings(held.float(), others)]
    return parts, others, bool(spanning.all())


def _in_cells(mask: Tensor, cell: int) -> Tensor:
    """MASK [B,H,W] continued to whole cells at the bottom and right, as the picture is before it is encoded."""
    height, width = mask.shape[1:]
    return F.pad(mask[:, None], (0, -width % cell, 0, -height % cell), mode="replicate")[:, 0]
