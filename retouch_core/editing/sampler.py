"""The region-blended sampler: Euler in the sigma form, the source held outside the region at every step.

One step of Euler on x = z0 + sigma * n is one deterministic DDIM step (Song et al. 2021, eq. 12 with eta 0).
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..models.noise import per_sample
from ..tensors.checks import InputWarning
from .blend import blend, latent_masks, noised, open_where
from .guidance import Denoise
from .halving import Cut, Judge, survivors
from .schedule import check_sigmas

StepCallback = Callable[[int, int, Tensor], None]
"""(steps done, steps in all, D); whatever it raises stops the run."""
CandidateCallback = Callable[[int, int, Tensor, Sequence[int]], None]
"""(steps done, steps in all, D [b,C,h,w], indices of the b candidates at work); whatever it raises stops the run."""

STARTS = ("noise", "source", "host", "diffusers")
NOISE_MODES = ("fixed", "fresh")
SEEDS = 2**64
"""A generator takes seeds below this number; seed + k wraps around."""


def step_of(sigma: Tensor, sigmas: Tensor) -> int:
    """Index of the step whose interval (sigmas[i+1], sigmas[i]] holds the level; samplers may ask between levels."""
    level = float(sigma.reshape(-1)[0])
    reached = int((sigmas >= level * (1 - 1e-6)).sum())
    return min(max(reached - 1, 0), len(sigmas) - 2)


def sample(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    first: int = 0,
    last: int | None = None,
    callback: StepCallback | None = None,
) -> Tensor:
    """Walk x [B,C,...] down `sigmas` [S+1] by Euler steps: x' = D + (sigma' / sigma) * (x - D).

    Args:
        denoise: (x, sigma [B]) -> D.
        x: start, at the level sigmas[first].
        sigmas: falling levels; a final 0 returns the last D itself.
        first, last: the steps that are walked, from `first` to before `last` (None: to the end).
        callback: called after each step; raise in it to stop.

    Raises:
        ValueError: levels that do not fall.
        FloatingPointError: the denoiser returned NaN or Inf.
    """
    levels = check_sigmas(sigmas).tolist()
    total = len(levels) - 1
    for i, (level, following) in itertools.islice(enumerate(itertools.pairwise(levels)), first, last):
        estimate = denoise(x, torch.full((len(x),), level, dtype=x.dtype, device=x.device))
        if not torch.isfinite(estimate).all():
            raise FloatingPointError(
                f"the denoiser returned NaN or infinite values at step {i + 1} of {total} (sigma {level:.4g}); "
                "lower the guidance scale or run it in float32"
            )
        x = estimate + (following / level) * (x - estimate) if following else estimate
        if callback is not None:
            callback(i + 1, total, estimate)
    return x


def region_denoiser(
    denoise: Denoise,
    z0: Tensor,
    noise: Tensor | Callable[[int], Tensor],
    masks: Tensor | Sequence[Tensor],
    sigmas: Tensor,
    *,
    blend_first: bool = True,
) -> Denoise:
    """Hold the source outside the mask: x_in = M x + (1 - M)(z0 + sigma n), D = M D(x_in) + (1 - M) z0.

    The sigma form of blending after every step (methods.md 8.2), and what ComfyUI does with a noise mask.

    Args:
        denoise: (x, sigma [B]) -> D.
        z0: source latent, broadcasting against x.
        noise: n, broadcasting against x, or a function from the index of the step to n.
        masks: M [B,1,h,w] in 0..1, or one for each step of `sigmas`.
        sigmas: the levels [S+1] of the run, by which a call finds its step.
        blend_first: False leaves x alone in the first step, as diffusers does when it starts from pure noise.
    """
    total = len(sigmas) - 1
    levels = sigmas.detach().to("cpu", torch.float64)
    if not isinstance(masks, Tensor) and len(masks) != total:
        raise ValueError(
            f"masks must hold one mask for each of {total} steps, got {len(masks)}; use latent_masks(...)"
        )

    def wrapped(x: Tensor, sigma: Tensor) -> Tensor:
        step = step_of(sigma, levels)
        mask = (masks if isinstance(masks, Tensor) else masks[step]).to(x)
        mask = mask.reshape(*mask.shape[:2], *[1] * (x.ndim - mask.ndim), *mask.shape[2:])
        if step or blend_first:
            still = noise if isinstance(noise, Tensor) else noise(step)
            x = blend(x, noised(z0, still, per_sample(sigma, x.ndim)), mask)
        return blend(denoise(x, sigma), z0.expand_as(x), mask)

    return wrapped


def _generators(seed: int, candidates: Iterable[int]) -> list[torch.Generator]:
    return [torch.Generator("cpu").manual_seed((seed + k) % SEEDS) for k in candidates]


def _draw(generators: Sequence[torch.Generator], shape: Sequence[int]) -> Tensor:
    return torch.stack([torch.randn(tuple(shape), generator=generator) for generator in generators])


def candidate_noise(shape: Sequence[int], seed: int, count: int, first: int = 0) -> Tensor:
    """Normal noise float32 [count, *shape] on the CPU; candidate k has a generator of its own with seed + first + k.

    So candidate k is the same alone or in a batch, on every device.
    """
    return _draw(_generators(seed, range(first, first + count)), shape)


def _fresh_noise(generators: Sequence[torch.Generator], first: Tensor) -> Callable[[int], Tensor]:
    """Another draw for every step, made in the order of the steps however often a step asks."""
    draws = [first]

    def at(step: int) -> Tensor:
        while len(draws) <= step:
            draws.append(_draw(generators, first.shape[1:]).to(first))
        return draws[step]

    return at


def _unknown_start(start: str) -> str:
    return f"start must be one of {', '.join(STARTS)}, got {start!r}; noise repaints, source keeps the layout"


def start_latent(z0: Tensor, noise: Tensor, sigma: float, start: str) -> Tensor:
    """Where a run begins, at level sigma.

    `noise` and `diffusers`: pure noise of the level's full variance, n * sqrt(1 + sigma^2); `source`: the noised source
    z0 + sigma n; `host`: ComfyUI's start at full denoise, z0 + n * sqrt(1 + sigma^2) (model_sampling.EPS.noise_scaling).
    """
    full = math.sqrt(1 + sigma**2)
    if start in ("noise", "diffusers"):
        return noise * full
    if start == "source":
        return noised(z0, noise, sigma)
    if start == "host":
        return noised(z0, noise, full)
    raise ValueError(_unknown_start(start))


def _fitted(mask_latent: Tensor, z0: Tensor) -> Tensor:
    if tuple(mask_latent.shape[-2:]) == tuple(z0.shape[-2:]):
        return mask_latent
    warnings.warn(
        f"mask_latent is {list(mask_latent.shape[-2:])} but z0 is {list(z0.shape[-2:])} cells; the mask was resized, "
        "so reduce it from the pixels with the editor's cell size",
        InputWarning,
        stacklevel=3,
    )
    return torch.nn.functional.adaptive_max_pool2d(mask_latent, tuple(z0.shape[-2:]))


@dataclass(frozen=True)
class Candidates:
    """What a run made.

    Attributes:
        latents: [n,C,h,w] of the candidates that lived to the end, bit for bit the source where nothing may change.
        indices: which of the m candidates they are, rising.
        lived: how many steps each of the m candidates ran.
    """

    latents: Tensor
    indices: tuple[int, ...]
    lived: tuple[int, ...]


def retouch_latent(
    denoise: Denoise, z0: Tensor, mask_latent: Tensor, sigmas: Tensor, **options: Any
) -> Tensor:
    """Latents [m,C,h,w] of a region repainted m times over: `retouch_candidates`, whose options it takes, without cuts."""
    return retouch_candidates(denoise, z0, mask_latent, sigmas, **options).latents


def retouch_candidates(
    denoise: Denoise,
    z0: Tensor,
    mask_latent: Tensor,
    sigmas: Tensor,
    *,
    seed: int,
    candidates: int,
    start: str = "noise",
    noise_mode: str = "fixed",
    progressive: int | str = 0,
    batch: int | None = None,
    cuts: Sequence[Cut] = (),
    judge: Judge | None = None,
    callback: CandidateCallback | None = None,
) -> Candidates:
    """Repaint a region of one latent, several times over.

    Args:
        denoise: (x [b,C,h,w], sigma [b]) -> D, already guided; b is at most `batch`.
        z0: source latent [1,C,h,w], or [1,C,t,h,w] for video.
        mask_latent: [1,1,h,w] in 0..1, 1 = edit. Another size is resized with a warning; an empty one returns the
            source, with a warning, without a single call of `denoise`.
        sigmas: levels [S+1] from `sigmas_of`, ending at 0.
        seed: candidate k uses seed + k.
        candidates: m, at least 1.
        start: `noise` repaints from pure noise inside the region; `source` from the noised source, for a strength below
            1; `host` as ComfyUI starts at full denoise; `diffusers` as its inpaint pipeline starts at strength 1: pure
            noise everywhere, so that the first step sees no source at all.
        noise_mode: `fixed` holds the background with one noise, `fresh` draws another at every step.
        progressive: dilated masks for thin regions, a number or "auto" (`latent_masks`).
        batch: candidates at once; None takes all. It is halved, with a warning, when a GPU runs out of memory.
        cuts: from `halving.cuts_of`; after each, only the candidates that `judge` likes best go on.
        judge: scores clean estimates; needed where there are cuts.
        callback: called after every step; raise in it to stop.

    Raises:
        ValueError: shapes, counts or options that mean nothing, NaN in z0, levels that do not fall to 0.
        FloatingPointError: the denoiser returned NaN or Inf.
    """
    if z0.ndim not in (4, 5) or len(z0) != 1:
        raise ValueError(f"z0 must have shape [1,C,h,w], got {list(z0.shape)}; retouch one picture at a time")
    if not torch.isfinite(z0).all():
        raise ValueError("z0 holds NaN or infinite values; repair the picture or run the encoder in float32")
    if mask_latent.ndim != 4 or mask_latent.shape[:2] != (1, 1):
        raise ValueError(
            f"mask_latent must have shape [1,1,h,w], got {list(mask_latent.shape)}; join the regions first"
        )
    if candidates < 1:
        raise ValueError(f"candidates must be at least 1, got {candidates!r}; try 4")
    if batch is not None and batch < 1:
        raise ValueError(
            f"batch must be at least 1, got {batch!r}; leave it out to run all candidates at once"
        )
    if start not in STARTS:
        raise ValueError(_unknown_start(start))
    if noise_mode not in NOISE_MODES:
        raise ValueError(f"noise_mode must be 'fixed' or 'fresh', got {noise_mode!r}; fixed is usual")
    if check_sigmas(sigmas)[-1] != 0:
        raise ValueError(f"sigmas must end at 0, got {float(sigmas[-1]):g}; use sigmas_of(...)")
    if cuts and judge is None:
        raise ValueError(f"judge is None, but {len(cuts)} cuts need one; pass a function that scores latents")
    mask = _fitted(mask_latent, z0)
    total = len(sigmas) - 1
    masks = [m.to(z0) for m in latent_masks(mask, total, progressive)]
    if not open_where(mask).any():
        warnings.warn("mask_latent is empty, so the source comes back unchanged", InputWarning, stacklevel=2)
        count = cuts[-1].keep if cuts else candidates
        same = z0.repeat(count, *[1] * (z0.ndim - 1))
        return Candidates(same, tuple(range(count)), (0,) * candidates)

    def walk(chosen: Sequence[int], x: Tensor | None, first: int, last: int) -> tuple[Tensor, Tensor]:
        """The candidates `chosen` after the steps first..last, from x or from their start; and their last D."""
        generators = _generators(seed, chosen)
        noise = _draw(generators, z0.shape[1:]).to(z0)
        background = noise if noise_mode == "fixed" else _fresh_noise(generators, noise)
        held = region_denoiser(denoise, z0, background, masks, sigmas, blend_first=start != "diffusers")
        seen: list[Tensor] = []

        def after(step: int, steps: int, estimate: Tensor) -> None:
            seen[:] = [estimate]
            if callback is not None:
                callback(step, steps, estimate, chosen)

        if x is None:
            x = start_latent(z0, noise, float(sigmas[0]), start)
        return sample(held, x, sigmas, first=first, last=last, callback=after), seen[0]

    alive, lived = list(range(candidates)), [0] * candidates
    x: Tensor | None = None
    begun, size = 0, batch or candidates
    for cut in (*cuts, Cut(total, candidates)):
        leg = _Leg(walk, tuple(alive), x, begun, cut.step)
        x, estimates, size = _in_batches(leg, len(alive), size)
        for k in alive:
            lived[k] = cut.step
        begun = cut.step
        if judge is not None and cut.step < total:
            kept = survivors(alive, judge(estimates, alive), cut.keep)
            x = x[[alive.index(k) for k in kept]]
            alive = kept
    assert x is not None
    allowed = open_where(mask).to(z0.device)
    allowed = allowed.reshape(*allowed.shape[:2], *[1] * (z0.ndim - 4), *allowed.shape[2:])
    return Candidates(torch.where(allowed, x, z0), tuple(alive), tuple(lived))


@dataclass(frozen=True)
class _Leg:
    """The steps first..last of the candidates `alive`, from the states x or from their starts."""

    walk: Callable[[Sequence[int], Tensor | None, int, int], tuple[Tensor, Tensor]]
    alive: tuple[int, ...]
    x: Tensor | None
    first: int
    last: int

    def __call__(self, rows: range) -> tuple[Tensor, Tensor]:
        part = slice(rows.start, rows.stop)
        return self.walk(self.alive[part], None if self.x is None else self.x[part], self.first, self.last)


def _in_batches(
    run: Callable[[range], tuple[Tensor, Tensor]], count: int, size: int
) -> tuple[Tensor, Tensor, int]:
    """Both results of `run` for the rows 0..count, at most `size` at once, and the size that the memory allowed."""
    results: list[tuple[Tensor, Tensor]] = []
    first = 0
    while first < count:
        rows = range(first, min(first + size, count))
        try:
            results.append(run(rows))
        except torch.cuda.OutOfMemoryError:
            if len(rows) == 1:
                raise
            size = len(rows) // 2
            torch.cuda.empty_cache()
            warnings.warn(
                f"the GPU has no room for {len(rows)} candidates at once; going on with {size}, so set batch={size}",
                InputWarning,
                stacklevel=3,
            )
            continue
        first = rows.stop
    states, estimates = zip(*results, strict=True)
    return torch.cat(states), torch.cat(estimates), size
