"""CONDITIONING as the sampler needs it: checked, and with the picture that an inpainting network is shown."""

from __future__ import annotations

from typing import Any

import node_helpers
import torch
from torch import Tensor

CONCAT = ("concat_latent_image", "concat_mask")
"""Keys under which the host's inpainting networks find the picture and the mask."""


def check_conditioning(conditioning: Any, name: str) -> None:
    """Raise unless this is a CONDITIONING with at least one entry.

    Raises:
        TypeError: not a list of [Tensor, dict].
        ValueError: no entry.
    """
    if not isinstance(conditioning, list):
        kind = type(conditioning).__name__
        raise TypeError(f"{name} must be a CONDITIONING, got {kind}; connect a CLIP Text Encode")
    if not conditioning:
        raise ValueError(f"{name} is an empty list; connect a CLIP Text Encode")
    for entry in conditioning:
        fits = isinstance(entry, (list, tuple)) and len(entry) == 2
        if not (fits and isinstance(entry[0], Tensor) and isinstance(entry[1], dict)):
            raise TypeError(
                f"{name} must be a CONDITIONING, got a list with {entry!r:.60}; connect a CLIP Text Encode"
            )


def takes_picture(model: Any) -> bool:
    """Whether the network is an inpainting one, which sees the masked picture and the mask beside the latent."""
    import comfy.model_base

    network = model.model
    if "masked_image" in getattr(network, "concat_keys", ()):
        return True
    # Flux has no such keys; its inpainting checkpoint is known by its channels: latent, picture and an 8x8 mask.
    settings = getattr(getattr(network, "model_config", None), "unet_config", {})
    channels = settings.get("in_channels") or 0
    wide = channels > 2 * (settings.get("out_channels") or channels)
    return isinstance(network, comfy.model_base.Flux) and wide


def has_picture(conditioning: Any) -> bool:
    """Whether the artist's graph has set the picture already, as InpaintModelConditioning does."""
    return any(key in entry[1] for entry in conditioning for key in CONCAT)


def with_picture(conditioning: Any, picture: Tensor, mask: Tensor) -> Any:
    """The CONDITIONING with a picture latent [n,C,...] and a mask [n,1,...] for an inpainting network.

    Entries that have one of their own keep it.
    """
    values = dict(zip(CONCAT, (picture, mask), strict=True))
    shown: list[Any] = []
    for entry in conditioning:
        shown += [entry] if has_picture([entry]) else node_helpers.conditioning_set_values([entry], values)
    return shown


def misfit(error: RuntimeError) -> ValueError | None:
    """What to tell the artist where a network could not take a conditioning, or None for another error."""
    if "shapes cannot be multiplied" not in str(error):
        return None
    return ValueError(
        "target, referring and empty do not fit the model's width; encode them with the CLIP that belongs to the model"
    )


def finite(samples: Tensor, sigmas: Tensor, cfg: float) -> Tensor:
    """`samples` unchanged; ValueError where the network made NaN or infinite values."""
    bad = int((~torch.isfinite(samples)).sum())
    if bad:
        raise ValueError(
            f"model made {bad} NaN or infinite values in {max(0, len(sigmas) - 1)} steps at cfg {cfg:g}; "
            "lower cfg, or run the model in float32"
        )
    return samples
