"""From raw proposals that may overlap to disjoint entities of one picture (methods.md 1.2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..tensors.regions import Regions, mask_boxes

SCORE_MIN = 0.2
"""Detection score from which EntitySeg's demo keeps an entity."""

MIN_AREA_PX = 64
MIN_AREA_SHARE = 0.0005
"""Smallest entity: 64 px or 0.05 % of the picture, whichever is more (our choice)."""

MAX_ENTITIES = 100
"""EntitySeg's cap on detections per picture."""

NESTED_INSIDE = 0.9
NESTED_SCORE_MARGIN = 0.05
"""A SAM mask counts as part of a larger one from this share inside it and up to this difference of scores."""

LEFTOVERS = ("ignore", "one_entity", "components")

MANY = np.iinfo(np.int16).max
"""Proposals up to which two bytes hold a rank."""

_PIXELS_PER_CHUNK = 1 << 16


def disjoint(
    masks: Tensor,
    scores: Tensor,
    *,
    score_min: float = SCORE_MIN,
    visible_min: float = 0.0,
    min_area: int | None = None,
    max_entities: int = MAX_ENTITIES,
    refill: bool = True,
    leftovers: str = "ignore",
) -> Regions:
    """Give each pixel to the best proposal that holds it, and drop proposals of which too little stays visible.

    EntitySeg's rule with two guards. Proposals below `score_min` leave first; the rest is ranked by score, then
    area, then place in the list. A proposal is dropped when fewer than `min_area` of its pixels stay its own, when
    they are less than `visible_min` of it, or when their box is one pixel wide or high.

    Args:
        masks: bool [N,H,W], may overlap; N = 0 is legal.
        scores: float [N].
        min_area: pixels; None means max(64, 0.0005*H*W).
        max_entities: the best that many are kept, leftovers included.
        refill: hand the pixels of dropped proposals to the survivors, until nothing more is dropped.
        leftovers: what becomes of pixels that nobody holds: nothing, one more entity, or one for each 8-connected
            part of at least `min_area` px. Such entities have score 0.

    Returns:
        Regions sorted by descending score, no pixel in two of them.

    Raises:
        ValueError: shapes or types that do not fit, scores that are not finite, `visible_min` outside 0..1,
            `max_entities` below 1, or another word for `leftovers`.
    """
    _check_proposals(masks, scores)
    if not 0 <= visible_min <= 1:
        raise ValueError(
            f"visible_min must be in [0, 1], got {visible_min!r}; it is a share of the proposal's pixels"
        )
    if max_entities < 1:
        raise ValueError(f"max_entities must be at least 1, got {max_entities!r}; {MAX_ENTITIES} is usual")
    if leftovers not in LEFTOVERS:
        raise ValueError(
            f"leftovers must be one of {', '.join(LEFTOVERS)}, got {leftovers!r}; choose one of them"
        )
    height, width = masks.shape[1:]
    if min_area is None:
        min_area = max(MIN_AREA_PX, round(MIN_AREA_SHARE * height * width))

    arrays = masks.cpu().numpy()
    windows = [(slice(y0, y1), slice(x0, x1)) for x0, y0, x1, y1 in mask_boxes(masks.cpu()).long().tolist()]
    areas = torch.tensor(
        [int(np.count_nonzero(mask[window])) for mask, window in zip(arrays, windows, strict=True)],
        dtype=torch.long,
    )
    order = _ranking(scores.cpu(), areas)
    order = order[scores.cpu()[order] >= score_min]
    above, rounds = len(order), 0
    while True:
        shares = _shares(arrays, windows, order.tolist())
        good = torch.tensor(
            [_large_enough(share, int(areas[i]), max(1, min_area), visible_min) for share, i in shares],
            dtype=torch.bool,
        )
        rounds += 1
        order = order[good]
        if good.all() or not refill:
            break
    kept = [share for (share, _), stays in zip(shares, good.tolist(), strict=True) if stays][:max_entities]
    order = order[:max_entities].to(scores.device)
    visible = np.zeros((len(kept), height, width), dtype=bool)
    free = np.ones((height, width), dtype=bool)
    for mask, share in zip(visible, kept, strict=True):
        mask[share.window] = share.pixels
        free[share.window] &= ~share.pixels

    found = scores[order].float()
    rest = _leftover_masks(free, leftovers, min_area, max_entities - len(kept))
    # Nobody shares a pixel, so that sums do for the union of all masks.
    held = height * width - int(np.count_nonzero(free)) + sum(int(np.count_nonzero(mask)) for mask in rest)
    regions = Regions(
        masks=torch.from_numpy(np.concatenate([visible, rest]) if len(rest) else visible).to(masks.device),
        scores=torch.cat([found, found.new_zeros(len(rest))]),
        source_size=(height, width),
    )
    return regions.traced(
        "entities",
        proposals=len(masks),
        above_score_min=above,
        entities=len(kept),
        leftovers=len(rest),
        rounds=rounds,
        coverage=held / max(height * width, 1),
        score_min=score_min,
        visible_min=visible_min,
        min_area=min_area,
    )


