"""A single-file checkpoint: looked at first, then read by diffusers' own loader with a configuration made here.

Asked for a single file, diffusers looks for the model's configuration in the local cache and, where it is not there, asks a
server for it even with `local_files_only` (FromSingleFileMixin.from_single_file). A folder of configurations given as
`config` and tokenizers and a scheduler given as objects leave it nothing to ask for.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ...quiet import quiet_loading
from ..files import ModelError, check_safetensors
from .clip_words import clip_tokenizer
from .diffusers_folder import dtype_of_vae, reading
from .ldm_layout import (
    SD2,
    SDXL,
    UNET,
    VAE,
    VAE_PARTS,
    Family,
    Shapes,
    family_of,
    numbers,
    text_config,
    text_weights,
    unet_config,
    vae_config,
)
from .noise_schedule import scheduler_of

ENDING = ".safetensors"
VELOCITY, EPSILON = "v_prediction", "epsilon"
VELOCITY_MARK, ZERO_SNR_MARK = "v_pred", "ztsnr"
"""Empty weights by which SDXL checkpoints say that they predict velocities, and up to a level without any signal."""
TELLTALE = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"
TELLTALE_SPREAD = 0.09
"""Stable Diffusion 2 says nowhere what it predicts; above this standard deviation of one bias it is velocities
(ComfyUI, supported_models.SD20.model_type, the host's rule, so that both take a file alike)."""
TABLE = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
}
"""Noise levels of all three families (the published configurations' linear_start and linear_end)."""


def read_file(
    path: Path, dtype: torch.dtype | None = None, *, prediction: str | None = None
) -> dict[str, Any]:
    """The parts of a checkpoint as keywords of `DiffusersEditor`, on the CPU.

    Args:
        path: a .safetensors file of Stable Diffusion 1.5, 2 or SDXL, or their inpainting versions.
        dtype: of the weights; None is float32. See `dtype_of_vae` for the autoencoder.
        prediction: `epsilon` or `v_prediction`, where the file is to be taken otherwise than by its marks.

    Raises:
        ModelError: another kind of file, or a damaged one.
    """
    shapes = shapes_of(path)
    family = family_of(shapes, path)
    told = prediction or _prediction(shapes, family, path)
    configs = configs_of(shapes, family, family.velocity if told == VELOCITY else family.side, path)
    check_complete(shapes, family, configs, path)
    table = {**TABLE, "prediction_type": told}
    if ZERO_SNR_MARK in shapes:
        table |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    parts: dict[str, Any] = {"scheduler": scheduler_of(table, str(path))}
    for tower in family.towers:
        parts[tower.part.replace("text_encoder", "tokenizer")] = clip_tokenizer(tower.pad)
    kept = dtype or torch.float32
    with quiet_loading(), _no_bars(), torch.inference_mode(False):
        parts |= _networks(path, family, configs, parts, kept)
    return {**parts, "zero_empty": family is SDXL}


def shapes_of(path: Path) -> Shapes:
    """Names and shapes of the weights of a whole safetensors file, from its header.

    Raises:
        ModelError: no such file, or another or a damaged one.
    """
    if not path.is_file():
        raise ModelError(f"{path} does not exist; give a checkpoint's file")
    if path.suffix.lower() != ENDING:
        raise ModelError(
            f"{path} is no {ENDING} file, and checkpoints of other kinds are not read; get or save it as {ENDING}"
        )
    check_safetensors(path)
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    return {name: tuple(entry["shape"]) for name, entry in header.items()}


def _prediction(shapes: Shapes, family: Family, path: Path) -> str:
    """What the file's network predicts."""
    if VELOCITY_MARK in shapes:
        return VELOCITY
    if family is not SD2 or TELLTALE not in shapes:
        return EPSILON
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        spread = float(file.get_tensor(TELLTALE).float().std(correction=0))
    inpaints = shapes[f"{UNET}input_blocks.0.0.weight"][1] > shapes[f"{UNET}out.2.weight"][0]
    return VELOCITY if spread > TELLTALE_SPREAD and not inpaints else EPSILON


