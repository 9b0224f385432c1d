"""DINO's self-attention as the source of anchors (S01; Caron et al. 2021): a transformers `ViTModel`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..tensors.frames import square_frames

SIDE = 256
"""What the official code gives its ViT-B/8: 32x32 patches (methods.md 7.1)."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""DINO's own normalisation, which the official code leaves out (methods.md 7.4)."""


class DinoAttention:
    """`protocols.Attention` over a `ViTModel` loaded with `attn_implementation="eager"` (dino-vitb8, dino-vitb16)."""

    def __init__(self, model: Any, side: int = SIDE) -> None:
        """Take a model and the side in pixels of what it looks at, a multiple of its patch.

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
                f"side must be a multiple of the patch of {self.patch} px, got {side!r}; 256 is usual"
            )
        self.model, self._side = model.eval().requires_grad_(False), side

    @torch.no_grad()
    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """IMAGE [1,H,W,3] in 0..1, squashed -> attention [h,w] of CLS in the last block, mean of the heads, and
        features [D,h,w], the normed patch tokens; float32 on the CPU."""
        weight = next(self.model.parameters())
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        pixels = (square_frames(image, self._side, fit="squash").cpu() - mean) / std
        out = self.model(pixels.to(weight), output_attentions=True, interpolate_pos_encoding=True)
        count = self._side // self.patch
        attention = out.attentions[-1][0, :, 0, 1:].mean(0).view(count, count)
        features = out.last_hidden_state[0, 1:].T.reshape(-1, count, count)
        return attention.float().cpu(), features.float().cpu()
