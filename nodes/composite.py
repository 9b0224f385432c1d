"""RetouchComposite: the last word on the pixels, for graphs with a sampler of their own."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..retouch_core.editing.composite import composite
from ..retouch_core.tensors.checks import check_batches, check_image, fit_mask
from . import _host, _kept, _types
from ._kept import CHANGE_MIN

LOST_BY_ENCODING = 16
"""Pixels that the host's VAE Encode may crop from a side, half of them before it: less than a cell of the latent."""


def placed(edited: Tensor, source: Tensor) -> tuple[Tensor, str | None]:
    """`edited` [B,h,w,3] in the frame of `source` [B',H,W,3], with a note where it had to be moved.

    The host crops the middle before it encodes; what it lost at the rim is the source's.

    Raises:
        ValueError: the sizes differ by more than that.
    """
    (height, width), (tall, wide) = edited.shape[1:3], source.shape[1:3]
    if (height, width) == (tall, wide):
        return edited, None
    below, right = tall - height, wide - width
    if not (0 <= below < LOST_BY_ENCODING and 0 <= right < LOST_BY_ENCODING):
        raise ValueError(
            f"edited is {width}x{height} px but source is {wide}x{tall}; resize edited to the source first"
        )
    top, left = below // 2, right // 2
    framed = source[..., :3].to(edited).expand(max(len(edited), len(source)), -1, -1, -1).clone()
    framed[:, top : top + height, left : left + width] = edited
    note = (
        f"edited is {width}x{height} px and source {wide}x{tall}, so it was placed {left} px from the left "
        f"and {top} px from the top"
    )
    return framed, note


class RetouchComposite(io.ComfyNode):
    """source * (1 - mask) + edited * mask, exactly the source where the mask is 0."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets."""
        return _types.schema(
            node_id="RetouchComposite",
            display_name="Composite Edit",
            description="Lays an edited picture over its source by a mask. Outside the mask the result is the source bit "
            "for bit, also after many edits in a row.",
            search_aliases=["paste", "composite masked", "keep background", "stitch", "text retouch"],
            inputs=[
                io.Image.Input("edited", tooltip="What the sampler made: one picture or several."),
                io.Image.Input(
                    "source", tooltip="The picture before the edit: one, or one for each edited picture."
                ),
                io.Mask.Input("mask", tooltip="Where the edit shows; soft values mix. One, or one for each."),
                *_kept.inputs(),
            ],
            outputs=[
                io.Image.Output("image", tooltip="The edit in its picture."),
                io.String.Output("report", tooltip="How much was edited, and that the rest is the source."),
            ],
        )

    @classmethod
    def execute(
        cls, edited: Tensor, source: Tensor, mask: Tensor, region: Any = None, change_min: float = CHANGE_MIN
    ) -> io.NodeOutput:
        """Fit, select and report."""
        edited = check_image(_colours(edited), "edited")
        alpha = (
            source[..., 3:]
            if isinstance(source, Tensor) and source.ndim == 4 and source.shape[-1] == 4
            else None
        )
        colours = check_image(_colours(source), "source")
        if not (len(edited) and len(colours)):
            raise ValueError(
                f"edited holds {len(edited)} pictures and source {len(colours)}; connect at least one of each"
            )
        fitted, note = fit_mask(mask, (colours.shape[1], colours.shape[2]), picture="source")
        if not len(fitted):
            raise ValueError("mask is a batch of no masks; connect at least one")
        count = _count(edited, colours, fitted)
        fitted = fitted.clamp(0, 1).to(colours.device)
        inside, moved = placed(edited.to(colours.device), colours)
        notes = [line for line in (note, moved) if line]
        frame = (colours.shape[1], colours.shape[2])
        keep = _kept.keep_of(region, change_min, count, frame, notes)
        if keep is not None:
            fitted = keep.of(fitted, inside, colours)
        made = composite(colours.expand(count, -1, -1, -1), inside.expand(count, -1, -1, -1), fitted)
        report = _report(made, colours, fitted, notes)
        if alpha is not None:
            made = torch.cat([made, alpha.expand(count, -1, -1, -1)], -1)
        return io.NodeOutput(_host.to_wire(made), report)


def _colours(image: Any) -> Any:
    return _host.rgb(image) if isinstance(image, Tensor) else image


def _count(edited: Tensor, source: Tensor, mask: Tensor) -> int:
    """Pictures in the result: the batch that all three share, or have 1 of."""
    count = max(len(edited), len(source), len(mask))
    if len(edited) not in (1, count) or len(source) not in (1, count):
        raise ValueError(
            f"edited holds {len(edited)} pictures, source {len(source)} and mask {len(mask)}; "
            "make them equal or one of them 1"
        )
    check_batches(count, len(mask))
    return count


def _report(made: Tensor, source: Tensor, mask: Tensor, notes: list[str]) -> str:
    outside = (mask <= 0)[..., None].to(made.device).expand(made.shape)
    error = float(torch.where(outside, (made - source).abs(), 0).max())
    share = float((mask > 0).float().mean())
    said = f"The mask covers {100 * share:.1f} % of the picture; largest change outside it: {error:g}."
    return "\n".join([said, *(f"Note: {note}." for note in notes)])
