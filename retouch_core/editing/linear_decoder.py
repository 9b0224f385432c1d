"""The cheapest way from latents to a picture: one colour a cell, linear in the latent (methods.md 10.5)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional


def fitted_factors(latents: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The 1x1 map from latents to mean colours that fits one picture best, by least squares in float64.

    Args:
        latents: [1,C,h,w] of the picture; pixels: the picture [1,3,H,W] in -1..1.

    Returns:
        factors [C,3] and bias [3], in the dtype of `pixels`; the smallest ones where a flat picture leaves a choice.
    """
    channels, height, width = latents.shape[1:]
    colours = functional.adaptive_avg_pool2d(pixels.double(), (height, width))[0].flatten(1).T
    known = latents.double()[0].flatten(1).T
    known = torch.cat([known, known.new_ones(len(known), 1)], 1).cpu()
    solved = (torch.linalg.pinv(known) @ colours.cpu()).to(pixels)
    return solved[:channels], solved[channels]


def linear_decoder(factors: Tensor, bias: Tensor, cell: int) -> Callable[[Tensor], Tensor]:
    """Latents [B,C,h,w] -> pixels [B,3,h*cell,w*cell] by factors [C,3] and bias [3], bilinear between the cells."""

    def decode(latents: Tensor) -> Tensor:
        colours = torch.einsum("bchw,cd->bdhw", latents, factors.to(latents))
        colours = colours + bias.to(latents).view(1, 3, 1, 1)
        return functional.interpolate(colours, scale_factor=cell, mode="bilinear")

    return decode
