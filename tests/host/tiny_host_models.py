"""Small random MODEL objects of the host's own classes, for tests; import after the host."""

from __future__ import annotations

from typing import Any, ClassVar

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models_base
import torch
from torch import Tensor

WIDTH = 32
"""Numbers of a conditioning vector."""


class Spread(torch.nn.Module):
    """A stand-in network for latents of any rank that mixes positions and listens to its conditioning."""

    def __init__(self, channels: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.mix = torch.nn.Parameter(torch.randn(channels, channels, generator=generator) / channels**0.5)
        self.read = torch.nn.Parameter(torch.randn(WIDTH, channels, generator=generator) / WIDTH**0.5)
        self.dtype = torch.float32

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, **_: Any) -> Tensor:
        told = context.mean(1) @ self.read
        told = told.reshape(*told.shape, *[1] * (x.ndim - 2))
        near = (x + x.roll(1, -1) + x.roll(1, -2)) / 3
        mixed = torch.einsum("cd,bd...->bc...", self.mix, near)
        return torch.tanh(mixed + told + timesteps.reshape(-1, *[1] * (x.ndim - 1)).float() / 1000)


def _patcher(network: Any) -> Any:
    device = comfy.model_management.get_torch_device()
    offload = comfy.model_management.unet_offload_device()
    return comfy.model_patcher.CoreModelPatcher(network, device, offload)


def _config(
    latent: type, unet: dict[str, Any], sampling: dict[str, Any] | None = None
) -> comfy.supported_models_base.BASE:
    class Tiny(comfy.supported_models_base.BASE):
        unet_extra_config: ClassVar[dict[str, Any]] = {}
        latent_format = latent

    if sampling is not None:
        Tiny.sampling_settings = sampling
    config = Tiny(unet)
    config.set_inference_dtype(torch.float32, None)
    return config


def sd_model(channels: int = 4, seed: int = 0, width: int = 32) -> Any:
    """SD1.5-shaped U-Net, shrunk; 9 channels make it an inpainting one.

    It predicts v: what a random network makes of epsilon grows with sigma, and float32 with it.
    """
    unet = {
        "image_size": 8,
        "in_channels": channels,
        "out_channels": 4,
        "model_channels": width,
        "channel_mult": [1, 2],
        "num_res_blocks": [1, 1],
        "transformer_depth": [1, 1],
        "transformer_depth_output": [1, 1, 1, 1],
        "transformer_depth_middle": 1,
        "num_heads": 2,
        "num_head_channels": -1,
        "context_dim": WIDTH,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": False,
        "legacy": False,
    }
    network = comfy.model_base.BaseModel(
        _config(comfy.latent_formats.SD15, unet), comfy.model_base.ModelType.V_PREDICTION
    )
    if channels == 9:
        network.set_inpaint()
    generator = torch.Generator().manual_seed(seed)
    for value in network.diffusion_model.parameters():
        value.data = torch.randn(value.shape, generator=generator) * (0.05 if value.ndim > 1 else 0.02)
    return _patcher(network)


def flow_model(channels: int = 16, seed: int = 1, video: bool = False) -> Any:
    """A flow-matching model on 4-D latents, or on 5-D ones."""
    latent = comfy.latent_formats.Wan21 if video else comfy.latent_formats.SD3
    settings = _config(latent, {"disable_unet_model_creation": True}, {"shift": 3.0})
    network = comfy.model_base.BaseModel(settings, comfy.model_base.ModelType.FLOW)
    network.diffusion_model = Spread(channels, seed)
    return _patcher(network)


def conditioning(seed: int, tokens: int = 7) -> list[list[Any]]:
    """Random CONDITIONING."""
    made = torch.randn(1, tokens, WIDTH, generator=torch.Generator().manual_seed(seed))
    return [[made, {"pooled_output": made.mean(1)}]]


def count_calls(model: Any) -> list[tuple[int, ...]]:
    """Shapes with which the network is called from now on, appended as it happens."""
    seen: list[tuple[int, ...]] = []

    def wrapper(apply: Any, args: dict[str, Any]) -> Tensor:
        seen.append(tuple(args["input"].shape))
        return apply(args["input"], args["timestep"], **args["c"])

    model.set_model_unet_function_wrapper(wrapper)
    return seen
