"""SAM 2 and 2.1 (Ravi et al. 2024) as a segmenter: automatic masks of a grid of points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..loading import ModelError, load_model, needs
from .automatic_masks import Enlarge
from .maps import stretched
from .points import PointSegmenter
from .processors import edge_of, image_processor

WHAT = "SAM 2"
KINDS = ("sam2", "sam2_video")
"""The published folders (facebook/sam2.1-hiera-*) call themselves sam2_video; the picture's part lies in them too."""


class Sam2Segmenter(PointSegmenter):
    """`protocols.Segmenter` over a transformers `Sam2Model`.

    The picture is squashed to the network's square and encoded once; points are spread over all of it. (The
    mask-generation pipeline of transformers 4.5x and 5.x places them as if the picture kept its aspect, so that
    part of a picture that is not square gets none.)
    """

    def __init__(self, model: Any, processor: Any, **rules: Any) -> None:
        """Take a `Sam2Model`, its `Sam2ImageProcessor`, and fields of `MaskRules`.

        Raises:
            ModelError: a processor that does not prepare pictures for this network.
            ValueError: a rule out of its range.
        """
        super().__init__(model, processor, int(model.config.prompt_encoder_config.image_size), **rules)
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

    def _placed(self, size: tuple[int, int]) -> tuple[tuple[int, int], Enlarge]:
        return (self._side, self._side), stretched
