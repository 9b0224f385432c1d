"""A transformers CLIP out of a folder (Radford et al. 2021; openai/clip-vit-base-patch16 and its kin)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....tensors.normalisation import CLIP_MEAN, CLIP_STD
from ...clip_scorer import ClipScorer
from ..chunks import Tell, in_chunks
from ..loading import check_kind, check_weights, load_model, load_part
from ..pictures import Look, image_settings, look_of
from .towers import (
    check_view_size,
    check_vocabulary,
    check_widths,
    chunk_for,
    stored_shapes,
)

NAME = "CLIP"
KINDS = ("clip",)
PROJECTIONS = ("text_projection.weight", "visual_projection.weight")
"""The last layer of each tower, [D, width]."""


class PretrainedClipScorer(ClipScorer):
    """`ClipScorer` over a published CLIP: views go through the image tower in chunks (`chunk_for`)."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
        gate: float | None = None,
        rivals: Sequence[str] = (),
    ) -> None:
        """Take a `CLIPModel` and its tokenizer.

        Raises:
            ModelError: towers or a tokenizer that do not belong together.
        """
        text, image = model.text_projection.out_features, model.visual_projection.out_features
        check_widths(text, image, NAME)
        check_vocabulary(tokenizer, model.config.text_config.vocab_size, NAME)
        super().__init__(model, tokenizer, mean=mean, std=std, gate=gate, rivals=rivals)
        self.networks: tuple[torch.nn.Module, ...] = (model,)
        self._width = int(image)
        self._tokens = 1 + (self.image_size // int(model.config.vision_config.patch_size)) ** 2

    @classmethod
    def from_folder(
        cls, folder: Path, *, gate: float | None = None, rivals: Sequence[str] = ()
    ) -> PretrainedClipScorer:
        """The model, tokenizer and normalisation of a folder as the Hub lays it out; nothing is downloaded.

        Raises:
            ModelError: files that are missing or damaged, of another model, or of two models.
        """
        from transformers import AutoTokenizer, CLIPModel

        check_kind(folder, KINDS, NAME)
        shapes = stored_shapes(check_weights(folder))
        text, image = (shapes.get(name) for name in PROJECTIONS)
        if text and image:  # before transformers complains of each shape in turn
            check_widths(text[0], image[0], folder)
        model = load_model(CLIPModel, folder, KINDS, NAME)
        tokenizer = load_part(AutoTokenizer, folder, NAME)
        check_vocabulary(tokenizer, model.config.text_config.vocab_size, folder)
        config = image_settings(folder)
        check_view_size(config, int(model.config.vision_config.image_size), folder)
        look = look_of(config, folder, Look(CLIP_MEAN, CLIP_STD))
        return cls(model, tokenizer, mean=look.mean, std=look.std, gate=gate, rivals=rivals)

    def encode_images(self, views: Tensor, *, tell: Tell | None = None) -> Tensor:
        """Views [N,3,S,S] in 0..1 -> unit embeddings [N,D] float32 on the CPU; differentiable where views want it.

        Args:
            tell: called with the views done and all views after each chunk.
        """
        size = chunk_for(next(self.model.parameters()).device, self._tokens)
        parts = in_chunks(super().encode_images, views, size, name="views", tell=tell)
        return torch.cat(parts) if parts else torch.zeros(0, self._width)
