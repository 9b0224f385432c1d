"""Where boxes are centred: the patches that a self-supervised attention looks at most (methods.md 7.2)."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ...tensors.checks import InputWarning

MIN_DISTANCE = 2
"""Patches between two anchors, counted along the longer axis [our choice, methods.md 7.2]."""


def top_anchors(attention: Tensor, count: int, min_distance: int = MIN_DISTANCE) -> Tensor:
    """Patches [K,2] (row, column) of an attention [h,w], largest first; ties keep the order of reading.

    A patch nearer than `min_distance` (Chebyshev) to a chosen one is passed over, unless too few are left. There is no
    border to keep clear of: boxes are clipped one by one. (The published margin leaves only the centre.)

    Raises:
        ValueError: an attention that is no finite [h,w], or a count below 1. More than h*w are clamped, with a warning.
    """
    if attention.ndim != 2 or not attention.numel() or not torch.isfinite(attention).all():
        raise ValueError(
            f"attention must be finite numbers [h,w], got {list(attention.shape)}; check the model that made it"
        )
    count = _clamped(count, attention.numel())
    width = attention.shape[1]
    ranked = attention.flatten().sort(descending=True, stable=True).indices.tolist()
    chosen: list[int] = []
    for patch in ranked:
        if len(chosen) == count:
            break
        if all(_apart(patch, other, width) >= min_distance for other in chosen):
            chosen.append(patch)
    chosen += [patch for patch in ranked if patch not in chosen][: count - len(chosen)]
    return torch.tensor([divmod(patch, width) for patch in chosen])


def random_anchors(size: tuple[int, int], count: int, generator: torch.Generator) -> Tensor:
    """K different patches [K,2] of a grid (h, w), each as likely as any other: S01's baseline."""
    height, width = size
    drawn = torch.randperm(height * width, generator=generator)[: _clamped(count, height * width)]
    return torch.stack([drawn // width, drawn % width], 1)


def _clamped(count: int, patches: int) -> int:
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"anchors must be a whole number from 1 up, got {count!r}; 9 is usual")
    if count > patches:
        warnings.warn(
            f"anchors is {count}, but the attention has only {patches} patches, so {patches} are used; ask for fewer",
            InputWarning,
            stacklevel=3,
        )
    return min(count, patches)


def _apart(one: int, other: int, width: int) -> int:
    (row, column), (y, x) = divmod(one, width), divmod(other, width)
    return max(abs(row - y), abs(column - x))
