"""Loss guidance around the host's own prediction: pictures, decoders and noise levels as the library takes them.

The host computes in inference mode. What needs gradients leaves that mode for the moment, over weights that are lent
for it (`retouch_core.models.differentiable`), so nothing of the host's is changed or copied.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
import comfy.model_sampling
import comfy.sampler_helpers
import torch
from torch import Tensor

from ..retouch_core.editing.linear_decoder import fitted_factors, linear_decoder
from ..retouch_core.editing.loss_guidance import GuidedDenoise
from ..retouch_core.editing.loss_terms import SMALL, Guidance
from ..retouch_core.editing.picture_losses import Decode, PictureLosses
from ..retouch_core.models.differentiable import gradients, lent, normal
from ..retouch_core.models.half_decoder import half_decoder
from ..retouch_core.tensors.checks import (
    InputWarning,
    check_batches,
    check_image,
    check_mask,
    clamped,
    fit_mask,
)
from ..retouch_core.tensors.convert import to_diffusion
from . import _host, _latents

Predict = Callable[[Tensor, Tensor], Tensor]
"""(x, sigma) as the host's samplers hand them over -> D."""

LEAST_SIGNAL = 1e-3
"""Smallest share of the picture in a latent of a flow model that is divided by."""
NESTED = "text_retouch_guidance"
"""Key under which a model holds the networks that guide it, so that the host loads them together."""


def check_guidance(guidance: Any) -> Guidance | None:
    """The guidance of a wire, or None for none.

    Raises:
        TypeError: something else.
    """
    if guidance is None or isinstance(guidance, Guidance):
        return guidance
    raise TypeError(f"guidance must be of Retouch Guidance, got {type(guidance).__name__}; connect that node")


@dataclass(frozen=True)
class HostLosses:
    """A guidance with the pictures that it looks at.

    image: IMAGE [P,H,W,3]; mask: MASK [P,H,W] of the same size; pictures: which of them each row of a batch shows, or
    None where there is one, or one for each row.
    """

    guidance: Guidance
    vae: Any
    image: Tensor
    mask: Tensor
    pictures: Sequence[int] | None = None

    def networks(self) -> list[Any]:
        """Patchers of everything but the model that has to be on the device."""
        found = [self.vae, self.guidance.decoder]
        for terms in self.guidance.terms:
            found += [terms.scorer, terms.perceptual_distance]
        patchers = [patcher for one in found if (patcher := getattr(one, "patcher", None)) is not None]
        return list({id(patcher): patcher for patcher in patchers}.values())

    def rows(self, count: int) -> list[int]:
        """Picture of each of `count` rows."""
        if self.pictures is not None:
            return list(self.pictures)
        if len(self.image) not in (1, count):
            raise ValueError(
                f"image holds {len(self.image)} pictures but {count} latents are sampled; give one, or one for each"
            )
        return [0] * count if len(self.image) == 1 else list(range(count))


def losses_of(guidance: Any, vae: Any, image: Any, mask: Any) -> HostLosses | None:
    """What a node got on its sockets, checked; None without a guidance that does anything.

    Raises:
        TypeError, ValueError: a guidance with a socket that it needs and nobody connected, or that does not fit.
    """
    guidance = check_guidance(guidance)
    if vae is not None:
        _latents.check_vae(vae)
    if image is not None:
        image = check_image(_host.to_work(_host.rgb(image)))
    if mask is not None:
        mask = check_mask(_host.to_work(mask))
    if guidance is None or not guidance.active:
        return None
    for name, given in (("vae", vae), ("image", image), ("mask", mask)):
        if given is None:
            raise ValueError(
                f"{name} is not connected, but guidance needs it; connect vae, image and mask too"
            )
    mask, _ = fit_mask(mask, (image.shape[1], image.shape[2]), picture="image")
    if not (len(image) and len(mask)):
        raise ValueError(
            f"{'mask' if len(image) else 'image'} is a batch of no pictures; connect at least one"
        )
    check_batches(len(image), len(mask))
    if guidance.looks_at_region and not all((one > 0).any() for one in mask):
        raise ValueError(
            "mask is empty, so guidance has no region to look at; select one, or set its clip to 0"
        )
    pictures = max(len(image), len(mask))
    image = clamped(image).expand(pictures, -1, -1, -1)
    return HostLosses(guidance, vae, image, mask.clamp(0, 1).expand(pictures, -1, -1))


def check_losses(guidance: Guidance, model: Any, vae: Any) -> None:
    """Raise ValueError, in one sentence, where the guidance can do nothing with this model and VAE."""
    form = model.get_model_object("latent_format")
    if form.latent_dimensions != 2 or getattr(vae, "latent_dim", 2) != 2:
        raise ValueError(
            f"guidance works on latents of pictures, but model works on {form.latent_dimensions + 2} dimensions; "
            "connect a picture model with its VAE, or no guidance"
        )
    if guidance.path != "linear":
        decoding_vae(guidance, vae)


