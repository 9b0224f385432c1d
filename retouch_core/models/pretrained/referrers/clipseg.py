"""CLIPSeg behind the `Referrer` protocol (Lüddecke and Ecker 2022; CIDAS/clipseg-rd64-refined; methods.md 5.1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....tensors.checks import check_count, check_text
from ...clip_scorer import as_tensor
from ...phrases import unknown_words, warn_of_cuts
from ..chunks import Tell, in_chunks
from ..loading import load_model, load_part
from ..pictures import Look, look_of, needed_settings, pixels_of, square_side

NAME = "CLIPSeg"
KINDS = ("clipseg",)
LOOK = Look()
SIDE = 352
"""Pixels of the square that pictures are squashed to (the published processor)."""
CHUNK = 16
"""Phrases that go through the decoder at once."""


class ClipSegReferrer:
    """How probably each pixel is what a phrase means: sigmoid of CLIPSeg's logits, brought to the picture's size.

    The image tower looks at a picture once, however many phrases there are.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        side: int = SIDE,
        look: Look = LOOK,
        chunk: int = CHUNK,
    ) -> None:
        """Take a `CLIPSegForImageSegmentation` and its tokenizer.

        Args:
            side: of the square pictures are squashed to, in pixels; a multiple of the model's patch.
            look: how it wants its pictures.
            chunk: phrases at once.

        Raises:
            ValueError: an option that cannot be used.
        """
        patch = int(model.config.vision_config.patch_size)
        if check_count(side, "side", "pixels wide are the pictures that CLIPSeg sees") % patch:
            raise ValueError(
                f"side must be a multiple of the patch of {patch} px, got {side}; {SIDE} is usual"
            )
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.networks: tuple[nn.Module, ...] = (self.model,)
        self.side = side
        self.look = look
        self.chunk = check_count(chunk, "chunk", "phrases go through at once")
        self._layers = tuple(int(layer) for layer in model.config.extract_layers)
        self._length = min(
            int(tokenizer.model_max_length), int(model.config.text_config.max_position_embeddings)
        )

    @classmethod
    def from_folder(cls, folder: Path, **options: Any) -> ClipSegReferrer:
        """The model, its tokenizer and the settings of its pictures out of a folder.

        Raises:
            ModelError: a folder that is missing, damaged, or of another kind.
        """
        from transformers import AutoTokenizer, CLIPSegForImageSegmentation

        folder = Path(folder)
        model = load_model(CLIPSegForImageSegmentation, folder, KINDS, NAME)
        settings = needed_settings(folder, NAME)
        look = look_of(settings, folder, LOOK)
        read: dict[str, Any] = {
            "side": square_side(settings, SIDE, folder),
            "look": look,
        }
        return cls(model, load_part(AutoTokenizer, folder, NAME), **(read | options))

    @torch.no_grad()
    def heat_maps(self, image: Tensor, phrases: Sequence[str], *, tell: Tell | None = None) -> Tensor:
        """IMAGE [1,H,W,3] in 0..1 and T phrases -> probabilities float32 [T,H,W] on the CPU; T = 0 is legal.

        Raises:
            TypeError, ValueError: an image or a phrase that cannot be used.
        """
        weight = self.model.clip.visual_projection.weight
        pixels = pixels_of(image, weight)
        texts = [check_text(phrase, "phrase") for phrase in phrases]
        size = (image.shape[1], image.shape[2])
        maps = torch.empty(len(texts), *size)
        if not texts:
            return maps
        warn_of_cuts(self.tokenizer, texts, self._length)
        seen = self.look.normalised(self.look.resized(pixels, (self.side, self.side))).to(weight)
        activations = self._activations(seen)
        logits = in_chunks(
            lambda some: self._logits(activations, some), texts, self.chunk, name="phrases", tell=tell
        )
        # One at a time: maps of large pictures are large.
        for place, small in zip(maps, torch.cat(logits), strict=True):
            heat = torch.sigmoid(small)[None, None]
            place.copy_(F.interpolate(heat, size=size, mode="bilinear")[0, 0].clamp_(0, 1))
        return maps

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """Words that the tokenizer does not know; none in practice, as CLIP's spells words out."""
        return unknown_words(self.tokenizer, text)

    def _activations(self, seen: Tensor) -> list[Tensor]:
        """What the decoder reads of the image tower, [1,1+P,D] each."""
        states = self.model.clip.vision_model(
            pixel_values=seen, output_hidden_states=True, interpolate_pos_encoding=True
        ).hidden_states
        # The first state is that before the first layer.
        return [states[layer + 1] for layer in self._layers]

    def _logits(self, activations: Sequence[Tensor], texts: Sequence[str]) -> Tensor:
        """Logits float32 [n,side,side] of n texts, on the device."""
        ids = self.tokenizer(
            list(texts), padding="max_length", max_length=self._length, truncation=True, return_tensors="pt"
        ).input_ids.to(activations[0].device)
        # No attention mask: attention is causal and the pooled token stands before the padding.
        meant = as_tensor(self.model.clip.get_text_features(input_ids=ids))
        logits = self.model.decoder([some.expand(len(ids), -1, -1) for some in activations], meant).logits
        # Early versions dropped the first axis of a single text.
        logits = logits.float().reshape(len(ids), *logits.shape[-2:])
        if not torch.isfinite(logits).all():
            raise ValueError(
                f"CLIPSeg gave NaN or infinite values in {activations[0].dtype}; run it in float32 or bfloat16"
            )
        return logits
