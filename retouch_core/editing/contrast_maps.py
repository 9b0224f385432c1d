"""What an editor predicts for two prompts from the same noised picture (methods.md 13; DiffEdit, step 1)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..models.protocols import Editor
from ..tensors.checks import check_image, check_range, check_text, clamped
from .blend import noised
from .sampler import candidate_noise
from .schedule import sigmas_of

DRAWS, STRENGTH, STEPS = 10, 0.5, 50
"""Noise draws, share of the schedule's steps up to the level, and its steps (the paper's, and diffusers' generate_mask)."""

AT_ONCE = 4
"""Draws that go through the network together."""

HIDDEN = 0.5
"""Grey that inpainting networks see in place of the picture; what is to be seen is in the noised latent."""


def contrast_maps(
    editor: Editor,
    image: Tensor,
    referring: str,
    target: str,
    *,
    strength: float = STRENGTH,
    draws: int = DRAWS,
    steps: int = STEPS,
    seed: int = 0,
    at_once: int = AT_ONCE,
    callback: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Denoised estimates for `referring` and `target`, each [draws,C,h,w] float32 on the CPU, from the same noise.

    Without guidance: the paper's, of both against the same empty prompt, only multiplies their difference by its scale.

    Args:
        image: IMAGE [1,H,W,3], sides of whole cells.
        referring: what is there now; may be "". target: what shall be there.
        strength: in (0, 1), share of `steps` whose noise is added.
        draws: at least 1; draw k has the seed `seed` + k, so that it is the same whatever their number.
        at_once: draws per call of the network.
        callback: (draws done, draws in all) after each call; whatever it raises stops the run.

    Raises:
        TypeError, ValueError: options that mean nothing.
    """
    image = clamped(check_image(image, batch=1))
    check_draws(strength, draws)
    target = check_text(target, "target")
    if at_once < 1:
        raise ValueError(f"at_once must be at least 1, got {at_once!r}; {AT_ONCE} is usual")
    sigma = sigmas_of(editor.scheduler, steps, strength)[0]
    with torch.no_grad():
        z0 = editor.encode(image)
        told = editor.encode_prompts([referring, target]).split(1)
        extra: tuple[Tensor, ...] = ()
        if editor.inpaint:
            extra = (z0.new_ones(1, 1, *z0.shape[-2:]), editor.encode(torch.full_like(image, HIDDEN)))

        noise = candidate_noise(z0.shape[1:], seed, draws)
        found: list[list[Tensor]] = [[], []]
        done = 0
        for part in noise.split(at_once):
            x = noised(z0, part.to(z0), float(sigma))
            levels = sigma.to(z0).expand(len(x))
            rows = [e.expand(len(x), -1, -1, -1) for e in extra]
            for maps, words in zip(found, told, strict=True):
                estimate = editor.denoise(x, levels, words.expand(len(x), -1, -1), *rows)
                maps.append(estimate.float().cpu())
            done += len(part)
            if callback is not None:
                callback(done, draws)
    return torch.cat(found[0]), torch.cat(found[1])


def check_draws(strength: float, draws: int) -> None:
    """Raise ValueError for a strength outside (0, 1) or a number of draws that is none."""
    check_range(strength, "strength", 0, 1, open_low=True, hint=f"{STRENGTH:g} is usual")
    if strength == 1:
        raise ValueError(
            f"strength must be below 1, got {strength!r}; pure noise shows nothing of the picture, {STRENGTH:g} is usual"
        )
    if not isinstance(draws, int) or isinstance(draws, bool) or draws < 1:
        raise ValueError(f"draws must be a whole number of at least 1, got {draws!r}; {DRAWS} is usual")
