"""How many of the scored regions belong to the query: the adaptive threshold and its rivals (methods.md 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..tensors.checks import check_range
from ..tensors.regions import Regions

SHARE = 0.8
"""Share u of the probability mass: TRT's configurations have 0.6 to 0.95, its comment speaks of 80 %."""

BETA = 100.0
"""OpenAI CLIP's logit scale; without it cosines of 0.15..0.35 are almost uniform after normalisation."""

FIXED_COSINE = 0.2
"""The fixed threshold that serves as the baseline in the literature."""

MODES = ("quantile", "reattention", "maxstep", "fixed", "argmax", "topk", "fixed_prob")
NORMS = ("softmax", "sum", "minmax_sum")

ROUNDING = 1e-6
"""Cumulative shares this close to u count as equal to it: scores arrive as float32, so exact hits carry its error."""


@dataclass(frozen=True)
class Threshold:
    """What a threshold decided about N regions.

    Attributes:
        selected: bool [N], in the order of the scores given.
        tau: regions from this score up are selected, in the units of the scores (a probability in mode
            `fixed_prob`); just above the best score where a rule keeps none; 0 for N = 0.
        k: regions the rule asks for; ties with the last of them are selected too, so more may be.
        probs: float64 [N], the shares of the regions, which add up to 1.
        cumulative: float64 [N], inclusive running sum of the shares from best to worst; ends with exactly 1.
        order: long [N], regions from best to worst; equal scores keep their order.
    """

    selected: Tensor
    tau: float
    k: int
    probs: Tensor
    cumulative: Tensor
    order: Tensor


def adaptive_threshold(
    scores: Tensor,
    *,
    mode: str = "quantile",
    u: float = SHARE,
    beta: float = BETA,
    norm: str = "softmax",
    tau: float = FIXED_COSINE,
    k: int = 1,
    min_keep: int = 1,
    max_keep: int | None = None,
) -> Threshold:
    """Select the regions whose scores stand out.

    The scores become shares p that are summed up from best to worst, F_k. Of n regions the modes keep

    * `quantile`: the fewest that together hold the share u, min{k: F_k >= u};
    * `reattention`: the TRT rule, #{k: F_k < u} (one fewer);
    * `maxstep`: all before the largest drop between neighbours, argmax_{k<n} p_(k) - p_(k+1);
    * `fixed`: scores of at least `tau`; `fixed_prob`: shares of at least `tau`; both may keep none;
    * `argmax`: the best one; `topk`: the best `k`; of equal scores the first.

    Args:
        scores: float [N]; N = 0 gives an empty selection.
        u: share of probability mass in (0, 1].
        beta: multiplier of the scores before the softmax.
        norm: `softmax` of beta*scores; `sum`: scores / sum; `minmax_sum`: (scores - min) / sum of those.
        min_keep: lower bound of k in the first three modes; with 0 `reattention` keeps nothing when one region
            alone holds more than u, as TRT does.
        max_keep: upper bound of k in all modes; ties stay in except in `argmax` and `topk`.

    Raises:
        ValueError: scores that are no vector or not finite, u outside (0, 1], a negative score with norm `sum`,
            unknown modes and norms, and counts out of range.
    """
    _check(scores, mode, u, beta, norm, k, min_keep, max_keep)
    probs = _shares(scores.double(), norm, beta)
    order = scores.argsort(descending=True, stable=True)
    ranked = probs[order]
    cumulative = ranked.cumsum(0)
    count = len(scores)
    if count == 0:
        none = torch.zeros(0, dtype=torch.bool, device=scores.device)
        return Threshold(none, 0.0, 0, probs, cumulative, order)
    # Rounding must not leave the last region out at u = 1.
    cumulative[-1] = 1.0
    most = count if max_keep is None else min(max_keep, count)

    if mode in ("fixed", "fixed_prob"):
        measure = scores if mode == "fixed" else probs
        passing = measure >= tau
        kept = int(passing.sum())
        if kept > most:
            kept, tau = most, float(measure[order[most - 1]])
            passing = measure >= measure[order[most - 1]]
        return Threshold(passing, float(tau), kept, probs, cumulative, order)

    # At u = 1 every region with a share of its own is wanted, however small.
    below = int((cumulative < (u - ROUNDING if u < 1 else 1.0)).sum())
    kept = {
        "quantile": below + 1,
        "reattention": below,
        "maxstep": int((ranked[:-1] - ranked[1:]).argmax()) + 1 if count > 1 else 1,
        "argmax": 1,
        "topk": k,
    }[mode]
    kept = max(min(kept, most), min(min_keep, count) if mode not in ("argmax", "topk") else 1)
    if kept == 0:
        above = math.nextafter(float(scores.max()), math.inf)
        return Threshold(torch.zeros_like(scores, dtype=torch.bool), above, 0, probs, cumulative, order)
    lowest = scores[order[kept - 1]]
    if mode in ("argmax", "topk"):
        selected = torch.zeros(count, dtype=torch.bool, device=scores.device)
        selected[order[:kept]] = True
    else:
        selected = scores >= lowest
    return Threshold(selected, float(lowest), kept, probs, cumulative, order)


