"""DINO's self-attention as the source of anchors (S01; Caron et al. 2021): a transformers `ViTModel` or `Dinov2Model`."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..tensors.frames import square_frames
from ..tensors.normalisation import IMAGENET_MEAN, IMAGENET_STD

SIDE = 256
"""What the official code gives its ViT-B/8: 32x32 patches (methods.md 7.1)."""


class DinoAttention:
    """`protocols.Attention` over a model loaded with `attn_implementation="eager"` (dino-vitb8, dino-vitb16, dinov2-base).

    Register tokens, which stand between CLS and the patches (Darcet et al. 2024), are left out.
    """

    def __init__(
        self,
        model: Any,
        side: int = SIDE,
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        """Take a model, the side in pixels of what it looks at, a multiple of its patch, and its normalisation,
        which the official code leaves out (methods.md 7.4).

        Raises:
            ValueError: a model that gives no attentions, or a side that does not fit its patches.
        """
        how = getattr(model.config, "_attn_implementation", "eager")
        if how != "eager":
            raise ValueError(
                f"model computes attention with {how!r} and gives none away; load it with attn_implementation='eager'"
            )
        self.patch = int(model.config.patch_size)
        if side < self.patch or side % self.patch:
            raise ValueError(
                f"side must be a multiple of the patch of {self.patch} px, got {side!r}; {32 * self.patch} is usual"
            )
        self.model, self._side = model.eval().requires_grad_(False), side
        self._mean, self._std = tuple(mean), tuple(std)
        self._before = 1 + int(getattr(model.config, "num_register_tokens", 0))
        # DINOv2 always fits its positions to the picture and does not take the word.
        fits = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
        self._options = {"interpolate_pos_encoding": True} if fits else {}

    @torch.no_grad()
    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """IMAGE [1,H,W,3] in 0..1, squashed -> attention [h,w] of CLS in the last block, mean of the heads, and
        features [D,h,w], the normed patch tokens; float32 on the CPU."""
        weight = next(self.model.parameters())
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (self._mean, self._std))
        pixels = (square_frames(image, self._side, fit="squash").cpu() - mean) / std
        out = self.model(pixels.to(weight), output_attentions=True, **self._options)
        count = self._side // self.patch
        attention = out.attentions[-1][0, :, 0, self._before :].mean(0).view(count, count)
        features = out.last_hidden_state[0, self._before :].T.reshape(-1, count, count)
        return attention.float().cpu(), features.float().cpu()
