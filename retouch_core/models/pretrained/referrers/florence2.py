"""Florence-2 as a referrer of one region (Xiao et al. 2024; florence-community/Florence-2-base-ft and -large-ft)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ....tensors.checks import check_count, check_text
from ...phrases import unknown_words
from ...protocols import Instances
from ..chunks import Tell, in_chunks
from ..loading import load_model, load_part, needs
from ..pictures import Look, look_of, needed_settings, pixels_of, square_side

NAME = "Florence-2"
KINDS = ("florence2",)
LOOK = Look(mode="bicubic")
TASK = "Locate {phrase} in the image with mask"
"""What the processor makes of <REFERRING_EXPRESSION_SEGMENTATION>."""
SIDE = 768
"""Pixels of the square that pictures are squashed to (the published processor)."""
BINS = 1000
"""Steps that location tokens divide each side of a picture into; a token stands for the middle of its step."""
LOCATION = re.compile(r"<loc_(\d+)>")
TOKENS, BEAMS = 1024, 3
"""Longest answer and beams of the model card's example."""
CORNERS = 3
"""Least number of points that enclose anything."""


class Florence2Referrer:
    """`protocols.InstanceReferrer` that finds one region or none: the polygons which the model writes, filled.

    The model gives no probability, so the region has score 1 and its mask is 0 or 1.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        side: int = SIDE,
        look: Look = LOOK,
        tokens: int = TOKENS,
        beams: int = BEAMS,
    ) -> None:
        """Take a `Florence2ForConditionalGeneration` and a `Florence2Processor`.

        Args:
            side: of the square pictures are squashed to, in pixels.
            look: how it wants its pictures.
            tokens: longest answer; two of them make a point.
            beams: answers that are followed at once.

        Raises:
            ValueError: an option that cannot be used.
        """
        self.side = check_count(side, "side", "pixels wide are the pictures that Florence-2 sees")
        self.look = look
        self.tokens = check_count(tokens, "tokens", "words the answer may have")
        self.beams = check_count(beams, "beams", "answers are followed at once")
        self.model = model.eval().requires_grad_(False)
        self.processor = processor
        self.networks: tuple[nn.Module, ...] = (self.model,)

    @classmethod
    def from_folder(cls, folder: Path, **options: Any) -> Florence2Referrer:
        """The model, its processor and the settings of its pictures out of a folder.

        Raises:
            ModelError: a folder that is missing, damaged, or of another kind, or a transformers that is too old.
        """
        needs("transformers", "4.56", NAME)
        from transformers import Florence2ForConditionalGeneration, Florence2Processor

        folder = Path(folder)
        model = load_model(Florence2ForConditionalGeneration, folder, KINDS, NAME)
        settings = needed_settings(folder, NAME)
        look = look_of(settings, folder, LOOK)
        read: dict[str, Any] = {
            "side": square_side(settings, SIDE, folder),
            "look": look,
        }
        return cls(model, load_part(Florence2Processor, folder, NAME), **(read | options))

    def instances(self, image: Tensor, phrase: str, *, tell: Tell | None = None) -> Instances:
        """The region in IMAGE [1,H,W,3] in 0..1 that the phrase means: N is 1 or, where the answer has no area, 0.

        Raises:
            TypeError, ValueError: an image or a phrase that cannot be used.
        """
        mask = self.heat_maps(image, [phrase], tell=tell)
        found = mask.flatten(1).any(1)
        mask = mask[found]
        return Instances(
            mask,
            torch.stack([_box(one) for one in mask]) if len(mask) else torch.zeros(0, 4),
            torch.ones(len(mask)),
        )

    @torch.no_grad()
    def heat_maps(self, image: Tensor, phrases: Sequence[str], *, tell: Tell | None = None) -> Tensor:
        """IMAGE [1,H,W,3] in 0..1 and T phrases -> masks float32 [T,H,W] of 0 and 1 on the CPU; T = 0 is legal.

        Raises:
            TypeError, ValueError: an image or a phrase that cannot be used.
        """
        weight = self.model.get_input_embeddings().weight
        pixels = pixels_of(image, weight)
        texts = [check_text(phrase, "phrase") for phrase in phrases]
        size = (image.shape[1], image.shape[2])
        seen = self.look.normalised(self.look.resized(pixels, (self.side, self.side))).to(weight)
        masks = in_chunks(
            lambda some: filled(self._polygons(seen, some[0], size), size),
            texts,
            1,
            name="phrases",
            tell=tell,
        )
        return torch.stack(masks).float() if masks else torch.zeros(0, *size)

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """Words that the tokenizer does not know; none in practice, as BART's spells words out."""
        return unknown_words(self.processor.tokenizer, text)

    def _polygons(self, seen: Tensor, phrase: str, size: tuple[int, int]) -> list[Tensor]:
        """Points xy in pixels [P,2] of each polygon of the answer."""
        tokenizer = self.processor.tokenizer
        count = int(self.processor.image_processor.image_seq_length)
        text = f"{self.processor.image_token * count}{tokenizer.bos_token}{TASK.format(phrase=phrase)}{tokenizer.eos_token}"
        told = tokenizer(text, add_special_tokens=False, return_tensors="pt").to(seen.device)
        answer = self.model.generate(
            input_ids=told["input_ids"],
            attention_mask=told["attention_mask"],
            pixel_values=seen,
            max_new_tokens=self.tokens,
            num_beams=self.beams,
            do_sample=False,
        )
        return polygons(tokenizer.convert_ids_to_tokens(answer[0].tolist()), size)


def polygons(words: Sequence[str], size: tuple[int, int]) -> list[Tensor]:
    """Points xy in pixels [P,2] of the polygons in an answer: location tokens in a row, x and y in turn.

    An odd token at the end of a row is dropped, and rows of fewer than three points are none.

    Args:
        words: the answer's tokens; size: (H, W) of the picture.
    """
    rows: list[list[int]] = [[]]
    for word in words:
        location = LOCATION.fullmatch(word)
        if location:
            rows[-1].append(int(location[1]))
        elif rows[-1]:
            rows.append([])
    scale = torch.tensor([size[1] / BINS, size[0] / BINS], dtype=torch.float64)
    points = [torch.tensor(row[: len(row) // 2 * 2], dtype=torch.float64).view(-1, 2) for row in rows]
    return [(some + 0.5) * scale for some in points if len(some) >= CORNERS]


def filled(outlines: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Polygons xy in pixels [P,2] -> bool [H,W]: pixels whose middle lies in any of them, by the even-odd rule."""
    from skimage.draw import polygon

    mask = torch.zeros(size, dtype=torch.bool)
    for points in outlines:
        # Pixel i covers i to i + 1, and its middle stands for it; scikit-image asks about whole numbers.
        rows, columns = polygon(points[:, 1].numpy() - 0.5, points[:, 0].numpy() - 0.5, size)
        mask[torch.from_numpy(rows), torch.from_numpy(columns)] = True
    return mask


def _box(mask: Tensor) -> Tensor:
    """The smallest box xyxy [4] in pixels around a mask [H,W] that is not empty."""
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    return torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()
