"""A decoder stopped before its last doubling: half the picture's side for less than half of the work.

The last stage of a small decoder costs more than all the others together, while guidance looks at views of a few dozen
pixels. What the features of the stage before say of the colours is fitted once, on latents that are drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .differentiable import lent

DRAWS, SIDE, COARSE = 6, 16, 4
"""Drawn latents for the fit: how many, their side in cells, and the side of the coarse noise that half of them are."""
RIDGE = 1e-4
"""Share of the features' size that keeps the fit from following noise."""
SEED = 0


def split_at_last_doubling(layers: nn.Sequential) -> tuple[nn.Sequential, nn.Sequential]:
    """A decoder's layers before its last `nn.Upsample` and from there on.

    Raises:
        ValueError: a decoder without one at its top level.
    """
    places = [k for k, layer in enumerate(layers) if isinstance(layer, nn.Upsample)]
    whole = type(layers).forward is nn.Sequential.forward
    if not (whole and places and places[-1]):
        raise ValueError(
            f"decoder of {len(layers)} layers has no plain row of them with nn.Upsample; use a TAESD-like decoder, or "
            "path linear"
        )
    parts = list(layers)
    return nn.Sequential(*parts[: places[-1]]), nn.Sequential(*parts[places[-1] :])


def drawn_latents(channels: int) -> Tensor:
    """Latents [DRAWS,channels,SIDE,SIDE] of unit size: white noise, and smooth noise that holds whole areas of colour."""
    generator = torch.Generator().manual_seed(SEED)
    white = torch.randn(DRAWS // 2, channels, SIDE, SIDE, generator=generator)
    coarse = torch.randn(DRAWS - DRAWS // 2, channels, COARSE, COARSE, generator=generator)
    smooth = functional.interpolate(coarse, (SIDE, SIDE), mode="bilinear")
    return torch.cat([0.5 * white + smooth.roll(1, 0), 1.5 * smooth])


def fitted_colours(features: Tensor, colours: Tensor) -> tuple[Tensor, Tensor]:
    """The 1x1 map [3,F,1,1] and bias [3] from features [B,F,h,w] to colours [B,3,h,w], by ridge regression in float64."""
    known = features.movedim(1, -1).reshape(-1, features.shape[1]).double()
    wanted = colours.movedim(1, -1).reshape(-1, 3).double()
    middle, target = known.mean(0), wanted.mean(0)
    centred = known - middle
    square = centred.T @ centred
    square.diagonal().add_(RIDGE * square.diagonal().mean())
    solved = torch.linalg.solve(square, centred.T @ (wanted - target))
    bias = target - middle @ solved
    return solved.T.reshape(3, -1, 1, 1).to(features), bias.to(features)


def half_decoder(
    layers: nn.Sequential,
    enter: Callable[[Tensor], Tensor],
    channels: int,
    device: torch.device | None = None,
) -> Callable[[Tensor], Tensor]:
    """Latents [B,C,h,w] -> pixels [B,3,H/2,W/2] in -1..1, differentiable, by a TAESD-like decoder.

    Args:
        layers: the decoder's layers, whose output is a picture in 0..1.
        enter: what comes before the first of them, from the latents that the result takes.
        channels: of those latents.
        device: where it computes; None is where its weights are.

    Raises:
        ValueError: a decoder that cannot be stopped.
    """
    first, rest = split_at_last_doubling(layers)
    weight = next(layers.parameters())
    place = weight.device if device is None else device

    def entered(latents: Tensor) -> Tensor:
        return enter(latents.to(place, weight.dtype)).to(place, weight.dtype)

    with torch.inference_mode(False), torch.no_grad(), lent(layers, device=device):
        features = first(entered(drawn_latents(channels)))
        colours = functional.avg_pool2d(rest(features).float() * 2 - 1, 2)
        factors, bias = fitted_colours(features.float(), colours)

    def decode(latents: Tensor) -> Tensor:
        with lent(layers, device=device):
            # Channels last: convolutions on a CPU need not reorder their input then.
            found = first(entered(latents).contiguous(memory_format=torch.channels_last))
        return functional.conv2d(found.float(), factors.to(found.device), bias.to(found.device))

    return decode


def half_decoder_of(vae: Any, scale: float = 1.0) -> Callable[[Tensor], Tensor]:
    """`half_decoder` of a diffusers `AutoencoderTiny`, for latents that are divided by `scale` before it.

    Raises:
        ValueError: another autoencoder, or a decoder that cannot be stopped.
    """
    layers = getattr(getattr(vae, "decoder", None), "layers", None)
    if not isinstance(layers, nn.Sequential):
        raise ValueError(
            f"vae is a {type(vae).__name__} without a row of decoder layers; use an AutoencoderTiny, or path linear"
        )
    return half_decoder(layers, lambda z: torch.tanh(z / scale / 3) * 3, int(vae.config.latent_channels))
