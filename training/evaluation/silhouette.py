"""The strict half of the judge: is what was drawn shaped like the asked icon, and is the ground around it clean?

What was drawn is where the edited picture differs from the scene redrawn without the object. It is held against every
icon of a class that the generator could have drawn there: its rotations, sizes, mirrorings, at every place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..world.grounds import SIDE
from ..world.icons import draw_icon
from ..world.scenes import MAX_ANGLE, SHADOW, SIZES

ANGLES = tuple(float(a) for a in np.linspace(-MAX_ANGLE, MAX_ANGLE, 7))
SIDES = tuple(range(min(low for low, _ in SIZES), max(high for _, high in SIZES) + 1, 2))
DEEPEST_SHADOW = SHADOW[2] + 0.1
"""Darkening up to this share is a shadow, not a thing; a drawn one is a little uneven."""
DIFFERENCE = 0.08
"""Least difference of colour (root mean square of the channels, 0..1) that counts as drawn: twice what the autoencoder
does to textured grounds. Chosen on tune scenes, where it separates real icons from wrong ones best."""
ENOUGH = 0.7
"""Intersection over union from which a drawing counts as the asked icon."""
CHUNK = 48
"""Icons that are compared at once."""
MARGIN = 3
"""Pixels around the best-fitting icon that belong to its soft edge, not to the ground."""


@dataclass(frozen=True)
class Fit:
    """The best-fitting icon: intersection over union, and its silhouette bool [128,128]."""

    iou: float
    mask: Tensor


def drawn(edited: Tensor, ground: Tensor, mask: Tensor) -> Tensor:
    """Where something was drawn, bool [H,W].

    Args:
        edited, ground: [H,W,3] in 0..1; `ground` is the scene without the object.
        mask: bool [H,W], what the edit could change.
    """
    pair = torch.stack([edited, ground]).movedim(-1, 1)
    smooth, bare = F.avg_pool2d(F.pad(pair, (1, 1, 1, 1), mode="replicate"), 3, 1).unbind()
    # The darkening of the ground that explains the pixel best: shadows are part of it, within limits.
    light = (smooth * bare).sum(0) / bare.square().sum(0).clamp(min=1e-6)
    rest = smooth - bare * light.clamp(1 - DEEPEST_SHADOW, 1)
    return (rest.square().mean(0).sqrt() > DIFFERENCE) & mask


@lru_cache(maxsize=16)
def icons(name: str) -> Tensor:
    """Every silhouette of a class in the upper left corner, bool [K,128,128]: mirrorings, angles, sizes."""
    made = torch.zeros(2 * len(ANGLES) * len(SIDES), SIDE, SIDE, dtype=torch.bool)
    poses = ((f, a, s) for f in (False, True) for a in ANGLES for s in SIDES)
    for plane, (flip, angle, side) in zip(made, poses, strict=True):
        _, cover = draw_icon(name, (128, 128, 128), side, flip=flip, angle=angle)
        plane[:side, :side] = torch.from_numpy(cover > 0.5)
    return made


@lru_cache(maxsize=16)
def _spectra(name: str) -> Tensor:
    return torch.fft.rfft2(icons(name).float()).conj()


def best_fit(silhouette: Tensor, name: str) -> Fit:
    """The icon of class `name`, wholly inside the picture, with the largest IoU with `silhouette` bool [128,128]."""
    if not silhouette.any():
        return Fit(0.0, torch.zeros_like(silhouette))
    planes = icons(name)
    areas, area = planes.sum((1, 2)).float(), silhouette.sum().float()
    # No place makes up for areas that differ too much: IoU is at most their ratio.
    reachable = torch.minimum(areas, area) / torch.maximum(areas, area)
    spectrum = torch.fft.rfft2(silhouette.float())
    rows = torch.arange(SIDE)
    best, found = -1.0, (0, 0, 0)
    for chunk in reachable.argsort(descending=True).split(CHUNK):
        if float(reachable[chunk[0]]) <= best:
            break
        # Circular correlation: places where an icon would wrap around are outside the picture, and ruled out.
        shared = torch.fft.irfft2(spectrum * _spectra(name)[chunk], s=(SIDE, SIDE)).round()
        iou = shared / (areas[chunk, None, None] + area - shared)
        inside = rows <= SIDE - _sides()[chunk, None]
        iou = iou.masked_fill(~(inside[:, :, None] & inside[:, None, :]), -1.0)
        value, at = iou.flatten().max(0)
        if float(value) > best:
            k, y, x = (int(i) for i in np.unravel_index(int(at), tuple(iou.shape)))
            best, found = float(value), (int(chunk[k]), y, x)
    k, y, x = found
    placed = torch.zeros_like(silhouette)
    placed[y:, x:] = planes[k, : SIDE - y, : SIDE - x]
    return Fit(best, placed)


def _sides() -> Tensor:
    """Sides of `icons`, in their order."""
    return torch.tensor(SIDES).repeat(2 * len(ANGLES))


def with_edge(silhouette: Tensor) -> Tensor:
    """A thing with its soft edge and its shadow, bool [H,W]."""
    right, down, _ = SHADOW
    # Its shadow falls to the right and down, so every pixel looks for the thing to the left and up.
    reach = F.pad(silhouette[None, None].float(), (right, 0, down, 0))
    reach = F.max_pool2d(reach, (down + 1, right + 1), 1)
    return F.max_pool2d(reach, 2 * MARGIN + 1, 1, MARGIN)[0, 0] > 0


@dataclass(frozen=True)
class Halo:
    """Error on ground inside the edited area, against the scene without the object.

    Attributes:
        edited, restored: sums of squared differences (0..1) of the edit, and of the autoencoder alone.
        values: how many numbers were summed.
    """

    edited: float
    restored: float
    values: int

    def __add__(self, other: Halo) -> Halo:
        return Halo(self.edited + other.edited, self.restored + other.restored, self.values + other.values)

    @property
    def ratio(self) -> float:
        """Root mean square error of the edit over the autoencoder's."""
        return (self.edited / self.restored) ** 0.5 if self.restored else math.nan


NO_HALO = Halo(0.0, 0.0, 0)


def halo(edited: Tensor, ground: Tensor, restored: Tensor, where: Tensor) -> Halo:
    """Errors of [H,W,3] pictures against `ground` over the pixels `where` bool [H,W]."""
    ours, own = (float((p - ground)[where].double().square().sum()) for p in (edited, restored))
    return Halo(ours, own, 3 * int(where.sum()))
