"""EoMT (Kerssies et al. 2025) as a segmenter: panoptic masks of things and stuff, their labels discarded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..chunks import Tell
from ..loading import ModelError, load_model, needs
from ..pictures import fitted_size, picture_size, pixels_of
from .maps import padded, uncovered
from .panoptic_masks import OVERLAP_MIN, SCORE_MIN, check_share, panoptic_masks
from .processors import edge_of, image_processor, processor_look

WHAT = "EoMT"
KINDS = ("eomt",)


class EomtSegmenter:
    """`protocols.Segmenter` over a transformers `EomtForUniversalSegmentation` with panoptic weights.

    The picture keeps its aspect in the upper left of the network's square; the rest is black, and is cut off again
    before masks are brought to the size of the picture.

    Attributes:
        networks: what must be on the device.
        score_min: what `disjoint` should be given; queries below it are not drawn.
    """

    score_min = SCORE_MIN

    def __init__(
        self, model: Any, processor: Any, *, score_min: float = SCORE_MIN, overlap_min: float = OVERLAP_MIN
    ) -> None:
        """Take the model, its `EomtImageProcessor`, and two of the post-processing's thresholds.

        Raises:
            ModelError: a processor that cuts pictures into pieces, as that of semantic weights, or makes another size.
            ValueError: a threshold outside 0..1.
        """
        self.score_min = check_share(score_min, "score_min")
        self._overlap_min = check_share(overlap_min, "overlap_min")
        if getattr(processor, "do_split_image", False):
            raise ModelError(
                f"the image processor cuts pictures into pieces, so these are semantic weights of {WHAT}; "
                "choose a panoptic model such as tue-mps/coco_panoptic_eomt_large_640"
            )
        self.model = model.eval().requires_grad_(False)
        self.networks: tuple[torch.nn.Module, ...] = (self.model,)
        self._look = processor_look(processor)
        self._side = int(model.config.image_size)
        short = edge_of(processor.size, "shortest_edge", "height")
        sides = short, edge_of(processor.size, "longest_edge", "width") or short
        if sides != (self._side, self._side):
            raise ModelError(
                f"the image processor makes inputs of {sides[0]}x{sides[1]} px, but this {WHAT} network takes "
                f"{self._side}x{self._side}; copy all files of one repository"
            )

    @classmethod
    def from_folder(cls, folder: Path, **options: Any) -> EomtSegmenter:
        """Read a folder such as tue-mps/coco_panoptic_eomt_large_640, on the CPU in float32.

        Raises:
            ModelError: transformers older than 4.54, or a folder that is missing, damaged, or of another kind.
        """
        needs("transformers", "4.54", WHAT)
        from transformers import EomtForUniversalSegmentation

        model = load_model(EomtForUniversalSegmentation, folder, KINDS, WHAT)
        return cls(model, image_processor(folder, "EomtImageProcessor", WHAT), **options)

    @torch.no_grad()
    def __call__(self, image: Tensor, *, tell: Tell | None = None) -> tuple[Tensor, Tensor]:
        """IMAGE [1,H,W,3] in 0..1 -> masks bool [N,H,W], no pixel in two, and scores float32 [N] in 0..1, best first.

        Raises:
            TypeError, ValueError: no IMAGE of one picture, or a network whose numbers overflow in float16.
        """
        weight = next(self.model.parameters())
        size, frame = picture_size(image), (self._side, self._side)
        if tell is not None:
            tell(0, int(self.model.config.num_queries))
        inner = fitted_size(size, self._side, self._side)
        pixels = padded(self._look.resized(pixels_of(image, weight), inner), frame)
        out = self.model(pixel_values=self._look.normalised(pixels).to(weight.dtype))
        return panoptic_masks(
            out.masks_queries_logits[0],
            out.class_queries_logits[0],
            lambda maps, target: uncovered(maps, frame, inner, target),
            size,
            score_min=self.score_min,
            overlap_min=self._overlap_min,
            tell=tell,
        )
