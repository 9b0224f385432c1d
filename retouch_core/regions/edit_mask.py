"""From selected regions to what may change: the latent mask that is repainted, and the composite mask inside it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tensors.regions import mask_boxes
from .morphology import dilate_px, feather, radius_px, to_latent

SHAPES = ("box", "mask")

CROWDED = 0.06
"""A latent cell that other entities cover to more than this share stays closed, unless the region itself is in it.
The embedded denoiser was trained with the same rule (training/edits.py)."""

HALO = 2
"""Pixels around other entities that stay closed too: their antialiased edges."""


RING_PX = 4
"""Width of the ring around a region in which its surroundings are looked for, at the size worked on."""

SURROUNDS = 0.2
"""An entity that holds more than this share of that ring is what the region stands on (sky, wall, table), not a
neighbour (chosen on tune scenes, where grounds with a horizon fall into two entities)."""


def surroundings(selected: Tensor, masks: Tensor) -> Tensor:
    """Which entities are what the selected region stands on: bool [N].

    Args:
        selected: MASK [1,S,S].
        masks: bool [N,S,S], other entities.
    """
    ring = (dilate_px(selected, RING_PX) > 0) & (selected == 0)
    held = (masks & ring).flatten(1).sum(1)
    return held > SURROUNDS * ring.sum().clamp(min=1)


@dataclass(frozen=True)
class EditMask:
    """What may change of a picture of H x W px, here S x S.

    Attributes:
        latent: [1,1,S/cell,S/cell] in {0,1}: cells that are repainted.
        painted: MASK [1,S,S] in {0,1}: their pixels.
        composite: MASK [1,S,S] in 0..1, 0 wherever `painted` is 0: how much of the new picture is taken.
    """

    latent: Tensor
    painted: Tensor
    composite: Tensor


def edit_mask(
    selected: Tensor,
    others: Tensor,
    *,
    cell: int = 8,
    shape: str = "box",
    dilate: int = 5,
    fade: int = 3,
    boxes: Tensor | None = None,
) -> EditMask:
    """Grow the selected regions into the area to repaint.

    Args:
        selected: MASK [1,S,S], pixels of the regions to change; S a multiple of `cell`.
        others: MASK [1,S,S], pixels of neighbours that must stay (not of `surroundings`, which are painted over).
        cell: pixels per latent cell.
        shape: `box` takes the box of every part of `boxes` (or of the whole mask), `mask` the silhouette.
        dilate: odd kernel size on ROM's 64x64 grid, by which the shape grows first (methods.md 6).
        fade: pixels over which the composite mask falls from 1 to 0, inside the repainted area.
        boxes: bool [K,S,S], the selected regions one by one.

    Raises:
        ValueError: an unknown shape, or an even `dilate`.
    """
    if shape not in SHAPES:
        raise ValueError(
            f"shape must be one of {', '.join(SHAPES)}, got {shape!r}; box leaves room for another form"
        )
    height, width = selected.shape[-2:]
    margin = radius_px(dilate, width, height)
    grown = dilate_px(selected, margin)
    if shape == "box":
        parts = boxes if boxes is not None and len(boxes) else selected > 0
        grown = torch.maximum(grown, _boxed(parts, margin))
    own = to_latent(selected, cell)
    crowded = to_latent(others, cell, "area") > CROWDED
    latent = torch.where(crowded & (own == 0), 0.0, to_latent(grown, cell))
    painted = F.interpolate(latent, scale_factor=cell, mode="nearest")[:, 0]
    inner = dilate_px(painted, -fade) if fade else painted
    soft = feather(inner, max(fade - 1, 0)) if fade else painted
    closed = (dilate_px(others, HALO) > 0) & (selected == 0)
    return EditMask(latent, painted, torch.where(closed | (painted == 0), 0.0, soft))


def _boxed(parts: Tensor, margin: int) -> Tensor:
    """MASK [1,S,S] of the boxes of parts bool [K,S,S], `margin` px wider on every side."""
    out = torch.zeros(1, *parts.shape[1:])
    for x0, y0, x1, y1 in mask_boxes(parts.bool()).long().tolist():
        if x1 > x0:
            out[:, max(y0 - margin, 0) : y1 + margin, max(x0 - margin, 0) : x1 + margin] = 1
    return out
