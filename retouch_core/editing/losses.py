"""What a clean picture costs: how far its region is from a prompt, and its background from the source (methods.md 10.1).

Every term takes diffusion pixels [B,3,H,W] in -1..1 and gives one number a picture, so that no candidate's gradient
depends on its neighbours in a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

DISTANCES = ("cosine", "spherical")
"""How far an embedding is from the prompt's: 1 - cosine (RDM eq. 7, S04), or half the squared angle (Blended Diffusion)."""
LARGEST_SINE = 1 - 1e-6
"""The angle's derivative is infinite for opposite vectors."""


class Perceptual(Protocol):
    """A distance between pictures that sees more than pixels; `name` says which, wherever its numbers are shown."""

    name: str

    def against(self, reference: Tensor) -> Callable[[Tensor], Tensor]:
        """Pixels [1,3,H,W] or [B,3,H,W] in -1..1 -> a differentiable function of pixels [B,3,H,W] that gives [B]."""
        ...


def text_distance(embeddings: Tensor, text: Tensor, distance: str) -> Tensor:
    """Mean distance [B] of unit embeddings [B,n,D] of n views from the unit embedding [D] of a prompt.

    `cosine` lies in 0..2, `spherical` (2 asin(|u - v| / 2)^2, half the squared angle) in 0..pi^2/2; they rank alike.
    """
    if distance == "cosine":
        return (1 - embeddings @ text).mean(-1)
    if distance != "spherical":
        raise ValueError(f"distance must be one of {', '.join(DISTANCES)}, got {distance!r}; cosine is usual")
    half = (embeddings - text).norm(dim=-1) / 2
    return (2 * half.clamp(max=LARGEST_SINE).asin() ** 2).mean(-1)


def kept(pixels: Tensor, mask: Tensor) -> Tensor:
    """Pixels with mid grey (0) where the mask [B,1,H,W] opens; both sides of a comparison are hidden alike.

    Blended Diffusion compares a masked estimate with the unmasked source, which pulls the region towards grey.
    """
    return pixels * (1 - mask)


def background_l2(pixels: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error [B] outside the mask, over all pixels of the frame (RDM section 3.3, S04 eq. 7)."""
    return (kept(pixels, mask) - kept(source, mask)).square().mean((1, 2, 3))


def out_of_range(pixels: Tensor) -> Tensor:
    """Mean square [B] of what lies outside -1..1 (Blended Diffusion)."""
    return (pixels - pixels.clamp(-1, 1)).square().mean((1, 2, 3))


def finite_rows(values: Tensor) -> Tensor:
    """Bool [B]: rows of [B,...] without NaN or infinite values."""
    return torch.isfinite(values).flatten(1).all(1)
