"""Regions that a phrase means, out of a referrer's map of probabilities (methods.md 5; RDM section 3.3, ROM section 4.2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..models.protocols import InstanceReferrer, Referrer
from ..tensors.checks import check_image, check_range, check_text, clamped
from ..tensors.regions import Regions
from .heat import HeatFound, parts
from .search import are_things, spans_frame
from .threshold import SHARE, adaptive_threshold, describe

K = 150.0
"""RDM's threshold, of 255 (section 4.1)."""

RULES = ("inverted", "direct", "rdm_code")
"""Readings of "a threshold of 150": see `binarised`."""

CODE_CUT = 100
"""Grey level from which RDM's program keeps a pixel of its normalised map (its file is inverted afterwards)."""

PRESENCE_MIN = 0.2
"""Normalising stretches pure noise to the full range, so a map must reach this probability first (our guard)."""

PICKS = ("best", "all")

INSTANCE_CUT = 0.5
"""A pixel of an instance belongs to it above this probability, as in ROM's program; the value itself is off."""

INSTANCE_MIN = 0.25
"""Least score of an instance that `all` keeps (lower end of Grounding DINO's usual thresholds)."""

SNAP_BETA, SNAP_NORM = 1.0, "sum"
"""Means of probabilities are shares already: beta is 1 and they are divided by their sum. A softmax of numbers in 0..1
at beta 1 would be almost uniform (`adaptive_threshold`), and the share u would then only count regions."""


def binarised(
    probs: Tensor, *, rule: str = "inverted", k: float = K, presence_min: float = PRESENCE_MIN
) -> Tensor:
    """Maps of probabilities [...,H,W] in 0..1 -> bool [...,H,W] by one of three readings of RDM's threshold K of 255.

    * `direct`: p >= K/255, the plain sentence;
    * `inverted`: p >= 1 - K/255, as a larger K gives a larger area in RDM's section 4.5;
    * `rdm_code`: each map stretched to its own range, rounded to 8 bits, and kept from level 100 up, whatever K is;
      maps that nowhere reach `presence_min` keep nothing.

    Raises:
        ValueError: an unknown rule, K outside 0..255, or `presence_min` outside 0..1.
    """
    check_rule(rule, k, presence_min)
    p = probs.double()
    if rule == "direct":
        return p >= k / 255
    if rule == "inverted":
        return p >= 1 - k / 255
    if not p.numel():
        return torch.zeros_like(p, dtype=torch.bool)
    low, high = p.amin((-2, -1), keepdim=True), p.amax((-2, -1), keepdim=True)
    # The program's library divides by at least 1e-5, so that a constant map becomes 0.
    levels = ((p - low) / (high - low).clamp(min=1e-5) * 255 + 0.5).floor()
    return (levels >= CODE_CUT) & (high >= presence_min)


def check_rule(rule: str, k: float, presence_min: float = PRESENCE_MIN) -> None:
    """Raise ValueError for a rule that is unknown or numbers outside their range."""
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}; inverted is usual")
    if not (isinstance(k, (int, float)) and math.isfinite(k) and 0 <= k <= 255):
        raise ValueError(f"k must be in [0, 255], got {k!r}; RDM uses {K:g}")
    check_range(presence_min, "presence_min", 0, 1)


def needed(rule: str, k: float, presence_min: float = PRESENCE_MIN) -> float:
    """The probability that a map must reach somewhere so that `binarised` keeps anything."""
    return {"direct": k / 255, "inverted": 1 - k / 255, "rdm_code": presence_min}[rule]


