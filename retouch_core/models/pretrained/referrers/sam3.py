"""SAM 3 as a referrer of everything that a noun phrase names (Meta 2025; facebook/sam3, gated)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....tensors.checks import check_count, check_range, check_text
from ....tensors.normalisation import HALF_MEAN, HALF_STD
from ...phrases import unknown_words, warn_of_cuts
from ...protocols import Instances
from ..chunks import Tell, in_chunks
from ..loading import load_model, load_part, needs
from ..pictures import Look, look_of, needed_settings, pixels_of

NAME = "SAM 3"
KINDS = ("sam3", "sam3_video")
"""`model_type` of the folders; the published one is the video model, which holds the picture model."""
LOOK = Look(HALF_MEAN, HALF_STD)
THRESHOLD = 0.5
"""Least score of an instance (the model card)."""
LENGTH = 32
"""Tokens of a phrase (the published processor)."""
MOST = 32
"""Instances of one phrase; their masks are N pictures of floats."""


class Sam3Referrer:
    """`protocols.InstanceReferrer`: every instance of a noun phrase; words of place and relations mean nothing to it."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        threshold: float = THRESHOLD,
        most: int = MOST,
        look: Look = LOOK,
    ) -> None:
        """Take a `Sam3Model` and its tokenizer.

        Args:
            threshold: an instance must score more than this; its own score times that of the phrase being there.
            most: instances of one phrase, the best ones.
            look: how it wants its pictures, which are squashed to the square the model was made for.

        Raises:
            ValueError: an option outside its range.
        """
        self.threshold = check_range(threshold, "threshold", 0, 1, hint=f"{THRESHOLD:g} is usual")
        self.most = check_count(most, "most", "instances of a phrase get a mask")
        self.look = look
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.networks: tuple[nn.Module, ...] = (self.model,)
        self.side = int(model.config.vision_config.backbone_config.image_size)
        self._length = min(LENGTH, int(model.config.text_config.max_position_embeddings))

    @classmethod
    def from_folder(cls, folder: Path, **options: Any) -> Sam3Referrer:
        """The model, its tokenizer and the settings of its pictures out of a folder.

        Raises:
            ModelError: a folder that is missing, damaged, or of another kind, or a transformers before 5.
        """
        needs("transformers", "5.0", NAME)
        from transformers import AutoTokenizer, Sam3Model

        folder = Path(folder)
        model = load_model(Sam3Model, folder, KINDS, NAME)
        look = look_of(needed_settings(folder, NAME), folder, LOOK)
        read: dict[str, Any] = {"look": look}
        return cls(model, load_part(AutoTokenizer, folder, NAME), **(read | options))

    @torch.no_grad()
    def instances(self, image: Tensor, phrase: str, *, tell: Tell | None = None) -> Instances:
        """Everything in IMAGE [1,H,W,3] in 0..1 that the phrase names, best first; N = 0 is legal.

        Returns:
            probabilities float32 [N,H,W], boxes xyxy in pixels [N,4] and scores [N], all on the CPU.

        Raises:
            TypeError, ValueError: an image or a phrase that cannot be used.
        """
        text = check_text(phrase, "phrase")
        size = (image.shape[1], image.shape[2])
        ((logits, boxes, scores),) = in_chunks(
            self._named(image, [text], size), [text], 1, name="phrases", tell=tell
        )
        masks = torch.empty(len(logits), *size)
        for place, small in zip(masks, logits, strict=True):
            place.copy_(large(small, size))
        return Instances(masks, boxes, scores)

    @torch.no_grad()
    def heat_maps(self, image: Tensor, phrases: Sequence[str], *, tell: Tell | None = None) -> Tensor:
        """IMAGE [1,H,W,3] in 0..1 and T phrases -> float32 [T,H,W] on the CPU: of each pixel the largest product of
        an instance's probability and its score, 0 where there is no instance. The picture is seen once.

        Raises:
            TypeError, ValueError: an image or a phrase that cannot be used.
        """
        texts = [check_text(phrase, "phrase") for phrase in phrases]
        size = (image.shape[1], image.shape[2])
        heat = torch.zeros(len(texts), *size)
        if not texts:
            return heat
        found = in_chunks(self._named(image, texts, size), texts, 1, name="phrases", tell=tell)
        for place, (logits, _, scores) in zip(heat, found, strict=True):
            for small, score in zip(logits, scores, strict=True):
                torch.maximum(place, large(small, size) * score, out=place)
        return heat

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """Words that the tokenizer does not know; none in practice, as CLIP's spells words out."""
        return unknown_words(self.tokenizer, text)

    def _named(self, image: Tensor, texts: Sequence[str], size: tuple[int, int]) -> Any:
        """A function that gives the instances of one phrase; the picture goes through the network here."""
        weight = next(self.model.parameters())
        pixels = pixels_of(image, weight)
        warn_of_cuts(self.tokenizer, texts, self._length)
        seen = self.look.normalised(self.look.resized(pixels, (self.side, self.side))).to(weight)
        embeds = self.model.get_vision_features(pixel_values=seen)

        def run(some: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
            told = self.tokenizer(
                list(some),
                padding="max_length",
                max_length=self._length,
                truncation=True,
                return_tensors="pt",
            ).to(weight.device)
            out = self.model(
                vision_embeds=embeds, input_ids=told["input_ids"], attention_mask=told["attention_mask"]
            )
            presence = None if out.presence_logits is None else out.presence_logits.float().cpu()
            parts = (out.pred_masks[0], out.pred_boxes[0], out.pred_logits[0])
            masks, boxes, scores = (part.float().cpu() for part in parts)
            if not all(bool(torch.isfinite(part).all()) for part in (masks, boxes, scores)):
                raise ValueError(
                    f"{NAME} gave NaN or infinite values in {weight.dtype}; run it in float32 or bfloat16"
                )
            return kept(masks, boxes, scores, presence, size, self.threshold, self.most)

        return run


def kept(
    masks: Tensor,
    boxes: Tensor,
    logits: Tensor,
    presence: Tensor | None,
    size: tuple[int, int],
    threshold: float,
    most: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Instances that score more than `threshold`, best first: mask logits, boxes xyxy in pixels, scores.

    Args:
        masks: logits [Q,h,w]; boxes: xyxy in 0..1 [Q,4]; logits: of the instances [Q]; presence: of the phrase, [1,1].
        size: (H, W) of the picture.
    """
    scores = torch.sigmoid(logits)
    if presence is not None:
        scores = scores * torch.sigmoid(presence.reshape(()))
    order = scores.argsort(descending=True, stable=True)
    order = order[scores[order] > threshold][:most]
    corners = torch.tensor([size[1], size[0]] * 2, dtype=torch.float32)
    placed = (boxes[order] * corners).clamp(min=0).minimum(corners)
    return masks[order], placed, scores[order]


def large(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Mask logits [h,w] -> probabilities [H,W]; the sigmoid comes before resizing, as in the published processor."""
    heat = torch.sigmoid(logits)[None, None]
    return F.interpolate(heat, size=size, mode="bilinear")[0, 0].clamp(0, 1)
