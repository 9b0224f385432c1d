"""SAM (Kirillov et al. 2023) as a segmenter: automatic masks of a grid of points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..chunks import Tell
from ..loading import ModelError, load_model
from ..pictures import picture_size, pixels_of
from .automatic_masks import SCORE_MIN, MaskRules, automatic_masks
from .maps import padded, uncovered
from .processors import edge_of, image_processor, processor_look

WHAT = "SAM"
KINDS = ("sam",)


class SamSegmenter:
    """`protocols.Segmenter` over a transformers `SamModel`.

    The picture keeps its aspect in the upper left of the network's square, which is encoded once; the padding is cut
    off again before masks are brought to the size of the picture.

    Attributes:
        networks: what must be on the device.
        score_min: what `disjoint` should be given.
        rules: see `MaskRules`.
    """

    score_min = SCORE_MIN

    def __init__(self, model: Any, processor: Any, **rules: Any) -> None:
        """Take a `SamModel`, its `SamImageProcessor`, and fields of `MaskRules`.

        Raises:
            ModelError: a processor that does not prepare pictures for this network.
            ValueError: a rule out of its range.
        """
        self.model = model.eval().requires_grad_(False)
        self.networks: tuple[torch.nn.Module, ...] = (self.model,)
        self.rules = MaskRules(**rules)
        self._look = processor_look(processor)
        self._side = int(model.config.vision_config.image_size)
        longest = edge_of(processor.size, "longest_edge")
        square = edge_of(processor.pad_size, "height"), edge_of(processor.pad_size, "width")
        if (longest, *square) != (self._side,) * 3:
            raise ModelError(
                f"the image processor makes inputs of {longest} px padded to {square[0]}x{square[1]}, but this {WHAT} "
                f"network takes {self._side}x{self._side}; copy all files of one repository"
            )

    @classmethod
    def from_folder(cls, folder: Path, **rules: Any) -> SamSegmenter:
        """Read a folder such as facebook/sam-vit-base, on the CPU in float32.

        Raises:
            ModelError: a folder that is missing, damaged, or of another kind.
        """
        from transformers import SamModel

        model = load_model(SamModel, folder, KINDS, WHAT)
        return cls(model, image_processor(folder, "SamImageProcessor", WHAT), **rules)

    @torch.no_grad()
    def __call__(self, image: Tensor, *, tell: Tell | None = None) -> tuple[Tensor, Tensor]:
        """IMAGE [1,H,W,3] in 0..1 -> masks bool [N,H,W], which may overlap, and scores float32 [N] in 0..1, best first.

        Raises:
            TypeError, ValueError: no IMAGE of one picture, or a network whose numbers overflow in float16.
        """
        weight = next(self.model.parameters())
        size, frame = picture_size(image), (self._side, self._side)
        if tell is not None:
            tell(0, self.rules.points_per_side**2)
        scale = self._side / max(size)
        inner = int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)
        pixels = self._look.normalised(self._look.resized(pixels_of(image, weight), inner))
        embeddings = self.model.get_image_embeddings(padded(pixels, frame).to(weight.dtype))
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

        return automatic_masks(
            decode,
            lambda logits, target: uncovered(logits, frame, inner, target),
            size,
            self.rules,
            weight.device,
            tell=tell,
        )
