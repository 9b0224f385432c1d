"""Our network architectures as ComfyUI's own classes hold them: which keys, which configuration.

Nothing here imports the host at module level: call :func:`import_host` first. No class or function of the
host's is changed; where its classes fix a number that ours differs in (the 49,408 rows of the token table), a
subclass of ours says so.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import torch

State = dict[str, torch.Tensor]


class HostMissing(RuntimeError):
    """No ComfyUI work tree was found; the message says where it was looked for."""


def find_host() -> Path:
    """The ComfyUI work tree: ``$COMFYUI_PATH`` where set, else ``~/comfy/ComfyUI`` (where comfy-cli puts it).

    Raises HostMissing where neither holds ComfyUI.
    """
    named = os.environ.get("COMFYUI_PATH")
    place = Path(named) if named else Path.home() / "comfy" / "ComfyUI"
    if not (place / "comfy" / "sd.py").is_file():
        source = "COMFYUI_PATH" if named else "the default place"
        raise HostMissing(
            f"no ComfyUI at {place} ({source}); set COMFYUI_PATH to a folder with ComfyUI's main.py."
        )
    return place.resolve()


def import_host(place: Path | None = None) -> Path:
    """Make ``import comfy`` work in this process, on the CPU, and return the host's folder.

    The host reads ``sys.argv`` once, when it is first imported; it is given ``--cpu``, nothing of ours. The
    folder goes first on the path: the host has top-level modules with common names (``nodes``, ``utils``).

    Raises HostMissing where there is none, or where what it requires is not installed here.
    """
    place = place or find_host()
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))
    import comfy.options

    ours = sys.argv
    try:
        sys.argv = [ours[0], "--cpu"]
        comfy.options.enable_args_parsing()
        import comfy.cli_args

        # The host tells its devices at INFO and warns of optional packages; neither is ours to repeat.
        logging.getLogger().setLevel(logging.ERROR)
        import comfy.sd
    except (ImportError, OSError, RuntimeError) as reason:
        raise HostMissing(
            f"ComfyUI at {place} does not start in this environment: {reason}; install its requirements.txt."
        ) from reason
    finally:
        sys.argv = ours
        comfy.options.enable_args_parsing(False)

    return place


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
