"""Between a picture of any size and the square a model works on: scaled to fit, continued by reflection, and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tensors.convert import to_bchw, to_bhwc


def _folded(length: int, side: int) -> Tensor:
    """Indices [side] into 0..length-1 that run on and are reflected at both ends as often as needed."""
    if length == 1:
        return torch.zeros(side, dtype=torch.long)
    period = 2 * (length - 1)
    along = torch.arange(side) % period
    return torch.minimum(along, period - along)


@dataclass(frozen=True)
class WorkFrame:
    """A picture of `source` = (H, W) px, scaled to `inner` = (h, w) in the upper left of a square of `side` px.

    Nothing is shifted: a picture whose longer side is `side` already is only continued to the right or below.
    """

    source: tuple[int, int]
    inner: tuple[int, int]
    side: int

    @classmethod
    def fit(cls, source: tuple[int, int], side: int) -> WorkFrame:
        """The frame that shows the whole of a picture of `source` = (H, W) on a square of `side` px."""
        longer = max(source)
        height, width = (min(side, max(1, round(length * side / longer))) for length in source)
        return cls(source, (height, width), side)

    def to_work(self, image: Tensor) -> Tensor:
        """IMAGE [B,H,W,3] -> [B,side,side,3], antialiased where it shrinks; the same values where nothing is scaled."""
        pixels = to_bchw(image)
        if self.inner != self.source:
            pixels = F.interpolate(pixels, size=self.inner, mode="bicubic", antialias=True).clamp(0, 1)
        rows, columns = (_folded(length, self.side).to(image.device) for length in self.inner)
        return to_bhwc(pixels[:, :, rows][:, :, :, columns])

    def from_work(self, image: Tensor) -> Tensor:
        """IMAGE [B,side,side,3] -> [B,H,W,3]."""
        height, width = self.inner
        pixels = to_bchw(image[:, :height, :width])
        if self.inner != self.source:
            pixels = F.interpolate(pixels, size=self.source, mode="bicubic", antialias=True).clamp(0, 1)
        return to_bhwc(pixels)

    def mask_to_work(self, mask: Tensor) -> Tensor:
        """MASK [B,H,W] -> [B,side,side]: a work pixel takes the greatest value it covers, the continuation takes 0."""
        height, width = self.inner
        small = F.adaptive_max_pool2d(mask[:, None], self.inner)[:, 0]
        return F.pad(small, (0, self.side - width, 0, self.side - height))

    def mask_from_work(self, mask: Tensor) -> Tensor:
        """MASK [B,side,side] -> [B,H,W], bilinear."""
        height, width = self.inner
        inner = mask[:, :height, :width]
        if self.inner == self.source:
            return inner
        return F.interpolate(inner[:, None], size=self.source, mode="bilinear", align_corners=False)[:, 0]
