"""Candidates that are given up on the way: legs of the host's sampler, between which their clean estimates are ranked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..retouch_core.editing.composite import composite
from ..retouch_core.editing.halving import Cut, check_points, rows_of, survivors
from ..retouch_core.ranking.rank import MODES, rank, rank_removal
from . import _sampling

Judge = Callable[[Tensor, Sequence[int]], Tensor]
"""(clean estimates [b,C,...] of the model, their rows) -> scores [b]."""


@dataclass(frozen=True)
class Pruning:
    """What a graph's wire carries: who judges unfinished candidates, by what, and when how many go on."""

    scorer: Any
    prompt: str
    query: str
    mode: str
    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        check_points(self.points)
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {self.mode!r}; choose one of them")

    def scores(self, source: Tensor, made: Tensor, area: Tensor) -> Tensor:
        """Scores [m] of pictures [m,H,W,3] over their source [1,H,W,3] with the MASK [1,H,W]."""
        if not self.prompt and self.query:
            return rank_removal(source, made, area, self.scorer, self.query).scores
        return rank(source, made, area, self.scorer, self.prompt, mode=self.mode).scores


def check_pruning(pruning: Any) -> Pruning | None:
    """What came over the wire, or None.

    Raises:
        TypeError: something else.
    """
    if pruning is None or isinstance(pruning, Pruning):
        return pruning
    raise TypeError(
        f"pruning must come from Prune Candidates, got {type(pruning).__name__}; connect that node"
    )


def noise_of(
    model: Any, latents: Tensor, samples: Tensor, sigma: Tensor, noise: Tensor, mask: Tensor | None
) -> Tensor:
    """The noise with which the host's sampler begins at `samples` [N,C,...], what a leg that ended at `sigma` gave.

    The host scales noise into a start linearly, whatever the model predicts. Closed cells keep the noise they had.
    """
    sampling = model.get_model_object("model_sampling")
    inner = model.model
    ones = torch.ones_like(samples)
    state = inner.process_latent_in(samples) / sampling.inverse_noise_scaling(sigma, ones)
    # The host passes a picture of zeros on as it is.
    source = inner.process_latent_in(latents) if torch.count_nonzero(latents) else latents
    still = sampling.noise_scaling(sigma, torch.zeros_like(samples), source.to(samples), False)
    unit = sampling.noise_scaling(sigma, ones, torch.zeros_like(samples), False)
    found = (state - still) / unit
    return found if mask is None else torch.where(mask.expand_as(found) > 0, found, noise.to(found))


@dataclass(frozen=True)
class Pruned:
    """Latents [n,C,...] of the rows that lived, which rows those are, how many steps each row lived, rows at once."""

    samples: Tensor
    rows: list[int]
    lived: list[int]
    size: int


def sample_pruned(
    model: Any,
    guider_for: Callable[[Sequence[int]], Any],
    latents: Tensor,
    mask: Tensor | None,
    seeds: Sequence[int],
    groups: Sequence[int],
    sampler: str,
    sigmas: Tensor,
    cuts: Sequence[Cut] = (),
    judge: Judge | None = None,
) -> Pruned:
    """Sample rows with the host, giving up the less promising of each group after each of `cuts`.

    Args:
        model, latents, mask, seeds, sampler, sigmas: as `_sampling.sample_rows`.
        guider_for: rows -> a guider with their conditionings.
        groups: of each row; rows of a group follow each other and compete.
        cuts: how many of each group go on, and after which step; none: all live.
        judge: scores clean estimates; needed where there are cuts.
    """
    steps = max(1, len(sigmas) - 1)
    each = groups.count(groups[0]) if groups else 0
    whole = rows_of(cuts, steps, each) * len(dict.fromkeys(groups))
    alive, lived = list(range(len(latents))), [0] * len(latents)
    noise, samples = None, latents
    begun, done, size = 0, 0, None
    for cut in (*cuts, Cut(steps, each)):
        last = cut.step == steps
        levels = sigmas[begun:] if last else sigmas[begun : cut.step + 1]
        own, opened = latents[alive], None if mask is None else mask[alive]
        made = _sampling.sample_rows(
            model,
            lambda rows, alive=tuple(alive): guider_for(alive[rows.start : rows.stop]),  # type: ignore[misc]
            own,
            opened,
            [seeds[k] for k in alive],
            sampler,
            levels,
            _sampling.Leg(noise, done, whole, watched=not last),
            size,
        )
        samples, size = made.samples, made.size
        done += len(alive) * (cut.step - begun)
        begun = cut.step
        for k in alive:
            lived[k] = cut.step
        if last or judge is None or made.estimates is None:
            continue
        if noise is None:
            noise = _sampling.own_noise(own, [seeds[k] for k in alive])
        noise = noise_of(model, own, samples, sigmas[cut.step], noise, opened)
        scores = judge(made.estimates, alive)
        places = [
            place
            for group in dict.fromkeys(groups[k] for k in alive)
            for place in _best(alive, groups, group, scores, cut.keep)
        ]
        alive, noise = [alive[place] for place in places], noise[places]
    return Pruned(samples, alive, lived, size or 1)


def _best(alive: Sequence[int], groups: Sequence[int], group: int, scores: Tensor, keep: int) -> list[int]:
    """Places in `alive` of the best of one group."""
    places = [place for place, k in enumerate(alive) if groups[k] == group]
    return survivors(places, scores[places], keep)


def over_source(source: Tensor, painted: Tensor, mask: Tensor) -> Tensor:
    """Unfinished pictures [m,H,W,3] laid over their source [1,H,W,3] by the MASK [1,H,W], in 0..1."""
    return composite(source, painted.to(source), mask.to(source)).clamp(0, 1)
