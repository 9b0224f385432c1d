"""Conditional classifier-free guidance as a guider of the host (methods.md 9; ROM eq. 8)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import comfy.samplers
import node_helpers
from torch import Tensor

from ..retouch_core.editing.guidance import check_guidance, mixed_base, needed_passes
from ._losses import HostLosses, Run, check_losses, nested, without_gradients

BATCH_HOOK = "sampler_calc_cond_batch_function"


class ConditionalCFGGuider(comfy.samplers.CFGGuider):
    """b = (1 - lam) * D(empty) + lam * D(referring); D = b + cfg * (D(target) - b).

    Every case goes through the host's `sampling_function`, so that the hooks of other packs fire as they do in a
    KSampler. Nothing is kept between runs: guiders are cached outputs of nodes and are used again.
    """

    losses: HostLosses | None = None
    run: Run | None = None
    schedule: Tensor | None = None
    """All levels of the run, where `sample` is given a part of them."""

    def set_conds(self, target: Any, referring: Any = None, empty: Any = None) -> None:
        """CONDITIONING for what should appear, for what is there now, and the empty prompt's.

        A missing one counts as absent: without a referring prompt guidance is plain (lam 0).
        """
        given = {"positive": target, "referring": referring, "empty": empty}
        for name in ("referring", "empty"):
            if given[name] is not None:
                # Some models prepare a negative prompt otherwise; the host goes by the name "negative", unless told.
                given[name] = node_helpers.conditioning_set_values(given[name], {"prompt_type": "negative"})
        self.inner_set_conds({name: cond for name, cond in given.items() if cond is not None})

    def set_lam(self, lam: float) -> None:
        """Share of the referring prompt in the base, 0..1; call it after `set_conds` and `set_cfg`.

        Raises:
            ValueError: numbers that mean nothing, or a conditioning that they need and nobody gave.
        """
        cfg = self.cfg
        check_guidance(cfg, lam)
        self.lam = lam if "referring" in self.original_conds else 0.0
        for name in ("referring", "empty"):
            if name in needed_passes(cfg, self.lam) and name not in self.original_conds:
                raise ValueError(
                    f"{name} is not connected, but cfg {cfg:g} with λ {self.lam:g} needs it; "
                    "connect CLIP Text Encode with "
                    + ("what is there now" if name == "referring" else "no text")
                )

    def sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Any,
        sigmas: Tensor,
        denoise_mask: Tensor | None = None,
        *args: Any,
        **named: Any,
    ) -> Tensor:
        """The host's own, with the losses of this run around its predictions."""
        if self.losses is not None and len(sigmas) > 1:
            latents = latent_image.expand(len(noise), *latent_image.shape[1:])
            levels = sigmas if self.schedule is None else self.schedule
            self.run = Run(self.losses, self.model_patcher, latents, denoise_mask, levels)
        try:
            sampled: Tensor = super().sample(
                noise, latent_image, sampler, sigmas, denoise_mask, *args, **named
            )
            return sampled
        except FloatingPointError as error:
            raise ValueError(str(error)) from error
        finally:
            self.run = None

    def predict_noise(
        self,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any] | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """D of the guided prediction, shaped as x, whatever its rank."""
        if self.run is None:
            return self._predicted(x, timestep, model_options, seed)
        return self.run.predict(lambda x, sigma: self._predicted(x, sigma, model_options, seed), x, timestep)

    def _predicted(
        self,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any] | None,
        seed: int | None,
    ) -> Tensor:
        """D of the prompts alone."""
        model_options = model_options or {}
        target, referring, empty = (self.conds.get(name) for name in ("positive", "referring", "empty"))
        base = referring if self.lam > 0 else empty
        if 0 < self.lam < 1 and referring is not None and empty is not None:
            both = _three_in_one(referring, empty, self.lam, model_options.get(BATCH_HOOK))
            model_options = {**model_options, BATCH_HOOK: both}
        result: Tensor = comfy.samplers.sampling_function(
            self.inner_model, x, timestep, base, target, self.cfg, model_options=model_options, seed=seed
        )
        return result


def _three_in_one(
    referring: Any, empty: Any, lam: float, previous: Callable[[dict[str, Any]], list[Tensor]] | None
) -> Callable[[dict[str, Any]], list[Tensor]]:
    """A calc-cond-batch function that evaluates target, referring and empty together, through `previous` if any."""

    def evaluate(args: dict[str, Any]) -> list[Tensor]:
        target, base = args["conds"]
        options = {name: value for name, value in args["model_options"].items() if name != BATCH_HOOK}
        if previous is not None:
            options[BATCH_HOOK] = previous
        # At scale 1 the host asks for the target alone: the other two passes would be thrown away.
        conds = [target, None] if base is None else [target, referring, empty]
        passed = {**args, "conds": conds, "model_options": options}
        if previous is not None:
            out = previous(passed)
            if len(out) < len(conds):  # a function that knows of two conditionings only
                out = [*out, previous({**passed, "conds": [empty, None]})[0]]
        else:
            out = comfy.samplers.calc_cond_batch(args["model"], conds, args["input"], args["sigma"], options)
        return list(out) if base is None else [out[0], mixed_base(out[1], out[2], lam)]

    return evaluate


def guider_of(
    model: Any,
    target: Any,
    referring: Any,
    empty: Any,
    cfg: float,
    lam: float,
    losses: HostLosses | None = None,
) -> ConditionalCFGGuider:
    """A guider over MODEL `model`, ready to sample; raises as `ConditionalCFGGuider.set_lam` and `check_losses`."""
    if losses is not None and not losses.guidance.active:
        losses = None
    if losses is not None:
        check_losses(losses.guidance, model, losses.vae)
        losses = replace(losses, guidance=without_gradients(model, losses.guidance))
        model = nested(model, losses)
    guider = ConditionalCFGGuider(model)
    guider.losses = losses
    guider.set_conds(target, referring, empty)
    guider.set_cfg(cfg)
    guider.set_lam(lam)
    return guider
