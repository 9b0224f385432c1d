"""What a good edit is: S01's three losses, each in 0..2 (methods.md 7.5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ...models.protocols import Perception
from ...tensors.frames import square_frames
from .views import Views

LEAST = 1e-4
"""A difference of embeddings shorter than this has no direction."""
CHUNK = 32
"""Views that the image model takes at once."""


def clip_loss(edited: Tensor, target: Tensor) -> Tensor:
    """L_clip [N] = mean over views of 1 - cos: unit embeddings [N,V,D] against the text's [D]."""
    return (1 - edited @ target).mean(-1)


def direction_loss(edited: Tensor, source: Tensor, change: Tensor) -> Tensor:
    """L_dir [N] = mean over views of 1 - cos(edited - source, change): [N,V,D], [V,D], [D].

    A view that the edit does not reach, and a change of text without length, count 1.
    """
    moved = edited - source
    length, wanted = moved.norm(dim=-1), change.norm()
    # The cosine of a vector of no length has an endless gradient.
    known = (length >= LEAST) & (wanted >= LEAST)
    cosine = (moved @ change) / torch.where(known, length * wanted, torch.ones_like(length))
    return (1 - torch.where(known, cosine, torch.zeros_like(cosine))).mean(-1)


def self_similarity(tokens: Tensor) -> Tensor:
    """Cosines [N,T,T] of all tokens [N,T,D] with each other."""
    unit = functional.normalize(tokens, dim=-1)
    return unit @ unit.mT


def structure_loss(edited: Tensor, source: Tensor) -> Tensor:
    """L_str [N] = mean of the squared difference of the self-similarities of tokens [N,T,D] and [1,T,D]."""
    return (self_similarity(edited) - self_similarity(source)).square().mean((1, 2))


@dataclass(frozen=True)
class Weights:
    """Weights of the three losses; all 1 in S01, section 4."""

    clip: float = 1.0
    direction: float = 1.0
    structure: float = 1.0

    def total(self, parts: dict[str, Tensor]) -> Tensor:
        """The weighted sum [N]."""
        return sum(
            (weight * parts[name] for name, weight in vars(self).items() if weight),
            torch.zeros_like(parts["clip"]),
        )


class EditLosses:
    """The losses of edits of one picture, through one drawing of views: those of an edit are always the same numbers.

    Calls with IMAGE [N,H,W,3] give `clip`, `direction` and `structure`, each [N], with gradient to the pictures.
    """

    def __init__(
        self,
        image: Tensor,
        target: Tensor,
        caption: Tensor | None,
        perception: Perception,
        views: Views,
    ) -> None:
        """Take IMAGE [1,H,W,3] and unit embeddings [D] of the texts; without a caption `direction` is 1."""
        self._perception, self._views, self._target = perception, views, target
        self._change = torch.zeros_like(target) if caption is None else target - caption
        with torch.no_grad():
            self._source = self._embeddings(image)[0]
            self._tokens = self._structure(image)

    def __call__(self, edited: Tensor) -> dict[str, Tensor]:
        seen = self._embeddings(edited)
        return {
            "clip": clip_loss(seen, self._target),
            "direction": direction_loss(seen, self._source, self._change),
            "structure": structure_loss(self._structure(edited), self._tokens),
        }

    def _embeddings(self, images: Tensor) -> Tensor:
        """[N,V,D]."""
        views = self._views(images)
        parts = [self._perception.perceive(part)[0] for part in views.flatten(0, 1).split(CHUNK)]
        return torch.cat(parts).unflatten(0, views.shape[:2])

    def _structure(self, images: Tensor) -> Tensor:
        """Tokens [N,T,C] of the whole pictures."""
        frames = square_frames(images, self._perception.image_size, fit="squash")
        return torch.cat([self._perception.perceive(part)[1] for part in frames.split(CHUNK)])


LossesOf = Callable[[Tensor], dict[str, Tensor]]
"""IMAGE [N,H,W,3] -> `clip`, `direction`, `structure`, each [N]."""
