"""Which noise levels a run visits (methods.md 0.1, 8.4)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ..models.noise import sigma_at, training_sigmas
from ..tensors.checks import check_range


def start_from_strength(steps: int, strength: float) -> int:
    """Index of the first step that runs: strength keeps the schedule and skips its beginning, as in diffusers.

    Of T steps the last int(T * strength) run; T = 50 and strength 0.75 give 37 steps from index 13.

    Raises:
        ValueError: strength outside (0, 1], steps below 1, or so small a strength that no step is left.
    """
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a whole number of at least 1, got {steps!r}; try 20")
    check_range(strength, "strength", 0, 1, open_low=True, hint="1 repaints the region, 0.5 keeps its layout")
    executed = min(int(steps * strength), steps)
    if executed < 1:
        raise ValueError(
            f"strength {strength:g} of {steps} steps leaves no step to run; use a strength of at least {1 / steps:g}"
        )
    return steps - executed


def schedule_timesteps(scheduler: Any, steps: int) -> Tensor:
    """The timesteps [S] that the scheduler visits in `steps` steps, decreasing; the scheduler stays as it is.

    Multistep schedulers that list a timestep twice (PNDM) count it once.
    """
    private = copy.deepcopy(scheduler)
    private.set_timesteps(steps)
    timesteps = torch.as_tensor(private.timesteps).detach().to("cpu", torch.float64)
    return timesteps.unique(sorted=True).flip(0)


def sigmas_of(scheduler: Any, steps: int, strength: float = 1.0, *, start_t: int | None = None) -> Tensor:
    """The noise levels of a run, float32 [S+1], strictly decreasing, the last one 0.

    Args:
        scheduler: a diffusers scheduler with `alphas_cumprod` and `set_timesteps`; it is not changed.
        steps: steps of the whole schedule.
        strength: share of them that runs, in (0, 1] (`start_from_strength`).
        start_t: start no higher than at this training timestep instead; the other reading of a "maximal timestep".

    Raises:
        TypeError: a scheduler without `alphas_cumprod`.
        ValueError: see `start_from_strength`; or no timestep at or below `start_t`.
    """
    start = start_from_strength(steps, strength)
    grid = training_sigmas(scheduler)
    timesteps = schedule_timesteps(scheduler, steps)[start:]
    if start_t is not None:
        timesteps = timesteps[timesteps <= start_t]
        if not len(timesteps):
            raise ValueError(
                f"start_t {start_t} lies below every timestep of the schedule; raise it or the steps"
            )
    sigmas = sigma_at(timesteps, grid)
    return torch.cat([sigmas, sigmas.new_zeros(1)]).float()


def check_sigmas(sigmas: Tensor) -> Tensor:
    """Return `sigmas` [S+1] if they are finite, strictly decreasing and end at 0 or above, else raise ValueError."""
    if sigmas.ndim != 1 or len(sigmas) < 2:
        raise ValueError(
            f"sigmas must hold at least two levels, got shape {list(sigmas.shape)}; use sigmas_of(...)"
        )
    falling = bool((sigmas[1:] < sigmas[:-1]).all())
    if not (torch.isfinite(sigmas).all() and falling and sigmas[-1] >= 0):
        raise ValueError(
            f"sigmas must fall strictly to 0, got {[round(s, 4) for s in sigmas.tolist()]}; use sigmas_of(...)"
        )
    return sigmas
