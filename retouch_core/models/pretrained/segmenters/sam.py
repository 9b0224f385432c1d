"""SAM (Kirillov et al. 2023) as a segmenter: automatic masks of a grid of points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..loading import ModelError, load_model
from .automatic_masks import Enlarge
from .maps import uncovered
from .points import PointSegmenter
from .processors import edge_of, image_processor

WHAT = "SAM"
KINDS = ("sam",)


class SamSegmenter(PointSegmenter):
    """`protocols.Segmenter` over a transformers `SamModel`.

    The picture keeps its aspect in the upper left of the network's square, which is encoded once; the padding is cut
    off again before masks are brought to the size of the picture.
    """

    def __init__(self, model: Any, processor: Any, **rules: Any) -> None:
        """Take a `SamModel`, its `SamImageProcessor`, and fields of `MaskRules`.

        Raises:
            ModelError: a processor that does not prepare pictures for this network.
            ValueError: a rule out of its range.
        """
        super().__init__(model, processor, int(model.config.vision_config.image_size), **rules)
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

    def _placed(self, size: tuple[int, int]) -> tuple[tuple[int, int], Enlarge]:
        scale, frame = self._side / max(size), (self._side, self._side)
        inner = int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)
        return inner, lambda logits, target: uncovered(logits, frame, inner, target)
