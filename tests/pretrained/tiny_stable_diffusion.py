"""Stable Diffusion 1, 2 and XL with few, random weights, as folders that diffusers saves and as single files.

The single file is written by this file's own renaming, the reverse of what the loader does.
"""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

WORDS = 49408
LEVELS = {"sd1": (32, 64), "sd2": (64, 64, 64, 64), "sdxl": (64, 128)}
LAYERS = {"sd1": 1, "sd2": 2, "sdxl": 1}
WIDTH, SECOND = 64, 128
"""Numbers a token of the towers, and of SDXL's second; multiples of 64, as the loader of single files reckons heads."""
PROJECTED = 224
"""SDXL's vector of the prompt, wider than its 192 numbers a token so that it takes two rows."""
SCALE = {"sd1": 0.18215, "sd2": 0.18215, "sdxl": 0.13025}
START, END = "<|startoftext|>", "<|endoftext|>"
NAMES = {
    "sd1": "StableDiffusionPipeline",
    "sd2": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
}
INPAINT_NAMES = {
    "sd1": "StableDiffusionInpaintPipeline",
    "sd2": "StableDiffusionInpaintPipeline",
    "sdxl": "StableDiffusionXLInpaintPipeline",
}


def unet(family: str, in_channels: int = 4) -> Any:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(in_channels)
    common: dict[str, Any] = {
        "sample_size": 8,
        "in_channels": in_channels,
        "block_out_channels": LEVELS[family],
        "layers_per_block": LAYERS[family],
        "cross_attention_dim": WIDTH + SECOND if family == "sdxl" else WIDTH,
    }
    crossed, bare = "CrossAttn{}Block2D", "{}Block2D"
    if family == "sd1":
        kinds, own = [crossed, bare], {"attention_head_dim": 8}
    elif family == "sd2":
        kinds = [crossed, crossed, crossed, bare]
        own = {"attention_head_dim": [1, 1, 1, 1], "use_linear_projection": True, "upcast_attention": True}
    else:
        kinds = [bare, crossed]
        own = {
            "attention_head_dim": [1, 2],
            "use_linear_projection": True,
            "transformer_layers_per_block": [1, 2],
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": PROJECTED + 6 * 8,
        }
    return UNet2DConditionModel(
        down_block_types=[kind.format("Down") for kind in kinds],
        up_block_types=[kind.format("Up") for kind in reversed(kinds)],
        **common,
        **own,
    ).eval()


def vae(family: str) -> Any:
    from diffusers import AutoencoderKL

    torch.manual_seed(1)
    return AutoencoderKL(
        block_out_channels=(32, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=32,
        sample_size=64,
        scaling_factor=SCALE[family],
        force_upcast=family == "sdxl",
    ).eval()


def tower(kind: str, layers: int, seed: int) -> Any:
    """A text tower: `openai`, `openclip`, or `projected`, which is open_clip's with a vector of the prompt."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(seed)
    width = SECOND if kind == "projected" else WIDTH
    config = CLIPTextConfig(
        vocab_size=WORDS,
        hidden_size=width,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        max_position_embeddings=77,
        hidden_act="quick_gelu" if kind == "openai" else "gelu",
        projection_dim=PROJECTED if kind == "projected" else WIDTH,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )
    made = (CLIPTextModelWithProjection if kind == "projected" else CLIPTextModel)(config)
    for name, weight in made.named_parameters():
        # Freshly made towers are so small in their numbers that every prompt looks alike.
        if name.endswith("weight") and weight.ndim == 2:
            torch.nn.init.normal_(weight, std=0.2)
    return made.eval()


def networks(family: str, in_channels: int = 4) -> dict[str, Any]:
    texts = {
        "sd1": {"text_encoder": tower("openai", 2, 2)},
        "sd2": {"text_encoder": tower("openclip", 2, 3)},
        "sdxl": {"text_encoder": tower("openai", 2, 4), "text_encoder_2": tower("projected", 3, 5)},
    }
    return {"unet": unet(family, in_channels), "vae": vae(family), **texts[family]}


def vocabulary() -> tuple[dict[str, int], list[str]]:
    """CLIP's tokens and merges, read from open_clip's file by hand."""
    import open_clip
    from open_clip.tokenizer import bytes_to_unicode

    path = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    merges = gzip.decompress(path.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    letters = list(bytes_to_unicode().values())
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    tokens += ["".join(merge.split()) for merge in merges]
    return {token: k for k, token in enumerate([*tokens, START, END])}, merges


def save_tokenizer(folder: Path, pad: str = END) -> None:
    """A tokenizer's folder as the models are published with."""
    folder.mkdir(parents=True)
    ids, merges = vocabulary()
    (folder / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
    marks = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad}
    (folder / "special_tokens_map.json").write_text(json.dumps(marks))
    told = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, **marks}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))


