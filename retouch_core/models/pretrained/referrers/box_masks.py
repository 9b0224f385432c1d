"""Masks of boxes by SAM or SAM 2 (Kirillov et al. 2023; Ravi et al. 2024), for detectors that give boxes only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....tensors.checks import check_count
from ..chunks import Tell, in_chunks
from ..loading import check_kind, load_model, needs
from ..pictures import Look, look_of, needed_settings, pixels_of

NAME = "SAM with boxes"
SAM, SAM2 = ("sam",), ("sam2", "sam2_video")
"""`model_type` of the folders; those of SAM 2.1 are published as the video model, which holds the picture model."""
LOOK = Look()
CHUNK = 16
"""Boxes that go through the mask decoder at once."""


class BoxSegmenter:
    """One mask for each box of a picture, the picture seen once.

    SAM 2 sees pictures squashed to its square; SAM sees them scaled to its longer side and padded below and on the
    right, which is cut off its masks before they are brought to the picture's size.
    """

    def __init__(
        self,
        model: Any,
        *,
        look: Look = LOOK,
        chunk: int = CHUNK,
    ) -> None:
        """Take a `SamModel` or a `Sam2Model`.

        Args:
            look: how it wants its pictures.
            chunk: boxes at once.

        Raises:
            ValueError: another model, or an option that cannot be used.
        """
        kind = getattr(model.config, "model_type", None)
        if kind not in SAM + SAM2:
            raise ValueError(
                f"model must be a SamModel or a Sam2Model, got one of type {kind!r}; load one of them"
            )
        self.model = model.eval().requires_grad_(False)
        self.networks: tuple[nn.Module, ...] = (self.model,)
        self.side = int(model.config.prompt_encoder_config.image_size)
        self.padded = kind in SAM
        self.look = look
        self.chunk = check_count(chunk, "chunk", "boxes go through at once")

    @classmethod
    def from_folder(cls, folder: Path, **options: Any) -> BoxSegmenter:
        """A SAM or SAM 2 and the settings of its pictures out of a folder.

        Raises:
            ModelError: a folder that is missing, damaged, or of another kind.
        """
        folder = Path(folder)
        if check_kind(folder, SAM + SAM2, NAME) in SAM:
            from transformers import SamModel

            model = load_model(SamModel, folder, SAM, "SAM")
        else:
            needs("transformers", "4.56", "SAM 2")
            from transformers import Sam2Model

            model = load_model(Sam2Model, folder, SAM2, "SAM 2")
        look = look_of(needed_settings(folder, NAME), folder, LOOK)
        read: dict[str, Any] = {"look": look}
        return cls(model, **(read | options))

    def __call__(self, image: Tensor, boxes: Tensor, *, tell: Tell | None = None) -> Tensor:
        """IMAGE [1,H,W,3] in 0..1 and boxes xyxy [N,4] in its pixels -> probabilities float32 [N,H,W] on the CPU.

        Raises:
            TypeError, ValueError: an image or boxes that cannot be used.
        """
        return self.probabilities(self.logits(image, boxes, tell=tell), (image.shape[1], image.shape[2]))

    @torch.no_grad()
    def logits(self, image: Tensor, boxes: Tensor, *, tell: Tell | None = None) -> Tensor:
        """IMAGE [1,H,W,3] in 0..1 and boxes xyxy [N,4] -> the decoder's logits float32 [N,h,w] on the CPU, a quarter
        of the side the network sees; `probabilities` brings them to the picture's size when they are needed.

        Raises:
            TypeError, ValueError: an image or boxes that cannot be used.
        """
        weight = self.model.shared_image_embedding.positional_embedding
        pixels = pixels_of(image, weight)
        boxes = _checked(boxes)
        size = (image.shape[1], image.shape[2])
        if not len(boxes):
            return torch.zeros(0, self.side // 4, self.side // 4)
        height, width = self._seen(size)
        seen = self.look.normalised(self.look.resized(pixels, (height, width)))
        seen = F.pad(seen, (0, self.side - width, 0, self.side - height))
        embeddings = self.model.get_image_embeddings(seen.to(weight))
        scale = torch.tensor([width / size[1], height / size[0]] * 2)

        def run(some: Tensor) -> Tensor:
            # Boxes stay float32, as half precision has no room for a thousand pixels and a fraction.
            out = self.model(
                image_embeddings=embeddings, input_boxes=some[None].to(weight.device), multimask_output=False
            )
            return out.pred_masks[0, :, 0].float().cpu()

        found = torch.cat(in_chunks(run, boxes * scale, self.chunk, name="boxes", tell=tell))
        if not torch.isfinite(found).all():
            raise ValueError(
                f"the masks of boxes are NaN or infinite in {weight.dtype}; run the network in float32 or bfloat16"
            )
        return found

    def probabilities(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits [N,h,w] of a picture of `size` = (H, W) -> probabilities float32 [N,H,W] on the CPU.

        Logits are resized before the sigmoid, as the published processors do before they cut at 0.
        """
        maps = torch.empty(len(logits), *size)
        height, width = self._seen(size)
        for place, small in zip(maps, logits, strict=True):
            large = small[None, None]
            if self.padded:
                large = F.interpolate(large, size=(self.side, self.side), mode="bilinear")
                large = large[..., :height, :width]
            place.copy_(torch.sigmoid(F.interpolate(large, size=size, mode="bilinear"))[0, 0])
        return maps

    def _seen(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width that a picture of `size` has in the square which the network sees."""
        if not self.padded:
            return self.side, self.side
        scale = self.side / max(size)
        return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)


def _checked(boxes: Tensor) -> Tensor:
    """Boxes xyxy [N,4] float32 on the CPU."""
    if not isinstance(boxes, Tensor) or boxes.ndim != 2 or boxes.shape[1] != 4:
        shape = list(boxes.shape) if isinstance(boxes, Tensor) else type(boxes).__name__
        raise ValueError(f"boxes must have shape [N,4], got {shape}; give x0, y0, x1, y1 in pixels for each")
    boxes = boxes.detach().float().cpu()
    if not torch.isfinite(boxes).all() or (boxes[:, 2:] < boxes[:, :2]).any():
        wrong = ~torch.isfinite(boxes).all(1) | (boxes[:, 2:] < boxes[:, :2]).any(1)
        raise ValueError(
            f"boxes must be x0, y0, x1, y1 with x0 <= x1 and y0 <= y1, got {boxes[wrong][0].tolist()}"
        )
    return boxes