def decoding_vae(guidance: Guidance, vae: Any) -> Any:
    """The VAE whose decoder the gradient goes through.

    Raises:
        ValueError: path `tiny` without a small decoder, or a VAE that does not show its network.
    """
    chosen = vae
    if guidance.path in SMALL:
        chosen = vae if guidance.decoder is None else guidance.decoder
        is_small = hasattr(getattr(chosen, "first_stage_model", None), "taesd_decoder")
        if not is_small and (guidance.decoder is None or guidance.path == "tiny_half"):
            raise ValueError(
                f"decoder of Retouch Guidance is no TAESD and vae is none either, so path {guidance.path} has nothing "
                "to decode with; connect Load VAE with taesd, or choose detach_unet"
            )
    if not callable(getattr(getattr(chosen, "first_stage_model", None), "decode", None)):
        raise ValueError(
            f"vae is a {type(chosen).__name__} that shows no decoder for guidance; choose path linear, or connect Load VAE"
        )
    return chosen


def latent_form(model: Any) -> Any:
    """The model's latent format, with tensors that autograd may save."""
    form = copy.copy(model.get_model_object("latent_format"))
    for name, value in vars(form).items():
        if isinstance(value, Tensor):
            setattr(form, name, normal(value))
    return form


def vae_decoder(vae: Any, form: Any) -> Decode:
    """The decoder of a host VAE without its inference mode: latents of the model [B,C,h,w] -> pixels in -1..1.

    Call it outside inference mode. Most VAEs put out -1..1; those that put out 0..1 say so by what they do with it.
    """
    ends = vae.process_output(torch.tensor([-1.0, 1.0]))
    signed = bool((ends == torch.tensor([0.0, 1.0])).all())

    def decode(latents: Tensor) -> Tensor:
        raw = form.process_out(latents).to(vae.device, vae.vae_dtype)
        with lent(vae.first_stage_model, device=vae.device):
            pixels = vae.first_stage_model.decode(raw)
        if pixels.ndim != 4:
            raise ValueError(
                f"vae decodes to {pixels.ndim} dimensions, which guidance cannot look at; choose path linear"
            )
        pixels = pixels[:, :3].float().to(latents.device)
        return pixels if signed else pixels * 2 - 1

    return decode


def half_taesd(vae: Any, form: Any) -> Decode:
    """The decoder of a host TAESD stopped at half size, for latents of the model. Call it outside inference mode."""
    network = vae.first_stage_model

    def enter(latents: Tensor) -> Tensor:
        raw = form.process_out(latents).to(vae.device, vae.vae_dtype)
        return (raw - normal(network.vae_shift).detach()) * normal(network.vae_scale).detach()

    decode = half_decoder(network.taesd_decoder, enter, form.latent_channels, vae.device)
    return lambda latents: decode(latents).to(latents.device)


def linear_preview(form: Any, latents: Tensor, pixels: Tensor, cell: int) -> Decode:
    """One colour a cell: by the host's own preview factors, else fitted to the source."""
    known = getattr(form, "latent_rgb_factors", None)
    if known is not None and getattr(form, "latent_rgb_factors_reshape", None) is None:
        factors = torch.tensor(known)
        bias = torch.tensor(getattr(form, "latent_rgb_factors_bias", None) or [0.0] * 3)
    else:
        factors, bias = fitted_factors(latents, pixels)
    return linear_decoder(factors, bias, cell)


