"""What one retouch gave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from PIL.Image import Image as PillowImage
from torch import Tensor

from .editing.crop import CropPlan
from .report import Report
from .sheet import contact_sheet
from .tensors.boxes import Box
from .tensors.regions import Regions


@dataclass(frozen=True)
class Result:
    """What one retouch gave.

    Candidates differ from the source in one window only, and are held as that window: many of a huge picture cost little.

    Attributes:
        source: IMAGE [1,H,W,3], what was given.
        image: IMAGE [1,H,W,3] on the CPU, the best candidate, or the source where nothing was found.
        mask: the composite mask, MASK [1,H,W]; where it is 0, `image` and every candidate equal the source bit for bit.
        window: the part of the picture that was worked on; empty where nothing was found.
        patches: IMAGE [m,h,w,3], what every candidate has there, in the order of their seeds; m = 0 where nothing was
            found. Where the recipe prunes, those that were painted to the end (the report's stage `prune` tells which).
        patch_masks: MASK [m,h,w], the part of `mask` that each candidate took; all alike without `change_min`.
        area: MASK [1,H,W], the composite mask before what hardly changed was taken out of it.
        scores: [m], higher is better.
        best: index of the best candidate; 0 where there is none.
        regions: every entity of the picture with its score.
        selected: bool [N], those that were edited.
        report: everything that decided the result.
        painted: what the model made before anything was laid over the source: each crop with its canvases IMAGE
            [m,h,w,3]; empty where nothing was found, and for learnable regions.
    """

    source: Tensor
    image: Tensor
    mask: Tensor
    window: Box
    patches: Tensor
    patch_masks: Tensor
    area: Tensor
    scores: Tensor
    best: int
    regions: Regions
    selected: Tensor
    report: Report
    painted: tuple[tuple[CropPlan, Tensor], ...] = ()

    def __len__(self) -> int:
        """How many candidates there are."""
        return len(self.patches)

    def candidate(self, k: int) -> Tensor:
        """One candidate as IMAGE [H,W,3]."""
        return pasted(self.source, self.window, self.patches[k : k + 1])[0]

    @cached_property
    def candidates(self) -> Tensor:
        """All of them as IMAGE [m,H,W,3]: m times the picture's memory."""
        return pasted(self.source, self.window, self.patches)

    @cached_property
    def candidate_masks(self) -> Tensor:
        """MASK [m,H,W], the part of `mask` that each candidate took."""
        return pasted(torch.zeros_like(self.mask), self.window, self.patch_masks)

    def sheet(self) -> PillowImage:
        """Everything at a glance, drawn as one picture: input, regions with scores, mask, candidates with scores, best."""
        return contact_sheet(
            self.source,
            self.regions,
            self.selected,
            self.mask,
            _Whole(self),
            self.scores,
            self.best if len(self) else None,
            self.report.title,
        )


def pasted(source: Tensor, window: Box, patches: Tensor) -> Tensor:
    """Planes [1,H,W,...] with each of the patches [m,h,w,...] at `window`: [m,H,W,...]; no copy where it is all of it."""
    if window.size == tuple(source.shape[1:3]):
        return patches
    out = source.expand(len(patches), *source.shape[1:]).clone(memory_format=torch.contiguous_format)
    rows, columns = window.slices
    out[:, rows, columns] = patches
    return out


class _Whole(Sequence[Tensor]):
    """The candidates of a result, made whole one at a time."""

    def __init__(self, result: Result) -> None:
        self.result = result

    def __len__(self) -> int:
        return len(self.result)

    def __getitem__(self, k: int) -> Tensor:  # type: ignore[override]
        return self.result.candidate(k)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[k] for k in range(len(self)))
