"""What a map of probabilities over the picture found: its connected parts as regions, and the map itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..tensors.regions import Regions
from .entities import MAX_ENTITIES, MIN_AREA_PX, MIN_AREA_SHARE
from .search import Found


@dataclass(frozen=True)
class HeatFound(Found):
    """A `Found` whose regions come out of a map.

    Attributes:
        heat: MASK [1,H,W] in 0..1, what decided; None only for a `Found` that lacks it.
    """

    heat: Tensor | None = None

    @property
    def chosen(self) -> Regions:
        """The selected regions alone."""
        return self.regions.select(self.selected)


def parts(mask: Tensor, heat: Tensor, picture: Tensor | None = None) -> Regions:
    """The 8-connected parts of a mask as regions.

    Args:
        mask: bool [H,W].
        heat: [H,W]; the score of a part is its mean there.
        picture: IMAGE [1,H,W,3] that the regions shall carry, or None.

    Returns:
        Regions by falling score, whose union is `mask`: parts of at least max(64 px, 0.05 % of the picture), the largest
        `MAX_ENTITIES` of them; all others are together one more region, the last whatever its score.
    """
    from skimage.measure import label

    height, width = mask.shape
    numbered = torch.from_numpy(label(mask.cpu().numpy(), connectivity=2))
    areas = numbered.flatten().bincount(minlength=1)[1:]
    least = max(MIN_AREA_PX, round(MIN_AREA_SHARE * height * width))
    large = [k for k in areas.argsort(descending=True).tolist() if areas[k] >= least][:MAX_ENTITIES]
    masks = [numbered == k + 1 for k in large]
    values = heat.detach().cpu().double()
    masks.sort(key=lambda part: float(values[part].mean()), reverse=True)
    rest = mask.cpu() & ~torch.isin(numbered, torch.tensor([k + 1 for k in large], dtype=numbered.dtype))
    if rest.any():
        masks.append(rest)
    stacked = torch.stack(masks) if masks else torch.zeros(0, height, width, dtype=torch.bool)
    scores = torch.tensor([float(values[part].mean()) for part in masks])
    return Regions(stacked, scores, (height, width), picture=picture)
