"""Whether an edit stayed where it belongs: background error, overlap of masks, share of the picture edited."""

from __future__ import annotations

import torch
from torch import Tensor

from ..tensors.checks import check_mask

ON = 0.5
"""A soft mask holds a pixel from this value on."""


def background_max_error(source: Tensor, result: Tensor, mask: Tensor) -> Tensor:
    """Largest absolute difference [B] over pixels where `mask` is 0; must be 0 after a composite.

    Args:
        source, result: IMAGE [B,H,W,3], or one of them [1,H,W,3]; NaN in the background gives NaN.
        mask: MASK [B,H,W] or [1,H,W]; 0 everywhere outside what was allowed to change.

    Raises:
        ValueError: shapes that do not fit together.
    """
    mask = check_mask(mask)
    if source.shape[1:] != result.shape[1:] or mask.shape[1:] != source.shape[1:3]:
        raise ValueError(
            f"source {list(source.shape)}, result {list(result.shape)} and mask {list(mask.shape)} "
            "must share one height and width; resize them first"
        )
    difference = (result - source).abs()
    outside = (mask.to(difference.device) == 0)[..., None]
    return torch.where(outside, difference, torch.zeros_like(difference)).amax((1, 2, 3))


def mask_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union [B] of two MASK batches [B,H,W], cut at 0.5; two empty masks agree with 1.

    Raises:
        ValueError: shapes that do not fit together.
    """
    a, b = check_mask(a, "a") >= ON, check_mask(b, "b") >= ON
    if a.shape[1:] != b.shape[1:] or (len(a) != len(b) and 1 not in (len(a), len(b))):
        raise ValueError(f"a is {list(a.shape)} but b is {list(b.shape)}; compare masks of one size")
    both, either = (a & b).sum((1, 2)), (a | b).sum((1, 2))
    return torch.where(either == 0, 1.0, both / either.clamp(min=1))


def edited_area(mask: Tensor) -> Tensor:
    """Share [B] of the picture that `mask` [B,H,W] lets change at all (above 0)."""
    return (check_mask(mask) > 0).float().mean((1, 2))
