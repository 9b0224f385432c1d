"""Backbones of LPIPS with random weights, in files as torchvision's servers have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from retouch_core.metrics.perceptual import BACKBONES

NAMES = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}
"""LPIPS's names of its backbones -> torchvision's."""


def backbone(place: Path, net: str) -> Any:
    """torchvision's network, its file in the folder `place`."""
    from torchvision import models

    torch.manual_seed(0)
    network = getattr(models, NAMES[net])(weights=None)
    place.mkdir(parents=True, exist_ok=True)
    torch.save(
        {f"features.{name}": value for name, value in network.features.state_dict().items()},
        place / BACKBONES[net],
    )
    return network
