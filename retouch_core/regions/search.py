"""The whole search: entities, presence, threshold, place -> which regions of a picture a query means."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.protocols import Scorer, Segmenter
from ..tensors.convert import to_bchw, to_bhwc
from ..tensors.regions import Regions
from .entities import background_mask, disjoint
from .grid import locate
from .location import parse_location
from .presence import Presence, presence
from .scores import embed_regions, score_regions

SEARCH_SIDE = 1024
"""Longer side in pixels up to which a picture is searched as it is; larger ones are searched reduced."""

GATE_VIEW, GATE_FILL = "mean", "black"
"""Views for which presence gates are calibrated (training/calibrate.py)."""

BACKGROUND = re.compile(r"(?:the |a )?(?:whole |entire )?(?:background|backdrop|surroundings)", re.IGNORECASE)
"""Queries that mean everything that is not a thing."""


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        regions: every entity with its score.
        selected: bool [N], those the query means.
        present: whether the query is there at all.
        text: the query without its words of place.
        gate: presence threshold that was applied, or None.
        message: why nothing was found, where there is more to say than the scores.
        notes: sentences for the report.
        things: bool [N], entities that the segmenter proposed (the rest are leftovers), or None.
        is_ground: whether the selection is ground rather than a thing.
    """

    regions: Regions
    selected: Tensor
    present: bool
    text: str
    gate: float | None
    message: str = ""
    notes: tuple[str, ...] = ()
    things: Tensor | None = None
    is_ground: bool = False


def is_background(query: str) -> bool:
    """Whether the query means everything that is not a thing."""
    return BACKGROUND.fullmatch(query.strip().rstrip(".")) is not None


def spans_frame(masks: Tensor) -> Tensor:
    """Which masks bool [N,H,W] reach from one side of the frame to the opposite one, as sky, sea and walls do: bool [N]."""
    left, right = masks[:, :, 0].any(1), masks[:, :, -1].any(1)
    top, bottom = masks[:, 0].any(1), masks[:, -1].any(1)
    return (left & right) | (top & bottom)


def are_things(regions: Regions) -> Tensor:
    """Which regions the segmenter proposed, bool [N]; the rest are leftovers, which `disjoint` puts last."""
    entities = next((e["entities"] for e in regions.trace if e["stage"] == "entities"), None)
    if entities is None:
        return torch.ones(len(regions), dtype=torch.bool)
    if regions.labels is None:
        return torch.arange(len(regions)) < entities
    # Some regions may have been left out since; numbers as labels still tell the places that they had.
    return torch.tensor(
        [name.isdecimal() and int(name) <= entities for name in regions.labels], dtype=torch.bool
    )


def with_ground(entities: Regions) -> tuple[Regions, Regions]:
    """Of entities without leftovers: those that are things, and these with one more region, the ground around them."""
    things = entities.select(~spans_frame(entities.masks))
    ground = background_mask(things) > 0
    masks = torch.cat([things.masks, ground])
    whole = Regions(masks, None, things.source_size, trace=things.trace, picture=things.picture)
    return things, whole.traced("background", area=int(ground.sum()))


def score_and_gate(
    image: Tensor,
    regions: Regions,
    text: str,
    scorer: Scorer,
    *,
    view: str,
    fill: str,
    template: str = "raw",
    gate: float | None = None,
    drop: str = "equal",
    negatives: Sequence[str] = (),
    callback: Callable[[int, int], None] | None = None,
) -> tuple[Regions, Presence | None]:
    """Regions scored against `text`, and whether it is there at all.

    Args:
        gate: presence threshold; None takes the scorer's own, 0 switches the gate off (then there is no `Presence`).
        view, fill, template, callback: as in `score_regions`; drop, negatives: as in `presence`.
    """
    seen = embed_regions(image, regions, scorer, view=view, fill=fill, callback=callback)
    regions = score_regions(
        image, regions, text, scorer, template=template, embeddings=seen, view=view, fill=fill
    )
    if gate == 0:
        return regions, None
    # A gate is calibrated for the scorer's default views; other views would move it.
    same = view == GATE_VIEW and fill == GATE_FILL
    there = presence(
        image,
        regions,
        text,
        scorer,
        negatives=negatives,
        gate=gate,
        drop=drop,
        view=GATE_VIEW,
        fill=GATE_FILL,
        embeddings=seen if same else None,
    )
    numbers = {"best": there.best, "gate": there.gate, "present": there.present}
    return regions.traced("presence", **numbers), there


