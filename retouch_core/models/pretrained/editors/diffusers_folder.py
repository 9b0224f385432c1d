"""A folder as diffusers saves it: looked at first, then its parts read by the libraries' own classes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ...quiet import quiet_loading
from ..files import ModelError, check_safetensors, said
from .noise_schedule import IN_COMFYUI, scheduler_of

INDEX = "model_index.json"
NETWORK_CLASSES = {"vae": ("AutoencoderKL", "AutoencoderTiny"), "unet": ("UNet2DConditionModel",)}
"""diffusers classes that a folder may name; anything else is refused before it is looked up."""
TEXT_TYPES = ("clip_text_model", "clip")
"""`model_type` of what a text encoder's folder may hold."""
SCHEDULER = "scheduler_config.json"
WORDS = ("tokenizer_config.json", "tokenizer.json", "vocab.json")
PARTS = {
    "vae": ("config.json",),
    "text_encoder": ("config.json",),
    "tokenizer": WORDS,
    "unet": ("config.json",),
    "scheduler": (SCHEDULER,),
}
"""The files by which each part of a folder is known; one of them is enough."""
SECOND = {"text_encoder_2": ("config.json",), "tokenizer_2": WORDS}
"""What SDXL has beside them."""
STEMS = {"vae": "diffusion_pytorch_model", "unet": "diffusion_pytorch_model"}
TEXT_STEM = "model"
HALVES = ("fp16", "bf16")
"""Variants in the order in which they are preferred, where a part has no weights without a variant."""
TAKES = "this editor takes Stable Diffusion 1.5, 2 and SDXL and their inpainting versions"


def index_of(folder: Path) -> dict[str, Any]:
    """`model_index.json` of a folder, or {} where there is none.

    Raises:
        ModelError: one that cannot be read.
    """
    path = folder / INDEX
    if not path.is_file():
        return {}
    return _json(path)


def check_index(index: dict[str, Any], folder: Path) -> None:
    """Raise ModelError for a model that is driven otherwise, by name."""
    parts = {
        name: value[1]
        for name, value in index.items()
        if isinstance(value, list) and len(value) == 2 and value[1]
    }
    name = str(index.get("_class_name", "model without a name"))
    if "transformer" in parts:
        raise ModelError(
            f"{folder} holds a {name}, whose denoiser is the transformer {parts['transformer']} and no UNet; {IN_COMFYUI}"
        )
    if "text_encoder_2" in parts and "text_encoder" not in parts:
        raise ModelError(
            f"{folder} holds the SDXL refiner ({name}), which only finishes pictures; use the base or inpainting model"
        )
    if parts and "unet" not in parts:
        raise ModelError(f"{folder} holds a {name} without a UNet, but {TAKES}; {IN_COMFYUI}")
    for kind, classes in NETWORK_CLASSES.items():
        if parts and parts.get(kind, classes[0]) not in classes:
            raise ModelError(
                f"{folder} holds a {name} whose {kind} is a {parts[kind]}, but {TAKES}; {IN_COMFYUI}"
            )


def read_folder(
    folder: Path, dtype: torch.dtype | None = None, *, prediction: str | None = None
) -> dict[str, Any]:
    """The parts of a folder as keywords of `DiffusersEditor`, on the CPU.

    Args:
        dtype: of the weights; None is float32. See `dtype_of_vae` for the autoencoder.
        prediction: what the network predicts, where the scheduler is not to be believed.

    Raises:
        FileNotFoundError: the folder or one of its parts is missing.
        ModelError: another kind of model, or files that cannot be read.
    """
    index = index_of(folder)
    check_index(index, folder)
    second = "text_encoder_2" in index or (folder / "text_encoder_2").is_dir()
    wanted = {**PARTS, **SECOND} if second else PARTS
    absent = [
        f"{name}/{files[0]}"
        for name, files in wanted.items()
        if not any((folder / name / file).is_file() for file in files)
    ]
    if absent:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(absent)}; give a model folder as diffusers saves it"
        )
    kept = dtype or torch.float32
    with quiet_loading(), torch.inference_mode(False):
        parts = {name: _read(folder / name, name, kept, second) for name in wanted if name != "scheduler"}
        parts["scheduler"] = _scheduler(folder / "scheduler" / SCHEDULER, prediction)
    if second:
        parts["zero_empty"] = bool(index.get("force_zeros_for_empty_prompt", True))
    return parts


