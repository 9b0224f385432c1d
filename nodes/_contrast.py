"""What the host's model predicts for two prompts from the same noised latent, by its own calc_cond_batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.sample
import comfy.samplers
import torch
from torch import Tensor

from ._sampling import SEEDS, seed_of

CONDS = ("positive", "referring")
"""Names under which the guider holds target and referring prompt; the host knows the first."""


class _Look(comfy.samplers.Sampler):
    """A sampler that takes no step: it asks both prompts once about the noised latent and keeps the answers."""

    def __init__(self) -> None:
        self.seen: tuple[Tensor, Tensor] | None = None

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Any = None,
        denoise_mask: Any = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """`model_wrap` is the guider, inside the host's preparations for a run."""
        network = model_wrap.inner_model
        x = network.model_sampling.noise_scaling(sigmas[0], noise, latent_image, False)
        conds = [model_wrap.conds[name] for name in CONDS]
        level = sigmas[:1].expand(len(x)).to(x)
        target, referring = comfy.samplers.calc_cond_batch(
            network, conds, x, level, extra_args["model_options"]
        )
        self.seen = target.float().cpu(), referring.float().cpu()
        return x


def level_of(model: Any, strength: float) -> Tensor:
    """Sigmas [2] of a run that starts where the share `strength` of the schedule is still to come."""
    sigma = float(model.get_model_object("model_sampling").percent_to_sigma(1 - strength))
    return torch.tensor([sigma, 0.0])


def maps_of(
    model: Any,
    latent: Tensor,
    referring: Any,
    target: Any,
    sigmas: Tensor,
    seed: int,
    draws: int,
    tell: Callable[[int], None],
) -> tuple[Tensor, Tensor]:
    """Denoised estimates for `referring` and `target`, each [draws,C,...], of one latent [1,C,...].

    Draw k has the seed `seed` + k. `tell` is called with 1 after every draw; whatever it raises stops the run.
    """
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": target, "referring": referring})
    answers: list[tuple[Tensor, Tensor]] = []
    for k in range(draws):
        noise = comfy.sample.prepare_noise(latent, seed_of(seed, k))
        look = _Look()
        guider.sample(noise, latent, look, sigmas, disable_pbar=True, seed=seed_of(seed, k) % (SEEDS - 1))
        assert look.seen is not None
        answers.append(look.seen)
        tell(1)
    ours, theirs = zip(*answers, strict=True)
    return torch.cat(theirs), torch.cat(ours)
