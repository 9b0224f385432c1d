"""What the region nodes share: checks of what comes over the wire, the numbered overlay, and sentences."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..retouch_core.sheet import region_overlay
from ..retouch_core.tensors.checks import check_image
from ..retouch_core.tensors.regions import Regions
from . import _host

GREY = 0.35
"""Ground of an overlay where nobody connected the picture."""


def check_number(value: Any, name: str, low: float, high: float = math.inf, *, whole: bool = False) -> None:
    """Raise ValueError unless `value` is a finite number in [low, high]; what comes over a link passes no widget."""
    kind = int if whole else (int, float)
    if isinstance(value, kind) and math.isfinite(value) and low <= value <= high:
        return
    noun = "whole number" if whole else "number"
    bound = f"from {low:g} up" if high == math.inf else f"from {low:g} to {high:g}"
    raise ValueError(f"{name} must be a {noun} {bound}, got {value!r:.60}; choose one in that range")


def check_regions(regions: Any, name: str = "regions") -> Regions:
    """Return `regions` if they are ours, else raise TypeError."""
    if not isinstance(regions, Regions):
        raise TypeError(
            f"{name} must come from a Text Retouch node, got {type(regions).__name__}; "
            "connect Segment Entities or Masks to Regions"
        )
    return regions


def one_picture(image: Any, regions: Regions) -> Tensor:
    """IMAGE [1,H,W,3] float32 on the CPU, of the size that `regions` were found in.

    Raises:
        TypeError, ValueError: not one picture, or another picture than the regions'.
    """
    picture = check_image(_host.to_work(_host.rgb(image)) if isinstance(image, Tensor) else image)
    if len(picture) != 1:
        raise ValueError(
            f"image holds {len(picture)} pictures but regions are of one; take image and regions from Segment Entities"
        )
    size = (picture.shape[1], picture.shape[2])
    if size != tuple(regions.source_size):
        height, width = regions.source_size
        raise ValueError(
            f"image is {size[1]}x{size[0]} px but regions are of {width}x{height}; connect the picture they came from"
        )
    return picture


def overlay(regions: Regions, selected: Tensor | None = None) -> Tensor:
    """IMAGE [1,h,w,3]: the numbered regions with their scores over their picture, or over grey.

    Those that `selected` bool [N] names are bright; without it all look alike.
    """
    picture = regions.picture
    if picture is None:
        picture = torch.full((1, *regions.source_size, 3), GREY)
    return region_overlay(picture.clamp(0, 1), regions, selected)


def union(regions: Regions) -> Tensor:
    """MASK [1,H,W] of all regions, on the wire."""
    return _host.to_wire(regions.union())


def listed(regions: Regions) -> str:
    """The regions by their numbers with their scores, on one line."""
    if not len(regions):
        return "none"
    names = regions.labels or tuple(str(k + 1) for k in range(len(regions)))
    scores = (
        [""] * len(regions) if regions.scores is None else [f" ({s:.3f})" for s in regions.scores.tolist()]
    )
    return ", ".join(f"{name}{score}" for name, score in zip(names, scores, strict=True))