def refer(
    image: Tensor,
    query: str,
    referrer: Referrer,
    *,
    rule: str = "inverted",
    k: float = K,
    presence_min: float = PRESENCE_MIN,
    pick: str = "all",
    snap: Regions | None = None,
    u: float = SHARE,
    norm: str = SNAP_NORM,
    instance_min: float = INSTANCE_MIN,
) -> HeatFound:
    """Find what `query` means in IMAGE [1,H,W,3]; words of place go to the referrer with the rest.

    Nothing found is a result: no region is selected and `message` says how far the map came.

    Args:
        rule, k, presence_min: which pixels of the map count (`binarised`).
        pick: `all` keeps every part of the map, or instances with a score of at least `instance_min`; `best` the one
            with the highest score, as ROM does.
        snap: entities of the picture; then those with the highest mean probability are taken whole, so that the edges
            are theirs: `all` by the adaptive threshold with share `u` (beta 1), `best` the one.
        norm: how their means become shares.

    Returns:
        parts of the map, instances or entities, with scores; which of them are meant; and the map as `heat`.

    Raises:
        TypeError, ValueError: an image, a query, options or a map that cannot be used.
    """
    image = clamped(check_image(image, batch=1))
    query = check_text(query)
    check_rule(rule, k, presence_min)
    if pick not in PICKS:
        raise ValueError(f"pick must be one of {', '.join(PICKS)}, got {pick!r}; all is usual")
    size = (image.shape[1], image.shape[2])
    if snap is not None and tuple(snap.source_size) != size:
        height, width = snap.source_size
        raise ValueError(
            f"snap holds regions of {width}x{height} px but image is {size[1]}x{size[0]}; give the entities of this picture"
        )
    unknown = referrer.unknown_words(query)
    notes = (
        (f"the referrer does not know {', '.join(unknown)}, which counted as any word",) if unknown else ()
    )
    settings = {"query": query, "rule": rule, "k": float(k), "pick": pick}
    if snap is None and isinstance(referrer, InstanceReferrer):
        return _among_instances(image, query, referrer, pick, instance_min, notes)
    heat = _checked(referrer.heat_maps(image, [query]), size)
    mask = binarised(heat, rule=rule, k=k, presence_min=presence_min)[0]
    best = float(heat.max())
    settings |= {"max": best, "area": int(mask.sum())}
    message = ""
    if not mask.any():
        level = needed(rule, k, presence_min)
        message = (
            f"“{query}” was not found: the map reaches {best:.2f} of the {level:.2f} that rule {rule} needs."
        )
    if snap is not None:
        return _snapped(snap, heat, settings, bool(mask.any()), pick, u, norm, message, notes)
    regions = parts(mask, heat[0], image)
    regions = regions.traced("referring", **settings, parts=len(regions))
    selected = torch.ones(len(regions), dtype=torch.bool)
    if pick == "best":
        # Specks count only where there is nothing larger; parts come by falling score, specks last.
        selected = torch.arange(len(regions)) == 0
    return _found(regions, selected, query, message, notes, heat)


def _snapped(
    entities: Regions,
    heat: Tensor,
    settings: Mapping[str, Any],
    anything: bool,
    pick: str,
    u: float,
    norm: str,
    message: str,
    notes: tuple[str, ...],
) -> HeatFound:
    means = [float(heat[0][mask].double().mean()) if mask.any() else 0.0 for mask in entities.masks]
    regions = entities.with_scores(torch.tensor(means, dtype=torch.float32))
    regions = regions.traced("referring", **settings, snap=True)
    selected = torch.zeros(len(regions), dtype=torch.bool)
    if anything and len(regions):
        options: dict[str, Any] = {"mode": "argmax" if pick == "best" else "quantile", "u": u}
        options |= {"beta": SNAP_BETA, "norm": norm}
        assert regions.scores is not None
        result = adaptive_threshold(regions.scores, **options)
        selected = result.selected
        regions = regions.traced("threshold", **describe(result, options))
    if anything and not len(regions):
        message = f"“{settings['query']}” has no entity to snap to, because none was given."
    is_thing = are_things(regions)
    found = _found(regions, selected, str(settings["query"]), message, notes, heat)
    ground = bool(selected.any()) and not bool((selected & is_thing).any())
    return replace(found, things=is_thing, is_ground=ground)


def _among_instances(
    image: Tensor, query: str, referrer: InstanceReferrer, pick: str, least: float, notes: tuple[str, ...]
) -> HeatFound:
    check_range(least, "instance_min", 0, 1)
    size = (image.shape[1], image.shape[2])
    seen = referrer.instances(image, query)
    maps = _checked(seen.masks, size)
    scores = seen.scores.detach().float().cpu()
    order = scores.argsort(descending=True, stable=True)
    maps, scores = maps[order], scores[order]
    selected = scores >= least
    if pick == "best":
        selected &= torch.arange(len(scores)) == 0
    heat = (maps * scores[:, None, None]).amax(0, keepdim=True) if len(maps) else torch.zeros(1, *size)
    regions = Regions(maps > INSTANCE_CUT, scores, size, picture=image)
    selected &= regions.areas > 0
    regions = regions.traced("referring", query=query, pick=pick, instances=len(regions), instance_min=least)
    best = (
        f"the best of {len(scores)} instances has {float(scores.max()):.2f}" if len(scores) else "no instance"
    )
    message = "" if selected.any() else f"“{query}” was not found: {best}, and {least:.2f} is needed."
    return _found(regions, selected, query, message, notes, heat)


def _found(
    regions: Regions, selected: Tensor, query: str, message: str, notes: tuple[str, ...], heat: Tensor
) -> HeatFound:
    union = regions.masks[selected].any(0, keepdim=True)
    return HeatFound(
        regions,
        selected,
        bool(selected.any()),
        query,
        None,
        message,
        notes,
        is_ground=bool(spans_frame(union).any()),
        heat=heat,
    )


def _checked(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps [T,H,W] float32 on the CPU, in 0..1."""
    if maps.ndim != 3 or tuple(maps.shape[1:]) != size:
        raise ValueError(
            f"referrer gave maps of shape {list(maps.shape)} for an image of {list(size)}; it must resize them to it"
        )
    maps = maps.detach().float().cpu()
    if not torch.isfinite(maps).all() or (
        maps.numel() and not 0 <= float(maps.min()) <= float(maps.max()) <= 1
    ):
        raise ValueError("referrer gave values outside 0..1 or NaN; it must give probabilities, not logits")
    return maps
