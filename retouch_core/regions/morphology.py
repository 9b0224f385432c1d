"""Growing, softening and shrinking masks: dilation, feather, latent masks, hole filling (methods.md 6)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..tensors.checks import check_mask

ROM_GRID = 64
"""Side of the grid, in cells, on which ROM dilates its masks; a kernel size k is counted in these cells."""

LANCZOS_LOBES = 3
"""Support of the Lanczos kernel on either side, in output samples, as PIL's LANCZOS filter has it."""

LATENT_MODES = ("amax", "area", "nearest", "lanczos")
FEATHER_MODES = ("chebyshev", "gaussian")


def dilate(mask: Tensor, k: int) -> Tensor:
    """Grey dilation of a MASK [B,H,W] by a k x k square; negative k erodes (ROM, Sec. 4.5).

    The value at p is the maximum of the mask over the (2r+1)^2 square around p, r = (|k|-1)/2. What lies beyond
    the frame never counts, so that an empty mask stays empty and a full one full, also under erosion.

    Raises:
        ValueError: k is even (ROM's convolution would then grow the picture by a pixel) or not an integer.
    """
    if not isinstance(k, int) or k % 2 == 0:
        raise ValueError(
            f"k must be an odd number of pixels, got {k!r}; use {_nearest_odd(k)} or another odd number"
        )
    radius = (abs(k) - 1) // 2
    return dilate_px(mask, radius if k > 0 else -radius)


def radius_px(k: int, width: int, height: int) -> int:
    """Pixels by which ROM's kernel size k grows a mask on a picture of that size: (k-1)/2 cells of its 64x64 grid.

    Raises:
        ValueError: k is even or below 1.
    """
    if not isinstance(k, int) or k < 1 or k % 2 == 0:
        raise ValueError(
            f"k must be an odd number from 1 up, got {k!r}; use {_nearest_odd(k)} or another odd number"
        )
    # Halves go up, so that the radius never shrinks between two neighbouring picture sizes.
    return math.floor((k - 1) / 2 * max(width, height) / ROM_GRID + 0.5)


def dilate_px(mask: Tensor, r: int) -> Tensor:
    """Grey dilation of a MASK [B,H,W] by r pixels in every direction (a square); negative r erodes.

    Raises:
        ValueError: r is not an integer.
    """
    if not isinstance(r, int):
        raise ValueError(f"r must be a whole number of pixels, got {r!r}; round it first")
    mask = check_mask(mask)
    if r < 0:
        return -_window_max(-mask, -r)
    return _window_max(mask, r)


