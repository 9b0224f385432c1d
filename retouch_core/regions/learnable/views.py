"""Augmented views for CLIP losses, drawn once and the same for every picture (methods.md 7.5)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ...tensors.convert import to_bchw

VIEWS = 16
"""Views of the official code: the whole frame and 15 crops."""
CROP = (0.6, 1.0)
"""Share of each side that a crop takes."""


class Views:
    """IMAGE [N,H,W,3] in 0..1 -> views [N,V,3,S,S], with gradient: the frame, and V-1 crops of 0.6 to 1 of each side.

    Each view is then flipped (.5), turned by up to 15 degrees and moved by up to 10 % (.8), seen in perspective (.4,
    p .5), its colours changed (.1, p .7) and turned grey (.15); what comes in from outside is white. View v of one
    picture is view v of every other. The draws are made on the CPU and belong to `seed` alone.
    """

    def __init__(self, size: int, count: int = VIEWS, seed: int = 0) -> None:
        """Draw `count` views of side `size`.

        Raises:
            ValueError: a count below 1.
        """
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"views must be a whole number from 1 up, got {count!r}; {VIEWS} is published")
        self.size, self.count = size, count
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            share = CROP[0] + (CROP[1] - CROP[0]) * torch.rand(count, 1)
            share[0] = 1
            place = torch.rand(count, 2) * (1 - share)
            self.crops = torch.cat([place, share.expand(-1, 2)], 1).tolist()
            self._moves, self._colours = _augmentations()
            shape = torch.Size((count, 3, size, size))
            self._params = [part.forward_parameters(shape) for part in (self._moves, self._colours)]

    def __call__(self, images: Tensor) -> Tensor:
        return torch.stack([self._of(pixels) for pixels in to_bchw(images).float().cpu()]).to(images.device)

    def _of(self, pixels: Tensor) -> Tensor:
        """[3,H,W] -> [V,3,S,S]."""
        height, width = pixels.shape[1:]
        frames = []
        for top, left, tall, wide in self.crops:
            rows, columns = max(1, round(tall * height)), max(1, round(wide * width))
            y, x = min(round(top * height), height - rows), min(round(left * width), width - columns)
            part = pixels[None, :, y : y + rows, x : x + columns]
            size = (self.size, self.size)
            frames.append(functional.interpolate(part, size=size, mode="bilinear", antialias=True))
        # Moves bring in zeros, which are white in the negative.
        moved = 1 - self._moves(1 - torch.cat(frames), params=self._params[0])
        shown: Tensor = self._colours(moved, params=self._params[1])
        return shown.clamp(0, 1)


def _augmentations() -> tuple[Any, Any]:
    import kornia.augmentation as draw

    moves = draw.AugmentationSequential(
        draw.RandomHorizontalFlip(p=0.5),
        draw.RandomAffine(15.0, translate=(0.1, 0.1), p=0.8),
        draw.RandomPerspective(0.4, p=0.5),
        data_keys=["input"],
    )
    colours = draw.AugmentationSequential(
        draw.ColorJitter(0.1, 0.1, 0.1, 0.1, p=0.7), draw.RandomGrayscale(p=0.15), data_keys=["input"]
    )
    return moves, colours
