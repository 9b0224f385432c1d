"""From the queries of a mask classifier (EoMT, Mask2Former, OneFormer) to disjoint masks, their labels discarded."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..chunks import Tell, in_chunks
from .maps import check_overflow

SCORE_MIN = 0.8
"""Probability of its class above which a query counts (Cheng et al. 2021; EoMT's default)."""

MASK_MIN = 0.5
"""Probability from which a pixel belongs to a query."""

OVERLAP_MIN = 0.8
"""Share of a query's own pixels that it must win against the others to stay."""


def check_share(value: float, name: str) -> float:
    """Return `value` if it is a threshold in [0, 1).

    Raises:
        ValueError: it is not.
    """
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value!r}; 0.8 is usual")
    return value


def panoptic_masks(
    maps: Tensor,
    classes: Tensor,
    enlarge: Callable[[Tensor, tuple[int, int]], Tensor],
    size: tuple[int, int],
    *,
    score_min: float = SCORE_MIN,
    overlap_min: float = OVERLAP_MIN,
    tell: Tell | None = None,
) -> tuple[Tensor, Tensor]:
    """Masks bool [N,H,W] on the CPU, no pixel in two, and scores float32 [N], best first.

    The rule of MaskFormer's panoptic inference: a pixel goes to the query with the highest score times probability,
    and a query that wins less than `overlap_min` of its own pixels goes. What no query holds with a probability
    of `MASK_MIN` is in no mask. One query at a time is drawn, so that two float maps of the picture are all there is.

    Args:
        maps: mask logits [Q,h,w]; classes: logits [Q,C+1], the last for "nothing".
        enlarge: maps [n,h,w] float32 and a size -> logits [n,H,W].
        size: (H, W) of the picture.
        tell: called with the queries done and all of them.

    Raises:
        ValueError: class logits that are not finite.
    """
    check_overflow(classes, "class logits")
    probabilities = classes.float().softmax(-1)
    scores, labels = probabilities.max(-1)
    good = (labels != probabilities.shape[-1] - 1) & (scores > score_min)
    # Best first; among equals the order of the queries, which decides a tie of the pixels as the libraries' argmax does.
    order = torch.where(good, scores, -1.0).argsort(descending=True, stable=True)[: int(good.sum())]
    count, skipped = len(order), len(maps) - len(order)
    masks = torch.empty(count, *size, dtype=torch.bool)
    owner = torch.full(size, -1, dtype=torch.int16, device=maps.device)
    best = torch.full(size, -1.0, device=maps.device)

    def draw(ranks: list[int]) -> None:
        for rank in ranks:
            query = order[rank]
            inside = enlarge(maps[query][None].float(), size)[0].sigmoid_()
            masks[rank].copy_(inside >= MASK_MIN)
            inside *= scores[query]
            owner.masked_fill_(inside > best, rank)
            torch.maximum(best, inside, out=best)

    def drawing(done: int, _of: int) -> None:
        if tell is not None:
            tell(skipped + done, len(maps))

    in_chunks(draw, list(range(count)), 1, name="queries", tell=drawing)
    owners = owner.cpu()
    kept: list[int] = []
    for rank in range(count):
        won = owners == rank
        own, held = int(masks[rank].sum()), int(won.sum())
        won &= masks[rank]
        if own and won.any() and held > overlap_min * own:
            # Moved up in place: a second copy of all masks may be a gigabyte.
            masks[len(kept)].copy_(won)
            kept.append(rank)
    return masks[: len(kept)], scores[order[kept]].cpu()
