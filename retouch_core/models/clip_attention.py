"""A CLIP image tower from its weights: CLS attention, tokens before the last block, and gradients for all of them.

Loaders differ in what their modules give away (attentions come back None under sdpa, hosts keep weights that allow no
gradient), but all name the weights alike, so the tower is computed from those.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ..tensors.frames import square_frames
from .clip_scorer import ClipScorer
from .differentiable import normal

EPS = 1e-5
"""Of CLIP's layer norms (transformers `CLIPVisionConfig.layer_norm_eps`)."""
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu": functional.gelu,
}
FINER = 2
"""How much larger than its training the picture is whose attention is taken: ViT-L/14 then has the 32x32 patches of the
official code, and of the embedded tower's nine anchors 72 % lie on things instead of 39 % (by chance 22 %; measured on
the shipped pictures)."""
PREFIX = "vision_model."
PROJECTION = "visual_projection.weight"


class ClipTower:
    """`protocols.Attention` and `protocols.Perception` over CLIP's image half (Radford et al. 2021).

    Attributes:
        image_size: side S in pixels of the views it was trained on; patch: pixels on a side of one patch.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        *,
        heads: int,
        activation: str,
        mean: Sequence[float],
        std: Sequence[float],
        side: int | None = None,
    ) -> None:
        """Take the weights of transformers' `CLIPModel` or of a host's `ClipVisionModel`; they are not copied.

        Args:
            weights: name -> tensor; `vision_model.*` and `visual_projection.weight` are read.
            heads: attention heads; activation: a key of `ACTIVATIONS`; mean, std: [3], normalise pixels.
            side: pixels on a side of what the attention is taken of, with interpolated positions; None: 2 image_size.

        Raises:
            ValueError: weights of another architecture, an unknown activation, a side that is no multiple of the patch.
        """
        table = f"{PREFIX}embeddings.position_embedding.weight"
        if table not in weights or f"{PREFIX}embeddings.class_embedding" not in weights:
            raise ValueError(
                f"weights hold no {table} with a class embedding; take them from a CLIP image model"
            )
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}; take the model's own"
            )
        self._heads, self._act = heads, ACTIVATIONS[activation]
        with torch.inference_mode(False):  # a tensor made in it would let no gradient through
            own = {
                name: normal(value.detach())
                for name, value in weights.items()
                if name.startswith(PREFIX) or name == PROJECTION
            }
            self._weights, self._projection = own, own.get(PROJECTION)
            self._mean, self._std = (torch.tensor(list(v)).view(3, 1, 1) for v in (mean, std))
        self.patch = int(self._weight("embeddings.patch_embedding.weight").shape[-1])
        self._grid = math.isqrt(len(weights[table]) - 1)
        self.image_size = self._grid * self.patch
        self._blocks = len([name for name in self._weights if name.endswith("layer_norm1.weight")])
        self._side = FINER * self.image_size if side is None else side
        if self._side < self.patch or self._side % self.patch:
            raise ValueError(
                f"side must be a multiple of the patch of {self.patch} px, got {side!r}; {self.image_size} is the model's"
            )

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """IMAGE [1,H,W,3] in 0..1, squashed -> attention [h,w] of CLS in the last block, mean of the heads, and
        features [D,h,w], the normed patch tokens; float32 on the CPU, without gradient."""
        with torch.no_grad():
            tokens = self._before_last(square_frames(image, self._side, fit="squash"))
            query, key, _ = self._heads_of(tokens, self._blocks - 1)
            row = torch.softmax(query[:, :, :1] @ key.mT / math.sqrt(key.shape[-1]), -1)
            seen = self._norm(self._block(tokens, self._blocks - 1), "post_layernorm")
            count = self._side // self.patch
            attention = row[0, :, 0, 1:].mean(0).view(count, count)
            return attention.cpu(), seen[0, 1:].T.reshape(-1, count, count).cpu()

    def perceive(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Views [N,3,S,S] in 0..1 -> unit embeddings [N,P] and all tokens [N,T,D] before the last block; both on the
        device of the views, with gradient to them."""
        tokens = self._before_last(views)
        pooled = self._norm(self._block(tokens, self._blocks - 1)[:, 0], "post_layernorm")
        if self._projection is not None:
            pooled = functional.linear(pooled, self._projection.float())
        return functional.normalize(pooled, dim=-1).to(views.device), tokens.to(views.device)

    def _before_last(self, views: Tensor) -> Tensor:
        kernel = self._weight("embeddings.patch_embedding.weight")
        pixels = ((views - self._mean.to(views.device)) / self._std.to(views.device)).to(kernel)
        patches = functional.conv2d(pixels, kernel, stride=self.patch)
        first = self._weight("embeddings.class_embedding").expand(len(views), 1, -1)
        tokens = torch.cat([first, patches.flatten(2).mT], 1)
        tokens = self._norm(tokens + self._positions(patches.shape[-2], patches.shape[-1]), "pre_layrnorm")
        for block in range(self._blocks - 1):
            tokens = self._block(tokens, block)
        return tokens

    def _positions(self, height: int, width: int) -> Tensor:
        table = self._weight("embeddings.position_embedding.weight")
        if (height, width) == (self._grid, self._grid):
            return table
        planes = table[1:].T.reshape(1, -1, self._grid, self._grid)
        planes = functional.interpolate(planes, size=(height, width), mode="bicubic", align_corners=False)
        return torch.cat([table[:1], planes.flatten(2)[0].T])

    def _heads_of(self, tokens: Tensor, block: int) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value [N,heads,T,d] of a block."""
        name = f"encoder.layers.{block}."
        normed = self._norm(tokens, name + "layer_norm1")
        query, key, value = (
            self._linear(normed, f"{name}self_attn.{part}_proj")
            .unflatten(-1, (self._heads, -1))
            .transpose(1, 2)
            for part in "qkv"
        )
        return query, key, value

    def _block(self, tokens: Tensor, block: int) -> Tensor:
        name = f"encoder.layers.{block}."
        query, key, value = self._heads_of(tokens, block)
        mixed = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        tokens = tokens + self._linear(mixed, name + "self_attn.out_proj")
        inner = self._act(self._linear(self._norm(tokens, name + "layer_norm2"), name + "mlp.fc1"))
        return tokens + self._linear(inner, name + "mlp.fc2")

    def _norm(self, tokens: Tensor, name: str) -> Tensor:
        weight, bias = self._weight(name + ".weight"), self._weight(name + ".bias")
        return functional.layer_norm(tokens, weight.shape, weight, bias, EPS)

    def _linear(self, tokens: Tensor, name: str) -> Tensor:
        return functional.linear(tokens, self._weight(name + ".weight"), self._weight(name + ".bias"))

    def _weight(self, name: str) -> Tensor:
        # In float32 whatever they are kept in: the losses differ in the third digit, and hosts mix types.
        return self._weights[PREFIX + name].float()


def tower_of(scorer: ClipScorer, side: int | None = None) -> ClipTower:
    """The image tower of a `ClipScorer`, sharing its weights; `side` as for `ClipTower`."""
    vision = scorer.model.config.vision_config
    return ClipTower(
        scorer.model.state_dict(),
        heads=int(vision.num_attention_heads),
        activation=str(vision.hidden_act),
        mean=scorer._mean.flatten().tolist(),
        std=scorer._std.flatten().tolist(),
        side=side,
    )
