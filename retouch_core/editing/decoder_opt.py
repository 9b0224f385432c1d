"""Background reconstruction by optimisation: teach the decoder, or the latent, the one picture (methods.md 8.5).

An autoencoder gives no picture back exactly, so a decoded edit differs from its source outside the mask too. Blended
latent diffusion (Avrahami et al. 2023, section 4.2) therefore fits the decoder's weights to the one picture at hand: the
edit inside the mask, the source outside. The composite of `composite.py` keeps the background exactly and costs nothing;
this is the published alternative, which has no seam because one decoder draws both sides of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import mse_loss

from ..tensors.checks import check_mask

STEPS = 75
"""Steps of Adam (Avrahami et al. 2023, their code)."""
RATES = {"weights": 1e-4, "latent": 0.1}
"""What is optimised -> its learning rate (their code)."""
BACKGROUND = 100.0
"""Weight of the background against the edit in the loss (Avrahami et al. 2023, eq. 5)."""

Decoder = Callable[[Tensor], Tensor]
"""Latents [B,C,h,w] -> IMAGE [B,H,W,3], differentiable and not clamped."""
StepsDone = Callable[[int, int], None]
"""(steps done, steps in all); whatever it raises stops the run."""


@dataclass(frozen=True)
class Reconstruction:
    """What the optimisation gave.

    Attributes:
        image: IMAGE [m,H,W,3] float32 in 0..1.
        before, after: mean squared error [m] where the mask is below 1, weighted by 1 - mask, with the decoder as it
            was and with what was fitted.
    """

    image: Tensor
    before: Tensor
    after: Tensor


def reconstruct_background(
    decoder: nn.Module | Decoder,
    latents: Tensor,
    edited: Tensor,
    source: Tensor,
    mask: Tensor,
    *,
    mode: str = "weights",
    steps: int = STEPS,
    rate: float | None = None,
    background: float = BACKGROUND,
    callback: StepsDone | None = None,
) -> Reconstruction:
    """Fit each candidate so that it shows `edited` inside the mask and `source` outside.

    The loss is MSE(out * m, edited * m) + background * MSE(out * (1 - m), source * (1 - m)), minimised with Adam for
    each candidate alone, so that candidate k is the same alone or in a batch. Runs inside `torch.inference_mode()`.

    Args:
        decoder: latents [1,C,h,w] -> IMAGE [1,H,W,3], not clamped (`models.latent_decoder.LatentDecoder` for an
            autoencoder). Its weights are never changed: copies of them in float32 are fitted.
        latents: [m,C,h,w] to start from, those of the pasted picture.
        edited: IMAGE [m,H,W,3] in 0..1, the candidates as they were decoded.
        source: IMAGE [1,H,W,3] in 0..1.
        mask: MASK [1,H,W] or [m,H,W] in 0..1, 1 = edit.
        mode: `weights` fits a copy of the decoder's weights, `latent` the latent.
        steps: steps of Adam for each candidate, at least 1.
        rate: learning rate; None takes the published one of the mode.
        background: weight of the background, at least 0.
        callback: called after every step with those done and those in all, over all candidates.

    Raises:
        TypeError: mode `weights` with a decoder that is no module.
        ValueError: unknown mode, numbers out of range, a module without weights, shapes that do not fit together.
        FloatingPointError: the loss became NaN or infinite.
    """
    rate = _check(decoder, mode, steps, rate, background)
    mask = _checked_mask(latents, edited, source, mask)
    count = len(latents)
    pictures, before, after = [], [], []
    with torch.inference_mode(False), torch.enable_grad():
        own = {}
        if isinstance(decoder, nn.Module):
            # Tensors made in inference mode take part in no backward pass, their clones do.
            own = {name: _copy(value) for name, value in decoder.named_parameters()}
            own |= {name: _copy(value) for name, value in decoder.named_buffers()}
        learned = [name for name, _ in decoder.named_parameters()] if isinstance(decoder, nn.Module) else []
        for k in range(count):
            values = {name: value.clone() for name, value in own.items()}
            z = _copy(latents[k : k + 1])
            goal, still = (_copy(picture) for picture in (edited[k : k + 1], source))
            inside = _copy(mask[k : k + 1] if len(mask) > 1 else mask)[..., None].to(goal.device)
            fitted = [z] if mode == "latent" else [values[name] for name in learned]
            for tensor in fitted:
                tensor.requires_grad_()

            def decode(z: Tensor = z, values: dict[str, Tensor] = values) -> Tensor:
                if isinstance(decoder, nn.Module):
                    return functional_call(decoder, values, (z,))
                return decoder(z)

            def outside(out: Tensor, still: Tensor = still, inside: Tensor = inside) -> Tensor:
                error = ((out.detach() - still).square() * (1 - inside)).sum()
                return error / (3 * (1 - inside).sum()).clamp(min=1e-12)

            optimiser = torch.optim.Adam(fitted, lr=rate)
            for step in range(steps):
                out = decode()
                if out.shape != goal.shape:
                    raise ValueError(
                        f"decoder gave {list(out.shape)} for a picture of {list(goal.shape)}; "
                        "give one that turns latents into IMAGE [B,H,W,3] of the picture's size"
                    )
                out = out.to(goal)
                if step == 0:
                    before.append(outside(out))
                loss = mse_loss(out * inside, goal * inside)
                loss = loss + background * mse_loss(out * (1 - inside), still * (1 - inside))
                if not torch.isfinite(loss):
                    raise FloatingPointError(
                        f"the loss became {float(loss.detach())} at step {step + 1} of {steps}; lower the rate ({rate:g})"
                    )
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                if callback is not None:
                    callback(k * steps + step + 1, count * steps)
            with torch.no_grad():
                final = decode().to(goal)
                after.append(outside(final))
                pictures.append(final.clamp(0, 1))
    return Reconstruction(torch.cat(pictures), torch.stack(before), torch.stack(after))


def _copy(value: Tensor) -> Tensor:
    """A tensor of its own, in float32 where it is a smaller float: steps of 1e-4 get lost in half precision."""
    value = value.detach().clone()
    return value.float() if value.is_floating_point() and value.dtype != torch.float64 else value


def _check(decoder: Any, mode: str, steps: int, rate: float | None, background: float) -> float:
    """The learning rate, if the options mean something."""
    if mode not in RATES:
        raise ValueError(
            f"mode must be one of {', '.join(RATES)}, got {mode!r}; weights is the published one"
        )
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a whole number of at least 1, got {steps!r}; {STEPS} is published")
    rate = RATES[mode] if rate is None else rate
    if not (math.isfinite(rate) and rate > 0):
        raise ValueError(
            f"rate must be above 0, got {rate!r}; leave it out for the published {RATES[mode]:g}"
        )
    if not (math.isfinite(background) and background >= 0):
        raise ValueError(
            f"background must be a number of at least 0, got {background!r}; {BACKGROUND:g} is published"
        )
    if not callable(decoder):
        raise TypeError(
            f"decoder must be a module or a function, got {type(decoder).__name__}; pass a decoder"
        )
    if mode == "weights":
        if not isinstance(decoder, nn.Module):
            raise TypeError(
                f"decoder must be a torch module to fit its weights, got {type(decoder).__name__}; use mode='latent'"
            )
        if next(decoder.parameters(), None) is None:
            raise ValueError(
                f"decoder {type(decoder).__name__} has no weights, so there is nothing to fit; use mode='latent'"
            )
    return rate


def _checked_mask(latents: Tensor, edited: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    """The mask as [1,H,W] or [m,H,W], if everything fits together."""
    if latents.ndim < 4 or not len(latents):
        raise ValueError(
            f"latents must have shape [m,C,h,w], got {list(latents.shape)}; encode the pasted picture"
        )
    for name, image, count in (("edited", edited, len(latents)), ("source", source, 1)):
        if image.ndim != 4 or image.shape[-1] != 3 or len(image) != count:
            raise ValueError(
                f"{name} must have shape [{count},H,W,3], got {list(image.shape)}; give one picture for each latent "
                "and one source"
            )
    mask = check_mask(mask)
    if edited.shape[1:] != source.shape[1:] or mask.shape[1:] != source.shape[1:3]:
        raise ValueError(
            f"edited {list(edited.shape)}, source {list(source.shape)} and mask {list(mask.shape)} must share one "
            "height and width; resize them first"
        )
    if len(mask) not in (1, len(latents)):
        raise ValueError(
            f"mask has batch {len(mask)} for {len(latents)} candidates; give one, or one for each"
        )
    if mask.numel() and (float(mask.min()) < 0 or float(mask.max()) > 1):
        low, high = float(mask.min()), float(mask.max())
        raise ValueError(f"mask must lie in 0..1, got [{low:g}, {high:g}]; clamp it first")
    return mask
