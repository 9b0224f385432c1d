"""The perceptual distance of guidance in the host: LPIPS in a patcher where its weights are found, else the scorer's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..retouch_core.metrics.feature_distance import (
    LpipsDistance,
    ScorerDistance,
    lpips_of,
    perceptual_distance,
)
from ..retouch_core.models.pretrained.lookup import find
from ._patchers import load_for_gradients, whole_patcher
from ._pretrained import folders


class HostLpips:
    """LPIPS whose network the host loads and unloads as it does its own; `patcher` is its."""

    def __init__(self, distance: LpipsDistance) -> None:
        self.distance = distance
        self.name = distance.name
        self.patcher = whole_patcher(distance.network)

    def against(self, reference: Tensor) -> Callable[[Tensor], Tensor]:
        """As `LpipsDistance.against`, on the device where the network is."""
        device = self.patcher.load_device
        inner = self.distance.against(reference.to(device))

        def distance(pixels: Tensor) -> Tensor:
            load_for_gradients([self.patcher])
            return inner(pixels.to(device))

        return distance


def host_perceptual(scorer: Any) -> HostLpips | ScorerDistance:
    """What weighs the background's perceptual distance for guidance with this scorer."""
    found = perceptual_distance(scorer, folders=folders())
    return HostLpips(found) if isinstance(found, LpipsDistance) else found


def loaded_lpips(name: str) -> HostLpips:
    """LPIPS with the backbone of that name; the recommended one of those on disk for an empty one.

    Raises:
        ModelError, ValueError: one sentence that says what is missing or wrong, and what to do.
    """
    return HostLpips(lpips_of(find("perceptual", "lpips", name, folders=folders())))


def check_perceptual(perceptual: Any) -> HostLpips | None:
    """What came on the wire, or None for nothing.

    Raises:
        TypeError: something else.
    """
    if perceptual is None or isinstance(perceptual, HostLpips):
        return perceptual
    raise TypeError(
        f"perceptual_distance must be of Load LPIPS, got {type(perceptual).__name__}; connect that node, or nothing"
    )
