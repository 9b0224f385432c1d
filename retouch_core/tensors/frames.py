"""Whole pictures as the square views that image-text models take."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .convert import to_bchw
from .normalisation import CLIP_MEAN


def square_frames(
    images: Tensor, size: int, *, fit: str = "pad", fill: Sequence[float] = CLIP_MEAN
) -> Tensor:
    """IMAGE [B,H,W,3] in 0..1 -> square views [B,3,size,size] in 0..1, bicubic with antialiasing.

    Args:
        images: the pictures; values outside 0..1 are cut off.
        size: side of the views in pixels.
        fit: `pad` puts the picture in the middle of a square of colour `fill`; `squash` changes its aspect.
            Nothing is ever cropped: a centre crop can lose the very thing that was asked for (methods.md 2.2).
        fill: three numbers in 0..1; CLIP's mean is exactly 0 after its normalisation.

    Raises:
        ValueError: an unknown `fit`.
    """
    if fit not in ("pad", "squash"):
        raise ValueError(f"fit must be 'pad' or 'squash', got {fit!r}; choose one of them")
    pixels = to_bchw(images).float().clamp(0, 1)
    height, width = pixels.shape[-2:]
    side = max(height, width)
    if fit == "pad" and height != width:
        top, left = (side - height) // 2, (side - width) // 2
        colour = torch.as_tensor(tuple(fill), dtype=pixels.dtype, device=pixels.device)
        square = colour[None, :, None, None].repeat(len(pixels), 1, side, side)
        square[:, :, top : top + height, left : left + width] = pixels
        pixels = square
    if tuple(pixels.shape[-2:]) == (size, size):
        return pixels
    return functional.interpolate(pixels, size=(size, size), mode="bicubic", antialias=True).clamp(0, 1)
