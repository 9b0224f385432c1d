"""RetouchComposite: the last word on the pixels, for graphs with a sampler of their own."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..retouch_core.editing.colour_match import COLOUR_MATCHES, match_colours
from ..retouch_core.editing.composite import MODES, composite
from ..retouch_core.editing.registration import moved_back
from ..retouch_core.editing.registration import register as found_move
from ..retouch_core.tensors.checks import ASPECT_TOLERANCE, check_batches, check_image, fit_mask
from . import _host, _kept, _types
from ._kept import CHANGE_MIN

LOST_BY_ENCODING = 16
"""Pixels that the host's VAE Encode may crop from a side, half of them before it: less than a cell of the latent."""

BAND_ROWS = 256
"""Rows of the picture that the report compares at a time."""


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
                io.Combo.Input(
                    "mode",
                    optional=True,
                    options=list(MODES),
                    default=MODES[0],
                    tooltip="How the edit meets its surroundings, always inside the mask. feather: by the mask's own values. "
                    "laplacian: broad colour fades in slowly, detail at once. poisson: the edit takes on the colour at the "
                    "mask's rim.",
                ),
                io.Combo.Input(
                    "colour_match",
                    optional=True,
                    options=list(COLOUR_MATCHES),
                    default=COLOUR_MATCHES[0],
                    tooltip="Takes back a change of colour that the model gave to the whole picture, by the ring around the "
                    "mask. shift: one offset per channel; contrast: spread too; local: offsets that vary slowly from place to "
                    "place. Not for edits whose outside is meaningless.",
                ),
                io.Boolean.Input(
                    "register",
                    optional=True,
                    default=False,
                    tooltip="For edit models that shift or zoom the whole picture: finds that motion outside the mask and "
                    "undoes it. Where the edit does not fit its source, the source comes back and the report says why.",
                ),
            ],
            outputs=[
                io.Image.Output("image", tooltip="The edit in its picture."),
                io.String.Output("report", tooltip="How much was edited, and that the rest is the source."),
            ],
        )

    @classmethod
    def execute(
        cls,
        edited: Tensor,
        source: Tensor,
        mask: Tensor,
        region: Any = None,
        change_min: float = CHANGE_MIN,
        mode: str = MODES[0],
        colour_match: str = COLOUR_MATCHES[0],
        register: bool = False,
    ) -> io.NodeOutput:
        """Fit, move back, match, select and report."""
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
        edited = edited.to(colours.device)
        inside, moved = resized(edited, colours) if register else placed(edited, colours)
        notes = [line for line in (note, moved) if line]
        frame = (colours.shape[1], colours.shape[2])
        if register:
            inside, fitted = _registered(inside, colours, fitted, count, notes)
        inside, told = match_colours(colours, inside, fitted, colour_match)
        notes += told
        keep = _kept.keep_of(region, change_min, count, frame, notes)
        if keep is not None:
            fitted = keep.of(fitted, inside, colours)
        made = composite(
            colours.expand(count, -1, -1, -1), inside.expand(count, -1, -1, -1), fitted, mode=mode
        )
        report = _report(made, colours, fitted, notes)
        if alpha is not None:
            made = torch.cat([made, alpha.expand(count, -1, -1, -1)], -1)
        return io.NodeOutput(_host.to_wire(made), report)


def resized(edited: Tensor, source: Tensor) -> tuple[Tensor, str | None]:
    """`edited` at the size of `source` where both have one aspect ratio, else as `placed` has it; registering follows."""
    (height, width), (tall, wide) = edited.shape[1:3], source.shape[1:3]
    alike = abs(width * tall - height * wide) <= ASPECT_TOLERANCE * height * wide
    if (height, width) == (tall, wide) or not alike:
        return placed(edited, source)
    larger = torch.nn.functional.interpolate(
        edited.movedim(-1, 1).float(), size=(tall, wide), mode="bicubic", antialias=True, align_corners=False
    )
    return larger.movedim(1, -1).to(
        edited.dtype
    ), f"edited was resized from {width}x{height} to {wide}x{tall} px"


def _registered(
    edited: Tensor, source: Tensor, mask: Tensor, count: int, notes: list[str]
) -> tuple[Tensor, Tensor]:
    """Each edit moved back onto its source, and the mask without what the edit does not show; empty where refused."""
    backs, masks = [], []
    for k in range(count):
        _host.check_cancelled()
        one, before, held = (each[k % len(each)][None] for each in (edited, source, mask))
        found = found_move(before.float(), one.float(), held)
        back, there = (one.float(), held * 0 > 0) if found.refused else moved_back(one.float(), found)
        backs.append(back.to(one.dtype))
        masks.append(torch.where(there, held, 0))
        which = f"picture {k + 1}: " if count > 1 else ""
        kept = "; the source is given back" if found.refused else ""
        notes.append(which + found.told() + kept)
    return torch.cat(backs), torch.cat(masks)


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
    # Band by band, so that a large picture needs no second one for its report.
    error = 0.0
    for top in range(0, made.shape[1], BAND_ROWS):
        rows = slice(top, top + BAND_ROWS)
        outside = (mask[:, rows] <= 0)[..., None].to(made.device)
        error = max(error, float(torch.where(outside, (made[:, rows] - source[:, rows]).abs(), 0).max()))
    share = float((mask > 0).float().mean())
    said = f"The mask covers {100 * share:.1f} % of the picture; largest change outside it: {error:g}."
    return "\n".join([said, *(f"Note: {note}." for note in notes)])
