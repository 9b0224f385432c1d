"""The embedded bundle as the host's own MODEL, CLIP and VAE: what its nodes take on their sockets.

The bundle is a folder as diffusers lays one out: ``unet_inpaint/``, ``scheduler/``, ``clip/`` (with the
tokenizer), ``vae/``. Networks are ordinary host classes in ordinary patchers, so the host loads, moves and
unloads them as it does its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import torch

from ._networks import (
    State,
    host_vae,
    read_config,
    text_config,
    text_encoder_class,
    text_state,
    unet_config,
    unet_state,
    vision_config,
    vision_state,
)

# What diffusers calls a beta schedule -> what the host does (its "linear" is linear in the root of beta).
BETA_SCHEDULES = {"scaled_linear": "linear", "linear": "sqrt_linear"}


CELL = 8
"""Pixels on a side of a latent cell of the bundle."""


def read_state(folder: Path) -> State:
    """The float32 weights of a saved diffusers or transformers model; reads safetensors only.

    Raises FileNotFoundError where the folder holds none.
    """
    from safetensors.torch import load_file

    for name in ("diffusion_pytorch_model.safetensors", "model.safetensors"):
        if (folder / name).is_file():
            return {key: value.float() for key, value in load_file(folder / name).items()}
    raise FileNotFoundError(f"no safetensors weights in {folder}; make them with `make train`.")


def sampling_settings(scheduler: dict[str, Any]) -> dict[str, Any]:
    """The host's noise schedule for a diffusers scheduler's configuration; ValueError where it has none."""
    name = scheduler["beta_schedule"]
    if name not in BETA_SCHEDULES:
        raise ValueError(f"beta_schedule must be one of {sorted(BETA_SCHEDULES)}, got {name!r}.")
    return {
        "beta_schedule": BETA_SCHEDULES[name],
        "linear_start": scheduler["beta_start"],
        "linear_end": scheduler["beta_end"],
        "timesteps": scheduler["num_train_timesteps"],
        "zsnr": bool(scheduler.get("rescale_betas_zero_snr", False)),
    }


def model_config_class(scheduler: dict[str, Any], latent_scale: float) -> type:
    """A ``supported_models_base.BASE`` for our denoisers: schedule, prediction type and latent scale."""
    import comfy.latent_formats
    import comfy.model_base
    import comfy.supported_models_base

    kinds = {
        "v_prediction": comfy.model_base.ModelType.V_PREDICTION,
        "epsilon": comfy.model_base.ModelType.EPS,
    }
    kind = kinds[scheduler["prediction_type"]]

    class EmbeddedLatent(comfy.latent_formats.LatentFormat):
        scale_factor = latent_scale

    class EmbeddedDenoiser(comfy.supported_models_base.BASE):
        # The base class writes its own head counts over the configuration's where these are not empty.
        unet_extra_config: ClassVar[dict[str, Any]] = {}
        latent_format = EmbeddedLatent

        def model_type(self, state_dict: State, prefix: str = "") -> Any:
            return kind

    EmbeddedDenoiser.sampling_settings = sampling_settings(scheduler)
    return EmbeddedDenoiser


def host_model(bundle: Path, unet: str = "unet_inpaint", dtype: torch.dtype = torch.float32) -> Any:
    """A host MODEL: the denoiser of ``bundle / unet`` in a patcher; 9 channels are set up to inpaint."""
    import comfy.model_management
    import comfy.model_patcher

    config = unet_config(read_config(bundle / unet))
    scheduler = json.loads((bundle / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    latent_scale = float(read_config(bundle / "vae").get("scaling_factor", 1.0))
    settings = model_config_class(scheduler, latent_scale)(config)
    cells = read_config(bundle / unet).get("sample_size")
    if isinstance(cells, int):
        settings.native_side = cells * CELL

    load_device = comfy.model_management.get_torch_device()
    offload_device = comfy.model_management.unet_offload_device()
    cast = comfy.model_management.unet_manual_cast(dtype, load_device, settings.supported_inference_dtypes)
    settings.set_inference_dtype(dtype, cast)
    state = unet_state(read_state(bundle / unet), config)
    network = settings.get_model(state, "", device=offload_device)
    patcher = comfy.model_patcher.CoreModelPatcher(network, load_device, offload_device)
    wanted = set(network.diffusion_model.state_dict())
    if wanted != set(state):
        raise ValueError(
            f"{bundle / unet} does not fit the host's network: {sorted(wanted ^ set(state))[:4]}."
        )
    network.load_model_weights(state, "", assign=patcher.is_dynamic())
    return patcher


def tokenizer_class(folder: Path, config: dict[str, Any]) -> type:
    """A host tokenizer over the ``tokenizer.json`` in ``folder``; ``config`` is from :func:`text_config`."""
    import comfy.sd1_clip
    from transformers import PreTrainedTokenizerFast

    class EmbeddedWords(comfy.sd1_clip.SDTokenizer):
        def __init__(self, embedding_directory: Any = None, tokenizer_data: dict[str, Any] | None = None):
            super().__init__(
                tokenizer_path=str(folder),
                max_length=config["max_position_embeddings"],
                pad_with_end=False,
                pad_token=config["pad_token_id"],
                embedding_directory=embedding_directory,
                embedding_size=config["hidden_size"],
                embedding_key="clip_retouch",
                tokenizer_class=PreTrainedTokenizerFast,
                tokenizer_data=tokenizer_data or {},
            )

    class EmbeddedTokenizer(comfy.sd1_clip.SD1Tokenizer):
        def __init__(self, embedding_directory: Any = None, tokenizer_data: dict[str, Any] | None = None):
            super().__init__(embedding_directory, tokenizer_data or {}, "retouch", EmbeddedWords)

    return EmbeddedTokenizer


def text_class(config: dict[str, Any]) -> type:
    """The network of a host CLIP; ``config`` is from :func:`text_config`."""
    import comfy.sd1_clip

    encoder = text_encoder_class(config)

    class EmbeddedText(comfy.sd1_clip.SD1ClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None):
            super().__init__(device, dtype, model_options or {}, clip_name="retouch", clip_model=encoder)

    return EmbeddedText


def host_clip(bundle: Path, dtype: torch.dtype = torch.float32) -> Any:
    """A host CLIP: the text half of ``bundle / "clip"`` with its tokenizer."""
    import comfy.sd
    import comfy.supported_models_base

    folder = bundle / "clip"
    whole = read_config(folder)
    config = text_config({**whole["text_config"], "projection_dim": whole["projection_dim"]})
    target = comfy.supported_models_base.ClipTarget(tokenizer_class(folder, config), text_class(config))
    clip = comfy.sd.CLIP(target, model_options={"dtype": dtype})
    missing, unexpected = clip.load_sd(text_state(read_state(folder)))
    if missing or unexpected:
        raise ValueError(f"{folder} does not fit the host's text model: {missing[:4]} {unexpected[:4]}.")
    return clip


def host_autoencoder(bundle: Path, dtype: torch.dtype = torch.float32) -> Any:
    """A host VAE: the autoencoder of ``bundle / "vae"``."""
    return host_vae(read_state(bundle / "vae"), dtype)


def host_vision(bundle: Path) -> Any:
    """A host CLIP_VISION: the image half of ``bundle / "clip"``."""
    import comfy.clip_vision

    folder = bundle / "clip"
    processor = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    vision = comfy.clip_vision.ClipVisionModel(vision_config(read_config(folder), processor))
    missing, unexpected = vision.load_sd(vision_state(read_state(folder)))
    if missing or unexpected:
        raise ValueError(f"{folder} does not fit the host's image model: {missing[:4]} {unexpected[:4]}.")
    return vision
