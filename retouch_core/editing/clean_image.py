"""The clean picture that losses look at, out of a noisy latent and its denoised estimate (methods.md 10.2)."""

from __future__ import annotations

from torch import Tensor

from ..models.noise import per_sample, to_vp

ESTIMATES = ("x0", "blended")


def clean_estimate(x: Tensor, denoised: Tensor, sigma: Tensor, estimate: str = "x0") -> Tensor:
    """What is decoded for the losses, shaped as x.

    `x0` is the denoised estimate itself (S04, section 3.3). `blended` is what the code of Blended Diffusion and RDM
    guides on: f * x0 + (1 - f) * x_t with f = sqrt(1 - abar_t) and x_t in the variance-preserving form, mostly x0 at
    high noise and mostly x_t at low noise.

    Args:
        x: noisy latent [B,C,h,w] in the sigma form; sigma: its level [B].
        denoised: D, same shape.

    Raises:
        ValueError: an unknown estimate.
    """
    if estimate == "x0":
        return denoised
    if estimate != "blended":
        raise ValueError(f"estimate must be one of {', '.join(ESTIMATES)}, got {estimate!r}; x0 is usual")
    level = per_sample(sigma, x.ndim)
    share = level / (level**2 + 1).sqrt()
    return share * denoised + (1 - share) * to_vp(x, level)
