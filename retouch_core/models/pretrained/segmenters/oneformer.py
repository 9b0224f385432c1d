"""OneFormer (Jain et al. 2023) as a segmenter: its panoptic task, labels discarded."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..chunks import Tell
from ..loading import UNUSED_OF_SWIN, ModelError, load_model, load_part
from ..pictures import fitted_size, needed_settings, picture_size, pixels_of
from .maps import uncovered
from .panoptic_masks import OVERLAP_MIN, SCORE_MIN, check_share, panoptic_masks
from .processors import edge_of, processor_look

WHAT = "OneFormer"
KINDS = ("oneformer",)

TASK = "the task is panoptic"
"""What the network is told, as its processor words it."""


class OneFormerSegmenter:
    """`protocols.Segmenter` over a transformers `OneFormerForUniversalSegmentation`.

    Its published image processor is not used: made from a folder it fetches a list of class names from the network.

    Attributes:
        networks: what must be on the device.
        score_min: what `disjoint` should be given; queries below it are not drawn.
    """

    score_min = SCORE_MIN

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        settings: Any,
        *,
        score_min: float = SCORE_MIN,
        overlap_min: float = OVERLAP_MIN,
    ) -> None:
        """Take the model, its CLIP tokenizer, and two of the post-processing's thresholds.

        Args:
            settings: what has the attributes of an image processor (`size`, `image_mean` and so on).

        Raises:
            ModelError: settings without the size that pictures are brought to.
            ValueError: a threshold outside 0..1.
        """
        self.score_min = check_share(score_min, "score_min")
        self._overlap_min = check_share(overlap_min, "overlap_min")
        self.model = model.eval().requires_grad_(False)
        self.networks: tuple[torch.nn.Module, ...] = (self.model,)
        self._look = processor_look(settings)
        size = getattr(settings, "size", None)
        shortest, longest = edge_of(size, "shortest_edge"), edge_of(size, "longest_edge")
        if shortest is None or longest is None:
            raise ModelError(
                f"the image processor has size {size}, but {WHAT} needs shortest_edge and longest_edge; "
                "copy the model's own files again"
            )
        self._sides = (shortest, longest)
        length = int(model.config.task_seq_len)
        words = tokenizer(
            [TASK], padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        # The network reads the numbers themselves, with 0 for padding.
        self._task = words["input_ids"] * words["attention_mask"]

    @classmethod
    def from_folder(cls, folder: Path, **options: Any) -> OneFormerSegmenter:
        """Read a folder such as shi-labs/oneformer_coco_swin_large, on the CPU in float32.

        Raises:
            ModelError: a folder that is missing, damaged, or of another kind.
        """
        from transformers import CLIPTokenizer, OneFormerForUniversalSegmentation

        # What training alone needs, the words of the queries, would be asked for at every call.
        model = load_model(
            OneFormerForUniversalSegmentation, folder, KINDS, WHAT, unused=UNUSED_OF_SWIN, is_training=False
        )
        return cls(
            model,
            load_part(CLIPTokenizer, folder, WHAT),
            SimpleNamespace(**needed_settings(folder, WHAT)),
            **options,
        )

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
        inner = fitted_size(size, *self._sides)
        pixels = self._look.resized(pixels_of(image, weight), inner)
        out = self.model(
            pixel_values=self._look.normalised(pixels).to(weight.dtype),
            task_inputs=self._task.to(weight.device),
        )
        maps = out.masks_queries_logits[0]
        # The network pads pictures to whole cells by itself.
        stride = int(self.model.config.common_stride)
        frame = maps.shape[1] * stride, maps.shape[2] * stride
        return panoptic_masks(
            maps,
            out.class_queries_logits[0],
            lambda some, target: uncovered(some, frame, inner, target),
            size,
            score_min=self.score_min,
            overlap_min=self._overlap_min,
            tell=tell,
        )
