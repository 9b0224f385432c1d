"""M square boxes around every anchor, in patches and in pixels (methods.md 7.2, 7.3)."""

from __future__ import annotations

import torch
from torch import Tensor

SIZES = 7
"""M of S01, section 4."""
GRID = 32
"""Patches on a side for which `HALVES` are given."""
HALVES = tuple(2.0 * (k + 1) for k in range(SIZES))
"""Half sizes 2, 4, .., 14 of 32 patches: boxes of 12.5 % to 87.5 % of the side [our choice, methods.md 7.2]."""
MAX_SIZES = 64


def half_sizes(count: int = SIZES) -> Tensor:
    """M half sizes [M] in patches of a grid of 32, evenly from the first to the last of `HALVES`.

    Raises:
        ValueError: a count outside 1..64.
    """
    if not isinstance(count, int) or not 1 <= count <= MAX_SIZES:
        raise ValueError(
            f"sizes must be a whole number in [1, {MAX_SIZES}], got {count!r}; {SIZES} is published"
        )
    return torch.linspace(HALVES[0], HALVES[-1], count) if count > 1 else torch.tensor([HALVES[SIZES // 2]])


def patch_boxes(anchors: Tensor, halves: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes xyxy [K,M,4] float in patch coordinates around anchors [K,2] (row, column) of a grid (h, w).

    Coordinate i is the middle of patch i; each edge is clipped to 0..side-1. `halves` [M] are of a grid of 32.
    """
    height, width = size
    last = torch.tensor([width - 1.0, height - 1.0])
    half = halves[:, None] * torch.tensor([width / GRID, height / GRID])
    centre = anchors.flip(-1).float()[:, None]
    low, high = (centre - half).clamp(min=0), torch.minimum(centre + half, last)
    return torch.cat([low, high], -1)


def pixel_boxes(boxes: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Boxes [...,4] in patches of a grid (h, w) as half-open pixels, long, of a picture (H, W).

    The first patch lies on the first pixel and the last on the last, edges are rounded up, as published: half 4 at
    patch 15 of 32 is 91..157 of 256 px. An edge on the last patch reaches the border, so that no seam of one pixel
    stays there [ours]; every box holds a pixel.
    """
    last = torch.tensor([grid[1] - 1.0, grid[0] - 1.0]).repeat(2).double()
    side = torch.tensor([size[1], size[0]]).repeat(2)
    # Products of whole numbers and a ratio: what rounds up must not be noise of the last bit.
    scaled = (boxes.double() * (side - 1) / last.clamp(min=1)).mul(1e6).round().div(1e6).ceil().long()
    ends = torch.tensor([False, False, True, True])
    pixels = torch.where(ends & (boxes.double() >= last), side, scaled)
    low = torch.minimum(pixels[..., :2], side[:2] - 1)
    return torch.cat([low, torch.maximum(pixels[..., 2:], low + 1)], -1)


def box_masks(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Half-open pixel boxes xyxy [...,4] -> bool [...,H,W]."""
    y, x = torch.arange(size[0])[:, None], torch.arange(size[1])
    x0, y0, x1, y1 = (edge[..., None, None] for edge in boxes.unbind(-1))
    return (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