def threshold_regions(regions: Regions, **options: Any) -> Regions:
    """The regions that `adaptive_threshold` selects with `options`; the trace says how.

    Raises:
        ValueError: the regions carry no scores, or see `adaptive_threshold`.
    """
    if regions.scores is None:
        raise ValueError("regions carry no scores; run score_regions on them first")
    result = adaptive_threshold(regions.scores, **options)
    return regions.select(result.selected).traced("threshold", **describe(result, options))


def describe(result: Threshold, options: dict[str, Any]) -> dict[str, Any]:
    """A threshold in plain JSON values, for traces and reports."""
    return {
        "mode": options.get("mode", "quantile"),
        "tau": result.tau,
        "k": result.k,
        "selected": result.selected.nonzero()[:, 0].tolist(),
        "probs": [round(p, 6) for p in result.probs.tolist()],
        "options": dict(options),
    }


def soft_map(probs: Tensor, masks: Tensor) -> Tensor:
    """MASK [1,H,W] in 0..1: each pixel shows the shares [N] of the regions bool [N,H,W] that hold it, summed.

    Raises:
        ValueError: the two do not hold the same number of regions.
    """
    if probs.ndim != 1 or masks.ndim != 3 or len(probs) != len(masks):
        raise ValueError(
            f"probs {list(probs.shape)} and masks {list(masks.shape)} must be [N] and [N,H,W]; give one share a region"
        )
    total = torch.zeros(masks.shape[1:], device=masks.device)
    for share, mask in zip(probs.tolist(), masks, strict=True):
        total += share * mask
    return total[None].clamp(0, 1)


def _check(
    scores: Tensor,
    mode: str,
    u: float,
    beta: float,
    norm: str,
    k: int,
    min_keep: int,
    max_keep: int | None,
) -> None:
    if scores.ndim != 1:
        raise ValueError(f"scores must have shape [N], got {list(scores.shape)}; give one score a region")
    if not torch.isfinite(scores).all():
        raise ValueError(f"scores hold NaN or infinite values, got {scores.tolist()}; repair the scorer")
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}; choose one of them")
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}; choose one of them")
    check_range(u, "u", 0, 1, open_low=True, hint="give a share of probability mass such as 0.8")
    if not beta > 0:
        raise ValueError(
            f"beta must be above 0, got {beta!r}; use the scorer's logit scale, {BETA:g} for CLIP"
        )
    for name, value, least in (("k", k, 1), ("min_keep", min_keep, 0), ("max_keep", max_keep, 1)):
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value!r}; it counts regions")
    if max_keep is not None and max_keep < min_keep:
        raise ValueError(
            f"max_keep must be at least min_keep ({min_keep}), got {max_keep!r}; lower min_keep or raise it"
        )
    if norm == "sum" and len(scores) and float(scores.min()) < 0:
        raise ValueError(
            f"norm 'sum' needs scores from 0 up, got {float(scores.min()):.4g}; use norm 'softmax' for cosines"
        )


def _shares(scores: Tensor, norm: str, beta: float) -> Tensor:
    if not len(scores):
        return scores
    if norm == "softmax":
        return torch.softmax(beta * (scores - scores.max()), 0)
    raised = scores - scores.min() if norm == "minmax_sum" else scores
    total = raised.sum()
    if total == 0:
        return torch.full_like(scores, 1 / len(scores))
    return raised / total
