"""Noise levels of a diffusion schedule, in the sigma form x = z0 + sigma * n that everything here speaks.

The other form of the field is x_vp = sqrt(abar) * z0 + sqrt(1 - abar) * n; the map between the two is
sigma = sqrt((1 - abar) / abar), x = x_vp / sqrt(abar) (methods.md 0.1; Karras et al. 2022, table 1, "VP").
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LEAST_ABAR = 4.8973451890853435e-08
"""Smallest abar a schedule keeps: zero-terminal-SNR schedules end at 0, where sigma is infinite.
The value is ComfyUI's (model_sampling.rescale_zero_terminal_snr_sigmas), so both hosts start at the same level."""


def sigma_of_abar(abar: Tensor) -> Tensor:
    """Noise level of the cumulative signal share abar in (0, 1], any shape; computed in its own dtype."""
    return ((1 - abar) / abar).sqrt()


def from_vp(x_vp: Tensor, abar: Tensor) -> Tensor:
    """A latent of the variance-preserving form in the sigma form; `abar` broadcasts against it."""
    return x_vp / abar.sqrt()


def to_vp(x: Tensor, sigma: Tensor) -> Tensor:
    """A latent of the sigma form in the variance-preserving form; `sigma` broadcasts against it."""
    return x / (sigma**2 + 1).sqrt()


def per_sample(values: Tensor, ndim: int) -> Tensor:
    """[B] -> [B,1,1,...] with `ndim` axes, to broadcast against latents of that rank."""
    return values.reshape(-1, *([1] * (ndim - 1)))


def training_sigmas(scheduler: Any) -> Tensor:
    """Sigma of every training timestep, float64 [T] on the CPU, increasing.

    Raises:
        TypeError: the scheduler carries no `alphas_cumprod` (flow-matching schedulers do not).
    """
    abar = getattr(scheduler, "alphas_cumprod", None)
    if abar is None:
        raise TypeError(
            f"scheduler {type(scheduler).__name__} has no alphas_cumprod; "
            "use one with a discrete noise schedule such as DDIMScheduler"
        )
    abar = torch.as_tensor(abar).detach().to("cpu", torch.float64)
    return sigma_of_abar(abar.clamp(min=LEAST_ABAR))


def sigma_at(timesteps: Tensor, sigmas: Tensor) -> Tensor:
    """Sigma at `timesteps` [S] (may be fractional) on the training grid `sigmas` [T], linear in log sigma."""
    t = timesteps.to(sigmas.dtype).clamp(0, len(sigmas) - 1)
    low, high = t.floor().long(), t.ceil().long()
    logs = torch.lerp(sigmas[low].log(), sigmas[high].log(), t - low)
    return torch.where(low == high, sigmas[low], logs.exp())


def nearest_timestep(sigma: Tensor, sigmas: Tensor) -> Tensor:
    """Index [B], long, of the training level in `sigmas` [T] whose logarithm is nearest to that of `sigma` [B].

    The rule of ComfyUI's `ModelSamplingDiscrete.timestep`; ties go to the lower index.
    """
    logs = sigmas.log()
    return (sigma.to(logs)[None].log() - logs[:, None]).abs().argmin(0).to(sigma.device)
