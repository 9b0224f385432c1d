"""Between pictures and latents: padding to whole cells, encoding, which cells are open, and back again."""

from __future__ import annotations

from typing import Any

import comfy.sample
import torch
from torch import Tensor
from torch.nn import functional

from ..retouch_core.regions.morphology import to_latent

MAX_PATCH = 16
"""Largest patch, in cells, that is taken for a transformer's; a larger number means something else."""
FILL_GREY = 0.5
"""What inpainting networks see in place of hidden pixels (methods.md 9.3)."""


def check_model(model: Any) -> None:
    """Raise TypeError unless `model` is a MODEL of the host."""
    network = getattr(model, "model", None)
    if not (hasattr(model, "model_options") and hasattr(network, "latent_format")):
        raise TypeError(
            f"model must be a MODEL, got {type(model).__name__}; connect a checkpoint or a UNet loader"
        )


def check_vae(vae: Any) -> None:
    """Raise TypeError unless `vae` is a VAE of the host."""
    if not all(
        callable(getattr(vae, name, None)) for name in ("encode", "decode", "spacial_compression_encode")
    ):
        raise TypeError(
            f"vae must be a VAE, got {type(vae).__name__}; connect the checkpoint's VAE or a VAE loader"
        )


def check_pair(model: Any, vae: Any) -> None:
    """Raise ValueError where the latents of `vae` are not those that `model` was trained on."""
    form = model.get_model_object("latent_format")
    wanted, given = form.latent_channels, getattr(vae, "latent_channels", form.latent_channels)
    if wanted != given:
        raise ValueError(
            f"vae makes latents of {given} channels but model works on {wanted}; use the VAE that belongs to the model"
        )
    dimensions, encoded = form.latent_dimensions, getattr(vae, "latent_dim", form.latent_dimensions)
    if dimensions not in (2, 3) or encoded not in (2, 3) or encoded > dimensions:
        raise ValueError(
            f"vae makes latents of {encoded} dimensions but model works on {dimensions}; "
            "use a picture model with the VAE that belongs to it"
        )


def cell_of(vae: Any) -> int:
    """Pixels on a side of one latent cell."""
    return max(1, round(float(vae.spacial_compression_encode())))


def patch_of(model: Any) -> int:
    """Cells on a side of one token of a transformer; 1 for networks that convolve."""
    patch = getattr(getattr(model.model, "diffusion_model", None), "patch_size", 1)
    if isinstance(patch, (tuple, list)):
        patch = patch[-1] if patch else 1
    return patch if isinstance(patch, int) and 1 < patch <= MAX_PATCH else 1


def padded(planes: Tensor, height: int, width: int) -> Tensor:
    """[B,H,W] or [B,H,W,C] continued at the bottom and right to that size, so that nothing is shifted."""
    channels = planes[:, None] if planes.ndim == 3 else planes.movedim(-1, 1)
    right, below = width - channels.shape[-1], height - channels.shape[-2]
    grown = functional.pad(channels, (0, right, 0, below), mode="replicate") if right or below else channels
    return grown[:, 0] if planes.ndim == 3 else grown.movedim(1, -1)


def encode(vae: Any, model: Any, pictures: Tensor) -> Tensor:
    """IMAGE [P,H,W,3], sides of whole cells -> latents [P,C,h,w], or [P,C,1,h,w] for models of video.

    A video VAE would take a batch for the frames of one clip, so pictures are encoded one by one.
    """
    found = [vae.encode(picture[None].float()) for picture in pictures]
    return torch.cat([comfy.sample.fix_empty_latent_channels(model, one) for one in found])


def given_latent(latent: Any, model: Any, pictures: int) -> Tensor:
    """The samples of a LATENT as [P,C,...] for as many pictures.

    Raises:
        TypeError, ValueError: not a LATENT, of another model, of another count, or with NaN.
    """
    samples = latent.get("samples") if isinstance(latent, dict) else None
    if not isinstance(samples, Tensor) or samples.is_nested or samples.ndim not in (4, 5):
        kind = type(latent).__name__ if samples is None else f"samples of {type(samples).__name__}"
        raise TypeError(f"latent must be a LATENT of pictures, got {kind}; connect VAE Encode, or nothing")
    samples = comfy.sample.fix_empty_latent_channels(model, samples)
    form = model.get_model_object("latent_format")
    if samples.shape[1] != form.latent_channels or samples.ndim != 2 + form.latent_dimensions:
        raise ValueError(
            f"latent has shape {list(samples.shape)} but model works on {form.latent_channels} channels; "
            "encode the image with the VAE that belongs to the model"
        )
    if len(samples) not in (1, pictures):
        raise ValueError(
            f"latent holds {len(samples)} pictures but image {pictures}; give one, or one for each"
        )
    if not torch.isfinite(samples).all():
        raise ValueError("latent holds NaN or infinite values; repair the step that made it")
    return samples.expand(pictures, *samples.shape[1:])


def frame_of(size: tuple[int, int], cell: int, patch: int, latent: Tensor | None) -> tuple[int, int]:
    """Height and width in pixels of the padded picture: whole tokens, or what a given latent covers.

    Raises:
        ValueError: a latent of another picture.
    """
    whole = [-(-side // (cell * patch)) * cell * patch for side in size]
    if latent is None:
        return whole[0], whole[1]
    covered = [side * cell for side in latent.shape[-2:]]
    least = [-(-side // cell) * cell for side in size]
    if covered not in (whole, least):
        raise ValueError(
            f"latent covers {covered[1]}x{covered[0]} px but image needs {least[1]}x{least[0]}; "
            "encode this image, or connect nothing"
        )
    return covered[0], covered[1]


def cell_values(mask: Tensor, cell: int, patch: int) -> Tensor:
    """MASK [P,H,W], sides of whole cells -> [P,1,h,w]: the largest value in each cell, alike within a token.

    A token that is half open would mix two noise levels, so any open cell opens the whole of it.
    """
    cells = to_latent(mask, cell, "amax")
    if patch == 1:
        return cells
    height, width = cells.shape[-2:]
    tokens = functional.max_pool2d(cells, patch, ceil_mode=True)
    return tokens.repeat_interleave(patch, -2).repeat_interleave(patch, -1)[..., :height, :width]


def like_latent(cells: Tensor, latents: Tensor) -> Tensor:
    """[P,1,h,w] as [P,1,(T,)h,w]: in the latent's own shape the host averages nothing and mixes no pictures."""
    if latents.ndim == 4:
        return cells
    return cells[:, :, None].expand(-1, -1, latents.shape[2], -1, -1)


def in_pixels(cells: Tensor, cell: int) -> Tensor:
    """[P,1,h,w] -> [P,1,H,W]: every cell as a square of pixels."""
    return cells.repeat_interleave(cell, -2).repeat_interleave(cell, -1)


def decode(vae: Any, latents: Tensor, size: tuple[int, int]) -> Tensor:
    """Latents [N,C,...] -> IMAGE [N,H,W,3] of `size`, without the padding; frames follow each other.

    Raises:
        ValueError: a VAE that decodes to less than the picture.
    """
    pictures = vae.decode(latents)
    if pictures.ndim == 5:
        pictures = pictures.flatten(0, 1)
    height, width = size
    if pictures.shape[1] < height or pictures.shape[2] < width:
        raise ValueError(
            f"vae decoded {pictures.shape[2]}x{pictures.shape[1]} px for an image of {width}x{height}; "
            "use the VAE that belongs to the model"
        )
    return pictures[:, :height, :width, :3]
