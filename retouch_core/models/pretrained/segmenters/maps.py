"""What networks of segmenters give, brought to the size of the picture."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def padded(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Pixels [1,3,h,w] with zeros below and to the right, up to `size`."""
    height, width = pixels.shape[-2:]
    return functional.pad(pixels, (0, size[1] - width, 0, size[0] - height))


def uncovered(maps: Tensor, frame: tuple[int, int], inner: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Maps [n,h,w] of a padded input at the size of the picture, [n,H,W]: enlarged, cut free of padding, resized.

    Args:
        frame: sides of the input with its padding; inner: sides of what is picture in it, at the top left.
    """
    at_input = functional.interpolate(maps[None], size=frame, mode="bilinear", align_corners=False)
    return stretched(at_input[0, :, : inner[0], : inner[1]], size)


def stretched(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps [n,h,w] -> [n,H,W] of `size`, bilinear as all published post-processing does it."""
    return functional.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


def check_overflow(values: Tensor, name: str) -> None:
    """Raise ValueError where a network's numbers are not finite, as they may be in float16."""
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise ValueError(
            f"{name} hold {bad} of {values.numel()} values that are not finite; "
            "run the segmenter in float32 or bfloat16"
        )
