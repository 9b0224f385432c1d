"""Encoders without weights: fixed random projections, so that scores can be worked out by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from retouch_core.tensors.regions import Regions

WIDTH = 12


def picture(height: int = 40, width: int = 56, seed: int = 1) -> torch.Tensor:
    return torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(seed))


def some_regions(count: int = 5, height: int = 40, width: int = 56, seed: int = 2) -> Regions:
    draw = np.random.default_rng(seed)
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for mask in masks:
        y, x = draw.integers(0, height - 6), draw.integers(0, width - 6)
        mask[y : y + draw.integers(3, 20), x : x + draw.integers(3, 20)] = True
    return Regions(masks, None, (height, width))


class StubScorer:
    """Pictures: 4x4 mean colours, projected. Texts: a vector drawn from the words, or the one that was given."""

    image_size = 16
    logit_scale = 20.0

    def __init__(
        self,
        texts: Mapping[str, Tensor] | None = None,
        *,
        gate: float | None = 0.2,
        rivals: Sequence[str] = ("cat", "tree", "something else"),
    ) -> None:
        self.texts = dict(texts or {})
        self.gate = gate
        self.rivals = tuple(rivals)
        self.seen: list[int] = []
        self.read: list[str] = []
        self._matrix = torch.randn(48, WIDTH, generator=torch.Generator().manual_seed(5))

    def encode_images(self, views: Tensor) -> Tensor:
        assert views.shape[1:] == (3, self.image_size, self.image_size)
        self.seen.append(len(views))
        colours = functional.avg_pool2d(views, self.image_size // 4).flatten(1)
        return functional.normalize((colours - 0.3) @ self._matrix, dim=-1)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        self.read.extend(texts)
        return functional.normalize(torch.stack([self._text(text) for text in texts]), dim=-1)

    def unknown_words(self, text: str) -> tuple[str, ...]:
        return tuple(word for word in text.split() if word.startswith("xy"))

    def _text(self, text: str) -> Tensor:
        if text in self.texts:
            return self.texts[text]
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
        return torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))
