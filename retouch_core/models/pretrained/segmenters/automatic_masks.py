"""Everything in a picture without asking for anything: a grid of points before a promptable decoder (SAM, SAM 2).

The recipe of `SamAutomaticMaskGenerator` (Kirillov et al. 2023) and of transformers' mask-generation pipeline, in
another order: what a mask is judged by is measured at no more than `MEASURED_SIDE`, and only what survives is drawn
at the size of the picture, straight into bool. Up to that size the results are the pipeline's own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ....tensors.checks import InputWarning
from ..chunks import Tell, in_chunks
from .maps import check_overflow

SCORE_MIN = 0.5
"""Predicted IoU times stability from which `disjoint` should keep a mask (methods.md 1.2)."""

POINTS_PER_SIDE, POINTS_AT_ONCE = 32, 64
PRED_IOU_MIN, STABILITY_MIN, STABILITY_OFFSET = 0.88, 0.95, 1.0
BOX_IOU_MAX = 0.7
"""Defaults of transformers' mask-generation pipeline, which are those of segment-anything."""

MASK_THRESHOLD = 0.0
"""A logit above it is mask."""

MEASURED_SIDE = 1024
"""Longer side at which masks are judged: the side of the network's own input."""

PIXELS_AT_ONCE = 1 << 24
"""Float pixels of masks that exist at one time: 64 MiB, or one mask where the picture is larger."""

MAX_MASK_BYTES = 1 << 31
"""Bool masks of one picture together: 178 at 12 megapixels, 2047 at one."""

