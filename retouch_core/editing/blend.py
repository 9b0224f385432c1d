"""What keeps the rest of the latent where it is: masks per step, and blending that is exact at 0 and 1."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ..tensors.checks import check_mask

AUTO_DILATIONS = 3
"""Dilated masks that the automatic choice starts with for thin regions (methods.md 8.3)."""
THIN_AREA = 0.01
"""Share of the latent below which a region counts as thin (methods.md 8.3)."""


def open_where(mask: Tensor) -> Tensor:
    """Bool: cells that an edit may change at all; everything else is closed and stays bit for bit."""
    return mask > 0


def blend(inside: Tensor, outside: Tensor, mask: Tensor) -> Tensor:
    """mask * inside + (1 - mask) * outside, exactly `inside` where mask is 1 and exactly `outside` where it is 0.

    Selecting instead of multiplying keeps NaN from one side out of the other. Shapes broadcast; mask in 0..1.
    """
    mixed = mask * inside + (1 - mask) * outside
    return torch.where(mask <= 0, outside, torch.where(mask >= 1, inside, mixed))


def noised(z0: Tensor, noise: Tensor, sigma: Tensor | float) -> Tensor:
    """The source latent at noise level sigma, in the sigma form."""
    return z0 + sigma * noise


def _dilate(mask: Tensor, size: int) -> Tensor:
    return functional.max_pool2d(mask, size, stride=1, padding=size // 2)


def is_thin(mask_latent: Tensor) -> Tensor:
    """Bool [B]: the region covers less than 1 % of the latent, or vanishes under a 3x3 opening.

    Beyond the border counts as outside, so that a thin strip along the border is thin too.
    """
    region = open_where(mask_latent).float()
    area = region.mean((1, 2, 3))
    eroded = -functional.max_pool2d(-functional.pad(region, (1, 1, 1, 1)), 3, stride=1)
    return (area < THIN_AREA) | (eroded.amax((1, 2, 3)) == 0)


def latent_masks(mask_latent: Tensor, steps: int, progressive: int | str = 0) -> list[Tensor]:
    """One mask per step: widely dilated first, the original last, so that thin regions get room to form.

    With N = `progressive`, step i of T uses entry min(N, floor(i * (N + 1) / T)) of the masks dilated by squares of
    2N + 1, ..., 5, 3 cells and the original (blended latent diffusion, with its rounding repaired: the original
    always gets the last steps).

    Args:
        mask_latent: [B,1,h,w] in 0..1.
        steps: T, at least 1.
        progressive: N, or "auto": 3 for thin regions (`is_thin`), else 0, for each mask of the batch.

    Returns:
        T tensors [B,1,h,w].

    Raises:
        ValueError: wrong shape, values outside 0..1, steps below 1, or `progressive` neither "auto" nor at least 0.
    """
    if mask_latent.ndim != 4 or mask_latent.shape[1] != 1:
        raise ValueError(
            f"mask_latent must have shape [B,1,h,w], got {list(mask_latent.shape)}; add the missing axes"
        )
    check_mask(mask_latent[:, 0], "mask_latent")
    if mask_latent.numel() and (mask_latent.min() < 0 or mask_latent.max() > 1):
        low, high = float(mask_latent.min()), float(mask_latent.max())
        raise ValueError(f"mask_latent must lie in 0..1, got [{low:g}, {high:g}]; clamp it first")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps!r}; try 20")
    if progressive == "auto":
        thin = is_thin(mask_latent)[:, None, None, None]
        if not thin.any():
            return [mask_latent] * steps
        shrinking = latent_masks(mask_latent, steps, AUTO_DILATIONS)
        return [torch.where(thin, mask, mask_latent) for mask in shrinking]
    if not isinstance(progressive, int) or progressive < 0:
        raise ValueError(
            f"progressive must be 'auto' or a whole number of at least 0, got {progressive!r}; try 3"
        )
    count = min(progressive, steps - 1)  # with more masks than steps the original would never be reached
    stages = [_dilate(mask_latent, 2 * n + 1) for n in range(count, 0, -1)] + [mask_latent]
    return [stages[min(count, i * (count + 1) // steps)] for i in range(steps)]
