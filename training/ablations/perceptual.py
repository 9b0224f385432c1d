"""LPIPS where its weights are on disk; where they are not, a stand-in on the scorer's features, under its own name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from retouch_core.metrics.perceptual import backbone_file, load_lpips, lpips_distance
from retouch_core.tensors.frames import square_frames

NET = "vgg"
LPIPS = f"LPIPS ({NET})"
STAND_IN = "perceptual distance (scorer features)"
"""The stand-in's name wherever a number of it is printed; it is not LPIPS and compares only with itself."""

Distance = Callable[[Tensor, Tensor], Tensor]
"""IMAGEs [m,H,W,3] and [1,H,W,3] -> distances [m], lower is closer."""


def perceptual_name() -> str:
    """What `perceptual` measures on this machine."""
    return LPIPS if backbone_file(NET).is_file() else STAND_IN


def perceptual(scorer: Any) -> Distance:
    """LPIPS, or the stand-in on `scorer`."""
    if perceptual_name() == LPIPS:
        network = load_lpips(NET)
        return lambda a, b: lpips_distance(a, b, network=network)
    return lambda a, b: feature_distance(a, b, scorer)


@torch.no_grad()
def feature_distance(a: Tensor, b: Tensor, scorer: Any) -> Tensor:
    """The form of LPIPS (Zhang et al. 2018, eq. 1) on a vision transformer, without its fitted weights: [m].

    Mean over layers and patches of the squared difference between unit feature vectors of the patches.
    """
    layers = [_patches(images, scorer) for images in (a, b)]
    apart = [(x - y).square().sum(-1).mean(-1) for x, y in zip(*layers, strict=True)]
    return torch.stack(apart).mean(0)


def _patches(images: Tensor, scorer: Any) -> list[Tensor]:
    """Unit features [B,patches,width] of every layer."""
    tower = scorer.model.vision_model
    weight = next(tower.parameters())
    views = square_frames(images, scorer.image_size).to(weight)
    mean, std = (torch.as_tensor(v).to(weight).view(3, 1, 1) for v in (scorer._mean, scorer._std))
    seen = tower(pixel_values=(views - mean) / std, output_hidden_states=True).hidden_states
    return [F.normalize(layer[:, 1:].float().cpu(), dim=-1) for layer in seen[1:]]
