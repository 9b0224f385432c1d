"""Models that are simple enough to know the answer: colours are the only thing they see, say and paint."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

COLOURS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0)}


class ColourScorer:
    """Embeds a picture as its mean colour away from black, and a phrase as the colour it names."""

    image_size = 16
    logit_scale = 20.0
    gate: float | None = 0.4
    rivals = ("red", "green", "blue")

    def encode_images(self, views: Tensor) -> Tensor:
        return F.normalize(views.mean((2, 3)) + 1e-6, dim=-1)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        rows = [
            COLOURS[named[0]] if (named := self._named(text)) else (0.577, 0.577, 0.577) for text in texts
        ]
        return F.normalize(torch.tensor(rows), dim=-1)

    def unknown_words(self, text: str) -> tuple[str, ...]:
        known = {*COLOURS, "the", "a", "thing", "photo", "of"}
        return tuple(w for w in re.findall(r"\w+", text) if w not in known)

    @staticmethod
    def _named(text: str) -> list[str]:
        return [word for word in re.findall(r"\w+", text) if word in COLOURS]


class ColourSegmenter:
    """Every pure red, green or blue 8-connected part is an entity."""

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        from skimage.measure import label

        masks = []
        for colour in COLOURS.values():
            near = (image[0] - torch.tensor(colour)).abs().amax(-1) < 0.4
            parts = torch.from_numpy(label(near.numpy(), connectivity=2))
            masks += [parts == k for k in range(1, int(parts.max()) + 1)]
        height, width = image.shape[1:3]
        stacked = torch.stack(masks) if masks else torch.zeros(0, height, width, dtype=torch.bool)
        return stacked, torch.full((len(stacked),), 0.9)


class ColourReferrer:
    """A pixel is meant as probably as it is like the colour that the phrase names."""

    def heat_maps(self, image: Tensor, phrases: Sequence[str]) -> Tensor:
        maps = []
        for phrase in phrases:
            named = [colour for word, colour in COLOURS.items() if word in phrase]
            far = (image[0] - torch.tensor(named[0] if named else (2.0, 2.0, 2.0))).abs().amax(-1)
            maps.append((1 - 2 * far).clamp(0, 1))
        return torch.stack(maps)

    def unknown_words(self, text: str) -> tuple[str, ...]:
        return ()


class ColourEditor:
    """Latents are colours of 8x8 cells in -1..1; the denoised estimate is the colour that the prompt names."""

    cell, channels = 8, 3

    def __init__(self, size: int = 64, broken: bool = False, inpaint: bool = False) -> None:
        from diffusers import DDIMScheduler

        self.size, self.broken, self.inpaint = size, broken, inpaint
        self.told: list[str] = []
        self.scheduler: Any = DDIMScheduler(
            beta_schedule="scaled_linear", clip_sample=False, timestep_spacing="trailing"
        )
        self.calls = 0

    def encode(self, image: Tensor) -> Tensor:
        return F.avg_pool2d(image.movedim(-1, 1) * 2 - 1, 8)

    def decode(self, latents: Tensor) -> Tensor:
        pixels = F.interpolate(latents, scale_factor=8).movedim(1, -1)
        return torch.full_like(pixels, torch.nan) if self.broken else (pixels + 1).div(2).clamp(0, 1)

    def decode_pixels(self, latents: Tensor) -> Tensor:
        return F.interpolate(latents, scale_factor=8)

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        self.told += prompts
        named = [[c for word, c in COLOURS.items() if word in prompt] for prompt in prompts]
        return torch.tensor([c[0] if c else (0.5, 0.5, 0.5) for c in named])[:, None] * 2 - 1

    def denoise(
        self,
        x: Tensor,
        sigma: Tensor,
        conditioning: Tensor,
        mask: Tensor | None = None,
        masked_latents: Tensor | None = None,
    ) -> Tensor:
        self.calls += 1
        # A little of x stays, so that candidates differ.
        told = conditioning.expand(len(x), -1, -1)[:, 0, :, None, None]
        return 0.98 * told.expand_as(x) + 0.02 * x / (sigma.view(-1, 1, 1, 1) ** 2 + 1).sqrt()
