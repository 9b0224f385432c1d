"""An image-text scorer out of the host's own CLIP and CLIP_VISION, behind the library's `Scorer` protocol."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import torch
import torch.nn.functional as F
from torch import Tensor

from ..retouch_core.models.differentiable import lent
from ..retouch_core.models.phrases import unknown_words
from ..retouch_core.tensors.checks import InputWarning
from ._host import check_cancelled
from ._patchers import load_for_gradients

LOGIT_SCALE = 100.0
"""exp of the learnt temperature at which OpenAI's CLIP models end (Radford et al. 2021, section 2.5)."""

CHUNK = 32
"""Views that go through the image tower at once."""

TRAINED = (1e-6, 10.0)
"""Magnitudes of trained weights; memory that was never written holds zeros, denormals and numbers beyond 1e10."""

LEAST_TRAINED = 0.9
"""A projection with a smaller share of its weights inside `TRAINED` was never loaded: the host leaves it unset."""


class HostScorer:
    """Cosines between views and phrases; attributes are those of `models.protocols.Scorer`.

    Both towers live in patchers of the host, which loads and unloads them; `patcher` is the image tower's.
    """

    def __init__(
        self,
        clip: Any,
        vision: Any,
        *,
        logit_scale: float = LOGIT_SCALE,
        gate: float | None = None,
        rivals: Sequence[str] = (),
    ) -> None:
        self.clip, self.vision = clip, vision
        self.patcher = vision.patcher
        self.image_size = int(vision.image_size)
        self.logit_scale = logit_scale
        self.gate = gate
        self.rivals = tuple(rivals)

    def encode_images(self, views: Tensor) -> Tensor:
        """Views [N,3,S,S] in 0..1 -> unit embeddings [N,D] float32 on the CPU; differentiable where views want it."""
        if not len(views):  # the host's towers cannot take a batch of none
            return torch.zeros(0, self.encode_texts([""]).shape[-1])
        seen = self._seen(views, -2)
        return F.normalize(torch.cat([out[2].float().cpu() for out in seen]), dim=-1)

    def features(self, views: Tensor, depth: float = 1.0) -> list[Tensor]:
        """Views [N,3,S,S] in 0..1 -> patch tokens [N,P,D] float32 after each of the first ceil(depth * L) layers."""
        layers = torch.cat([out[1].float() for out in self._seen(views, "all")])
        return [tokens[:, 1:] for tokens in layers.unbind(1)[: math.ceil(depth * layers.shape[1])]]

    def _seen(self, views: Tensor, layer: int | str) -> list[Any]:
        """What the image tower puts out, chunk by chunk."""
        # The host's own encode_image rounds pixels to 8 bits and resizes them again; ours come at their size.
        guiding = views.requires_grad
        if guiding:
            load_for_gradients([self.patcher])
        else:
            comfy.model_management.load_model_gpu(self.patcher)
        device = self.patcher.load_device
        mean, std = (
            torch.tensor(list(values), device=device).view(3, 1, 1)
            for values in (self.vision.image_mean, self.vision.image_std)
        )
        seen = []
        with self._led() if guiding else torch.no_grad():
            for chunk in views.split(CHUNK):
                check_cancelled()
                pixels = (chunk.to(device, torch.float32) - mean) / std
                seen.append(self.vision.model(pixel_values=pixels, intermediate_output=layer))
        return seen

    @contextmanager
    def _led(self) -> Iterator[None]:
        """A block in which the image tower can be differentiated.

        The host's layers add to their input in place, after a norm has kept that input for its own gradient: the norms
        are handed copies.
        """
        parts = self.vision.model.modules()
        norms = [part for part in parts if isinstance(part, torch.nn.LayerNorm)]
        hooks = [norm.register_forward_pre_hook(lambda _, given: (given[0].clone(),)) for norm in norms]
        try:
            with lent(self.vision.model, device=self.patcher.load_device):
                yield
        finally:
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """T phrases -> unit embeddings [T,D] float32 on the CPU; what does not fit the tower is cut, with a warning."""
        rows = []
        for text in texts:
            check_cancelled()
            # Brackets are part of a phrase here, not emphasis as in a prompt.
            tokens = self.clip.tokenize(text, disable_weights=True)
            if any(len(parts) > 1 for parts in tokens.values()):
                warnings.warn(
                    f"{text!r} is longer than clip reads at once and was cut; say it in fewer words",
                    InputWarning,
                    stacklevel=2,
                )
            _, pooled = self.clip.encode_from_tokens(tokens, return_pooled=True)
            rows.append(pooled[:1].float().cpu())
        return F.normalize(torch.cat(rows), dim=-1)

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """Words that turn into the tokenizer's unknown token; none where it has no such token or spells words out."""
        tokenizer = _words_of(self.clip)
        unknown = getattr(tokenizer, "unk_token_id", None)
        ends = {getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad")}
        # OpenAI's tokenizer names its end token as the unknown one.
        return () if unknown in ends else unknown_words(tokenizer, text)


def _words_of(clip: Any) -> Any:
    """The transformers tokenizer inside a host tokenizer, or None."""
    inner = getattr(clip.tokenizer, getattr(clip.tokenizer, "clip", ""), None)
    return getattr(inner, "tokenizer", None)


def scorer_from_pair(clip: Any, vision: Any) -> HostScorer:
    """A scorer from a CLIP and a CLIP_VISION that belong together.

    Raises:
        ValueError: not such models, or not from the same training.
    """
    if not hasattr(clip, "encode_from_tokens"):
        raise ValueError(f"clip is a {type(clip).__name__}; connect a CLIP loader")
    kind = getattr(vision, "model_type", type(vision).__name__)
    if kind != "clip_vision_model":
        raise ValueError(
            f"clip_vision is a {kind!r}, which has no text tower here; load a CLIP vision model such as CLIP-ViT-L-14"
        )
    scorer = HostScorer(clip, vision)
    _check_projection(clip)
    text = scorer.encode_texts(["a photo"]).shape[-1]
    seen = scorer.encode_images(torch.full((1, 3, scorer.image_size, scorer.image_size), 0.5)).shape[-1]
    if text != seen:
        raise ValueError(
            f"clip gives vectors of {text} numbers but clip_vision of {seen}; load the pair of one training: "
            "clip_l with CLIP-ViT-L-14, SDXL's clip_g with CLIP-ViT-bigG, SD2's with CLIP-ViT-H"
        )
    return scorer


def _check_projection(clip: Any) -> None:
    """The host tolerates text encoders without a projection; their pooled vector then means nothing to a picture."""
    model = clip.cond_stage_model
    tower = getattr(model, "clip_g", None) or getattr(model, str(getattr(model, "clip", "")), None)
    if _is_trained(getattr(getattr(tower, "transformer", None), "text_projection", None)):
        return
    raise ValueError(
        "clip has no text projection, so its words cannot be compared with pictures; "
        "load a full text encoder file such as clip_l.safetensors instead of the one inside a checkpoint"
    )


def _is_trained(projection: Any) -> bool:
    """Whether a linear layer holds weights of a training: neither unset memory nor the identity put in its place."""
    weight = getattr(projection, "weight", None)
    if weight is None:
        return False
    values = weight.detach().float().cpu()
    sizes = values.abs()
    share = float(((sizes > TRAINED[0]) & (sizes < TRAINED[1])).float().mean())
    return bool(torch.isfinite(values).all()) and share >= LEAST_TRAINED
