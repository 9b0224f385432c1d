"""`Regions`: the one value that carries the search from stage to stage (architecture.md 2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def mask_boxes(masks: Tensor) -> Tensor:
    """Half-open pixel boxes xyxy [N,4] float of bool masks [N,H,W]; an empty mask has the box (0,0,0,0)."""
    if masks.device.type == "cpu":
        # torch's reductions go through whole masks twice; of rows numpy looks at no more than it must.
        return torch.tensor([_box(mask) for mask in masks.numpy()]).reshape(-1, 4).float()
    count, height, width = masks.shape
    columns, rows = masks.any(1), masks.any(2)
    x = torch.arange(width, device=masks.device)
    y = torch.arange(height, device=masks.device)
    x0 = torch.where(columns, x, width).amin(1) if count else x.new_zeros(0)
    x1 = torch.where(columns, x + 1, 0).amax(1) if count else x.new_zeros(0)
    y0 = torch.where(rows, y, height).amin(1) if count else y.new_zeros(0)
    y1 = torch.where(rows, y + 1, 0).amax(1) if count else y.new_zeros(0)
    boxes = torch.stack([x0, y0, x1, y1], 1)
    return torch.where(columns.any(1)[:, None], boxes, 0).float()


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows = np.flatnonzero(mask.any(1))
    if not len(rows):
        return 0, 0, 0, 0
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].any(0))
    return int(columns[0]), top, int(columns[-1]) + 1, bottom


@dataclass(frozen=True)
class Regions:
    """Regions of one picture, never more than one picture's.

    Attributes:
        masks: bool [N,H,W]; N = 0 is legal.
        scores: float [N], or None before anything was scored.
        source_size: (H, W) of the picture in pixels.
        labels: a name per region, or None.
        trace: what each stage did (stage, parameters, numbers, fallback), in order; every report shows it.
        picture: IMAGE [1,H,W,3] they belong to, or None; stages only draw on it.
    """

    masks: Tensor
    scores: Tensor | None
    source_size: tuple[int, int]
    labels: tuple[str, ...] | None = None
    trace: tuple[dict[str, Any], ...] = ()
    picture: Tensor | None = None

    def __post_init__(self) -> None:
        if self.masks.ndim != 3 or self.masks.dtype != torch.bool:
            raise ValueError(
                f"masks must be bool [N,H,W], got {self.masks.dtype} {list(self.masks.shape)}; use masks > 0.5"
            )
        if tuple(self.masks.shape[1:]) != tuple(self.source_size):
            raise ValueError(
                f"masks are {list(self.masks.shape[1:])} but source_size is {list(self.source_size)}; make them agree"
            )
        if self.scores is not None and self.scores.shape != self.masks.shape[:1]:
            raise ValueError(
                f"scores must have shape [{len(self)}], got {list(self.scores.shape)}; give one score a region"
            )
        if self.labels is not None and len(self.labels) != len(self):
            raise ValueError(
                f"labels must hold {len(self)} names, got {len(self.labels)}; give one name a region"
            )

    def __len__(self) -> int:
        return self.masks.shape[0]

    @property
    def boxes(self) -> Tensor:
        """Half-open boxes xyxy in pixels, float [N,4]."""
        return mask_boxes(self.masks)

    @property
    def areas(self) -> Tensor:
        """Pixels per region, long [N]."""
        return self.masks.flatten(1).sum(1)

    def union(self) -> Tensor:
        """MASK [1,H,W] float in {0,1}: every pixel that some region holds."""
        return self.masks.any(0, keepdim=True).float()

    def select(self, which: Tensor) -> Regions:
        """The regions that `which` (bool [N] or long [k]) names, with their scores and labels."""
        indices = which.nonzero()[:, 0] if which.dtype == torch.bool else which.long()
        return replace(
            self,
            masks=self.masks[indices],
            scores=None if self.scores is None else self.scores[indices],
            labels=None if self.labels is None else tuple(self.labels[i] for i in indices.tolist()),
        )

    def with_scores(self, scores: Tensor) -> Regions:
        """The same regions with `scores` [N]."""
        return replace(self, scores=scores)

    def traced(self, stage: str, **numbers: Any) -> Regions:
        """The same regions with one more entry of the trace; `numbers` must be plain JSON values."""
        return replace(self, trace=(*self.trace, {"stage": stage, **numbers}))
