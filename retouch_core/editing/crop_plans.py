"""Which part of a picture to work on, and at which size: a box around the mask that fits what a model wants.

The rule is one: nothing is scaled where the region with its surroundings fits the model's size; there the crop is simply
as large as the model likes it, and all of it is real surroundings. Only what is larger is reduced, and only what the
caller allows is enlarged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tensors.boxes import Box
from ..tensors.checks import check_mask
from .crop import CropPlan

CONTEXT = 0.5
"""Surroundings on every side as a share of the longer side of the region: half of the canvas is then the region."""
MAX_CONTEXT = 10.0
MAX_ENLARGE = 8.0
"""Beyond this an enlarged crop holds too little of the picture to go by."""
MAX_ASPECT = 2.0
"""Longest canvas where the aspect follows the region; picture models were trained up to about this."""
MAX_PARTS = 16
"""Most crops of one picture; where a mask has more far-apart parts, the nearer ones go together."""
GRID = 256
"""Cells along the longer side of the region on which its parts are told apart."""
REACH = 1 / 8
"""Room around a part that has a crop of its own, as a share of the canvas side: the mask may grow into it."""
MIN_SIDE, MAX_SIDE = 16, 16384

Size = tuple[int, int]


@dataclass(frozen=True)
class WorkSize:
    """What a model wants of its canvas.

    Attributes:
        side: its native side in px; the canvas has no more pixels than a square of that side. None: the region with
            its surroundings at their own size, never scaled.
        multiple: both sides of the canvas are multiples of it.
        aspect: width / height of the canvas; None: as the region, within `MAX_ASPECT`, and no larger than needed.
        context: surroundings on every side as a share of the region's longer side.
        enlarge: how many times a small region may be enlarged to fill the canvas; 1 never enlarges.
    """

    side: int | None = None
    multiple: int = 8
    aspect: float | None = 1.0
    context: float = CONTEXT
    enlarge: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.multiple, int) or not 1 <= self.multiple <= MAX_SIDE:
            raise ValueError(f"multiple must be a whole number from 1 up, got {self.multiple!r}; 8 is usual")
        if self.side is not None:
            if not isinstance(self.side, int) or not MIN_SIDE <= self.side <= MAX_SIDE:
                raise ValueError(
                    f"size must be a whole number of pixels from {MIN_SIDE} to {MAX_SIDE}, got {self.side!r}; "
                    "use the side that the model was trained on"
                )
            if self.side % self.multiple:
                low = self.side // self.multiple * self.multiple
                near = f"{low} or {low + self.multiple}" if low else f"{self.multiple}"
                raise ValueError(
                    f"size {self.side} is no multiple of {self.multiple} px, which the model needs; use {near}"
                )
        for name, value, low_, high in (
            ("context", self.context, 0.0, MAX_CONTEXT),
            ("enlarge", self.enlarge, 1.0, MAX_ENLARGE),
            ("aspect", 1.0 if self.aspect is None else self.aspect, 1 / 64, 64.0),
        ):
            if not isinstance(value, (int, float)) or not low_ <= value <= high:
                raise ValueError(f"{name} must be from {low_:g} to {high:g}, got {value!r}; choose one in it")

    def wanted(self, part: Box, source: Size) -> Box:
        """The region `part` with its surroundings, within a picture of `source` = (H, W)."""
        return part.grown(math.ceil(self.context * max(part.size))).inside(source)

    def reach(self, part: Box, source: Size) -> Box:
        """What an edit of the region `part` may touch where other parts have crops of their own."""
        least = math.ceil((self.side or 0) * REACH)
        return self.wanted(part, source) | part.grown(least).inside(source)

    def canvas(self, height: int, width: int) -> Size:
        """(h, w) of the canvas for regions that want `height` x `width` px."""
        if self.side is None:
            if self.aspect is not None:
                height, width = (
                    max(height, math.ceil(width / self.aspect)),
                    max(width, math.ceil(height * self.aspect)),
                )
            return self._up(height), self._up(width)
        ratio = self.aspect or min(max(width / height, 1 / MAX_ASPECT), MAX_ASPECT)
        if ratio == 1:
            return self.side, self.side
        return self._down(self.side / math.sqrt(ratio)), self._down(self.side * math.sqrt(ratio))

    def scale(self, wanted: Box, canvas: Size) -> Fraction:
        """By what a box is scaled on that canvas: 1 where it fits, unless it may be enlarged."""
        most = min(Fraction(side, max(1, length)) for side, length in zip(canvas, wanted.size, strict=True))
        return (
            min(most, Fraction(self.enlarge))
            if most >= 1 and self.side is not None
            else min(most, Fraction(1))
        )

    def plan(self, part: Box, source: Size, canvas: Size, *, alone: bool = True) -> CropPlan:
        """The crop for the region `part` of a picture of `source` = (H, W); an empty region shows the whole picture.

        `alone`: whether no other crop of the picture is made, so that the whole crop belongs to this one.
        """
        wanted = Box.whole(source) if part.empty else self.wanted(part, source)
        scale = self.scale(wanted, canvas)
        shown = [
            min(limit, max(length, math.ceil(side / scale)))
            for limit, length, side in zip(source, wanted.size, canvas, strict=True)
        ]
        inner = [min(side, max(1, round(length * scale))) for side, length in zip(canvas, shown, strict=True)]
        box = wanted.resized((shown[0], shown[1]), source)
        if not part.empty:
            part = box if alone else self.reach(part, source) & box
        return CropPlan(source, box, (inner[0], inner[1]), canvas, part)

    def _up(self, length: int) -> int:
        return -(-length // self.multiple) * self.multiple

    def _down(self, length: float) -> int:
        return max(1, math.floor(length / self.multiple)) * self.multiple


def plan_crops(mask: Tensor, want: WorkSize, *, apart: bool = False) -> list[list[CropPlan]]:
    """The crops of every picture of a batch, all on a canvas of one size, so that they go through a model together.

    Args:
        mask: MASK [B,H,W]; everything above 0 is to be changed.
        want: what the model wants.
        apart: whether parts of a mask that lie far apart get crops of their own; parts whose boxes overlap, or that
            fit one canvas without being scaled down more, share one.

    Returns:
        For each picture one crop or several; where its mask is empty, one of the whole picture whose `part` is empty.
    """
    mask = mask if mask.dtype == torch.bool and mask.ndim == 3 else check_mask(mask)
    source = (mask.shape[1], mask.shape[2])
    regions = [Box.around(one) for one in mask]
    parts = [
        [region] if not apart or region.empty else _joined(_pieces(one, region), want, source)
        for one, region in zip(mask, regions, strict=True)
    ]
    every = [
        Box.whole(source) if part.empty else want.wanted(part, source) for group in parts for part in group
    ]
    if not every:
        return []
    canvas = want.canvas(max(box.height for box in every), max(box.width for box in every))
    plans = [[want.plan(part, source, canvas, alone=len(group) == 1) for part in group] for group in parts]
    if want.aspect is None:
        return [list(group) for group in tight(plans, want.multiple)]
    return plans


def work_side(value: object, native: int, multiple: int) -> int | None:
    """The side in px that a `work_size` means: None for `full`, the model's `native` side for `auto`, else the number.

    Raises:
        ValueError: anything else, or a number that is no multiple of `multiple`.
    """
    if value == "full":
        return None
    number = native if value == "auto" else value
    if isinstance(number, str) and number.isdecimal():
        number = int(number)
    if not isinstance(number, int) or isinstance(number, bool) or not MIN_SIDE <= number <= MAX_SIDE:
        raise ValueError(
            f"work_size must be full, auto or a number of pixels from {MIN_SIDE} to {MAX_SIDE}, got {value!r}; "
            "auto takes the size that the model was trained on"
        )
    if number % multiple:
        raise ValueError(
            f"work_size {number} is no multiple of {multiple} px, which the model needs; use {-(-number // multiple) * multiple}"
        )
    return number


def plan_crop(mask: Tensor, want: WorkSize) -> CropPlan:
    """The crop of one picture with MASK [1,H,W]; see `plan_crops`."""
    return plan_crops(mask, want)[0][0]


def _pieces(mask: Tensor, region: Box) -> list[Box]:
    """Tight boxes of the connected parts of a mask [H,W]; on a grid so coarse that there are not too many."""
    import numpy as np
    from skimage.measure import label, regionprops

    rows, columns = region.slices
    cut = (mask[rows, columns] > 0).float()[None, None]
    cell = -(-max(region.size) // GRID)
    while True:
        cells = F.max_pool2d(cut, cell, ceil_mode=True)[0, 0].cpu().numpy() > 0
        marked, count = label(cells, connectivity=2, return_num=True)
        if count <= 2 * MAX_PARTS:
            break
        cell *= 2
    found = []
    for entry in regionprops(np.asarray(marked)):
        y0, x0, y1, x1 = (int(edge) * cell for edge in entry.bbox)
        rough = Box(y0, x0, y1, x1).inside(region.size)
        down, across = rough.slices
        tight = Box.around(cut[0, 0, down, across])
        top, left = rough.y0 + region.y0, rough.x0 + region.x0
        found.append(Box(tight.y0 + top, tight.x0 + left, tight.y1 + top, tight.x1 + left))
    return found


def _joined(parts: list[Box], want: WorkSize, source: Size) -> list[Box]:
    """Parts that overlap with their surroundings put together, and those that fit one canvas as they are."""
    parts = sorted(parts)
    while True:
        pair = next((pair for pair in combinations(parts, 2) if _share(*pair, want, source)), None)
        if pair is None and len(parts) > MAX_PARTS:
            pair = min(combinations(parts, 2), key=lambda two: max((two[0] | two[1]).size))
        if pair is None:
            return parts
        parts = sorted([part for part in parts if part not in pair] + [pair[0] | pair[1]])


def _share(one: Box, other: Box, want: WorkSize, source: Size) -> bool:
    if not (want.reach(one, source) & want.reach(other, source)).empty:
        return True
    if want.side is None:
        return False
    boxes = [want.wanted(part, source) for part in (one, other)]
    both = want.wanted(one | other, source)
    scales = [want.scale(box, want.canvas(*box.size)) for box in (*boxes, both)]
    return scales[2] >= min(scales[:2])


def tight(plans: Sequence[Sequence[CropPlan]], multiple: int) -> tuple[tuple[CropPlan, ...], ...]:
    """The same crops on the smallest common canvas with sides of that multiple, where pictures end before it does."""
    every = [plan for group in plans for plan in group]
    height, width = (-(-max(plan.inner[k] for plan in every) // multiple) * multiple for k in (0, 1))
    return tuple(tuple(replace(plan, work=(height, width)) for plan in group) for group in plans)