def coverage(regions: Regions) -> float:
    """Share of the picture's pixels, 0..1, that some region holds."""
    height, width = regions.source_size
    return int(regions.masks.any(0).sum()) / max(height * width, 1)


def background_mask(regions: Regions) -> Tensor:
    """MASK [1,H,W] in {0,1} of the pixels that no region holds."""
    return 1 - regions.union()


def drop_nested(
    masks: Tensor,
    scores: Tensor,
    *,
    inside: float = NESTED_INSIDE,
    margin: float = NESTED_SCORE_MARGIN,
) -> tuple[Tensor, Tensor]:
    """Remove parts of wholes from SAM's proposals: masks bool [N,H,W] and scores [N], before `disjoint`.

    A proposal leaves when at least `inside` of it lies within a larger one whose score differs by at most `margin`
    (the policy `whole` of methods.md 1.2). Of equal masks the first stays.
    """
    _check_proposals(masks, scores)
    count = len(masks)
    flat = masks.flatten(1)
    shared = torch.zeros(count, count, dtype=torch.float64, device=masks.device)
    # In pieces, so that hundreds of proposals on a large picture do not need float copies of all of them at once.
    for piece in flat.split(_PIXELS_PER_CHUNK, dim=1):
        part = piece.float()
        shared += (part @ part.T).double()
    areas = shared.diagonal()
    index = torch.arange(count, device=masks.device)
    larger = (areas[None] > areas[:, None]) | (
        (areas[None] == areas[:, None]) & (index[None] < index[:, None])
    )
    within = shared >= inside * areas[:, None].clamp(min=1)
    close = (scores[None].double() - scores[:, None].double()).abs() <= margin + 1e-9
    keep = ~(larger & within & close).any(1)
    return masks[keep], scores[keep]


def _check_proposals(masks: Tensor, scores: Tensor) -> None:
    if masks.ndim != 3 or masks.dtype != torch.bool:
        raise ValueError(
            f"masks must be bool [N,H,W], got {masks.dtype} {list(masks.shape)}; use masks > 0.5"
        )
    if scores.shape != masks.shape[:1]:
        raise ValueError(
            f"scores must have shape [{len(masks)}], got {list(scores.shape)}; give one score a mask"
        )
    if not torch.isfinite(scores).all():
        raise ValueError(
            f"scores hold NaN or infinite values, got {scores.tolist()}; repair the segmenter's scores"
        )


def _ranking(scores: Tensor, areas: Tensor) -> Tensor:
    by_area = areas.argsort(descending=True, stable=True)
    return by_area[scores[by_area].argsort(descending=True, stable=True)]


@dataclass(frozen=True)
class _Share:
    """What a proposal keeps: the window of the picture that its box is, and its pixels there, bool."""

    window: tuple[slice, slice]
    pixels: NDArray[np.bool_]


def _shares(
    masks: NDArray[np.bool_], boxes: list[tuple[slice, slice]], ranked: list[int]
) -> list[tuple[_Share, int]]:
    """Of masks [N,H,W] in the order `ranked`, best first: the pixels that no better one holds, each with its index.

    One map of the picture and the boxes of the proposals are all that is held: the worst writes its rank first, the
    best last.
    """
    owner = np.full(masks.shape[1:], -1, dtype=np.int32 if len(ranked) > MANY else np.int16)
    windows = [boxes[i] for i in ranked]
    for rank in reversed(range(len(ranked))):
        np.copyto(owner[windows[rank]], rank, where=masks[ranked[rank]][windows[rank]])
    return [(_Share(windows[rank], owner[windows[rank]] == rank), index) for rank, index in enumerate(ranked)]


def _window(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _large_enough(share: _Share, area: int, min_area: int, visible_min: float) -> bool:
    left = int(np.count_nonzero(share.pixels))
    if left < min_area or left < visible_min * area:
        return False
    rows, columns = _window(share.pixels)
    return min(rows.stop - rows.start, columns.stop - columns.start) > 1


def _leftover_masks(
    background: NDArray[np.bool_], leftovers: str, min_area: int, most: int
) -> NDArray[np.bool_]:
    """Masks bool [K,H,W] of what nobody holds, largest first, `most` at most."""
    none = np.zeros((0, *background.shape), dtype=bool)
    if leftovers == "ignore" or most < 1 or not background.any():
        return none
    if leftovers == "one_entity":
        return background[None]
    from skimage.measure import label

    parts = label(background, connectivity=2)
    areas = np.bincount(parts.ravel())[1:]
    names = [int(i) + 1 for i in np.argsort(-areas, kind="stable") if areas[i] >= min_area][:most]
    return np.stack([parts == name for name in names]) if names else none
