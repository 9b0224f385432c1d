"""Conditional classifier-free guidance: the referring prompt in the place of the empty one (methods.md 9)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from ..models.noise import per_sample
from ..tensors.checks import InputWarning, check_range

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x [B,C,...], sigma [B]) -> denoised estimate D [B,C,...], in the sigma form."""
ConditionedDenoise = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x [B,C,...], sigma [B], conditioning [B,T,D]) -> D."""

PASSES = ("target", "referring", "empty")
"""The conditionings in the order in which a batch holds them."""


def check_guidance(scale: float, lam: float) -> None:
    """Raise ValueError for a scale or mix that means nothing, warn for a scale that guides backwards."""
    if not (math.isfinite(scale) and scale >= 0):
        raise ValueError(f"scale must be a number of at least 0, got {scale!r}; try 4 to 15")
    check_range(
        lam, "lam", 0, 1, hint="0 is plain guidance, 1 replaces the empty prompt by the referring one"
    )
    if scale < 1:
        warnings.warn(
            f"scale is {scale:g}; below 1 the result turns away from the prompt, so use at least 1",
            InputWarning,
            stacklevel=3,
        )


def needed_passes(scale: float, lam: float) -> frozenset[str]:
    """Which of `PASSES` the result depends on: those with a weight other than 0.

    The weights are `scale` for the target, (1 - scale) * lam for the referring and (1 - scale) * (1 - lam)
    for the empty prompt.
    """
    weights = {"target": scale, "referring": (1 - scale) * lam, "empty": (1 - scale) * (1 - lam)}
    return frozenset(name for name, weight in weights.items() if weight != 0)


def _plain(scale: float, lam: float) -> float:
    """The mix without a referring prompt: 0, with a warning where another number would have mattered."""
    if lam > 0 and scale != 1:
        warnings.warn(
            f"no referring prompt, so lam {lam:g} counts as 0 and guidance is plain; name what is there now to use it",
            InputWarning,
            stacklevel=3,
        )
    return 0.0


def mixed_base(referring: Tensor, empty: Tensor, lam: float) -> Tensor:
    """What guidance leads away from: (1 - lam) * empty + lam * referring, exact where both predictions are the same."""
    return torch.lerp(empty, referring, lam)


def _mix(
    target: Tensor | None, referring: Tensor | None, empty: Tensor | None, scale: float, lam: float
) -> Tensor:
    """The guided prediction; whoever calls it has checked the numbers and hands in every needed pass."""
    if scale == 1 and target is not None:
        return target
    if empty is None or lam == 1:
        base = referring
    elif referring is None or lam == 0:
        base = empty
    else:
        base = mixed_base(referring, empty, lam)
    assert base is not None
    return base if target is None else base + scale * (target - base)


def conditional_cfg(
    target: Tensor, referring: Tensor | None, empty: Tensor | None, scale: float, lam: float
) -> Tensor:
    """Guide the prediction for the target prompt away from a mix of the referring and the empty prompt's.

    b = (1 - lam) * empty + lam * referring; result = b + scale * (target - b). Linear in the prediction, so noise,
    velocity and denoised estimate may all be given (any one shape for the three). lam = 1 is eq. 8 of
    region-and-object manipulation, lam = 0 plain classifier-free guidance.

    Args:
        target: prediction for what should appear.
        referring: prediction for what is there now; None means that there is no referring prompt, which gives plain
            guidance, with a warning where `lam` asked for more.
        empty: prediction for the empty prompt; may be None where `needed_passes` does not name it.
        scale: guidance scale, at least 0; 1 returns `target` itself.
        lam: share of the referring prompt in the base, 0..1.

    Raises:
        ValueError: scale negative or not finite, lam outside 0..1, or a needed prediction missing.
    """
    check_guidance(scale, lam)
    if referring is None:
        lam = _plain(scale, lam)
    if empty is None and "empty" in needed_passes(scale, lam):
        raise ValueError(
            f"empty is None, but scale {scale:g} with lam {lam:g} needs it; pass the empty prompt too"
        )
    return _mix(target, referring, empty, scale, lam)


def rescale(guided: Tensor, target: Tensor, x: Tensor, sigma: Tensor, amount: float) -> Tensor:
    """Bring the spread of a guided estimate back to that of the target's (Lin et al. 2024, section 3.4).

    Works on the velocity, as ComfyUI's RescaleCFG and diffusers' `guidance_rescale` for v-prediction do.

    Args:
        guided: D after guidance [B,C,...].
        target: D of the target prompt alone, same shape.
        x: noisy latent, same shape; sigma: its level [B].
        amount: 0 changes nothing, 1 takes the target's standard deviation; 0.7 is the paper's value.
    """
    level = per_sample(sigma, x.ndim)
    skip = x / (level**2 + 1)
    out = level / (level**2 + 1).sqrt()
    v_guided, v_target = (skip - guided) / out, (skip - target) / out
    axes = tuple(range(1, x.ndim))
    ratio = v_target.std(axes, keepdim=True) / v_guided.std(axes, keepdim=True).clamp(min=1e-12)
    return skip - out * torch.lerp(v_guided, v_guided * ratio, amount)


def guided_denoiser(
    editor_denoise: ConditionedDenoise,
    cond_target: Tensor,
    cond_ref: Tensor | None,
    cond_empty: Tensor | None,
    scale: float,
    lam: float,
    *,
    rescaled: float = 0.0,
) -> Denoise:
    """One denoiser out of three conditionings: a single call of the network for every one that matters.

    Args:
        editor_denoise: the network; it gets the needed conditionings stacked along the batch, first all rows of the
            target, then of the referring, then of the empty prompt.
        cond_target, cond_ref, cond_empty: conditionings [1,T,D] or [B,T,D]. `cond_ref` None or equal to
            `cond_empty` gives plain guidance, bit for bit.
        scale, lam: as in `conditional_cfg`.
        rescaled: amount for `rescale`, 0..1.

    Raises:
        ValueError: as `conditional_cfg`, or `rescaled` outside 0..1.
    """
    check_guidance(scale, lam)
    check_range(rescaled, "rescaled", 0, 1, hint="0 switches it off, 0.7 is usual")
    if cond_ref is None or (cond_empty is not None and torch.equal(cond_ref, cond_empty)):
        lam = _plain(scale, lam)
    needed = needed_passes(scale, lam)
    conditionings = {"target": cond_target, "referring": cond_ref, "empty": cond_empty}
    used: dict[str, Tensor] = {}
    for name in PASSES:
        if name in needed:
            conditioning = conditionings[name]
            if conditioning is None:
                raise ValueError(
                    f"cond_{name} is None, but scale {scale:g} with lam {lam:g} needs it; encode it too"
                )
            used[name] = conditioning

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        rows = len(x)
        stacked = torch.cat([c.expand(rows, *c.shape[1:]) for c in used.values()])
        repeats = len(used)
        out = editor_denoise(x.repeat(repeats, *[1] * (x.ndim - 1)), sigma.repeat(repeats), stacked)
        parts = dict(zip(used, out.chunk(repeats), strict=True))
        guided = _mix(parts.get("target"), parts.get("referring"), parts.get("empty"), scale, lam)
        if rescaled and "target" in parts and repeats > 1:
            guided = rescale(guided, parts["target"], x, sigma, rescaled)
        return guided

    return denoise
