"""CLIP score: how well pictures show a text, by an image-text model (methods.md 12)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..models.protocols import Scorer
from ..tensors.checks import check_text
from ..tensors.frames import square_frames

CHUNK = 32
"""Pictures that the scorer encodes at once."""


def clip_score(images: Tensor, text: str | Sequence[str], scorer: Scorer) -> Tensor:
    """Plain cosine [B] of each picture with its text; no rescaling, no cut at 0.

    Use another scorer than the one that guided or ranked, or the number only says that ranking worked.

    Args:
        images: IMAGE [B,H,W,3], padded to squares for the scorer.
        text: one text for all, or one for each.
        scorer: the judge.

    Raises:
        ValueError: empty text, or another number of texts than of pictures.
    """
    texts = [text] * len(images) if isinstance(text, str) else list(text)
    texts = [check_text(each, "text") for each in texts]
    if len(texts) != len(images):
        raise ValueError(
            f"text holds {len(texts)} phrases for {len(images)} pictures; give one, or one for each"
        )
    views = square_frames(images, scorer.image_size)
    seen = torch.cat([scorer.encode_images(chunk) for chunk in views.split(CHUNK)]).float()
    asked = torch.cat([scorer.encode_texts(texts[i : i + CHUNK]) for i in range(0, len(texts), CHUNK)]).to(
        seen
    )
    return (seen * asked).sum(-1)