def search(
    image: Tensor,
    query: str,
    segmenter: Segmenter,
    scorer: Scorer,
    *,
    settings: Mapping[str, Any],
    negatives: Sequence[str] = (),
    masks: Tensor | None = None,
) -> Found:
    """Find the regions of IMAGE [1,H,W,3] in 0..1 that `query` means.

    Args:
        settings: values named as the fields of `recipes.Recipe`.
        negatives: phrases for what is not meant.
        masks: bool [N,H,W] of known entities, instead of the segmenter's.

    Raises:
        ValueError: options or ranks that mean nothing.
    """
    height, width = image.shape[1:3]
    small = reduced(image)
    if masks is None:
        proposals, scores = segmenter(small)
    else:
        proposals, scores = masks, torch.ones(len(masks))
        small = image
    if is_background(query):
        entities = disjoint(proposals, scores, score_min=settings["score_min"])
        things, whole = with_ground(entities)
        chosen = torch.arange(len(whole)) == len(things)
        present = bool(whole.masks[-1].any())
        found = Found(
            whole,
            chosen,
            present,
            "background",
            None,
            message="" if present else "Entities cover the whole picture, so it has no background.",
            things=~chosen,
            is_ground=True,
        )
        return _enlarged(found, (height, width))
    regions = disjoint(proposals, scores, score_min=settings["score_min"], leftovers=settings["leftovers"])
    is_thing = are_things(regions)
    return _enlarged(_matching(small, regions, is_thing, query, scorer, settings, negatives), (height, width))


def _matching(
    image: Tensor,
    regions: Regions,
    is_thing: Tensor,
    query: str,
    scorer: Scorer,
    settings: Mapping[str, Any],
    negatives: Sequence[str],
) -> Found:
    location = parse_location(query)
    gate: float | None = None
    if location.text and len(regions):
        regions, there = score_and_gate(
            image,
            regions,
            location.text,
            scorer,
            view=settings["view"],
            fill=settings["fill"],
            template=settings["template"],
            gate=None if settings["gate"] else 0.0,
            drop=settings["gate_drop"],
            negatives=negatives,
        )
        gate = None if there is None else there.gate
        if there is not None and not there.present:
            shares = regions.with_scores(there.per_region.to(torch.float32))
            nobody = torch.zeros(len(regions), dtype=torch.bool)
            return Found(shares, nobody, False, location.text, gate, things=is_thing)
    else:
        regions = regions.with_scores(torch.zeros(len(regions)))
    rule = {
        "mode": settings["threshold"],
        "u": settings["u"],
        "beta": settings["beta"] or scorer.logit_scale,
        "norm": settings["norm"],
    }
    pool = regions
    if not location.text:
        # "the bottom" names a part of the frame, and the ground is in every part: only things count.
        pool = regions.select(is_thing) if is_thing.any() else regions
    kept = locate(pool, location, threshold_kwargs=rule, rule=settings["place_rule"])
    last = kept.trace[-1]
    chosen = torch.zeros(len(regions), dtype=torch.bool)
    chosen[torch.tensor(last["selected"], dtype=torch.long)] = True
    notes = tuple(str(last[k]) for k in ("warning",) if last.get(k))
    unknown = scorer.unknown_words(location.text)
    if unknown:
        notes += (f"the scorer does not know {', '.join(unknown)}, which counted as any word",)
    regions = replace(regions, trace=kept.trace)
    ground = bool(chosen.any()) and not bool((chosen & is_thing).any())
    message = (
        ""
        if chosen.any() or len(regions) == 0
        else f"Nothing lies {location.phrase}, so the picture is unchanged."
    )
    return Found(
        regions,
        chosen,
        bool(chosen.any()),
        location.text,
        gate,
        message,
        notes,
        things=is_thing,
        is_ground=ground,
    )


def reduced(image: Tensor) -> Tensor:
    """The picture at the size at which it is searched."""
    longer = max(image.shape[1:3])
    if longer <= SEARCH_SIDE:
        return image
    size = [max(16, round(length * SEARCH_SIDE / longer)) for length in image.shape[1:3]]
    return to_bhwc(F.interpolate(to_bchw(image), size=size, mode="bicubic", antialias=True).clamp(0, 1))


def restored(regions: Regions, size: tuple[int, int]) -> Regions:
    """Regions of a reduced picture at the size (H, W) of the picture itself."""
    if tuple(regions.source_size) == size:
        return regions
    masks = F.interpolate(regions.masks[:, None].to(torch.uint8), size=size, mode="nearest")[:, 0] > 0
    return replace(regions, masks=masks, source_size=size)


def _enlarged(found: Found, size: tuple[int, int]) -> Found:
    return replace(found, regions=restored(found.regions, size))
