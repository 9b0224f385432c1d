"""SAM 2 and 2.1 (Ravi et al. 2024) as a segmenter: automatic masks of a grid of points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..chunks import Tell
from ..loading import ModelError, load_model, needs
from ..pictures import picture_size, pixels_of
from .automatic_masks import SCORE_MIN, MaskRules, automatic_masks
from .maps import stretched
from .processors import edge_of, image_processor, processor_look

WHAT = "SAM 2"
KINDS = ("sam2", "sam2_video")
"""The published folders (facebook/sam2.1-hiera-*) call themselves sam2_video; the picture's part lies in them too."""


class Sam2Segmenter:
    """`protocols.Segmenter` over a transformers `Sam2Model`.

    The picture is squashed to the network's square and encoded once; points are spread over all of it. (The
    mask-generation pipeline of transformers 4.5x and 5.x places them as if the picture kept its aspect, so that
    part of a picture that is not square gets none.)

    Attributes:
        networks: what must be on the device.
        score_min: what `disjoint` should be given.
        rules: see `MaskRules`.
    """

    score_min = SCORE_MIN

    def __init__(self, model: Any, processor: Any, **rules: Any) -> None:
        """Take a `Sam2Model`, its `Sam2ImageProcessor`, and fields of `MaskRules`.

        Raises:
            ModelError: a processor that does not prepare pictures for this network.
            ValueError: a rule out of its range.
        """
        self.model = model.eval().requires_grad_(False)
        self.networks: tuple[torch.nn.Module, ...] = (self.model,)
        self.rules = MaskRules(**rules)
        self._look = processor_look(processor)
        self._side = int(model.config.prompt_encoder_config.image_size)
        sides = edge_of(processor.size, "height"), edge_of(processor.size, "width")
        if sides != (self._side, self._side):
            raise ModelError(
                f"the image processor makes inputs of {sides[0]}x{sides[1]} px, but this {WHAT} network takes "
                f"{self._side}x{self._side}; copy all files of one repository"
            )

    @classmethod
    def from_folder(cls, folder: Path, **rules: Any) -> Sam2Segmenter:
        """Read a folder such as facebook/sam2.1-hiera-large, on the CPU in float32.

        Raises:
            ModelError: transformers older than 4.56, or a folder that is missing, damaged, or of another kind.
        """
        needs("transformers", "4.56", WHAT)
        from transformers import Sam2Model

        model = load_model(Sam2Model, folder, KINDS, WHAT)
        return cls(model, image_processor(folder, "Sam2ImageProcessor", WHAT), **rules)

    @torch.no_grad()
    def __call__(self, image: Tensor, *, tell: Tell | None = None) -> tuple[Tensor, Tensor]:
        """IMAGE [1,H,W,3] in 0..1 -> masks bool [N,H,W], which may overlap, and scores float32 [N] in 0..1, best first.

        Raises:
            TypeError, ValueError: no IMAGE of one picture, or a network whose numbers overflow in float16.
        """
        weight = next(self.model.parameters())
        size, side = picture_size(image), (self._side, self._side)
        if tell is not None:
            tell(0, self.rules.points_per_side**2)
        pixels = self._look.resized(pixels_of(image, weight), side)
        embeddings = self.model.get_image_embeddings(self._look.normalised(pixels).to(weight.dtype))

        def decode(points: Tensor) -> tuple[Tensor, Tensor]:
            # In float32 whatever the weights are: float16 would move points by half a pixel.
            asked = (points * self._side).to(weight.device)[None, :, None]
            out = self.model(
                image_embeddings=embeddings,
                input_points=asked,
                input_labels=torch.ones(asked.shape[:3], dtype=torch.int64, device=weight.device),
                multimask_output=True,
            )
            return out.pred_masks[0], out.iou_scores[0]

        return automatic_masks(decode, stretched, size, self.rules, weight.device, tell=tell)