def feather(mask: Tensor, r: int, mode: str = "chebyshev") -> Tensor:
    """Soften the outline of a MASK [B,H,W] outwards over r pixels; where the mask is 1 it stays 1.

    `chebyshev`: the mean of the dilations by 0..r px, so that at distance d the value is (r+1-d)/(r+1), and 0
    beyond r. `gaussian`: max(m, blur(D(m))), of which dilation and blur take half of r each, so that it too ends at r.

    Raises:
        ValueError: negative or fractional r, or another mode.
    """
    if not isinstance(r, int) or r < 0:
        raise ValueError(
            f"r must be a whole number of pixels from 0 up, got {r!r}; use dilate_px to shrink a mask"
        )
    if mode not in FEATHER_MODES:
        raise ValueError(f"mode must be one of {', '.join(FEATHER_MODES)}, got {mode!r}; choose one of them")
    mask = check_mask(mask)
    if r == 0:
        return mask.clone()
    if mode == "gaussian":
        grown = dilate_px(mask, r // 2)
        reach = r - r // 2
        return torch.maximum(mask, gaussian_blur(grown, sigma=reach / 2, reach=reach)).clamp(max=1)
    total, grown = mask.clone(), mask
    for _ in range(min(r, max(mask.shape[-2:]))):
        grown = _window_max(grown, 1)
        total = total + grown
    total = total + grown * max(0, r - max(mask.shape[-2:]))
    return torch.maximum(mask, total / (r + 1)).clamp(max=1)


def to_latent(mask: Tensor, cell: int = 8, mode: str = "amax") -> Tensor:
    """MASK [B,H,W] -> latent mask [B,1,ceil(H/cell),ceil(W/cell)].

    Sides that are no multiple of `cell` are continued at the bottom and right, as the picture is padded.
    `amax`: any edited pixel opens its cell. `area`: mean, soft. `nearest`: the pixel in the middle (BLD, GLIDE),
    which loses thin masks. `lanczos`: Lanczos-3 and a threshold of 0.5 (RDM), binary.

    Raises:
        ValueError: another mode, or a cell below 1.
    """
    if not isinstance(cell, int) or cell < 1:
        raise ValueError(
            f"cell must be a whole number of pixels from 1 up, got {cell!r}; most autoencoders have 8"
        )
    if mode not in LATENT_MODES:
        raise ValueError(f"mode must be one of {', '.join(LATENT_MODES)}, got {mode!r}; choose one of them")
    mask = check_mask(mask)
    height, width = mask.shape[-2:]
    rows, columns = -(-height // cell), -(-width // cell)
    padded = torch.nn.functional.pad(
        mask[:, None], (0, columns * cell - width, 0, rows * cell - height), mode="replicate"
    )
    if mode == "amax":
        return torch.nn.functional.max_pool2d(padded, cell)
    if mode == "area":
        return torch.nn.functional.avg_pool2d(padded, cell)
    if mode == "nearest":
        return padded[..., cell // 2 :: cell, cell // 2 :: cell].contiguous()
    down = _lanczos(rows, cell, mask) @ padded @ _lanczos(columns, cell, mask).T
    return (down >= 0.5).to(mask.dtype)


def fill_holes(mask: Tensor) -> Tensor:
    """Fill what a MASK [B,H,W] encloses: background that no path of 4-neighbours joins to the frame.

    Soft masks are filled level by level: a hole rises to the lowest value on the ring around it.
    """
    from skimage.morphology import reconstruction

    mask = check_mask(mask)
    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])
    filled = []
    for one in mask.detach().cpu().numpy():
        seed = one.copy()
        seed[1:-1, 1:-1] = one.max()
        filled.append(torch.from_numpy(reconstruction(seed, one, method="erosion", footprint=cross)))
    return torch.stack(filled).to(mask) if filled else mask.clone()


def _nearest_odd(k: object) -> int:
    return int(k) // 2 * 2 + 1 if isinstance(k, int | float) and math.isfinite(k) else 3


def _window_max(values: Tensor, radius: int) -> Tensor:
    """Maximum of [B,H,W] over the square of `radius` around each pixel; outside the frame counts as -inf."""
    for dim in (1, 2):
        values = _line_max(values, min(radius, values.shape[dim]), dim)
    return values


def _line_max(values: Tensor, radius: int, dim: int) -> Tensor:
    # Windows double in length from round to round, so that a large radius costs log2(radius) passes, not radius.
    if radius == 0:
        return values.clone()
    edge = list(values.shape)
    edge[dim] = radius
    border = values.new_full(edge, -torch.inf)
    line = torch.cat([border, values, border], dim)
    reached, wanted = 1, 2 * radius + 1
    while reached < wanted:
        step = min(reached, wanted - reached)
        length = line.shape[dim] - step
        line = torch.maximum(line.narrow(dim, 0, length), line.narrow(dim, step, length))
        reached += step
    return line


def gaussian_blur(mask: Tensor, sigma: float, reach: int) -> Tensor:
    """Gaussian blur of [B,H,W], cut off at `reach` px; the picture continues beyond its frame."""
    offsets = torch.arange(-reach, reach + 1, dtype=mask.dtype, device=mask.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = torch.nn.functional.pad(mask[:, None], (reach, reach, reach, reach), mode="replicate")
    across = torch.nn.functional.conv2d(padded, kernel.view(1, 1, 1, -1))
    return torch.nn.functional.conv2d(across, kernel.view(1, 1, -1, 1))[:, 0]


def _lanczos(count: int, cell: int, like: Tensor) -> Tensor:
    """Weights [count, count*cell] of a Lanczos-3 reduction by `cell`, normalised at the frame as PIL does."""
    size = count * cell
    centre = (torch.arange(count, dtype=torch.float64)[:, None] + 0.5) * cell
    distance = (torch.arange(size, dtype=torch.float64)[None] + 0.5 - centre) / cell
    weights = torch.sinc(distance) * torch.sinc(distance / LANCZOS_LOBES)
    weights = torch.where(distance.abs() < LANCZOS_LOBES, weights, 0.0)
    return (weights / weights.sum(1, keepdim=True)).to(like)
