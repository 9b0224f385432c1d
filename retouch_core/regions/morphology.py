"""Growing, softening and shrinking masks: dilation, feather, latent masks, hole filling (methods.md 6)."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..tensors.checks import check_mask
from ..tensors.extrema import (
    bools_of,
    chessboard_distance,
    floats_of,
    nonzero_box,
    window_max,
    window_min,
)

ROM_GRID = 64
"""Side of the grid, in cells, on which ROM dilates its masks; a kernel size k is counted in these cells."""

LANCZOS_LOBES = 3
"""Support of the Lanczos kernel on either side, in output samples, as PIL's LANCZOS filter has it."""

LATENT_MODES = ("amax", "area", "nearest", "lanczos")
FEATHER_MODES = ("chebyshev", "gaussian")


def dilate(mask: Tensor, k: int) -> Tensor:
    """Grey dilation of a MASK [B,H,W] by a k x k square; negative k erodes (ROM, Sec. 4.5).

    The value at p is the maximum of the mask over the (2r+1)^2 square around p, r = (|k|-1)/2. What lies beyond
    the frame never counts, so that an empty mask stays empty and a full one full, also under erosion. A bool mask
    stays bool.

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

    The cost does not grow with r. A bool mask stays bool.

    Raises:
        ValueError: r is not an integer.
    """
    if not isinstance(r, int):
        raise ValueError(f"r must be a whole number of pixels, got {r!r}; round it first")
    move = window_max if r >= 0 else window_min
    hard = _bools(mask)
    if hard is not None:
        moved = move(hard, abs(r))
        return moved if mask.dtype == torch.bool else floats_of(moved, _float_type(mask))
    mask = check_mask(mask)
    out = torch.zeros_like(mask)
    for one, into in zip(mask, out, strict=True):
        # Beyond r px of everything that is not 0, the result is 0 too.
        box = nonzero_box(one, abs(r))
        if box is not None:
            top, left, bottom, right = box
            into[top:bottom, left:right] = move(one[None, top:bottom, left:right], abs(r))[0]
    return out


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
    hard = _bools(mask)
    mask = check_mask(mask)
    if r == 0:
        return mask.clone()
    if mode == "gaussian":
        grown = dilate_px(mask, r // 2)
        reach = r - r // 2
        return torch.maximum(mask, gaussian_blur(grown, sigma=reach / 2, reach=reach)).clamp(max=1)
    ramp = _soft_ramp if hard is None else _hard_ramp
    out = torch.zeros_like(mask)
    for one, into in zip(mask, out, strict=True):
        box = nonzero_box(one, r)
        if box is not None:
            top, left, bottom, right = box
            into[top:bottom, left:right] = ramp(one[top:bottom, left:right], r)
    return out


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

    Soft masks are filled level by level: a hole rises to the lowest value on the ring around it. A bool mask stays
    bool. The cost is that of the box around the mask.
    """
    hard = _bools(mask)
    if hard is None:
        mask = check_mask(mask)
    out = (mask if hard is None else hard).clone()
    fill = _fill_levels if hard is None else _fill_enclosed
    for one in out:
        # What surrounds the box always reaches the frame, so that a border of background stands in for it.
        box = nonzero_box(one, 1)
        if box is not None:
            top, left, bottom, right = box
            inner = one[top:bottom, left:right]
            inner.copy_(torch.from_numpy(fill(inner.detach().cpu().numpy())))
    return out if hard is None or mask.dtype == torch.bool else floats_of(out, _float_type(mask))


def _fill_enclosed(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy.ndimage import label

    parts, count = label(~mask)
    open_parts = np.zeros(count + 1, dtype=bool)
    for side in (parts[0], parts[-1], parts[:, 0], parts[:, -1]):
        open_parts[side] = True
    open_parts[0] = False
    filled: NDArray[np.bool_] = ~open_parts[parts]
    return filled


def _fill_levels(mask: NDArray[np.floating]) -> NDArray[np.floating]:
    from skimage.morphology import reconstruction

    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])
    seed = mask.copy()
    seed[1:-1, 1:-1] = mask.max()
    filled: NDArray[np.floating] = reconstruction(seed, mask, method="erosion", footprint=cross)
    return filled


def _bools(mask: Tensor) -> Tensor | None:
    """A mask of nothing but 0 and 1 as bool [B,H,W], else None: the check of everything else is `check_mask`'s."""
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 3):
        return None
    return bools_of(mask[None] if mask.ndim == 2 else mask)


def _float_type(mask: Tensor) -> torch.dtype:
    return mask.dtype if mask.is_floating_point() else torch.float32


def _hard_ramp(mask: Tensor, r: int) -> Tensor:
    """The mean of the dilations of a mask [H,W] of 0 and 1: at distance d as many of them as r + 1 - d hold a pixel."""
    distance = torch.from_numpy(chessboard_distance(mask.detach().cpu().numpy() > 0)).to(mask.device)
    return (r + 1 - distance).clamp(min=0).to(mask.dtype) / (r + 1)


def _soft_ramp(mask: Tensor, r: int) -> Tensor:
    """The mean of the dilations of a soft mask [H,W], one after the other: here the cost does grow with r."""
    longest = max(mask.shape)
    total, grown = mask.clone(), mask[None]
    for _ in range(min(r, longest)):
        grown = window_max(grown, 1)
        total += grown[0]
    total = total + grown[0] * max(0, r - longest)
    return torch.maximum(mask, total / (r + 1)).clamp(max=1)


def _nearest_odd(k: object) -> int:
    return int(k) // 2 * 2 + 1 if isinstance(k, int | float) and math.isfinite(k) else 3


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