def table(prediction: str = "epsilon", solver: str = "PNDMScheduler", **changes: Any) -> dict[str, Any]:
    """A scheduler's configuration as published, under the name of a solver."""
    return {
        "_class_name": solver,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "prediction_type": prediction,
        "steps_offset": 1,
        "timestep_spacing": "leading",
        **changes,
    }


def save_folder(
    folder: Path,
    family: str,
    parts: dict[str, Any],
    scheduler: dict[str, Any] | None = None,
    **options: Any,
) -> Path:
    """A diffusers folder; `options` go to `save_pretrained` of every network."""
    for name, network in parts.items():
        network.save_pretrained(folder / name, **options)
    for k in range(2 if family == "sdxl" else 1):
        name = "tokenizer_2" if k else "tokenizer"
        save_tokenizer(folder / name, "!" if k or family == "sd2" else END)
    told = scheduler or table()
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(told))
    inpaints = parts["unet"].config.in_channels == 9
    name = (INPAINT_NAMES if inpaints else NAMES)[family]
    index: dict[str, Any] = {"_class_name": name, "_diffusers_version": "0.30.0"}
    for name, network in parts.items():
        library = "transformers" if name.startswith("text") else "diffusers"
        index[name] = [library, type(network).__name__]
        if name.startswith("text"):
            index[name.replace("text_encoder", "tokenizer")] = ["transformers", "CLIPTokenizer"]
    index["scheduler"] = ["diffusers", told["_class_name"]]
    if family == "sdxl":
        index["force_zeros_for_empty_prompt"] = True
    else:
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def _renamed(key: str, rules: list[tuple[str, str]]) -> str:
    for old, new in rules:
        key = re.sub(old, new, key)
    return key


RESNET = [
    (r"\.norm1\.(?=weight|bias)", ".in_layers.0."),
    (r"\.conv1\.", ".in_layers.2."),
    (r"\.norm2\.(?=weight|bias)", ".out_layers.0."),
    (r"\.conv2\.", ".out_layers.3."),
    (r"\.time_emb_proj\.", ".emb_layers.1."),
    (r"\.conv_shortcut\.", ".skip_connection."),
]
TOP = [
    (r"^time_embedding\.linear_1\.", "time_embed.0."),
    (r"^time_embedding\.linear_2\.", "time_embed.2."),
    (r"^add_embedding\.linear_1\.", "label_emb.0.0."),
    (r"^add_embedding\.linear_2\.", "label_emb.0.2."),
    (r"^conv_in\.", "input_blocks.0.0."),
    (r"^conv_norm_out\.", "out.0."),
    (r"^conv_out\.", "out.2."),
    (r"^mid_block\.resnets\.0\.", "middle_block.0."),
    (r"^mid_block\.attentions\.0\.", "middle_block.1."),
    (r"^mid_block\.resnets\.1\.", "middle_block.2."),
]


