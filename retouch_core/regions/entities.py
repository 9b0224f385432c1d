"""From raw proposals that may overlap to disjoint entities of one picture (methods.md 1.2)."""

from __future__ import annotations

import numpy as np
import torch
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

    areas = masks.flatten(1).sum(1)
    order = _ranking(scores, areas)
    order = order[scores[order] >= score_min]
    kept, visible = order, _owned(masks[order])
    rounds = 0
    while True:
        good = _large_enough(visible, areas[kept], max(1, min_area), visible_min)
        rounds += 1
        kept, visible = kept[good], visible[good]
        if good.all() or not refill:
            break
        visible = _owned(masks[kept])
    kept, visible = kept[:max_entities], visible[:max_entities]

    found = scores[kept].float()
    rest = _leftover_masks(~visible.any(0), leftovers, min_area)[: max_entities - len(kept)]
    regions = Regions(
        masks=torch.cat([visible, rest]),
        scores=torch.cat([found, found.new_zeros(len(rest))]),
        source_size=(height, width),
    )
    return regions.traced(
        "entities",
        proposals=len(masks),
        above_score_min=len(order),
        entities=len(kept),
        leftovers=len(rest),
        rounds=rounds,
        coverage=coverage(regions),
        score_min=score_min,
        visible_min=visible_min,
        min_area=min_area,
    )


def coverage(regions: Regions) -> float:
    """Share of the picture's pixels, 0..1, that some region holds."""
    return float(regions.union().double().mean())


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


def _owned(ranked: Tensor) -> Tensor:
    """Of masks [N,H,W], best first: the pixels that no better one holds."""
    free = ranked.new_ones(ranked.shape[1:])
    owned = torch.empty_like(ranked)
    for rank, mask in enumerate(ranked):
        owned[rank] = mask & free
        free = free & ~mask
    return owned


def _large_enough(visible: Tensor, areas: Tensor, min_area: int, visible_min: float) -> Tensor:
    left = visible.flatten(1).sum(1)
    boxes = mask_boxes(visible)
    sides = torch.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    return (left >= min_area) & (left.double() >= visible_min * areas.double()) & (sides > 1)


def _leftover_masks(background: Tensor, leftovers: str, min_area: int) -> Tensor:
    """Masks bool [K,H,W] of what nobody holds, largest first."""
    if leftovers == "ignore" or not background.any():
        return background.new_zeros(0, *background.shape)
    if leftovers == "one_entity":
        return background[None]
    from skimage.measure import label

    parts = label(background.cpu().numpy(), connectivity=2)
    areas = np.bincount(parts.ravel())[1:]
    names = [int(i) + 1 for i in np.argsort(-areas, kind="stable") if areas[i] >= min_area]
    if not names:
        return background.new_zeros(0, *background.shape)
    return torch.stack([torch.from_numpy(parts == name) for name in names]).to(background.device)
