"""What SAM and SAM 2 do alike: a picture is encoded once, and a grid of points asks for its masks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from ..chunks import Tell
from ..pictures import picture_size, pixels_of
from .automatic_masks import SCORE_MIN, Enlarge, MaskRules, automatic_masks
from .maps import padded
from .processors import processor_look


class PointSegmenter(ABC):
    """`protocols.Segmenter` over a promptable model; subclasses say where a picture lies in the network's square.

    Attributes:
        networks: what must be on the device.
        score_min: what `disjoint` should be given.
        rules: see `MaskRules`.
    """

    score_min = SCORE_MIN

    def __init__(self, model: Any, processor: Any, side: int, **rules: Any) -> None:
        """Take a model, its image processor, the side of the square in pixels, and fields of `MaskRules`.

        Raises:
            ModelError: a processor that leaves out a step which every published checkpoint has.
            ValueError: a rule out of its range.
        """
        self.model = model.eval().requires_grad_(False)
        self.networks: tuple[torch.nn.Module, ...] = (self.model,)
        self.rules = MaskRules(**rules)
        self._look = processor_look(processor)
        self._side = side

    @abstractmethod
    def _placed(self, size: tuple[int, int]) -> tuple[tuple[int, int], Enlarge]:
        """Sides (h, w) that a picture of `size` has at the upper left of the square, and what brings the decoder's
        masks to the size of the picture."""

    @torch.no_grad()
    def __call__(self, image: Tensor, *, tell: Tell | None = None) -> tuple[Tensor, Tensor]:
        """IMAGE [1,H,W,3] in 0..1 -> masks bool [N,H,W], which may overlap, and scores float32 [N] in 0..1, best first.

        Raises:
            TypeError, ValueError: no IMAGE of one picture, or a network whose numbers overflow in float16.
        """
        weight = next(self.model.parameters())
        size = picture_size(image)
        if tell is not None:
            tell(0, self.rules.points_per_side**2)
        inner, enlarge = self._placed(size)
        pixels = self._look.normalised(self._look.resized(pixels_of(image, weight), inner))
        square = padded(pixels, (self._side, self._side)).to(weight.dtype)
        embeddings = self.model.get_image_embeddings(square)
        corner = torch.tensor([inner[1], inner[0]], dtype=torch.float32)

        def decode(points: Tensor) -> tuple[Tensor, Tensor]:
            # In float32 whatever the weights are: float16 would move points by half a pixel.
            asked = (points * corner).to(weight.device)[None, :, None]
            out = self.model(
                image_embeddings=embeddings,
                input_points=asked,
                input_labels=torch.ones(asked.shape[:3], dtype=torch.int64, device=weight.device),
                multimask_output=True,
            )
            return out.pred_masks[0], out.iou_scores[0]

        return automatic_masks(decode, enlarge, size, self.rules, weight.device, tell=tell)