def configs_of(shapes: Shapes, family: Family, side: int, path: Path) -> dict[str, dict[str, Any]]:
    """Configuration of every network, by its part's name; `side` is the native one in pixels.

    Raises:
        ModelError: layers that are arranged otherwise than in the family.
    """
    try:
        vae = vae_config(shapes, family, side)
        cell = 2 ** (len(vae["block_out_channels"]) - 1)
        towers = {tower.part: text_config(shapes, tower) for tower in family.towers}
        return {"unet": unet_config(shapes, family, side // cell, path), "vae": vae, **towers}
    except (KeyError, ValueError, IndexError, StopIteration) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            f"{path} is {family.name} by its names, but lacks weights that tell its layers, such as {error}; use a whole "
            "checkpoint"
        ) from error


def check_complete(shapes: Shapes, family: Family, configs: dict[str, dict[str, Any]], path: Path) -> None:
    """Raise ModelError unless the file's weights are as many as the networks have.

    Diffusers leaves what a file lacks as it was initialised, so this is asked before it reads anything.
    """
    import diffusers

    for part, cls, prefix, of in (
        ("unet", diffusers.UNet2DConditionModel, UNET, ("",)),
        ("vae", diffusers.AutoencoderKL, VAE, VAE_PARTS),
    ):
        with torch.device("meta"):
            model = cls.from_config(configs[part])
        wanted = sum(weight.numel() for weight in model.parameters())
        there = numbers(shapes, prefix, of)
        if wanted != there:
            raise ModelError(
                f"{path} has {there} numbers for the {part} where {family.name} of its shape has {wanted}; use a whole "
                "checkpoint that is not packed, or use it in ComfyUI"
            )
    widths = [configs[tower.part]["hidden_size"] for tower in family.towers]
    if len(set(widths)) < len(widths):  # by which diffusers tells the towers apart
        raise ModelError(f"{path} has text encoders of one width, {widths[0]}; {family.name} has not")
    for tower in family.towers:
        names = text_weights(tower, configs[tower.part]["num_hidden_layers"])
        absent = [name for name in names if name not in shapes]
        if absent:
            raise ModelError(
                f"{path} lacks {len(absent)} weights of its text encoder, such as {absent[0]}; use a whole checkpoint"
            )


def _networks(
    path: Path,
    family: Family,
    configs: dict[str, dict[str, Any]],
    given: dict[str, Any],
    dtype: torch.dtype,
) -> dict[str, Any]:
    """The file's networks, converted and loaded by diffusers."""
    import diffusers

    names = {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        **{tower.part: ["transformers", configs[tower.part]["architectures"][0]] for tower in family.towers},
        **{name: ["transformers", "CLIPTokenizer"] for name in given if name.startswith("tokenizer")},
    }
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "model_index.json").write_text(
            json.dumps({"_class_name": family.pipeline, **names}), encoding="utf-8"
        )
        for part, config in configs.items():
            (folder / part).mkdir()
            (folder / part / "config.json").write_text(json.dumps(config), encoding="utf-8")
        options: dict[str, Any] = {"config": str(folder), "local_files_only": True}
        of_vae = dtype_of_vae(configs["vae"], dtype, family is SDXL)
        vae = reading(
            path,
            lambda: diffusers.AutoencoderKL.from_single_file(
                str(path), subfolder="vae", torch_dtype=of_vae, **options
            ),
        )
        extra: dict[str, Any] = (
            {"add_watermarker": False}
            if family is SDXL
            else {"safety_checker": None, "requires_safety_checker": False}
        )
        pipe = reading(
            path,
            lambda: getattr(diffusers, family.pipeline).from_single_file(
                str(path), torch_dtype=dtype, vae=vae, **given, **extra, **options
            ),
        )
    found: dict[str, Any] = {part: getattr(pipe, part) for part in configs}
    for part, network in found.items():
        empty = [name for name, weight in network.named_parameters() if weight.is_meta]
        if empty:
            raise ModelError(
                f"{path} lacks {len(empty)} weights of the {part}, such as {empty[0]}; use a whole checkpoint"
            )
        network.to(of_vae if part == "vae" else dtype)
    return found


@contextmanager
def _no_bars() -> Iterator[None]:
    """A block in which diffusers draws no bars."""
    from diffusers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
