"""SigLIP and SigLIP 2 behind the `Scorer` protocol (Zhai et al. 2023; Tschannen et al. 2025; google/siglip-base-patch16-224).

They were trained pair by pair with sigmoid(scale * cosine + bias) as the probability that picture and text belong
together, so cosines are smaller than CLIP's: a good match may have 0.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ....tensors.normalisation import HALF_MEAN, HALF_STD
from ...clip_scorer import as_tensor
from ...differentiable import lent, normal
from ...phrases import WORD, unknown_words, warn_of_cuts
from ..chunks import Tell, in_chunks
from ..loading import ModelError, check_kind, load_model, load_part, needs
from ..pictures import Look, image_settings, look_of
from .towers import (
    check_view_size,
    check_vocabulary,
    check_widths,
    chunk_for,
    outputs_of,
)

NAME = "SigLIP"
FIXED, FLEXIBLE = "siglip", "siglip2"
"""Model types: views of one size, which most of SigLIP 2 has too, and SigLIP 2's NaFlex, which takes rows of patches."""
CLASSES = {FIXED: "SiglipModel", FLEXIBLE: "Siglip2Model"}


class SiglipScorer:
    """Cosines between views and phrases; attributes are those of `protocols.Scorer`.

    Attributes:
        logit_bias: what is added to `logit_scale` times the cosine; sigmoid of the sum is the model's probability.
        networks: what must be on the device.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        mean: Sequence[float] = HALF_MEAN,
        std: Sequence[float] = HALF_STD,
        gate: float | None = None,
        rivals: Sequence[str] = (),
    ) -> None:
        """Take a `SiglipModel` or a `Siglip2Model` and its tokenizer.

        Raises:
            ModelError: towers or a tokenizer that do not belong together.
        """
        text, vision = model.config.text_config, model.config.vision_config
        self._width = int(vision.hidden_size)
        check_widths(int(model.text_model.head.out_features), self._width, NAME)
        check_vocabulary(tokenizer, text.vocab_size, NAME)
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.networks: tuple[torch.nn.Module, ...] = (model,)
        self.gate, self.rivals = gate, tuple(rivals)
        self.logit_scale = float(model.logit_scale.detach().float().exp())
        self.logit_bias = float(model.logit_bias.detach().float())
        self._flexible = model.config.model_type == FLEXIBLE
        self._patch = int(vision.patch_size)
        if self._flexible:
            self.image_size = math.isqrt(int(vision.num_patches)) * self._patch
        else:
            self.image_size = int(vision.image_size)
        self._mean, self._std = (torch.tensor(list(values)).view(3, 1, 1) for values in (mean, std))
        self._length = int(text.max_position_embeddings)

    @classmethod
    def from_folder(
        cls, folder: Path, *, gate: float | None = None, rivals: Sequence[str] = ()
    ) -> SiglipScorer:
        """The model, tokenizer and normalisation of a folder as the Hub lays it out; nothing is downloaded.

        Raises:
            ModelError: files that are missing or damaged, of another model, or of two models; a package that is too old.
        """
        kind = check_kind(folder, (FIXED, FLEXIBLE), NAME)
        if kind == FLEXIBLE:
            needs("transformers", "4.49", "SigLIP 2 with flexible resolution")
        import transformers

        model = load_model(getattr(transformers, CLASSES[kind]), folder, (kind,), NAME)
        tokenizer = load_part(transformers.AutoTokenizer, folder, NAME)
        check_vocabulary(tokenizer, model.config.text_config.vocab_size, folder)
        config = image_settings(folder)
        look = look_of(config, folder, Look(HALF_MEAN, HALF_STD))
        try:
            scorer = cls(model, tokenizer, mean=look.mean, std=look.std, gate=gate, rivals=rivals)
        except ModelError as error:
            raise ModelError(f"{folder}: {error}") from None
        if kind == FIXED:
            check_view_size(config, scorer.image_size, folder)
        return scorer

    def encode_images(self, views: Tensor, *, tell: Tell | None = None) -> Tensor:
        """Views [N,3,S,S] in 0..1 -> unit embeddings [N,D] float32 on the CPU, wherever the model is.

        Differentiable in the views where they want a gradient, also inside inference mode's tensors.

        Args:
            tell: called with the views done and all views after each chunk.
        """

        def run(some: Tensor) -> Tensor:
            with lent(self.model.vision_model) if some.requires_grad else nullcontext():
                seen = as_tensor(self.model.get_image_features(**self._pixels(some)))
            return F.normalize(seen.float(), dim=-1).cpu()

        size = chunk_for(next(self.model.parameters()).device, (self.image_size // self._patch) ** 2)
        parts = in_chunks(run, views, size, name="views", tell=tell)
        return torch.cat(parts) if parts else torch.zeros(0, self._width)

    def features(self, views: Tensor, depth: float = 1.0) -> list[Tensor]:
        """Views [N,3,S,S] in 0..1 -> patch tokens [N,P,D] after each layer of the image tower, differentiable too.

        Of L layers only the first ceil(depth * L) are computed; depth in (0, 1].
        """
        layers = self.model.vision_model.encoder.layers
        wanted = list(layers[: math.ceil(depth * len(layers))])
        with lent(self.model.vision_model) if views.requires_grad else nullcontext():
            found = outputs_of(wanted, lambda: self.model.get_image_features(**self._pixels(views)))
        return [tokens.float() for tokens in found]

    def _pixels(self, views: Tensor) -> dict[str, Tensor]:
        """Views as the image tower takes them."""
        weight = next(self.model.parameters())
        mean, std = (
            (normal(values) if views.requires_grad else values).to(views.device)
            for values in (self._mean, self._std)
        )
        pixels = ((views.float() - mean) / std).to(weight)
        if not self._flexible:
            return {"pixel_values": pixels}
        count, side = len(pixels), self.image_size // self._patch
        # A row of patches, each with its rows, columns and colours in this order (transformers' image processor).
        rows = pixels.unflatten(2, (side, self._patch)).unflatten(4, (side, self._patch))
        patches = rows.permute(0, 2, 4, 3, 5, 1).reshape(count, side * side, -1)
        return {
            "pixel_values": patches,
            "pixel_attention_mask": torch.ones(count, side * side, dtype=torch.long, device=weight.device),
            "spatial_shapes": torch.full((count, 2), side, dtype=torch.long, device=weight.device),
        }

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """T phrases -> unit embeddings [T,D] float32 on the CPU; longer phrases than the tower holds are cut, with a warning.

        Phrases are lower-cased and padded to the tower's 64 tokens, which it sees, as in training: the vector is that of
        the last place, and there is no attention mask.
        """
        if not len(texts):
            return torch.zeros(0, self._width)
        lower = [text.lower() for text in texts]
        warn_of_cuts(self.tokenizer, lower, self._length)
        side, self.tokenizer.padding_side = self.tokenizer.padding_side, "right"  # Gemma's own is left
        try:
            ids = self.tokenizer(
                lower, padding="max_length", max_length=self._length, truncation=True, return_tensors="pt"
            ).input_ids
        finally:
            self.tokenizer.padding_side = side
        device = next(self.model.parameters()).device
        out = as_tensor(self.model.get_text_features(input_ids=ids.to(device)))
        return F.normalize(out.float(), dim=-1).cpu()

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """Words that turn into the tokenizer's unknown token; none where it spells words out."""
        strange = set(unknown_words(self.tokenizer, text.lower()))
        return tuple(word for word in dict.fromkeys(WORD.findall(text)) if word.lower() in strange)
