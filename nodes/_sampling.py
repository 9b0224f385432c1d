"""Candidates through the host's samplers: noise by seed, batches by memory, and cells that stay closed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from torch import Tensor

from ._host import check_cancelled

SEEDS = 2**64
"""A generator takes seeds below this number; seed + k wraps around."""
LEG_SEEDS = 1_000_003
"""Draws of a run's legs stay apart for as many seeds."""
MAX_SCHEDULE = 100_000
"""Longest schedule that is computed; the host makes steps / denoise levels and keeps the last."""

BATCHED = frozenset(
    [
        "euler",
        "euler_cfg_pp",
        "heun",
        "heunpp2",
        "exp_heun_2_x0",
        "dpm_2",
        "lms",
        "dpm_fast",
        "dpmpp_2m",
        "dpmpp_2m_cfg_pp",
        "ipndm",
        "ipndm_v",
        "deis",
        "res_multistep",
        "res_multistep_cfg_pp",
        "gradient_estimation",
        "gradient_estimation_cfg_pp",
        "uni_pc",
        "uni_pc_bh2",
    ]
)
"""Samplers that draw no noise and whose step does not depend on the batch: candidate k is the same alone.

Not `ddim`, which draws the noise of the closed cells anew, nor `dpm_adaptive`, whose step follows the whole batch.
"""

GuiderFor = Callable[[range], Any]
"""The host's guider for these rows of the batch."""


def sigmas_for(model: Any, sampler: str, scheduler: str, steps: int, denoise: float) -> Tensor:
    """Noise levels [S+1] as the core KSampler takes them; none at denoise 0."""
    core = comfy.samplers.KSampler(
        model,
        steps=steps,
        device=model.load_device,
        sampler=sampler,
        scheduler=scheduler,
        denoise=denoise,
        model_options=model.model_options,
    )
    return core.sigmas


def keeping_closed(model: Any) -> Any:
    """The model, or a clone of it whose own mask function cannot open a cell that the mask closes.

    Differential diffusion opens every cell at the last step.
    """
    inner = model.model_options.get("denoise_mask_function")
    if inner is None:
        return model

    def closed(sigma: Tensor, denoise_mask: Tensor, *args: Any, **named: Any) -> Tensor:
        return inner(sigma, denoise_mask, *args, **named) * (denoise_mask > 0)

    clone = model.clone()
    clone.set_model_denoise_mask_function(closed)
    return clone


def seed_of(seed: int, candidate: int) -> int:
    """Seed of one candidate."""
    return (seed + candidate) % SEEDS


def rows_at_once(model: Any, shape: tuple[int, ...], sampler: str) -> int:
    """How many rows of a batch [N,C,...] the sampler and the memory take in one call; at least 1."""
    if sampler not in BATCHED or shape[0] == 1:
        return 1

    def need(rows: int) -> float:
        # Twice the rows, as the host reckons: target and negative go through the network together.
        return float(model.memory_required([rows * 2, *shape[1:]]))

    comfy.model_management.load_models_gpu([model], memory_required=need(1))
    free = comfy.model_management.get_free_memory(model.load_device)
    return next((rows for rows in range(shape[0], 1, -1) if need(rows) <= free), 1)


@dataclass(frozen=True)
class Leg:
    """A part of the schedule that a set of rows walks, and where it lies in the whole run.

    noise: [N,C,...] that puts every row where the leg before left it; None begins at the rows' own noise.
    before, of: rows of all steps that were done before, and that the whole run has, for the progress.
    watched: whether the last clean estimates are wanted.
    """

    noise: Tensor | None = None
    before: int = 0
    of: int = 0
    watched: bool = False


@dataclass
class Sampled:
    """Latents [N,C,...], the last clean estimates where they were wanted, and how many rows went through one call."""

    samples: Tensor
    estimates: Tensor | None
    size: int


def own_noise(latents: Tensor, seeds: Sequence[int]) -> Tensor:
    """The host's noise for every row [N,C,...], each with its own seed."""
    return torch.cat([comfy.sample.prepare_noise(latents[k : k + 1], seed) for k, seed in enumerate(seeds)])


def sample_rows(
    model: Any,
    guider_for: GuiderFor,
    latents: Tensor,
    mask: Tensor | None,
    seeds: Sequence[int],
    sampler: str,
    sigmas: Tensor,
    leg: Leg | None = None,
    size: int | None = None,
) -> Sampled:
    """Every row of `latents` [N,C,...] sampled with its own seed.

    Args:
        model: the MODEL that the guiders hold.
        guider_for: rows -> a guider with their conditionings.
        mask: [N,1,...] in 0..1, shaped like the latents; None opens everything.
        seeds: one per row.
        sigmas: levels of the leg.
        leg: None where it is the whole run.
        size: rows at once; None: as many as sampler and memory take.

    Raises:
        InterruptProcessingException: the artist cancelled.
    """
    total, steps = len(latents), max(1, len(sigmas) - 1)
    leg = leg or Leg(of=total * steps)
    size = size or rows_at_once(model, tuple(latents.shape), sampler)
    show = latent_preview.prepare_callback(model, leg.of)
    done: list[tuple[Tensor, Tensor | None]] = []
    first = 0
    while first < total:
        check_cancelled()
        rows = range(first, min(first + size, total))
        made = _call(guider_for(rows), latents, mask, seeds, sampler, sigmas, rows, leg, show)
        if made is None:
            size = max(1, len(rows) // 2)
            comfy.model_management.soft_empty_cache()
            continue
        done.append(made)
        first = rows.stop
    estimates = [estimate for _, estimate in done if estimate is not None]
    return Sampled(torch.cat([x for x, _ in done]), torch.cat(estimates) if estimates else None, size)


def _call(
    guider: Any,
    latents: Tensor,
    mask: Tensor | None,
    seeds: Sequence[int],
    sampler: str,
    sigmas: Tensor,
    rows: range,
    leg: Leg,
    show: Callable[[int, Tensor, Tensor, int], None],
) -> tuple[Tensor, Tensor | None] | None:
    """One call of the sampler; None where the device has no memory for so many rows."""
    part = slice(rows.start, rows.stop)
    steps = max(1, len(sigmas) - 1)
    seen: list[Tensor] = []

    def after_step(step: int, x0: Tensor, x: Tensor, _: int) -> None:
        check_cancelled()
        if leg.watched:
            seen[:] = [x0]
        # Adaptive samplers take more steps than the schedule has.
        reached = leg.before + steps * rows.start + min(step + 1, steps) * len(rows)
        show(reached - 1, x0, x, leg.of)

    noise = own_noise(latents[part], seeds[part]) if leg.noise is None else leg.noise[part]
    try:
        samples = guider.sample(
            noise,
            latents[part],
            comfy.samplers.sampler_object(sampler),
            sigmas,
            denoise_mask=None if mask is None else mask[part],
            callback=after_step,
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            # Samplers draw from seed + 1, which the last seed of all does not have; each leg draws anew.
            seed=(seeds[rows.start] + LEG_SEEDS * leg.before) % (SEEDS - 1),
        )
    except comfy.model_management.InterruptProcessingException:
        raise
    except Exception as error:
        if len(rows) == 1 or not _out_of_memory(error):
            raise
        return None
    return samples.to(latents.device), seen[0].to(latents) if seen else None


def _out_of_memory(error: Exception) -> bool:
    if hasattr(comfy.model_management, "is_oom"):
        return bool(comfy.model_management.is_oom(error))
    return isinstance(error, comfy.model_management.OOM_EXCEPTION)
