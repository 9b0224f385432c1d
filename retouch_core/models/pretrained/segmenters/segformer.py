"""SegFormer (Xie et al. 2021) as a segmenter: one mask for each label that a picture shows, as in S04."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..chunks import Tell, in_chunks
from ..loading import ModelError, load_model
from ..pictures import picture_size, pixels_of
from .automatic_masks import MAX_MASK_BYTES
from .maps import check_overflow, stretched
from .processors import edge_of, image_processor, processor_look

WHAT = "SegFormer"
KINDS = ("segformer",)

PART_MIN = 0.0005
"""Smallest connected part that counts, as a share of the picture: that of `disjoint` (our choice)."""

ROUNDING = 1e-4
"""How much more, relative to the largest logit, a label may reach between cells than in their corners."""


class SegformerSegmenter:
    """`protocols.Segmenter` over a transformers `SegformerForSemanticSegmentation`.

    The picture is squashed to the size of the processor (640x640 for nvidia/segformer-b5-finetuned-ade-640-640).
    Every label that wins a pixel makes a mask, a background label too where the weights have one: `do_reduce_labels`
    of the processor is about training data and moves no prediction.

    Attributes:
        networks: what must be on the device.
        score_min: what `disjoint` should be given: 0, as every pixel has one label and no mask competes.
    """

    score_min = 0.0

    def __init__(self, model: Any, processor: Any, *, split_components: bool = False) -> None:
        """Take the model, its `SegformerImageProcessor`, and an option.

        Args:
            split_components: make a mask of each 8-connected part of a label ("the left car"), without parts of less
                than `PART_MIN` of the picture; off as in S04.

        Raises:
            ModelError: a processor without the size that it brings pictures to.
        """
        self.model = model.eval().requires_grad_(False)
        self.networks: tuple[torch.nn.Module, ...] = (self.model,)
        self.split_components = split_components
        self._look = processor_look(processor)
        height, width = edge_of(processor.size, "height"), edge_of(processor.size, "width")
        if height is None or width is None:
            raise ModelError(
                f"the image processor has size {processor.size}, but {WHAT} needs height and width; "
                "copy the model's own files again"
            )
        self._size = (height, width)

    @classmethod
    def from_folder(cls, folder: Path, **options: Any) -> SegformerSegmenter:
        """Read a folder such as nvidia/segformer-b5-finetuned-ade-640-640, on the CPU in float32.

        Raises:
            ModelError: a folder that is missing, damaged, or of another kind, such as SegFormer for classification.
        """
        from transformers import SegformerForSemanticSegmentation

        model = load_model(SegformerForSemanticSegmentation, folder, KINDS, WHAT)
        return cls(model, image_processor(folder, "SegformerImageProcessor", WHAT), **options)

    @torch.no_grad()
    def __call__(self, image: Tensor, *, tell: Tell | None = None) -> tuple[Tensor, Tensor]:
        """IMAGE [1,H,W,3] in 0..1 -> masks bool [N,H,W], no pixel in two, and scores float32 [N] in 0..1.

        Masks come in the order of the labels, parts of one label largest first; a score is the label's mean
        probability in the mask. The largest stay where all would take more than `MAX_MASK_BYTES`.

        Raises:
            TypeError, ValueError: no IMAGE of one picture, or a network whose numbers overflow in float16.
        """
        weight = next(self.model.parameters())
        size = picture_size(image)
        if tell is not None:
            tell(0, int(self.model.config.num_labels))
        pixels = self._look.resized(pixels_of(image, weight), self._size)
        logits = self.model(pixel_values=self._look.normalised(pixels).to(weight.dtype)).logits[0].float()
        check_overflow(logits, "logits")
        labels = label_map(logits, size, tell=tell)
        probabilities = logits.softmax(0).cpu()
        most = max(1, MAX_MASK_BYTES // (size[0] * size[1]))
        smallest = PART_MIN * size[0] * size[1]
        masks, scores = [], []
        for label in labels.unique().tolist():
            mask = labels == label
            for part in _parts(mask, smallest, most) if self.split_components else [mask]:
                masks.append(part)
                scores.append(_mean(probabilities[label], part))
        if len(masks) > most:
            areas = torch.tensor([int(mask.sum()) for mask in masks])
            largest = sorted(areas.argsort(descending=True, stable=True)[:most].tolist())
            masks, scores = [masks[i] for i in largest], [scores[i] for i in largest]
        stacked = torch.stack(masks) if masks else torch.zeros(0, *size, dtype=torch.bool)
        return stacked, torch.tensor(scores, dtype=torch.float32)


def label_map(logits: Tensor, size: tuple[int, int], *, tell: Tell | None = None) -> Tensor:
    """Labels int16 [H,W] on the CPU: the argmax of logits [L,h,w] after they are brought to `size` = (H, W).

    One label at a time is enlarged, and only labels that can win somewhere: between four cells a label stays below
    the largest of its four logits, and the winner is above every label's smallest.

    Args:
        tell: called with the labels done and all of them.
    """
    around = functional.pad(logits[None], (1, 1, 1, 1), mode="replicate")
    most = functional.max_pool2d(around, 2, stride=1)[0]
    least = -functional.max_pool2d(-around, 2, stride=1)[0]
    bar = least.amax(0) - ROUNDING * logits.abs().max()
    able = (most >= bar).flatten(1).any(1).nonzero()[:, 0].tolist()
    best = torch.full(size, -torch.inf, device=logits.device)
    labels = torch.zeros(size, dtype=torch.int16, device=logits.device)

    def draw(some: list[int]) -> None:
        for label in some:
            enlarged = stretched(logits[label][None], size)[0]
            labels.masked_fill_(enlarged > best, label)
            torch.maximum(best, enlarged, out=best)

    skipped = len(logits) - len(able)

    def drawing(done: int, _of: int) -> None:
        if tell is not None:
            tell(skipped + done, len(logits))

    in_chunks(draw, able, 1, name="labels", tell=drawing)
    return labels.cpu()


def _parts(mask: Tensor, smallest: float, most: int) -> list[Tensor]:
    """The `most` largest 8-connected parts of a mask bool [H,W] with at least `smallest` pixels, largest first."""
    import numpy as np
    from skimage.measure import label

    numbers = label(mask.numpy(), connectivity=2)
    areas = np.bincount(numbers.ravel())[1:]
    order = np.argsort(-areas, kind="stable")[:most]
    return [torch.from_numpy(numbers == int(i) + 1) for i in order if areas[i] >= smallest]


def _mean(probability: Tensor, mask: Tensor) -> float:
    """Mean of a label's probability [h,w], each cell weighed by the share of it that the mask [H,W] holds."""
    share = functional.interpolate(mask[None, None].float(), probability.shape, mode="area")[0, 0]
    return float((share * probability).sum() / share.sum())
