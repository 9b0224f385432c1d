"""How close two pictures are: mean squared error, PSNR, SSIM. Computed in float64 on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ..tensors.convert import to_bchw

WINDOW = 11
SPREAD = 1.5
"""Side and standard deviation of the Gaussian window (Wang et al. 2004, section III-C)."""
K1, K2 = 0.01, 0.03
"""Stabilising constants for a data range of 1 (Wang et al. 2004, section III-B)."""


def _pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    for name, image in (("a", a), ("b", b)):
        if image.ndim != 4 or image.shape[-1] != 3:
            raise ValueError(f"{name} must have shape [B,H,W,3], got {list(image.shape)}; add the batch axis")
    if a.shape[1:] != b.shape[1:] or (len(a) != len(b) and 1 not in (len(a), len(b))):
        raise ValueError(f"a is {list(a.shape)} but b is {list(b.shape)}; compare pictures of one size")
    count = max(len(a), len(b))
    a, b = (image.detach().cpu().double().expand(count, *image.shape[1:]) for image in (a, b))
    return a, b


def mse(a: Tensor, b: Tensor) -> Tensor:
    """Mean over pixels and channels of (a - b)^2, float64 [B], for IMAGE batches in 0..1; lower is better.

    Raises:
        ValueError: shapes that do not fit together (a batch of 1 goes with any other).
    """
    a, b = _pair(a, b)
    return (a - b).square().mean((1, 2, 3))


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal to noise ratio 10 log10(1 / MSE) in dB, float64 [B]; inf for equal pictures; higher is better."""
    return -10 * torch.log10(mse(a, b))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity, float64 [B], at most 1: data range 1, Gaussian window of 11 px with sigma 1.5.

    Mean over channels and over the positions where the whole window lies inside (Wang et al. 2004).

    Raises:
        ValueError: shapes that do not fit together, or sides below 11 px.
    """
    a, b = _pair(a, b)
    if min(a.shape[1:3]) < WINDOW:
        raise ValueError(
            f"pictures are {a.shape[2]}x{a.shape[1]} px, but SSIM needs at least {WINDOW} px a side; enlarge"
        )
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    taps = torch.exp(-(offsets**2) / (2 * SPREAD**2))
    taps = taps / taps.sum()

    def smooth(x: Tensor) -> Tensor:
        x = functional.conv2d(x, taps.reshape(1, 1, -1, 1))
        return functional.conv2d(x, taps.reshape(1, 1, 1, -1))

    x, y = (to_bchw(image).reshape(-1, 1, *image.shape[1:3]) for image in (a, b))
    mean_x, mean_y = smooth(x), smooth(y)
    var_x, var_y = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2
    cov = smooth(x * y) - mean_x * mean_y
    c1, c2 = K1**2, K2**2
    quality = (
        (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    )
    return quality.reshape(len(a), -1).mean(1)
