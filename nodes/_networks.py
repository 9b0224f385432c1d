"""Our network architectures as ComfyUI's own classes hold them: which keys, which configuration.

The host is imported inside functions only. No class or function of the host's is changed; where its classes fix a
number that ours differs in (the 49,408 rows of the token table), a subclass of ours says so.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

State = dict[str, torch.Tensor]


# -------- denoiser
def unet_config(config: dict[str, Any]) -> dict[str, Any]:
    """The host's ``UNetModel`` arguments for a diffusers ``UNet2DConditionModel`` configuration.

    Holds where every level is cross-attention with one transformer layer; raises ValueError otherwise.
    """
    widths = tuple(config["block_out_channels"])
    kinds = set(config["down_block_types"]) | set(config["up_block_types"])
    if kinds != {"CrossAttnDownBlock2D", "CrossAttnUpBlock2D"}:
        raise ValueError(
            f"block types must all be cross-attention, got {sorted(kinds)}; only those are mapped."
        )
    if any(width % widths[0] for width in widths):
        raise ValueError(
            f"block_out_channels must be multiples of the first, got {widths}; the host stores multipliers."
        )
    layers = config["layers_per_block"]
    levels = len(widths)
    return {
        "image_size": config["sample_size"],
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "model_channels": widths[0],
        "channel_mult": [width // widths[0] for width in widths],
        "num_res_blocks": [layers] * levels,
        "transformer_depth": [1] * (layers * levels),
        "transformer_depth_output": [1] * ((layers + 1) * levels),
        "transformer_depth_middle": 1,
        # diffusers calls the number of heads attention_head_dim in this class (its own documented misnomer).
        "num_heads": config["attention_head_dim"],
        "num_head_channels": -1,
        "context_dim": config["cross_attention_dim"],
        "use_spatial_transformer": True,
        "use_linear_in_transformer": bool(config.get("use_linear_projection", False)),
        "legacy": False,
    }


def unet_state(state: State, host_config: dict[str, Any]) -> State:
    """Rename a diffusers U-Net state to the host's keys; KeyError for a key that the host has no name for."""
    import comfy.utils

    names = comfy.utils.unet_to_diffusers(host_config)
    return {names[key]: value for key, value in state.items()}


# -------- autoencoder
def vae_state(state: State) -> State:
    """Rename a diffusers ``AutoencoderTiny`` state to the layout that ``comfy.sd.VAE`` takes for a TAESD.

    The host's decoder is a Sequential that begins with the tanh clamp, which diffusers applies outside its
    own: indices move by one. ``vae_scale`` and ``vae_shift`` keep the latent as the encoder gives it.
    """
    renamed: State = {"vae_scale": torch.tensor(1.0), "vae_shift": torch.tensor(0.0)}
    for key, value in state.items():
        part, _, index, rest = key.split(".", 3)
        renamed[f"taesd_{part}.{int(index) + (part == 'decoder')}.{rest}"] = value
    return renamed


def host_vae(state: State, dtype: torch.dtype = torch.float32) -> Any:
    """A host VAE from a diffusers ``AutoencoderTiny`` state."""
    import comfy.sd

    return comfy.sd.VAE(sd=vae_state(state), dtype=dtype)


# -------- text tower
def text_state(state: State) -> State:
    """The text half of a transformers ``CLIPModel`` state; the host uses the same names."""
    return {key: value for key, value in state.items() if key.startswith(("text_model.", "text_projection."))}


def text_model_class() -> type:
    """The host's CLIP text model with a token table of the vocabulary's own size."""
    import comfy.clip_model

    class SmallVocabularyText(comfy.clip_model.CLIPTextModel):
        def __init__(self, config_dict: dict[str, Any], dtype: Any, device: Any, operations: Any) -> None:
            super().__init__(config_dict, dtype, device, operations)
            rows, width = config_dict["vocab_size"], config_dict["hidden_size"]
            self.set_input_embeddings(operations.Embedding(rows, width, dtype=dtype, device=device))

    return SmallVocabularyText


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """What the host reads of a transformers text configuration; ValueError for one it cannot hold."""
    names = (
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "hidden_act",
        "max_position_embeddings",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
    )
    if config["projection_dim"] != config["hidden_size"]:
        raise ValueError(
            f"projection_dim must equal hidden_size, got {config['projection_dim']} and "
            f"{config['hidden_size']}; the host's text projection is square."
        )
    return {name: config[name] for name in names}


def text_encoder_class(config: dict[str, Any]) -> type:
    """A host ``SDClipModel`` that holds a text tower of ``config`` (from :func:`text_config`).

    Its causal mask is the only one: padding is attended to, as in transformers without ``attention_mask``.
    """
    import comfy.sd1_clip

    model_class = text_model_class()
    special = {"start": config["bos_token_id"], "end": config["eos_token_id"], "pad": config["pad_token_id"]}

    class EmbeddedTextEncoder(comfy.sd1_clip.SDClipModel):
        def __init__(
            self, device: Any = "cpu", dtype: Any = None, model_options: dict[str, Any] | None = None
        ) -> None:
            super().__init__(
                device=device,
                dtype=dtype,
                max_length=config["max_position_embeddings"],
                layer="last",
                textmodel_json_config=dict(config),
                model_class=model_class,
                special_tokens=special,
                enable_attention_masks=False,
                return_projected_pooled=True,
                model_options=model_options or {},
            )

    return EmbeddedTextEncoder


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a saved diffusers or transformers model; FileNotFoundError where there is none."""
    file = folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"no model in {folder}; make it with `make train`.")
    return dict(json.loads(file.read_text(encoding="utf-8")))


# -------- image tower
def vision_state(state: State) -> State:
    """The image half of a transformers ``CLIPModel`` state; the host uses the same names."""
    return {k: v for k, v in state.items() if k.startswith(("vision_model.", "visual_projection."))}


def vision_config(whole: dict[str, Any], processor: dict[str, Any]) -> dict[str, Any]:
    """The host's ``ClipVisionModel`` configuration for a transformers ``CLIPModel`` and its image processor."""
    vision = whole["vision_config"]
    names = (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "hidden_act",
        "image_size",
        "num_channels",
        "patch_size",
        "model_type",
    )
    return {
        **{name: vision[name] for name in names},
        "projection_dim": whole["projection_dim"],
        "image_mean": processor["image_mean"],
        "image_std": processor["image_std"],
    }
