"""A detector that gives boxes and a network that gives boxes masks, joined as an `InstanceReferrer` (methods.md 5.3)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ....tensors.checks import InputWarning, check_count, check_image, check_range, check_text
from ...protocols import Instances
from ..chunks import Tell, in_chunks

OVERLAP = 0.8
"""Intersection over union above which the weaker of two boxes is the same thing again (Grounded-SAM's demo)."""
MOST = 32
"""Things of one phrase; their masks are N pictures of floats."""
LEAST_SIDE = 1.0
"""Pixels of a box's side below which it holds nothing."""


@runtime_checkable
class Detector(Protocol):
    """Finds boxes of what a phrase means; `networks` must be where they are to run."""

    networks: tuple[nn.Module, ...]

    def boxes(self, image: Tensor, phrase: str) -> tuple[Tensor, Tensor]:
        """IMAGE [1,H,W,3] in 0..1 -> boxes xyxy in pixels [N,4] and scores [N] in 0..1, float32 on the CPU."""
        ...

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """The words of `text` that the tokenizer cannot represent."""
        ...


class MaskMaker(Protocol):
    """Makes masks of boxes in two steps, so that large masks need not all be there at once."""

    networks: tuple[nn.Module, ...]

    def logits(self, image: Tensor, boxes: Tensor, *, tell: Tell | None = None) -> Tensor:
        """IMAGE [1,H,W,3] and boxes xyxy [N,4] -> logits [N,h,w]."""
        ...

    def probabilities(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits [N,h,w] -> probabilities [N,H,W]."""
        ...


class DetectorReferrer:
    """`protocols.InstanceReferrer` out of a detector (Grounding DINO, OWLv2) and a segmenter of boxes (SAM, SAM 2)."""

    def __init__(
        self, detector: Detector, segmenter: MaskMaker, *, overlap: float = OVERLAP, most: int = MOST
    ) -> None:
        """Join the two.

        Args:
            overlap: intersection over union above which the weaker of two boxes goes; 1 keeps all.
            most: things of one phrase, the best ones; more are dropped with a warning.

        Raises:
            ValueError: an option outside its range.
        """
        self.overlap = check_range(overlap, "overlap", 0, 1)
        self.most = check_count(most, "most", "things of a phrase get a mask")
        self.detector, self.segmenter = detector, segmenter
        self.networks: tuple[nn.Module, ...] = (*detector.networks, *segmenter.networks)

    def instances(self, image: Tensor, phrase: str, *, tell: Tell | None = None) -> Instances:
        """Everything in IMAGE [1,H,W,3] in 0..1 that the phrase may mean, best first; N = 0 is legal.

        Returns:
            probabilities float32 [N,H,W], boxes xyxy in pixels [N,4] and scores [N], all on the CPU.

        Raises:
            TypeError, ValueError: an image or a phrase that cannot be used.
        """
        check_image(image, batch=1)
        boxes, scores = self._found(image, check_text(phrase, "phrase"))
        size = (image.shape[1], image.shape[2])
        if not len(boxes):
            return Instances(torch.zeros(0, *size), boxes, scores)
        masks = self.segmenter.probabilities(self.segmenter.logits(image, boxes, tell=tell), size)
        return Instances(masks, boxes, scores)

    def heat_maps(self, image: Tensor, phrases: Sequence[str], *, tell: Tell | None = None) -> Tensor:
        """IMAGE [1,H,W,3] in 0..1 and T phrases -> float32 [T,H,W] on the CPU: of each pixel the largest product of
        an instance's probability and its score, 0 where there is no instance.

        `tell` counts the phrases first, then the boxes of all of them.

        Raises:
            TypeError, ValueError: an image or a phrase that cannot be used.
        """
        check_image(image, batch=1)
        size = (image.shape[1], image.shape[2])
        texts = [check_text(phrase, "phrase") for phrase in phrases]
        found = in_chunks(lambda some: self._found(image, some[0]), texts, 1, name="phrases", tell=tell)
        heat = torch.zeros(len(texts), *size)
        if not sum(len(scores) for _, scores in found):
            return heat
        # All boxes in one go, so that the segmenter looks at the picture once.
        logits = self.segmenter.logits(image, torch.cat([boxes for boxes, _ in found]), tell=tell)
        counts = [len(scores) for _, scores in found]
        for place, some, (_, scores) in zip(heat, logits.split(counts), found, strict=True):
            for one, score in zip(some, scores, strict=True):
                torch.maximum(place, self.segmenter.probabilities(one[None], size)[0] * score, out=place)
        return heat

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """Words that the detector's tokenizer does not know."""
        return self.detector.unknown_words(text)

    def _found(self, image: Tensor, phrase: str) -> tuple[Tensor, Tensor]:
        """Boxes [N,4] inside the picture and scores [N], best first, doubles and specks left out."""
        from torchvision.ops import nms

        boxes, scores = (found.detach().float().cpu() for found in self.detector.boxes(image, phrase))
        boxes, scores = boxes.reshape(-1, 4), scores.reshape(-1)
        height, width = image.shape[1:3]
        boxes = boxes.clamp(min=0).minimum(torch.tensor([width, height, width, height]).to(boxes))
        sides = boxes[:, 2:] - boxes[:, :2]
        # NaN, which half precision may give, fails every comparison.
        good = (sides >= LEAST_SIDE).all(1) & (scores >= 0) & (scores <= 1)
        boxes, scores = boxes[good], scores[good]
        order = scores.argsort(descending=True, stable=True)
        boxes, scores = boxes[order], scores[order]
        kept = nms(boxes, scores, self.overlap).sort().values
        if len(kept) > self.most:
            warnings.warn(
                f"{phrase!r} means {len(kept)} things here, and the best {self.most} are looked at; raise most for more",
                InputWarning,
                stacklevel=3,
            )
        kept = kept[: self.most]
        return boxes[kept], scores[kept]
