"""Mask2Former (Cheng et al. 2022) as a segmenter: panoptic masks of things and stuff, their labels discarded."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..chunks import Tell
from ..loading import UNUSED_OF_SWIN, ModelError, load_model
from ..pictures import fitted_size, picture_size, pixels_of
from .maps import stretched
from .panoptic_masks import OVERLAP_MIN, SCORE_MIN, check_share, panoptic_masks
from .processors import edge_of, image_processor, processor_look

WHAT = "Mask2Former"
KINDS = ("mask2former",)


class Mask2FormerSegmenter:
    """`protocols.Segmenter` over a transformers `Mask2FormerForUniversalSegmentation` with panoptic weights.

    The picture is brought to the processor's size and on to multiples of 32, so there is no padding. A pixel belongs to
    a query from a mask probability of 0.5 as in the paper's code; transformers compares that number with the
    probability times the score instead, and takes the maps through 384x384, which loses edges.

    Attributes:
        networks: what must be on the device.
        score_min: what `disjoint` should be given; queries below it are not drawn.
    """

    score_min = SCORE_MIN

    def __init__(
        self, model: Any, processor: Any, *, score_min: float = SCORE_MIN, overlap_min: float = OVERLAP_MIN
    ) -> None:
        """Take the model, its `Mask2FormerImageProcessor`, and two of the post-processing's thresholds.

        Raises:
            ModelError: a processor without the size that it brings pictures to.
            ValueError: a threshold outside 0..1.
        """
        self.score_min = check_share(score_min, "score_min")
        self._overlap_min = check_share(overlap_min, "overlap_min")
        self.model = model.eval().requires_grad_(False)
        self.networks: tuple[torch.nn.Module, ...] = (self.model,)
        self._look = processor_look(processor)
        self._sides = edge_of(processor.size, "shortest_edge"), edge_of(processor.size, "longest_edge")
        self._fixed = edge_of(processor.size, "height"), edge_of(processor.size, "width")
        if None in self._sides and None in self._fixed:
            raise ModelError(
                f"the image processor has size {processor.size}, but {WHAT} needs shortest_edge and longest_edge "
                "or height and width; copy the model's own files again"
            )
        self._divisor = max(1, int(getattr(processor, "size_divisor", 0) or 0))

    @classmethod
    def from_folder(cls, folder: Path, **options: Any) -> Mask2FormerSegmenter:
        """Read a folder such as facebook/mask2former-swin-large-coco-panoptic, on the CPU in float32.

        Raises:
            ModelError: a folder that is missing, damaged, or of another kind.
        """
        from transformers import Mask2FormerForUniversalSegmentation

        model = load_model(Mask2FormerForUniversalSegmentation, folder, KINDS, WHAT, unused=UNUSED_OF_SWIN)
        return cls(model, image_processor(folder, "Mask2FormerImageProcessor", WHAT), **options)

    @torch.no_grad()
    def __call__(self, image: Tensor, *, tell: Tell | None = None) -> tuple[Tensor, Tensor]:
        """IMAGE [1,H,W,3] in 0..1 -> masks bool [N,H,W], no pixel in two, and scores float32 [N] in 0..1, best first.

        Raises:
            TypeError, ValueError: no IMAGE of one picture, or a network whose numbers overflow in float16.
        """
        weight = next(self.model.parameters())
        size = picture_size(image)
        if tell is not None:
            tell(0, int(self.model.config.num_queries))
        pixels = self._look.resized(pixels_of(image, weight), self._input_size(size))
        out = self.model(pixel_values=self._look.normalised(pixels).to(weight.dtype))
        return panoptic_masks(
            out.masks_queries_logits[0],
            out.class_queries_logits[0],
            stretched,
            size,
            score_min=self.score_min,
            overlap_min=self._overlap_min,
            tell=tell,
        )

    def _input_size(self, size: tuple[int, int]) -> tuple[int, int]:
        (shortest, longest), (height, width) = self._sides, self._fixed
        if shortest is not None and longest is not None:
            height, width = fitted_size(size, shortest, longest)
        assert height is not None and width is not None
        height, width = (math.ceil(side / self._divisor) * self._divisor for side in (height, width))
        return height, width