def ldm_unet(model: Any) -> dict[str, torch.Tensor]:
    per = model.config.layers_per_block + 1
    crossed = [kind.startswith("Cross") for kind in model.config.up_block_types]

    def name(key: str) -> str:
        if match := re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", key):
            side, block, part, layer, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
            if side == "down" and part == "downsamplers":
                return f"input_blocks.{(block + 1) * per}.0.op.{rest.removeprefix('conv.')}"
            if part == "upsamplers":
                return f"output_blocks.{(block + 1) * per - 1}.{1 + crossed[block]}.{rest}"
            at = 1 + block * per + layer if side == "down" else block * per + layer
            start = f"{'input' if side == 'down' else 'output'}_blocks.{at}."
            return start + (f"1.{rest}" if part == "attentions" else _renamed(f"0.{rest}", RESNET))
        key = _renamed(key, TOP)
        return _renamed(key, RESNET) if re.match(r"middle_block\.[02]", key) else key

    return {f"model.diffusion_model.{name(key)}": value for key, value in model.state_dict().items()}


def ldm_vae(model: Any) -> dict[str, torch.Tensor]:
    last = len(model.config.block_out_channels) - 1
    found = {}
    for key, value in model.state_dict().items():
        name = re.sub(r"encoder\.down_blocks\.(\d+)\.resnets\.", r"encoder.down.\1.block.", key)
        name = re.sub(r"encoder\.down_blocks\.(\d+)\.downsamplers\.0\.", r"encoder.down.\1.downsample.", name)
        name = re.sub(
            r"decoder\.up_blocks\.(\d+)\.(resnets|upsamplers\.0)\.",
            lambda m: f"decoder.up.{last - int(m[1])}.{'block' if m[2] == 'resnets' else 'upsample'}.",
            name,
        )
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        if "mid_block.attentions.0." in name:
            for old, new in (("group_norm", "norm"), ("to_out.0", "proj_out"), ("to_", "")):
                name = name.replace(old, new)
            name = name.replace("mid_block.attentions.0", "mid.attn_1")
            value = value[:, :, None, None] if value.ndim == 2 else value
        name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        found[f"first_stage_model.{name}"] = value
    return found


def hf_tower(model: Any, prefix: str) -> dict[str, torch.Tensor]:
    """A tower in OpenAI's layout; `prefix` ends with `text_model.`."""
    return {prefix + key.removeprefix("text_model."): value for key, value in model.state_dict().items()}


def openclip_tower(model: Any, prefix: str, further: int = 0) -> dict[str, torch.Tensor]:
    """A tower in open_clip's layout, with that many layers more, which the model does not use."""
    states = {key.removeprefix("text_model."): value for key, value in model.state_dict().items()}
    found = {
        "token_embedding.weight": states["embeddings.token_embedding.weight"],
        "positional_embedding": states["embeddings.position_embedding.weight"],
        "ln_final.weight": states["final_layer_norm.weight"],
        "ln_final.bias": states["final_layer_norm.bias"],
    }
    if "text_projection.weight" in states:
        found["text_projection"] = states["text_projection.weight"].T
    else:
        found["text_projection"] = torch.eye(model.config.hidden_size)
    names = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    names["self_attn.out_proj"] = "attn.out_proj"
    layers = model.config.num_hidden_layers
    for k in range(layers + further):
        own, at = f"encoder.layers.{min(k, layers - 1)}.", f"transformer.resblocks.{k}."
        for kind in ("weight", "bias"):
            parts = [states[f"{own}self_attn.{part}_proj.{kind}"] for part in "qkv"]
            found[f"{at}attn.in_proj_{kind}"] = torch.cat(parts)
            for old, new in names.items():
                found[f"{at}{new}.{kind}"] = states[f"{own}{old}.{kind}"]
    return {prefix + name: value for name, value in found.items()}


def checkpoint(family: str, parts: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The weights of a single file."""
    text = parts["text_encoder"]
    if family == "sd1":
        towers = hf_tower(text, "cond_stage_model.transformer.text_model.")
        towers["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    elif family == "sd2":
        towers = openclip_tower(text, "cond_stage_model.model.", further=1)
    else:
        towers = hf_tower(text, "conditioner.embedders.0.transformer.text_model.")
        towers |= openclip_tower(parts["text_encoder_2"], "conditioner.embedders.1.model.")
    return {**ldm_unet(parts["unet"]), **ldm_vae(parts["vae"]), **towers}


def save_checkpoint(path: Path, weights: dict[str, torch.Tensor]) -> Path:
    save_file({name: value.contiguous().clone() for name, value in weights.items()}, path)
    return path
