"""From numbers scene by scene to what the report says, as plain values that JSON holds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..evaluation.numbers import Estimate
from .design import Ablation, Claim, Measured, Metric
from .statistics import difference, mean, of_set, verdict, wins

Plain = dict[str, Any]


def result(ablation: Ablation, measured: Measured) -> Plain:
    """Values of every variant, and every claim with its paired difference and verdict."""
    rows = [v.name for v in ablation.variants if v.name in measured.values]
    return {
        "values": {row: {m.name: plain(level(m, measured, row)) for m in ablation.metrics} for row in rows},
        "claims": [
            compared(c, ablation, measured) for c in ablation.claims if {c.better, c.worse} <= set(rows)
        ],
        "notes": list(measured.notes),
    }


def level(metric: Metric, measured: Measured, variant: str) -> Estimate:
    """A metric of a variant with its interval."""
    if metric.of_set is None:
        return mean(measured.values[variant][metric.name])
    return of_set(metric.of_set, *measured.features[variant])


def compared(claim: Claim, ablation: Ablation, measured: Measured) -> Plain:
    """The gain of the better variant over the worse, positive in the claimed direction."""
    metric = ablation.metric(claim.metric)
    if metric.of_set is None:
        columns = [measured.values[name][metric.name] for name in (claim.better, claim.worse)]
        sign = 1 if metric.higher else -1
        better, worse = ((np.asarray(column) * sign).tolist() for column in columns)
        gain, won = difference(better, worse), plain(wins(better, worse))
    else:
        gain, won = _set_gain(metric, measured, claim), None
    return {
        "better": claim.better,
        "worse": claim.worse,
        "metric": claim.metric,
        "source": claim.source,
        "published": claim.published,
        "gain": plain(gain),
        "won": won,
        "verdict": verdict(gain),
    }


def _set_gain(metric: Metric, measured: Measured, claim: Claim) -> Estimate:
    assert metric.of_set is not None
    (sources, better), (_, worse) = measured.features[claim.better], measured.features[claim.worse]
    pair = (better, worse) if metric.higher else (worse, better)
    return of_set(metric.of_set, sources, *_same_length(*pair))


def _same_length(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if len(a) != len(b):
        raise ValueError(
            f"variants have pictures of {len(a)} and {len(b)} scenes; compare them on the same ones"
        )
    return a, b


def plain(estimate: Estimate) -> Plain:
    """Without NaN, which JSON does not know."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in estimate.plain().items()}


def same(a: Plain, b: Plain) -> bool:
    """Whether two setups are the same, as JSON would hold them."""
    return {k: v for k, v in a.items() if k != "minutes"} == {k: v for k, v in b.items() if k != "minutes"}


def machine() -> Plain:
    """What a time belongs to."""
    return {"torch": torch.__version__, "threads": torch.get_num_threads()}