class Run:
    """One run of a sampler: what `HostLosses` is for these latents and levels."""

    def __init__(
        self, losses: HostLosses, model: Any, latents: Tensor, mask: Tensor | None, sigmas: Tensor
    ) -> None:
        """Begin a run.

        Args:
            model: the MODEL that samples.
            latents: what the run starts from [N,C,h,w], as the host's VAE makes it.
            mask: the sampler's noise mask, of any size; None where it is free everywhere.
            sigmas: levels [S+1] as the host has them.
        """
        if latents.ndim != 4:
            raise ValueError(
                f"guidance works on latents of pictures [B,C,h,w], got {list(latents.shape)}; connect no guidance here"
            )
        self.network = model.model
        self.flow = isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.CONST)
        guidance, guided = losses.guidance, []
        source = model.model.process_latent_in(latents) if latents.any() else latents
        opened = None
        if mask is not None:
            opened = comfy.sampler_helpers.prepare_mask(mask, latents.shape, latents.device)[:, :1]
            opened = opened.expand(len(latents), -1, -1, -1)
        cell, patch = _latents.cell_of(losses.vae), _latents.patch_of(model)
        frame = (latents.shape[-2] * cell, latents.shape[-1] * cell)
        form = latent_form(model)
        groups: list[tuple[int, int]] = []
        rows: list[int] = []
        for row, picture in enumerate(losses.rows(len(latents))):
            place = next(
                (k for k, key in enumerate(groups) if _alike(key, row, picture, source, opened)), None
            )
            if place is None:
                groups.append((picture, row))
                image, seen = (
                    self._framed(plane[picture : picture + 1], frame, cell, patch)
                    for plane in (losses.image, losses.mask)
                )
                part = slice(row, row + 1)
                decode = self._decode(losses, form, source[part], image, cell)
                guided.append(
                    PictureLosses(
                        guidance,
                        decode,
                        image,
                        seen,
                        held=None if opened is None else source[part],
                        cells=None if opened is None else opened[part],
                    )
                )
                place = len(groups) - 1
            rows.append(place)
        levels = sigmas.detach().float().cpu()
        if self.flow:
            levels = levels / (1 - levels).clamp(min=LEAST_SIGNAL)
        self.denoise = GuidedDenoise(_unset, guidance, guided, levels, rows=rows)

    @staticmethod
    def _framed(plane: Tensor, frame: tuple[int, int], cell: int, patch: int) -> Tensor:
        """A picture or mask as the latents cover it: continued as we do, or cropped about its middle as VAE Encode does."""
        size = (plane.shape[1], plane.shape[2])
        more = [covered - side for covered, side in zip(frame, size, strict=True)]
        if not all(-cell < extra < cell * patch for extra in more):
            raise ValueError(
                f"image is {size[1]}x{size[0]} px but the latent that is sampled covers {frame[1]}x{frame[0]}; "
                "give guidance the picture of this latent"
            )
        top, left = (max(0, -extra) // 2 for extra in more)
        kept = plane[:, top : top + frame[0], left : left + frame[1]]
        return _latents.padded(_host.to_work(kept), *frame)

    @staticmethod
    def _decode(losses: HostLosses, form: Any, latents: Tensor, image: Tensor, cell: int) -> Decode:
        if losses.guidance.path == "linear":
            with gradients():
                pixels = normal(to_diffusion(image)).to(latents.device)
                return linear_preview(form, normal(latents), pixels, cell)
        vae = decoding_vae(losses.guidance, losses.vae)
        if losses.guidance.path == "tiny_half":
            comfy.model_management.load_model_gpu(vae.patcher)
            with gradients():
                return half_taesd(vae, form)
        return vae_decoder(vae, form)

    def predict(self, plain: Predict, x: Tensor, sigma: Tensor) -> Tensor:
        """D of the host's prediction `plain` at (x, sigma), moved by the losses."""
        with gradients():
            level = normal(sigma)
            signal = (1 - level).clamp(min=LEAST_SIGNAL) if self.flow else torch.ones_like(level)
        signal_of = signal.view(-1, *[1] * (x.ndim - 1))

        def denoise(leaf: Tensor, _: Tensor) -> Tensor:
            if not leaf.requires_grad:
                return plain(x, sigma)
            # The same values as x, and the gradient of the library's x = z0 + sigma n.
            with lent(self.network):
                return plain(normal(x) + (leaf - leaf.detach()) * signal_of, level)

        self.denoise.denoise = denoise
        return self.denoise(x / signal_of, level / signal)


def _unset(x: Tensor, sigma: Tensor) -> Tensor:
    raise RuntimeError("no prediction yet")


def _alike(key: tuple[int, int], row: int, picture: int, source: Tensor, opened: Tensor | None) -> bool:
    """Whether a row shows the picture of a group and starts from the same latent and mask."""
    of, first = key
    same = of == picture and torch.equal(source[first], source[row])
    return same and (opened is None or torch.equal(opened[first], opened[row]))


def nested(model: Any, losses: HostLosses) -> Any:
    """A clone of the MODEL with which the host also loads what guides it."""
    clone = model.clone()
    clone.set_additional_models(NESTED, losses.networks())
    return clone


def without_gradients(model: Any, guidance: Guidance) -> Guidance:
    """The guidance, with `detach_unet` for `full` where the host moves weights while it computes; says so."""
    dynamic = getattr(model, "is_dynamic", None)
    if guidance.path != "full" or not (callable(dynamic) and dynamic()):
        return guidance
    warnings.warn(
        "path full needs model's weights to stay where they are, but this host moves them while it computes; it counts "
        "as detach_unet, so choose that",
        InputWarning,
        stacklevel=2,
    )
    return replace(guidance, path="detach_unet")
