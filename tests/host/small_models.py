"""The host's own networks, small and with random weights, as the MODEL, VAE and CONDITIONING on a graph's wires."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

WIDTH = 48
"""Width of the conditionings' tokens."""
UNET = {
    "image_size": 32,
    "out_channels": 4,
    "model_channels": 32,
    "channel_mult": [1, 2],
    "num_res_blocks": [1, 1],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "num_heads": 4,
    "num_head_channels": -1,
    "context_dim": WIDTH,
    "use_spatial_transformer": True,
    "legacy": False,
}
FLOW = {"shift": 3.0}


def randomise(network: torch.nn.Module, seed: int) -> None:
    """A random value in every parameter: layers that start as zero would hide everything before them."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.named_parameters():
        noise = torch.randn(value.shape, generator=generator)
        plain = 0.1 * noise + (1.0 if name.endswith("weight") else 0.0)
        value.data = noise / max(value[0].numel(), 1) ** 0.5 if value.ndim > 1 else plain


class Moving(torch.nn.Module):
    """The least network of video [B,4,T,h,w]: every pixel sees its neighbours and the mean of the words."""

    def __init__(self, device: Any = None, operations: Any = None, **_: Any) -> None:
        super().__init__()
        self.dtype = torch.float32
        self.near = operations.Conv3d(4, 4, 3, padding=1, device=device, dtype=torch.float32)
        self.words = operations.Linear(WIDTH, 4, device=device, dtype=torch.float32)

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, **_: Any) -> Tensor:
        told = self.words(context.mean(1))[:, :, None, None, None]
        seen: Tensor = torch.tanh(self.near(x) + told)
        return seen


def model(kind: str = "plain", seed: int = 0) -> Any:
    """A MODEL: `plain` (noise prediction), `inpaint` (9 channels), `sdxl`, `flow`, or `video` (5-D latents)."""
    import comfy.latent_formats
    import comfy.model_base
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models
    import comfy.supported_models_base

    base = comfy.supported_models.SDXL if kind == "sdxl" else comfy.supported_models_base.BASE
    predicts = (
        comfy.model_base.ModelType.FLOW if kind in ("flow", "video") else comfy.model_base.ModelType.EPS
    )

    class Latent(comfy.latent_formats.LatentFormat):
        scale_factor = 0.7
        latent_dimensions = 3 if kind == "video" else 2

    class Small(base):  # type: ignore[misc,valid-type]
        unet_extra_config: ClassVar[dict[str, Any]] = {}
        sampling_settings = FLOW if kind in ("flow", "video") else {}
        latent_format = Latent

        def model_type(self, state_dict: Any, prefix: str = "") -> Any:
            return predicts

    settings: dict[str, Any] = {**UNET, "in_channels": 9 if kind == "inpaint" else 4}
    if kind == "sdxl":
        settings |= {"num_classes": "sequential", "adm_in_channels": 2816}
    config = Small({} if kind == "video" else settings)
    config.set_inference_dtype(torch.float32, None)
    if kind == "video":
        config.unet_config["disable_unet_model_creation"] = False
        config.unet_config.pop("dtype", None)
        network = comfy.model_base.BaseModel(config, predicts, unet_model=Moving)
    else:
        network = config.get_model({}, "", device=None)
    randomise(network.diffusion_model, seed)
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.ModelPatcher(network, device, comfy.model_management.unet_offload_device())


def vae(channels: int = 4, seed: int = 1) -> Any:
    """A VAE of the host with cells of 8 px."""
    import comfy.sd
    import comfy.taesd.taesd

    network = comfy.taesd.taesd.TAESD(latent_channels=channels)
    randomise(network, seed)
    return comfy.sd.VAE(sd=network.state_dict())


class VideoVAE:
    """Four planes of cell means as a latent of one frame, and back: what a VAE of video answers, without one."""

    latent_channels = 4
    latent_dim = 3

    def spacial_compression_encode(self) -> int:
        return 8

    def encode(self, pixels: Tensor) -> Tensor:
        """The batch is the frames of one clip, as the host takes it."""
        means = torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8)
        return torch.cat([means, means[:, :1]], 1).movedim(0, 1)[None] - 0.5

    def decode(self, latents: Tensor) -> Tensor:
        planes = (latents[:, :3] + 0.5).repeat_interleave(8, -1).repeat_interleave(8, -2)
        return planes.movedim(1, -1)


def conditioning(seed: int, width: int = WIDTH) -> list[Any]:
    """CONDITIONING of eight tokens."""
    generator = torch.Generator().manual_seed(seed)
    pooled = torch.randn(1, 1280, generator=generator)
    return [[torch.randn(1, 8, width, generator=generator), {"pooled_output": pooled}]]


def picture(height: int, width: int, batch: int = 1, seed: int = 3) -> Tensor:
    """IMAGE [batch,height,width,3]."""
    return torch.rand(batch, height, width, 3, generator=torch.Generator().manual_seed(seed))


def save_flux(folder: Path, width: int) -> None:
    """A folder of models with `flux1-dev` and `flux1-dev-kontext_fp8_scaled` of two blocks each, and `ae`, a TAESD, under the names
    that our graphs for photographs have; for text encoders of `width`."""
    import comfy.ops
    from comfy.ldm.flux.model import Flux, FluxParams
    from comfy.taesd.taesd import TAESD
    from safetensors.torch import save_file

    wanted = {
        "in_channels": 16,
        "out_channels": 16,
        "patch_size": 2,
        "vec_in_dim": width,
        "context_in_dim": width,
        "hidden_size": 128,
        "mlp_ratio": 4.0,
        "num_heads": 1,
        "depth": 1,
        "depth_single_blocks": 1,
        "axes_dim": [16, 56, 56],
        "theta": 10000,
        "qkv_bias": True,
        "guidance_embed": True,
        "txt_ids_dims": [],
    }
    known = {field.name for field in dataclasses.fields(FluxParams)}
    with torch.inference_mode(False), torch.no_grad():
        network = Flux(
            image_model="flux",
            operations=comfy.ops.disable_weight_init,
            **{name: value for name, value in wanted.items() if name in known},
        )
        small = TAESD(latent_channels=16)
        for place, part, names in (
            ("diffusion_models", network, ("flux1-dev", "flux1-dev-kontext_fp8_scaled")),
            ("vae", small, ("ae",)),
        ):
            randomise(part, 0)
            (folder / place).mkdir(parents=True, exist_ok=True)
            for name in names:
                save_file(dict(part.state_dict()), folder / place / f"{name}.safetensors")
