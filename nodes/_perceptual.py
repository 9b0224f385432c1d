"""The perceptual distance of guidance in the host: LPIPS in a patcher where its weights are found, else the scorer's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.model_patcher
from torch import Tensor

from ..retouch_core.metrics.feature_distance import LpipsDistance, ScorerDistance, perceptual_distance


class HostLpips:
    """LPIPS whose network the host loads and unloads as it does its own; `patcher` is its."""

    def __init__(self, distance: LpipsDistance) -> None:
        self.distance = distance
        self.name = distance.name
        self.patcher = comfy.model_patcher.ModelPatcher(
            distance.network,
            comfy.model_management.get_torch_device(),
            comfy.model_management.unet_offload_device(),
        )

    def against(self, reference: Tensor) -> Callable[[Tensor], Tensor]:
        """As `LpipsDistance.against`, on the device where the network is."""
        device = self.patcher.load_device
        inner = self.distance.against(reference.to(device))
        return lambda pixels: inner(pixels.to(device))


def host_perceptual(scorer: Any) -> HostLpips | ScorerDistance:
    """What weighs the background's perceptual distance for guidance with this scorer."""
    found = perceptual_distance(scorer)
    return HostLpips(found) if isinstance(found, LpipsDistance) else found
