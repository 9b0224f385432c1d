"""What a single-file Stable Diffusion checkpoint is, read from the names and shapes of its weights.

Such a file has no configuration, and the libraries would fetch one from a server. Everything but the number of attention
heads follows from the shapes, and that is fixed by the family: 8 in every layer of Stable Diffusion 1, one for every 64
channels in 2 and XL and in all the text towers (the published v1-inference.yaml, v2-inference.yaml and sd_xl_base.yaml).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from ..files import ModelError
from .noise_schedule import IN_COMFYUI

Shapes = dict[str, tuple[int, ...]]
"""Name -> shape of every weight."""

UNET, VAE = "model.diffusion_model.", "first_stage_model."
VAE_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
"""What of an autoencoder is used; training leaves more there."""
FIRST_CONV = f"{UNET}input_blocks.0.0.weight"
HEADS, HEAD_WIDTH = 8, 64
SIZES = 6
"""Sizes that SDXL is told (`diffusers_editor.SIZES`)."""
REFINER = "conditioner.embedders.0.model."

TRANSFORMERS = {
    "single_stream_modulation.": "Flux 2",
    "distilled_guidance_layer.": "Chroma",
    "double_blocks.": "Flux",
    "joint_blocks.": "Stable Diffusion 3",
    "double_layers.": "AuraFlow",
    "txt_norm.": "Qwen-Image",
    "cap_embedder.": "Lumina 2 or Z-Image",
    "head.modulation": "Wan",
    "clip_txt_mapper.": "Stable Cascade",
}
"""Parts of weight names that only models of other kinds have, and whose they are."""
PIECES = {
    "control_model.": "a ControlNet",
    "controlnet_": "a ControlNet",
    "lora_": "a LoRA",
    ".lora": "a LoRA",
    "down_blocks.": "one part of a diffusers folder, whose whole folder is needed",
    "text_model.": "a text encoder alone",
    "encoder.down.": "an autoencoder alone",
}
"""The same for files that hold no whole model."""


@dataclass(frozen=True)
class Tower:
    """A text tower of a checkpoint.

    Attributes:
        part: its name in a diffusers folder; prefix: before the names of its weights.
        openclip: whether it has open_clip's layout, and its activation, GELU, instead of OpenAI's.
        dropped: last layers that are not used.
        pad: what fills its prompts.
    """

    part: str
    prefix: str
    openclip: bool
    dropped: int
    pad: str


@dataclass(frozen=True)
class Family:
    """A kind of checkpoint.

    Attributes:
        name: for sentences.
        pipeline: diffusers class that reads it.
        towers: its text towers.
        scale: what latents are multiplied by (the published configurations' `scale_factor`).
        heads: attention heads of every layer, or None for one per `HEAD_WIDTH` channels.
        side: native picture side in pixels; velocity: the same for a network that predicts velocities.
    """

    name: str
    pipeline: str
    towers: tuple[Tower, ...]
    scale: float
    heads: int | None
    side: int
    velocity: int


_END, _ZERO = "<|endoftext|>", "!"
SD1 = Family(
    "Stable Diffusion 1",
    "StableDiffusionPipeline",
    (Tower("text_encoder", "cond_stage_model.transformer.text_model.", False, 0, _END),),
    0.18215,
    HEADS,
    512,
    512,
)
SD2 = Family(
    "Stable Diffusion 2",
    "StableDiffusionPipeline",
    # Trained on what comes before the last layer, through the last norm.
    (Tower("text_encoder", "cond_stage_model.model.", True, 1, _ZERO),),
    0.18215,
    None,
    512,
    768,
)
SDXL = Family(
    "SDXL",
    "StableDiffusionXLPipeline",
    (
        Tower("text_encoder", "conditioner.embedders.0.transformer.text_model.", False, 0, _END),
        Tower("text_encoder_2", "conditioner.embedders.1.model.", True, 0, _ZERO),
    ),
    0.13025,
    None,
    1024,
    1024,
)
FAMILIES = (SD1, SD2, SDXL)


def family_of(shapes: Shapes, path: Path) -> Family:
    """The family of a checkpoint.

    Raises:
        ModelError: another kind of model, by name, or a file that lacks a part.
    """
    if FIRST_CONV not in shapes:
        for mark, name in TRANSFORMERS.items():
            if any(mark in key for key in shapes):
                raise ModelError(
                    f"{path} holds {name}, whose denoiser is no UNet over a table of noise levels; {IN_COMFYUI}"
                )
        for mark, name in PIECES.items():
            if any(mark in key for key in shapes):
                raise ModelError(f"{path} holds {name}; give a whole checkpoint or a diffusers folder")
        raise ModelError(
            f"{path} holds no Stable Diffusion 1.5, 2 or SDXL checkpoint; {IN_COMFYUI} if it is an image model"
        )
    if any(name in shapes for name in ("edm_mean", "edm_vpred.sigma_max")):
        raise ModelError(f"{path} holds a model with continuous noise levels (EDM); {IN_COMFYUI}")
    if any(key.startswith(REFINER) for key in shapes):
        raise ModelError(
            f"{path} holds the SDXL refiner, which only finishes pictures; use the base or inpainting model"
        )
    for family in FAMILIES:
        if all(any(key.startswith(tower.prefix) for key in shapes) for tower in family.towers):
            if not any(key.startswith(f"{VAE}decoder.") for key in shapes):
                raise ModelError(
                    f"{path} holds {family.name} without its autoencoder; use a checkpoint with one"
                )
            return family
    raise ModelError(
        f"{path} holds a UNet without the text encoder of Stable Diffusion 1.5, 2 or SDXL; use a whole checkpoint"
    )


def _count(shapes: Shapes, pattern: str) -> int:
    """How many names `pattern` has in a row, with 0, 1, ... in the place of {}."""
    k = 0
    while pattern.format(k) in shapes:
        k += 1
    return k


def _depth(shapes: Shapes, block: str) -> int:
    """Transformer layers of a block's attention, 0 where it has none."""
    return _count(shapes, block + "1.transformer_blocks.{}.norm1.weight")


def unet_config(shapes: Shapes, family: Family, side: int, path: Path) -> dict[str, Any]:
    """Configuration of the UNet2DConditionModel in a checkpoint.

    Args:
        side: native side in latent cells.

    Raises:
        ModelError: a layout that this class does not have.
    """
    levels: list[list[tuple[int, int]]] = [[]]  # of each level, of each layer: channels and depth
    for k in range(1, _blocks(shapes)):
        block = f"{UNET}input_blocks.{k}."
        if f"{block}0.op.weight" in shapes:
            levels.append([])
        elif f"{block}0.out_layers.3.weight" in shapes:
            levels[-1].append((shapes[f"{block}0.out_layers.3.weight"][0], _depth(shapes, block)))
    if not all(levels) or len({len(level) for level in levels}) > 1:
        raise _unknown(path, family)
    channels = [level[0][0] for level in levels]
    depths = [level[0][1] for level in levels]
    middle = _depth(shapes, f"{UNET}middle_block.")
    crossed = next((key for key in sorted(shapes) if key.endswith("attn2.to_k.weight")), None)
    if crossed is None or not middle:
        raise _unknown(path, family)
    layers = [depth or 1 for depth in depths]
    if not depths[-1]:
        layers[-1] = middle  # the middle takes the last level's number
    down = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths]
    projection = next(shapes[key] for key in sorted(shapes) if key.endswith("1.proj_in.weight"))
    config: dict[str, Any] = {
        "_class_name": "UNet2DConditionModel",
        "sample_size": side,
        "in_channels": shapes[FIRST_CONV][1],
        "out_channels": shapes[f"{UNET}out.2.weight"][0],
        "block_out_channels": channels,
        "layers_per_block": len(levels[0]),
        "down_block_types": down,
        "up_block_types": [kind.replace("Down", "Up") for kind in reversed(down)],
        "cross_attention_dim": shapes[crossed][1],
        "transformer_layers_per_block": layers,
        "attention_head_dim": family.heads or [max(1, width // HEAD_WIDTH) for width in channels],
        "use_linear_projection": len(projection) == 2,
    }
    label = f"{UNET}label_emb.0.0.weight"
    if label in shapes:
        if family is not SDXL:
            raise ModelError(f"{path} holds a relative of {family.name} that takes pictures; {IN_COMFYUI}")
        pooled = _projected(shapes, family.towers[1])
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": (shapes[label][1] - pooled) // SIZES,
            "projection_class_embeddings_input_dim": shapes[label][1],
        }
    if family is SD2:
        config["upcast_attention"] = True  # stable-diffusion-2-1's own: its attention overflows in float16
    return config


def _blocks(shapes: Shapes) -> int:
    """Number of the UNet's input blocks."""
    start = f"{UNET}input_blocks."
    return 1 + max(int(key[len(start) :].split(".")[0]) for key in shapes if key.startswith(start))


def _unknown(path: Path, family: Family) -> ModelError:
    return ModelError(
        f"{path} holds a relative of {family.name} whose layers are arranged otherwise; {IN_COMFYUI}"
    )


def vae_config(shapes: Shapes, family: Family, side: int) -> dict[str, Any]:
    """Configuration of the AutoencoderKL in a checkpoint; `side` is the native one in pixels."""
    levels = _count(shapes, VAE + "encoder.down.{}.block.0.conv1.weight")
    return {
        "_class_name": "AutoencoderKL",
        "sample_size": side,
        "in_channels": shapes[f"{VAE}encoder.conv_in.weight"][1],
        "out_channels": shapes[f"{VAE}decoder.conv_out.weight"][0],
        "latent_channels": shapes[f"{VAE}decoder.conv_in.weight"][1],
        "block_out_channels": [
            shapes[f"{VAE}encoder.down.{k}.block.0.conv1.weight"][0] for k in range(levels)
        ],
        "layers_per_block": _count(shapes, VAE + "encoder.down.0.block.{}.conv1.weight"),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "scaling_factor": family.scale,
        "force_upcast": family is SDXL,
    }


def text_config(shapes: Shapes, tower: Tower) -> dict[str, Any]:
    """Configuration of a text tower of a checkpoint."""
    words, places, hidden, layer = (
        ("token_embedding.weight", "positional_embedding", "mlp.c_fc", "transformer.resblocks.{}.")
        if tower.openclip
        else (
            "embeddings.token_embedding.weight",
            "embeddings.position_embedding.weight",
            "mlp.fc1",
            "encoder.layers.{}.",
        )
    )
    vocabulary, width = shapes[tower.prefix + words]
    layers = _count(shapes, f"{tower.prefix}{layer}{hidden}.weight")
    return {
        "model_type": "clip_text_model",
        "architectures": ["CLIPTextModelWithProjection" if tower.part.endswith("2") else "CLIPTextModel"],
        "vocab_size": vocabulary,
        "hidden_size": width,
        "max_position_embeddings": shapes[tower.prefix + places][0],
        "num_hidden_layers": layers - tower.dropped,
        "intermediate_size": shapes[f"{tower.prefix}{layer.format(0)}{hidden}.weight"][0],
        "num_attention_heads": max(1, width // HEAD_WIDTH),
        "hidden_act": "gelu" if tower.openclip else "quick_gelu",
        "projection_dim": _projected(shapes, tower),
        # The published configurations' own: 2 stands for the token with the highest number, which is the end mark.
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }


def _projected(shapes: Shapes, tower: Tower) -> int:
    """Numbers of a tower's vector of the whole prompt; the width of its tokens where it has no projection."""
    found = shapes.get(f"{tower.prefix}text_projection")
    return (
        found[1]
        if found
        else shapes[
            next(k for k in shapes if k.startswith(tower.prefix) and k.endswith("token_embedding.weight"))
        ][1]
    )


def text_weights(tower: Tower, layers: int) -> Iterator[str]:
    """Names of the weights that a tower with that many layers cannot do without."""
    if tower.openclip:
        yield from (tower.prefix + name for name in ("token_embedding.weight", "positional_embedding"))
        yield from (f"{tower.prefix}ln_final.{kind}" for kind in ("weight", "bias"))
        if tower.part.endswith("2"):
            yield f"{tower.prefix}text_projection"
        inner: tuple[str, ...] = (
            "ln_1.",
            "ln_2.",
            "attn.in_proj_",
            "attn.out_proj.",
            "mlp.c_fc.",
            "mlp.c_proj.",
        )
        stem = f"{tower.prefix}transformer.resblocks."
    else:
        yield from (f"{tower.prefix}embeddings.{name}_embedding.weight" for name in ("token", "position"))
        yield from (f"{tower.prefix}final_layer_norm.{kind}" for kind in ("weight", "bias"))
        attention = (f"self_attn.{name}." for name in ("q_proj", "k_proj", "v_proj", "out_proj"))
        inner = ("layer_norm1.", "layer_norm2.", *attention, "mlp.fc1.", "mlp.fc2.")
        stem = f"{tower.prefix}encoder.layers."
    for k in range(layers):
        yield from (f"{stem}{k}.{name}{kind}" for name in inner for kind in ("weight", "bias"))


def numbers(shapes: Shapes, prefix: str, parts: tuple[str, ...] = ("",)) -> int:
    """How many numbers the weights under `prefix` hold, of those whose name goes on with one of `parts`."""
    starts = tuple(prefix + part for part in parts)
    return sum(prod(shape) for key, shape in shapes.items() if key.startswith(starts))
