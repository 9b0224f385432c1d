"""LPIPS where its weights are on disk; where they are not, a stand-in on the scorer's features, under its own name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from retouch_core.metrics.feature_distance import FEATURES, perceptual_distance
from retouch_core.metrics.perceptual import backbone_file
from retouch_core.models.protocols import Scorer
from retouch_core.tensors.convert import to_diffusion

NET = "vgg"

Distance = Callable[[Tensor, Tensor], Tensor]
"""IMAGEs [m,H,W,3] and [1,H,W,3] -> distances [m], lower is closer."""


def perceptual_name() -> str:
    """What `perceptual` measures on this machine with the embedded scorer, wherever a number of it is printed."""
    return f"LPIPS ({NET})" if backbone_file(NET).is_file() else f"perceptual distance ({FEATURES})"


def perceptual(scorer: Scorer) -> Distance:
    """LPIPS, or the stand-in on `scorer`."""
    measure = perceptual_distance(scorer, NET)

    @torch.no_grad()
    def distance(a: Tensor, b: Tensor) -> Tensor:
        return measure.against(to_diffusion(b))(to_diffusion(a)).cpu()

    return distance
