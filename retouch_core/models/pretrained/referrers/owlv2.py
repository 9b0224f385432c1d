"""OWLv2 as a detector of phrases (Minderer et al. 2023; google/owlv2-base-patch16-ensemble)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....tensors.checks import check_count, check_range, check_text
from ....tensors.normalisation import CLIP_MEAN, CLIP_STD
from ...phrases import unknown_words, warn_of_cuts
from ..loading import load_model, load_part
from ..pictures import Look, look_of, needed_settings, pixels_of, square_side

NAME = "OWLv2"
KINDS = ("owlv2",)
LOOK = Look(CLIP_MEAN, CLIP_STD)
THRESHOLD = 0.1
"""Least score of a box; OWLv2's are lower than other detectors' (the published processor)."""
SIDE = 960
"""Pixels of the square that pictures are padded and resized to (the published processor)."""
FILL = 0.0
"""Colour of the padding: black in the official code, which transformers before 5 made grey (its pull request 41938)."""
REACH = 3
"""Standard deviations after which a Gaussian is cut."""


class Owlv2Detector:
    """Boxes of what a phrase means, for a `DetectorReferrer`; weak on relations and words of place."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        threshold: float = THRESHOLD,
        side: int = SIDE,
        look: Look = LOOK,
    ) -> None:
        """Take an `Owlv2ForObjectDetection` and its tokenizer.

        Args:
            threshold: a box must score more than this.
            side: of the square that the network sees, in pixels.
            look: how it wants its pictures; resizing is the network's own.

        Raises:
            ValueError: an option that cannot be used.
        """
        self.threshold = check_range(threshold, "threshold", 0, 1, hint=f"{THRESHOLD:g} is usual")
        native = int(model.config.vision_config.image_size)
        if check_count(side, "side", "pixels wide are the pictures that OWLv2 sees") != native:
            raise ValueError(
                f"side must be {native}, which the model was trained for, got {side}; leave it out"
            )
        self.side = side
        self.look = look
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.networks: tuple[nn.Module, ...] = (self.model,)
        self._length = min(
            int(tokenizer.model_max_length), int(model.config.text_config.max_position_embeddings)
        )

    @classmethod
    def from_folder(cls, folder: Path, **options: Any) -> Owlv2Detector:
        """The model, its tokenizer and the settings of its pictures out of a folder.

        Raises:
            ModelError: a folder that is missing, damaged, or of another kind.
        """
        from transformers import AutoTokenizer, Owlv2ForObjectDetection

        folder = Path(folder)
        model = load_model(Owlv2ForObjectDetection, folder, KINDS, NAME)
        settings = needed_settings(folder, NAME)
        look = look_of(settings, folder, LOOK)
        read: dict[str, Any] = {"side": square_side(settings, SIDE, folder), "look": look}
        return cls(model, load_part(AutoTokenizer, folder, NAME), **(read | options))

    @torch.no_grad()
    def boxes(self, image: Tensor, phrase: str) -> tuple[Tensor, Tensor]:
        """IMAGE [1,H,W,3] in 0..1 -> boxes xyxy in pixels [N,4] and scores [N], float32 on the CPU; N = 0 is legal.

        Raises:
            TypeError, ValueError: an image or a phrase that cannot be used.
        """
        weight = next(self.model.parameters())
        pixels = pixels_of(image, weight)
        text = check_text(phrase, "phrase")
        warn_of_cuts(self.tokenizer, [text], self._length)
        told = self.tokenizer(
            [text], padding="max_length", max_length=self._length, truncation=True, return_tensors="pt"
        ).to(weight.device)
        out = self.model(
            pixel_values=self.look.normalised(square(pixels, self.side)).to(weight),
            input_ids=told["input_ids"],
            attention_mask=told["attention_mask"],
        )
        logits, places = out.logits[0].float().cpu(), out.pred_boxes[0].float().cpu()
        if not (torch.isfinite(logits).all() and torch.isfinite(places).all()):
            raise ValueError(f"{NAME} gave NaN or infinite values in {weight.dtype}; run it in float32")
        return kept(logits, places, max(image.shape[1:3]), self.threshold)

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """Words that the tokenizer does not know; none in practice, as CLIP's spells words out."""
        return unknown_words(self.tokenizer, text)


def kept(logits: Tensor, places: Tensor, longer: int, threshold: float) -> tuple[Tensor, Tensor]:
    """Boxes xyxy in pixels [N,4] and scores [N] above `threshold`.

    Places count from the padded square, so both axes scale by the picture's longer side; transformers scaled by
    each axis's own in early versions, and squeezed the boxes of pictures that are not square.

    Args:
        logits: [P,T] of P places and T phrases; places: cxcywh in 0..1 [P,4]; longer: side in pixels.
    """
    scores = torch.sigmoid(logits.amax(-1))
    centre, half = places[:, :2], places[:, 2:] / 2
    boxes = torch.cat([centre - half, centre + half], 1) * longer
    good = scores > threshold
    return boxes[good], scores[good]


def square(pixels: Tensor, side: int) -> Tensor:
    """Pixels [1,3,H,W] in 0..1 -> [1,3,side,side]: padded below and on the right to a square, blurred where it
    shrinks, then resized without antialiasing, as the official code does by scikit-image."""
    height, width = pixels.shape[-2:]
    longer = max(height, width)
    pixels = F.pad(pixels, (0, longer - width, 0, longer - height), value=FILL)
    deviation = (longer / side - 1) / 2
    if deviation > 0:
        pixels = _blurred(pixels, deviation)
    if longer == side:
        return pixels
    return F.interpolate(pixels, size=(side, side), mode="bilinear")


def _blurred(pixels: Tensor, deviation: float) -> Tensor:
    """Pixels [1,3,S,S], each axis convolved with a Gaussian and mirrored at the border."""
    reach = math.ceil(REACH * deviation)
    steps = torch.arange(-reach, reach + 1, device=pixels.device, dtype=pixels.dtype)
    kernel = torch.exp(-((steps / deviation) ** 2) / 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1).expand(3, 1, 1, -1)
    for _ in range(2):
        pixels = F.conv2d(F.pad(pixels, (reach, reach, 0, 0), mode="reflect"), kernel, groups=3)
        # Twice around, so that the second turn sees the other axis.
        pixels = pixels.transpose(-1, -2)
    return pixels
