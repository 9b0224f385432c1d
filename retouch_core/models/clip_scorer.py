"""A transformers `CLIPModel` behind the `Scorer` protocol."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .differentiable import lent, normal
from .phrases import unknown_words, warn_of_cuts


def as_tensor(output: Any) -> Tensor:
    """The projected vector of `get_*_features`: transformers 4 returns the tensor, 5 an object that holds it.

    Raises:
        TypeError: neither of the two.
    """
    if isinstance(output, Tensor):
        return output
    pooled = getattr(output, "pooler_output", None)
    if isinstance(pooled, Tensor):
        return pooled
    raise TypeError(
        f"expected a tensor or an output with pooler_output, got {type(output).__name__}; check transformers"
    )


class ClipScorer:
    """Cosines between views and phrases (Radford et al. 2021).

    Attributes are those of `protocols.Scorer`; `mean` and `std` [3] normalise views before the vision tower.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        gate: float | None = None,
        rivals: Sequence[str] = (),
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.image_size = int(model.config.vision_config.image_size)
        self.logit_scale = float(model.logit_scale.detach().exp())
        self.gate = gate
        self.rivals = tuple(rivals)
        self._mean = torch.tensor(list(mean)).view(3, 1, 1)
        self._std = torch.tensor(list(std)).view(3, 1, 1)
        self._length = min(
            int(tokenizer.model_max_length), int(model.config.text_config.max_position_embeddings)
        )

    def encode_images(self, views: Tensor) -> Tensor:
        """Views [N,3,S,S] in 0..1 -> unit embeddings [N,D] float32 on the CPU, wherever the model is.

        Differentiable in the views where they want a gradient, also inside inference mode's tensors (`gradients`).
        """
        if views.requires_grad:
            with self._lent():
                embeddings = self._embedded(self._pixels(views))
        else:
            embeddings = as_tensor(self.model.get_image_features(pixel_values=self._pixels(views)))
        return F.normalize(embeddings.float(), dim=-1).cpu()

    def features(self, views: Tensor, depth: float = 1.0) -> list[Tensor]:
        """Views [N,3,S,S] in 0..1 -> patch tokens [N,P,D] after each layer of the image tower, differentiable too.

        Of L layers only the first ceil(depth * L) are computed; depth in (0, 1].
        """
        count = math.ceil(depth * len(self.model.vision_model.encoder.layers))
        with self._lent() if views.requires_grad else nullcontext():
            return [tokens[:, 1:].float() for tokens in self._layers(self._pixels(views), count)[1:]]

    def _lent(self) -> AbstractContextManager[None]:
        return lent(self.model.vision_model, self.model.visual_projection)

    def _layers(self, pixels: Tensor, count: int) -> list[Tensor]:
        """Tokens [N,1+P,D] before the first layer of the image tower and after each of the first `count`."""
        tower = self.model.vision_model
        found = [tower.pre_layrnorm(tower.embeddings(pixels))]
        for layer in tower.encoder.layers[:count]:
            # transformers 4 wants a second mask and gives a tuple, 5 takes one and gives the tensor.
            older = "causal_attention_mask" in inspect.signature(layer.forward).parameters
            out = layer(found[-1], None, None) if older else layer(found[-1], None)
            found.append(out[0] if isinstance(out, tuple) else out)
        return found

    def _embedded(self, pixels: Tensor) -> Tensor:
        """Image features [N,D] as `get_image_features` gives them, the last layer for the pooled token alone.

        A backward pass would go through what it makes of all other tokens, a fifth of a small tower, for nothing.
        """
        tower = self.model.vision_model
        tokens = self._layers(pixels, len(tower.encoder.layers) - 1)[-1]
        last = tower.encoder.layers[-1]
        attention, normed = last.self_attn, last.layer_norm1(tokens)
        query, key, value = (
            project(seen).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
            for project, seen in (
                (attention.q_proj, normed[:, :1]),
                (attention.k_proj, normed),
                (attention.v_proj, normed),
            )
        )
        seen = F.scaled_dot_product_attention(query, key, value, scale=attention.scale)
        pooled = tokens[:, :1] + attention.out_proj(seen.transpose(1, 2).flatten(2))
        pooled = pooled + last.mlp(last.layer_norm2(pooled))
        features: Tensor = self.model.visual_projection(tower.post_layernorm(pooled[:, 0]))
        return features

    def _pixels(self, views: Tensor) -> Tensor:
        """Views as the image tower takes them."""
        if views.requires_grad:
            mean, std = normal(self._mean), normal(self._std)
        else:
            mean, std = self._mean, self._std
        return ((views.float() - mean.to(views.device)) / std.to(views.device)).to(
            next(self.model.parameters())
        )

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """T phrases -> unit embeddings [T,D] float32 on the CPU; longer phrases than the tower holds are cut, with a warning."""
        warn_of_cuts(self.tokenizer, texts, self._length)
        ids = self.tokenizer(
            list(texts), padding="max_length", max_length=self._length, truncation=True, return_tensors="pt"
        ).input_ids
        device = next(self.model.parameters()).device
        # No attention mask: attention is causal and the pooled token stands before the padding.
        return F.normalize(
            as_tensor(self.model.get_text_features(input_ids=ids.to(device))).float(), dim=-1
        ).cpu()

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """Words that turn into the tokenizer's unknown token; none where it has no such token or spells words out."""
        return unknown_words(self.tokenizer, text)
