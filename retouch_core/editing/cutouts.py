"""What the scorer is shown of a region while it guides: several crops or warps of it a step (methods.md 10.4).

All candidates of a batch are cut alike, so that a candidate is guided the same alone or in a batch.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

CUTTINGS = ("augment", "crops")
"""`augment`: the region and warped copies of it (Blended Diffusion). `crops`: random squares of it (RDM's MakeCutouts)."""
BOX_FACTOR = 1.3
"""Side of the square around the region, relative to the longer side of its box (ROM section 4.5 and methods.md 10.4)."""
LEAST_SIDE = 8
"""Smallest square in pixels."""
DEGREES, SHIFT, DISTORTION, CHANCE = 15.0, 0.1, 0.7, 0.7
"""Blended Diffusion's augmentations: rotation, translation, corner shift, and the chance of each."""

STEP_SEEDS = 1_000_003
"""Crops of two runs' steps stay apart for as many seeds."""
AT_ONCE = 64
"""Steps whose warps are drawn together: kornia takes longer to draw than we to warp."""

Square = tuple[int, int, int]
"""Top, left and side in pixels; it may reach beyond the frame."""


def square_of(mask: Tensor, factor: float = BOX_FACTOR) -> Square:
    """The square around what the mask [1,1,H,W] opens, `factor` times as large as its box.

    Raises:
        ValueError: an empty mask.
    """
    rows, columns = (mask[0, 0] > 0).any(1).nonzero(), (mask[0, 0] > 0).any(0).nonzero()
    if not len(rows):
        raise ValueError("mask is empty, so there is no region to look at; select one, or set clip to 0")
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    left, right = int(columns[0]), int(columns[-1]) + 1
    side = max(LEAST_SIDE, math.ceil(factor * max(bottom - top, right - left)))
    return (top + bottom - side) // 2, (left + right - side) // 2, side


def cut_square(pixels: Tensor, square: Square) -> Tensor:
    """[B,3,L,L] out of [B,3,H,W]; beyond the frame lies mid grey, 0 in -1..1."""
    top, left, side = square
    height, width = pixels.shape[-2:]
    before, after = max(0, -left), max(0, left + side - width)
    above, below = max(0, -top), max(0, top + side - height)
    grown = functional.pad(pixels, (before, after, above, below))
    return grown[..., top + above : top + above + side, left + before : left + before + side]


def resized(pixels: Tensor, size: int) -> Tensor:
    """[B,3,h,w] -> [B,3,size,size], bilinear with antialiasing."""
    if tuple(pixels.shape[-2:]) == (size, size):
        return pixels
    return functional.interpolate(pixels, (size, size), mode="bilinear", antialias=True)


@lru_cache(maxsize=16)
def random_warps(count: int, size: int, seed: int) -> Tensor:
    """Homographies [count,3,3] of squares of `size` px: kornia's random affine maps, then its random perspectives.

    The process's own random numbers stay as they are.
    """
    from kornia.augmentation import RandomAffine, RandomPerspective

    shape = torch.Size([count, 3, size, size])
    empty = torch.zeros(count, 1, 1, 1).expand(shape)
    with torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices=[]):
        whole = torch.eye(3).expand(count, 3, 3)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every device
        for draw in (
            RandomAffine(DEGREES, (SHIFT, SHIFT), p=CHANCE),
            RandomPerspective(DISTORTION, p=CHANCE),
        ):
            drawn = draw.forward_parameters(shape)
            one = draw.compute_transformation(empty, drawn, draw.flags).float()
            applied = (drawn["batch_prob"] > 0.5).view(-1, 1, 1)
            whole = torch.where(applied, one, torch.eye(3)) @ whole
    return whole


def warped(pixels: Tensor, warps: Tensor) -> Tensor:
    """[n*B,3,S,S] out of [B,3,S,S], all warps of the first row first; what comes from outside is mid grey.

    One sampling for the whole chain of maps.
    """
    rows, count, size = len(pixels), len(warps), pixels.shape[-1]
    line = torch.arange(size, dtype=torch.float64)
    y, x = torch.meshgrid(line, line, indexing="ij")
    seen = torch.stack([x, y, torch.ones_like(x)]).flatten(1)
    found = (torch.linalg.inv(warps.double()) @ seen).view(count, 3, size, size)
    # Behind the plane there is no picture; far away is outside as well.
    depth = torch.where(found[:, 2] > 1e-6, found[:, 2], 1e-6)
    grid = torch.stack([found[:, 0], found[:, 1]], -1) / depth[..., None] * (2 / (size - 1)) - 1
    grid = grid.to(pixels).repeat(rows, 1, 1, 1)
    return functional.grid_sample(pixels.repeat_interleave(count, 0), grid, align_corners=True)


def random_crops(pixels: Tensor, count: int, size: int, seed: int) -> Tensor:
    """[count*B,3,size,size] out of a square [B,3,L,L]: crops of a side between min(L, size) and L, pooled to `size`.

    RDM's MakeCutouts, all crops of the first row first.
    """
    side = pixels.shape[-1]
    least = min(side, size)
    generator = torch.Generator().manual_seed(seed)
    crops = []
    for _ in range(count):
        share, down, right = torch.rand(3, generator=generator).tolist()
        length = int(share * (side - least)) + least
        top, left = int(down * (side - length + 1)), int(right * (side - length + 1))
        crop = pixels[..., top : top + length, left : left + length]
        crops.append(functional.adaptive_avg_pool2d(crop, size))
    return torch.stack(crops, 1).flatten(0, 1)


def cutouts(
    pixels: Tensor, square: Square, count: int, size: int, cutting: str, seed: int, step: int
) -> Tensor:
    """Views [B,count,3,size,size] in -1..1 of the square, of pixels [B,3,H,W] in which all but the region is mid grey.

    `augment` shows the square itself first and warped copies of it after that; one view is the square alone. Each step
    of a run is cut otherwise.

    Raises:
        ValueError: an unknown cutting.
    """
    part = cut_square(pixels, square)
    if cutting == "crops":
        views = random_crops(part, count, size, seed + STEP_SEEDS * step)
    elif cutting == "augment":
        clean = resized(part, size)
        views = clean
        if count > 1:
            drawn = random_warps((count - 1) * AT_ONCE, size, seed + STEP_SEEDS * (step // AT_ONCE))
            warps = drawn.unflatten(0, (AT_ONCE, count - 1))[step % AT_ONCE]
            views = warped(clean, torch.cat([torch.eye(3)[None], warps]))
    else:
        raise ValueError(f"cutting must be one of {', '.join(CUTTINGS)}, got {cutting!r}; augment is usual")
    return views.unflatten(0, (len(pixels), count))
