"""Whether a seam shows: the step across it against the steps the picture has anyway, and the shift of colour beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..tensors.checks import check_mask
from ..tensors.extrema import nonzero_box, window_max, window_min

RING_PX = 8
"""Width of the ring on either side of the outline that is looked at."""


@dataclass(frozen=True)
class Seam:
    """Of one picture, in units of its values (0..1); all 0 where the mask has no outline.

    Attributes:
        step: mean difference of neighbours across which the mask changes, in the result.
        natural: the same over the source: those pairs and all pairs of the ring outside, whichever mean is larger.
        colour_shift: largest channel of |mean(result - source)| over the ring just inside the outline.
        pairs: how many pairs `step` is the mean of.
    """

    step: float
    natural: float
    colour_shift: float
    pairs: int


def seam(source: Tensor, result: Tensor, mask: Tensor, *, ring_px: int = RING_PX) -> list[Seam]:
    """Seam measures of each picture.

    A step well above `natural` is a visible edge; where the edit shows the same content as the source both are equal.
    The colour shift tells of a model that changed the ground around the thing it was to change; where the edit puts
    something else there, it is no fault.

    Args:
        source, result: IMAGE [B,H,W,3], or one of them [1,H,W,3].
        mask: MASK [B,H,W] or [1,H,W], the composite's.

    Raises:
        ValueError: shapes that do not fit together.
    """
    mask = check_mask(mask)
    if source.shape[1:] != result.shape[1:] or mask.shape[1:] != source.shape[1:3]:
        raise ValueError(
            f"source {list(source.shape)}, result {list(result.shape)} and mask {list(mask.shape)} "
            "must share one height and width; resize them first"
        )
    count = max(len(source), len(result), len(mask))
    found = []
    for k in range(count):
        one = mask[k % len(mask)].clamp(0, 1)
        box = nonzero_box(one, ring_px + 1)
        if box is None:
            found.append(Seam(0.0, 0.0, 0.0, 0))
            continue
        top, left, bottom, right = box
        window = (slice(top, bottom), slice(left, right))
        found.append(
            _seam(source[k % len(source)][window], result[k % len(result)][window], one[window], ring_px)
        )
    return found


def _seam(source: Tensor, result: Tensor, mask: Tensor, ring_px: int) -> Seam:
    mask = mask.to(source.device)
    held = mask > 0
    around = window_max(held[None], ring_px)[0] & ~held
    beside = held & ~window_min(held[None], ring_px)[0]
    crossing, pairs = _pair_mean(result, lambda a, b: a != b, mask)
    if not pairs:
        return Seam(0.0, 0.0, 0.0, 0)
    same, _ = _pair_mean(source, lambda a, b: a != b, mask)
    outside, _ = _pair_mean(source, lambda a, b: a & b, around)
    shift = (
        (result[beside].cpu().double() - source[beside].cpu().double()).mean(0).abs().max()
        if beside.any()
        else 0.0
    )
    return Seam(crossing, max(same, outside), float(shift), pairs)


def _pair_mean(image: Tensor, chosen: Callable[[Tensor, Tensor], Tensor], of: Tensor) -> tuple[float, int]:
    """Mean over 4-neighbours of [h,w,3] that `chosen` picks by their values in `of` [h,w], and how many they are."""
    total, count = 0.0, 0
    for dim in (0, 1):
        length = image.shape[dim] - 1
        which = chosen(of.narrow(dim, 0, length), of.narrow(dim, 1, length))
        step = (
            image.narrow(dim, 1, length)[which].cpu().double()
            - image.narrow(dim, 0, length)[which].cpu().double()
        )
        total += float(step.abs().sum()) / image.shape[-1]
        count += int(which.sum())
    return total / max(count, 1), count
