"""Successive halving of candidates: only the promising ones run through all of the schedule.

Jamieson and Talwalkar 2016 ("Non-stochastic best arm identification"), with the rank of the clean estimate as the loss.
A candidate keeps its seed and its noise, so that one which lives to the end is what it would have been anyway.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Judge = Callable[[Tensor, Sequence[int]], Tensor]
"""(clean estimates D [b,C,h,w], indices of their candidates) -> scores [b], higher is better, NaN is worst."""


@dataclass(frozen=True)
class Cut:
    """After `step` steps the `keep` best candidates go on."""

    step: int
    keep: int


def check_points(points: Sequence[Sequence[float]]) -> None:
    """Points (share of the schedule, share of all candidates that go on) must rise in the first and fall in the second.

    Raises:
        ValueError: they do not, or lie outside (0, 1).
    """
    told = f"prune must hold pairs (share of the steps, share of the candidates that go on), got {points!r}"
    for pair in points:
        if len(pair) != 2 or not all(isinstance(x, (int, float)) and 0 < x < 1 for x in pair):
            raise ValueError(f"{told}; both shares lie between 0 and 1, such as (0.25, 0.5)")
    for (early, many), (late, few) in itertools.pairwise(points):
        if not (early < late and many > few):
            raise ValueError(f"{told}; let the steps rise and the candidates fall from pair to pair")


def cuts_of(points: Sequence[Sequence[float]], steps: int, candidates: int) -> tuple[Cut, ...]:
    """Where a run of `steps` steps is cut, and to how many of `candidates`; at least one always lives.

    Points that would fall on the start, on the end, or that would cut nobody, are left out.

    Raises:
        ValueError: see `check_points`.
    """
    check_points(points)
    made: list[Cut] = []
    left = candidates
    for share, kept in points:
        cut = Cut(round(share * steps), max(1, round(kept * candidates)))
        if 0 < cut.step < steps and cut.keep < left and (not made or cut.step > made[-1].step):
            made.append(cut)
            left = cut.keep
    return tuple(made)


def rows_of(cuts: Sequence[Cut], steps: int, candidates: int) -> int:
    """Rows that go through the denoiser in all: the cost of a run, where steps * candidates is that without cuts."""
    total, alive, before = 0, candidates, 0
    for cut in cuts:
        total, alive, before = total + alive * (cut.step - before), cut.keep, cut.step
    return total + alive * (steps - before)


def survivors(alive: Sequence[int], scores: Tensor, keep: int) -> list[int]:
    """The `keep` best of `alive` by scores [len(alive)], in their old order; ties go to the earlier one, NaN loses.

    Raises:
        ValueError: another number of scores.
    """
    if tuple(scores.shape) != (len(alive),):
        raise ValueError(
            f"the judge gave scores of shape {list(scores.shape)} for {len(alive)} candidates; return one for each"
        )
    known = (
        scores.detach()
        .to("cpu", torch.float64)
        .nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    )
    best = torch.sort(known, descending=True, stable=True).indices[:keep]
    return [alive[k] for k in sorted(best.tolist())]