def dtype_of_vae(config: dict[str, Any], dtype: torch.dtype, second: bool) -> torch.dtype:
    """The dtype of an autoencoder whose denoiser has `dtype`.

    SDXL's overflows in float16 unless it was made for it, which its config says (`force_upcast`); the pipelines of one
    text encoder never read that setting, whose default is True.
    """
    overflows = second and dtype == torch.float16 and config.get("force_upcast", True)
    return torch.float32 if overflows else dtype


def _scheduler(file: Path, prediction: str | None) -> Any:
    """The noise levels of a folder."""
    config = _json(file)
    if prediction is not None:
        config["prediction_type"] = prediction
    return reading(file, lambda: scheduler_of(config, str(file)))


def _read(path: Path, name: str, dtype: torch.dtype, second: bool) -> Any:
    """One part of a folder."""
    import diffusers
    import transformers

    if name.startswith("tokenizer"):
        told = (path / WORDS[0]).is_file() or (path / WORDS[1]).is_file()
        made = transformers.AutoTokenizer if told else transformers.CLIPTokenizer
        return reading(
            path, lambda: made.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        )
    config = _json(path / "config.json")
    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
    if name in NETWORK_CLASSES:
        kind = config.get("_class_name")
        if kind not in NETWORK_CLASSES[name]:
            raise ModelError(
                f"{path} cannot be read (class {kind!r} is none of {', '.join(NETWORK_CLASSES[name])}); {TAKES}"
            )
        cls: Any = getattr(diffusers, kind)
        dtype = dtype_of_vae(config, dtype, second) if name == "vae" and kind == "AutoencoderKL" else dtype
    else:
        kind = config.get("model_type")
        if kind not in TEXT_TYPES:
            raise ModelError(f"{path} holds a text encoder of type {kind!r} and not CLIP's, but {TAKES}")
        cls = (
            transformers.CLIPTextModelWithProjection
            if name == "text_encoder_2"
            else transformers.CLIPTextModel
        )
    variant = _variant(path, STEMS.get(name, TEXT_STEM))
    model, info = reading(
        path, lambda: cls.from_pretrained(path, torch_dtype=dtype, variant=variant, **options)
    )
    missing = sorted(info.get("missing_keys") or ())
    if missing:
        raise ModelError(
            f"{path} lacks {len(missing)} weights, such as {missing[0]}; copy the model there again"
        )
    return model.to(dtype)


def _variant(path: Path, stem: str) -> str | None:
    """The variant of a part's weights that is to be read, whole files each; None is the one without a name.

    Raises:
        ModelError: no safetensors, a lacking shard, or a damaged file.
    """
    found: dict[str | None, list[Path]] = {}
    single = re.compile(rf"{stem}(?:\.(\w+))?\.safetensors")
    sharded = re.compile(rf"{stem}\.safetensors\.index(?:\.(\w+))?\.json")
    for file in sorted(path.iterdir()):
        if match := single.fullmatch(file.name):
            found[match[1]] = [file]
        elif match := sharded.fullmatch(file.name):
            found.setdefault(match[1], _shards(file))
    for variant in (None, *HALVES, *sorted(name for name in found if name is not None)):
        if variant in found:
            for file in found[variant]:
                check_safetensors(file)
            return variant
    pickled = sorted(file.name for file in path.glob("*.bin"))
    only = f", only {pickled[0]}, which is a pickle and is not read" if pickled else ""
    raise ModelError(
        f"{path} cannot be read (it has no {stem}.safetensors{only}); get the model's safetensors files"
    )


def _shards(index: Path) -> list[Path]:
    """The files that an index lists.

    Raises:
        ModelError: an index that lists nothing, or a file that is not there.
    """
    mapped = _json(index).get("weight_map")
    if not isinstance(mapped, dict) or not mapped:
        raise ModelError(f"{index} lists no weights; copy the file there again")
    files = [index.parent / str(name) for name in sorted(set(mapped.values()))]
    for file in files:
        if not file.is_file():
            raise ModelError(
                f"{index.parent} lacks {file.name}, one of {len(files)} parts; copy it there too"
            )
    return files


def _json(path: Path) -> dict[str, Any]:
    """A file that holds a JSON object.

    Raises:
        ModelError: anything else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({said(error)}); copy the file there again") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} holds a {type(found).__name__}; copy the file there again")
    return found


def reading(path: Path, read: Callable[[], Any]) -> Any:
    """What `read` gives; whatever a library makes of broken files at `path` becomes one sentence.

    Raises:
        ModelError: that sentence.
    """
    try:
        return read()
    except (ModelError, MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:
        raise ModelError(f"{path} cannot be read ({said(error)}); copy the model there again") from error