Decode = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Points [P,2] as x, y in 0..1 of the picture -> mask logits [P,M,h,w] and predicted IoUs [P,M]."""
Enlarge = Callable[[Tensor, tuple[int, int]], Tensor]
"""Logits [n,h,w] float32 and a size (H, W) of the same aspect as the picture -> logits [n,H,W]."""


@dataclass(frozen=True)
class MaskRules:
    """Which masks stay.

    Attributes:
        points_per_side: n of the n x n grid; half of 32 takes a quarter of the time and loses small things.
        points_at_once: points that go through the decoder together.
        pred_iou_min: a mask needs a higher predicted IoU.
        stability_min: it needs a higher IoU of its two forms at logits of +1 and of -1.
        box_iou_max: of two masks whose boxes overlap more only the one of higher predicted IoU stays.

    Raises:
        ValueError: a number out of its range.
    """

    points_per_side: int = POINTS_PER_SIDE
    points_at_once: int = POINTS_AT_ONCE
    pred_iou_min: float = PRED_IOU_MIN
    stability_min: float = STABILITY_MIN
    box_iou_max: float = BOX_IOU_MAX

    def __post_init__(self) -> None:
        for name, usual in (("points_per_side", POINTS_PER_SIDE), ("points_at_once", POINTS_AT_ONCE)):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value!r}; {usual} is usual")
        for name, low in (("pred_iou_min", PRED_IOU_MIN), ("stability_min", STABILITY_MIN)):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ValueError(f"{name} must be in [0, 1), got {value!r}; {low} is usual")
        if not 0 < self.box_iou_max <= 1:
            raise ValueError(f"box_iou_max must be in (0, 1], got {self.box_iou_max!r}; 0.7 is usual")


@dataclass(frozen=True)
class _Candidates:
    """Masks that passed the first two rules: logits [n,h,w] as the decoder gave them, predicted IoUs [n],
    stabilities [n] and boxes xyxy [n,4] at the measured size, all on the CPU."""

    logits: Tensor
    ious: Tensor
    stabilities: Tensor
    boxes: Tensor


def automatic_masks(
    decode: Decode,
    enlarge: Enlarge,
    size: tuple[int, int],
    rules: MaskRules,
    device: torch.device,
    *,
    tell: Tell | None = None,
) -> tuple[Tensor, Tensor]:
    """Masks bool [N,H,W] of a picture of `size` = (H, W), which may overlap, and scores float [N] in 0..1, best first.

    A score is the predicted IoU times the stability. All results are on the CPU.

    Args:
        device: where masks are enlarged, that of the decoder.
        tell: called after each chunk of points, and, with all points done, while masks are drawn.

    Raises:
        ValueError: predicted IoUs that are not finite, as a network in float16 may give them.
    """
    points = point_grid(rules.points_per_side)
    small = measured_size(size)
    parts = in_chunks(
        lambda some: _judged(decode, enlarge, some, small, rules),
        points,
        rules.points_at_once,
        name="points",
        tell=tell,
    )
    ious, stabilities, boxes = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("ious", "stabilities", "boxes")
    )
    from torchvision.ops import nms

    kept = nms(boxes, ious, rules.box_iou_max)
    scores = ious[kept].clamp(0, 1) * stabilities[kept]
    best = scores.argsort(descending=True, stable=True)
    kept, scores = _fitting(kept[best], scores[best], size)
    # Row by row out of the parts, since one tensor of them all would hold every candidate twice.
    rows = [row for part in parts for row in part.logits]
    logits = torch.stack([rows[i] for i in kept.tolist()]) if len(kept) else torch.zeros(0, 1, 1)
    del parts, rows

    def drawing(_done: int, _of: int) -> None:
        if tell is not None:
            tell(len(points), len(points))

    masks = drawn(lambda some: enlarge(some.to(device).float(), size), logits, size, tell=drawing)
    filled = masks.flatten(1).any(1)
    if not filled.all():
        masks, scores = masks[filled], scores[filled]
    return masks, scores


def drawn(
    enlarge: Callable[[Tensor], Tensor], logits: Tensor, size: tuple[int, int], *, tell: Tell | None = None
) -> Tensor:
    """Masks bool [N,H,W] on the CPU of logits [N,h,w], enlarged a few at a time and never held as floats together."""
    masks = torch.empty(len(logits), *size, dtype=torch.bool)

    def draw(numbers: Tensor) -> None:
        for number, logit in zip(numbers.tolist(), enlarge(logits[numbers]), strict=True):
            masks[number].copy_(logit > MASK_THRESHOLD)

    in_chunks(draw, torch.arange(len(logits)), _at_once(size), name="masks", tell=tell)
    return masks


def point_grid(side: int) -> Tensor:
    """Points [side*side,2] as x, y in 0..1, in the middles of equal cells, row by row."""
    middle = 1 / (2 * side)
    line = torch.linspace(middle, 1 - middle, side)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y], dim=-1).view(-1, 2)


def measured_size(size: tuple[int, int]) -> tuple[int, int]:
    """Size at which masks of a picture of `size` = (H, W) are judged: its own up to `MEASURED_SIDE`."""
    scale = min(1.0, MEASURED_SIDE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def stability(logits: Tensor, offset: float = STABILITY_OFFSET) -> Tensor:
    """IoU [n] of the masks of logits [n,H,W] at `offset` above and below the threshold; 0 where both are empty."""
    inner = (logits > MASK_THRESHOLD + offset).flatten(1).sum(1)
    outer = (logits > MASK_THRESHOLD - offset).flatten(1).sum(1)
    return inner / outer.clamp(min=1)


def mask_boxes(masks: Tensor) -> Tensor:
    """Boxes xyxy float [n,4] of masks bool [n,H,W], last pixel included as segment-anything counts; 0 for an empty one."""
    edges = []
    for axis in (1, 2):
        line = masks.any(axis)
        index = torch.arange(line.shape[1], device=line.device)
        edges.append(torch.where(line, index, line.shape[1]).amin(1))
        edges.append(torch.where(line, index, -1).amax(1))
    left, right, top, bottom = edges
    boxes = torch.stack([left, top, right, bottom], dim=1)
    return torch.where((right < left)[:, None], 0, boxes).float()


def _judged(
    decode: Decode, enlarge: Enlarge, points: Tensor, small: tuple[int, int], rules: MaskRules
) -> _Candidates:
    found, predicted = decode(points)
    ious = predicted.flatten().float()
    check_overflow(ious, "predicted IoUs")
    promising = ious > rules.pred_iou_min
    logits, ious = found.flatten(0, 1)[promising], ious[promising]

    def measure(some: Tensor) -> tuple[Tensor, Tensor]:
        large = enlarge(some.float(), small)
        return stability(large), mask_boxes(large > MASK_THRESHOLD)

    measured = in_chunks(measure, logits, _at_once(small), name="masks")
    stabilities = torch.cat([ious.new_zeros(0), *(one for one, _ in measured)])
    boxes = torch.cat([ious.new_zeros(0, 4), *(box for _, box in measured)])
    stable = stabilities > rules.stability_min
    return _Candidates(
        logits[stable].cpu(), ious[stable].cpu(), stabilities[stable].cpu(), boxes[stable].cpu()
    )


def _at_once(size: tuple[int, int]) -> int:
    # However small the picture: where there is padding, maps go through the size of the network's input.
    return max(1, PIXELS_AT_ONCE // max(size[0] * size[1], MEASURED_SIDE**2))


def _fitting(kept: Tensor, scores: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    most = max(1, MAX_MASK_BYTES // (size[0] * size[1]))
    if len(kept) > most:
        warnings.warn(
            f"the best {most} of {len(kept)} masks were kept, as more would take over {MAX_MASK_BYTES >> 30} GiB; "
            "raise pred_iou_min or stability_min, or make the picture smaller",
            InputWarning,
            stacklevel=3,
        )
    return kept[:most], scores[:most]
