"""Patchers of the host for networks whose layers are not the host's."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch

WHOLE = 1e32
"""Bytes that a network may take: what the host itself says where it does not count."""


class WholePatcher(comfy.model_patcher.ModelPatcher):
    """Loads all of a network or none of it.

    Where memory is short the host leaves layers on the CPU and brings their weights to the device one by one, which layers
    of transformers, open_clip and lpips do not know how to do.
    """

    def partially_load(
        self, device_to: Any, extra_memory: float = 0, force_patch_weights: bool = False
    ) -> Any:
        """Everything, whatever the host thinks there is room for."""
        return super().partially_load(device_to, WHOLE, force_patch_weights=force_patch_weights)

    def partially_unload(self, *args: Any, **named: Any) -> int:
        """Nothing: the host then takes the whole network off the device."""
        return 0


def whole_patcher(network: torch.nn.Module) -> WholePatcher:
    """A patcher that brings a network to the host's device and off it as one."""
    device = comfy.model_management.get_torch_device()
    return WholePatcher(network, device, comfy.model_management.unet_offload_device())


def is_ready(patcher: Any) -> bool:
    """Whether what a patcher holds can compute on its device as it is."""
    if not any(one is patcher for one in comfy.model_management.loaded_models()):
        return False
    dynamic = getattr(patcher, "is_dynamic", None)
    return bool(callable(dynamic) and dynamic()) or patcher.loaded_size() >= patcher.model_size()


def load_for_gradients(patchers: list[Any]) -> None:
    """Bring networks to their devices in the midst of a guided step, unless they are there.

    Every request lets the host make room, also by taking away what the step computes with.
    """
    if not all(is_ready(patcher) for patcher in patchers):
        with torch.inference_mode():  # loading belongs to the host's mode, which losses have left
            comfy.model_management.load_models_gpu(patchers)
