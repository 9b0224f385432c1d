"""Grounding DINO as a detector of phrases (Liu et al. 2023; IDEA-Research/grounding-dino-tiny and -base)."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ....tensors.checks import check_count, check_range, check_text
from ...phrases import unknown_words, warn_of_cuts
from ..loading import ModelError, load_model, load_part
from ..pictures import Look, fitted_size, look_of, needed_settings, pixels_of

NAME = "Grounding DINO"
KINDS = ("grounding-dino",)
LOOK = Look()
THRESHOLD, TEXT_THRESHOLD = 0.3, 0.25
"""Least score of a box, and of a word that names it (methods.md 5.3)."""
SHORTEST, LONGEST = 800, 1333
"""Pixels of a picture's shorter side as the network sees it, and what its longer side may have at most."""
END = "."
"""Closes a phrase; the network tells phrases apart by it."""
INPUTS = ("input_ids", "token_type_ids", "attention_mask")
"""What the network takes of a phrase."""


class GroundingDinoDetector:
    """Boxes of what a phrase means, for a `DetectorReferrer`."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        threshold: float = THRESHOLD,
        text_threshold: float = TEXT_THRESHOLD,
        shortest: int = SHORTEST,
        longest: int = LONGEST,
        look: Look = LOOK,
    ) -> None:
        """Take a `GroundingDinoForObjectDetection` and a `GroundingDinoProcessor`.

        Args:
            threshold: a box must score more than this.
            text_threshold: so must a word of the phrase for a box, or the box belongs to punctuation and goes.
            shortest, longest: sides of the picture that the network sees, in pixels.
            look: how it wants its pictures.

        Raises:
            ValueError: an option outside its range.
        """
        self.threshold = check_range(threshold, "threshold", 0, 1, hint=f"{THRESHOLD:g} is usual")
        self.text_threshold = check_range(
            text_threshold, "text_threshold", 0, 1, hint=f"{TEXT_THRESHOLD:g} is usual"
        )
        self.shortest = check_count(shortest, "shortest", "pixels has the shorter side")
        self.longest = check_count(longest, "longest", "pixels has the longer side at most")
        if self.longest < self.shortest:
            raise ValueError(
                f"longest must be at least shortest, {shortest}, got {longest}; {LONGEST} is usual"
            )
        self.look = look
        self.model = model.eval().requires_grad_(False)
        self.processor = processor
        self.networks: tuple[nn.Module, ...] = (self.model,)
        self._length = int(model.config.max_text_len)

    @classmethod
    def from_folder(cls, folder: Path, **options: Any) -> GroundingDinoDetector:
        """The model, its processor and the settings of its pictures out of a folder.

        Raises:
            ModelError: a folder that is missing, damaged, or of another kind.
        """
        from transformers import GroundingDinoForObjectDetection, GroundingDinoProcessor

        folder = Path(folder)
        model = load_model(GroundingDinoForObjectDetection, folder, KINDS, NAME)
        settings = needed_settings(folder, NAME)
        look = look_of(settings, folder, LOOK)
        size = settings.get("size") or {}
        read: dict[str, Any] = {"look": look}
        try:
            read["shortest"] = int(size.get("shortest_edge", SHORTEST))
            read["longest"] = int(size.get("longest_edge", LONGEST))
        except (AttributeError, TypeError, ValueError):
            raise ModelError(
                f"{folder} asks for pictures of size {size!r}, not of two edges; copy the model's files there again"
            ) from None
        return cls(model, load_part(GroundingDinoProcessor, folder, NAME), **(read | options))

    @torch.no_grad()
    def boxes(self, image: Tensor, phrase: str) -> tuple[Tensor, Tensor]:
        """IMAGE [1,H,W,3] in 0..1 -> boxes xyxy in pixels [N,4] and scores [N], float32 on the CPU; N = 0 is legal.

        Raises:
            TypeError, ValueError: an image or a phrase that cannot be used.
        """
        weight = next(self.model.parameters())
        pixels = pixels_of(image, weight)
        size = (image.shape[1], image.shape[2])
        text = caption(phrase)
        tokenizer = self.processor.tokenizer
        warn_of_cuts(tokenizer, [text], self._length)
        told = tokenizer(
            text, truncation=True, max_length=self._length, return_token_type_ids=True, return_tensors="pt"
        )
        seen = self.look.resized(pixels, fitted_size(size, self.shortest, self.longest))
        with _half(weight):
            out = self.model(
                pixel_values=self.look.normalised(seen).to(weight),
                **{name: told[name].to(weight.device) for name in INPUTS},
            )
        logits, places = out.logits.float().cpu(), out.pred_boxes.float().cpu()
        if torch.isnan(logits).any() or not torch.isfinite(places).all():
            raise ValueError(f"{NAME} gave NaN or infinite values in {weight.dtype}; run it in float32")
        return self._named(logits, places, told["input_ids"], size)

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """Words that the tokenizer cannot spell out of its pieces, such as signs it never saw."""
        return unknown_words(self.processor.tokenizer, text.lower())

    def _named(
        self, logits: Tensor, places: Tensor, ids: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Boxes and scores out of logits [1,Q,256] and boxes cxcywh in 0..1 [1,Q,4]."""
        run = self.processor.post_process_grounded_object_detection
        # transformers renamed the argument in 4.51 and refuses the old name since.
        name = "threshold" if "threshold" in inspect.signature(run).parameters else "box_threshold"
        found = run(
            SimpleNamespace(logits=logits, pred_boxes=places, input_ids=ids),
            ids,
            text_threshold=self.text_threshold,
            target_sizes=[size],
            **{name: self.threshold},
        )[0]
        boxes, scores = found["boxes"], found["scores"]
        # Where there is no box, transformers 5 still gives one name, an empty one.
        words = (found["text_labels"] if "text_labels" in found else found["labels"])[: len(scores)]
        named = torch.tensor([any(sign.isalnum() for sign in word) for word in words], dtype=torch.bool)
        return boxes[named], scores[named]


def _half(weight: Tensor) -> AbstractContextManager[Any]:
    """A context for weights in half precision: transformers 4 makes some positions in float32 without casting them."""
    if weight.dtype not in (torch.float16, torch.bfloat16):
        return nullcontext()
    return torch.autocast(weight.device.type, dtype=weight.dtype)


def caption(phrase: str) -> str:
    """A phrase as the network was trained on them: in lower case and closed by a full stop.

    Raises:
        TypeError, ValueError: no text, or nothing but stops.
    """
    text = " ".join(check_text(phrase, "phrase").lower().split()).rstrip(END + " ")
    if not text:
        raise ValueError(f"phrase has no words, got {phrase!r}; write a few words such as 'the red car'")
    return text + END
