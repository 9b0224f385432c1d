"""Tiny converters between the layouts of the field."""

from __future__ import annotations

from torch import Tensor


def to_bchw(image: Tensor) -> Tensor:
    """IMAGE [B,H,W,3] -> [B,3,H,W], same values."""
    return image.movedim(-1, 1)


def to_bhwc(pixels: Tensor) -> Tensor:
    """[B,3,H,W] -> IMAGE [B,H,W,3], contiguous."""
    return pixels.movedim(1, -1).contiguous()


def to_diffusion(image: Tensor) -> Tensor:
    """IMAGE [B,H,W,3] in 0..1 -> diffusion pixels [B,3,H,W] in -1..1."""
    return to_bchw(image) * 2 - 1


def from_diffusion(pixels: Tensor) -> Tensor:
    """Diffusion pixels [B,3,H,W] in -1..1 -> IMAGE [B,H,W,3] clamped to 0..1."""
    return to_bhwc((pixels.float() + 1) / 2).clamp(0, 1)
