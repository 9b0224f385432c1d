"""The losses of one picture: what is decoded of an estimate, and what each term says of it (methods.md 10.1, 10.4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..models.differentiable import gradients, normal
from ..tensors.checks import check_image, check_mask
from ..tensors.convert import to_diffusion
from .cutouts import cutouts, square_of
from .loss_terms import Guidance, LossTerms
from .losses import background_l2, kept, out_of_range, text_distance

Decode = Callable[[Tensor], Tensor]
"""Latents [B,C,h,w], of the whole frame or a part of it -> pixels [B,3,H,W] in -1..1, differentiable and not clamped."""

RING = 1
"""Cells around the region that are decoded with it. A decoder mixes neighbours, so half of the ring is cut off again."""


@dataclass(frozen=True)
class Window:
    """Cells [top:bottom, left:right] that are decoded; `cut` says at which of these sides the frame goes on."""

    sides: tuple[int, int, int, int]
    cut: tuple[bool, bool, bool, bool] = (False, False, False, False)

    def pixels(self, scale: int) -> tuple[slice, slice]:
        """Rows and columns of the frame that count, where a cell is `scale` pixels wide."""
        top, bottom, left, right = self.sides
        inward = [scale // 2 if cut else 0 for cut in self.cut]
        rows = slice(top * scale + inward[0], bottom * scale - inward[1])
        return rows, slice(left * scale + inward[2], right * scale - inward[3])

    def trimmed(self, decoded: Tensor, scale: int) -> Tensor:
        """What counts of the decoded pixels [B,3,H,W] of the window."""
        top, _, left, _ = self.sides
        rows, columns = self.pixels(scale)
        up, side = top * scale, left * scale
        return decoded[..., rows.start - up : rows.stop - up, columns.start - side : columns.stop - side]


def window_around(open_: Tensor, whole: bool = False) -> Window:
    """The box of cells that a latent mask [1,1,h,w] opens with a ring around it; the frame for none, or if `whole`."""
    height, width = open_.shape[-2:]
    cells = (open_[0, 0] > 0).nonzero()
    if whole or not len(cells):
        return Window((0, height, 0, width))
    (top, left), (bottom, right) = cells.amin(0).tolist(), (cells.amax(0) + 1).tolist()
    top, bottom = max(0, top - RING), min(height, bottom + RING)
    left, right = max(0, left - RING), min(width, right + RING)
    return Window((top, bottom, left, right), (top > 0, bottom < height, left > 0, right < width))


class _Term:
    """One `LossTerms` with everything that stays the same over the steps."""

    def __init__(self, terms: LossTerms, text: Tensor | None, source: Tensor, mask: Tensor) -> None:
        self.terms, self.text, self.source, self.mask = terms, text, source, mask
        self.perceptual: Callable[[Tensor], Tensor] | None = None
        if terms.looks_at_region:
            self.square = square_of(mask)
        if terms.scale * terms.perceptual and terms.perceptual_distance is not None:
            with gradients(), torch.no_grad():
                self.perceptual = terms.perceptual_distance.against(kept(source, mask))

    def region(self, pixels: Tensor, seed: int, step: int) -> Tensor:
        """[B]: the region's weighted distance from the prompt."""
        terms, scorer = self.terms, self.terms.scorer
        assert scorer is not None and self.text is not None
        shown = pixels * self.mask
        views = cutouts(shown, self.square, terms.cutouts, scorer.image_size, terms.cutting, seed, step)
        embeddings = scorer.encode_images((views.flatten(0, 1) + 1) / 2).unflatten(0, views.shape[:2])
        distance = text_distance(embeddings, self.text.to(embeddings), terms.distance)
        return terms.scale * terms.clip * distance.to(pixels.device)

    def background(self, pixels: Tensor) -> Tensor:
        """[B]: the background's weighted distances from the source."""
        terms, total = self.terms, pixels.new_zeros(len(pixels))
        if terms.l2:
            total = total + terms.scale * terms.l2 * background_l2(pixels, self.source, self.mask)
        if self.perceptual is not None:
            distance = self.perceptual(kept(pixels, self.mask))
            total = total + terms.scale * terms.perceptual * distance.to(total)
        return total

    def range(self, pixels: Tensor) -> Tensor:
        """[B]: the weighted size of what no picture can show."""
        return self.terms.scale * self.terms.value_range * out_of_range(pixels)


class PictureLosses:
    """The losses of a guidance over one picture and its mask.

    Args:
        guidance: an active guidance.
        decode: see `Decode`.
        source: IMAGE [1,H,W,3] in 0..1, of whole cells.
        mask: MASK [1,H,W] in 0..1, 1 = edit.
        held: the source latent [1,C,h,w] where the sampler puts it back outside the mask: the losses then see what
            the sampler keeps. None lets the estimate speak for the whole frame.
        cells: mask [1,1,h,w] of latent cells; None takes the largest value of each cell.

    Raises:
        ValueError: an empty mask under a prompt that counts, or sizes that do not fit.
    """

    def __init__(
        self,
        guidance: Guidance,
        decode: Decode,
        source: Tensor,
        mask: Tensor,
        *,
        held: Tensor | None = None,
        cells: Tensor | None = None,
    ) -> None:
        source = check_image(source, "source", batch=1)
        mask = check_mask(mask)
        if tuple(mask.shape) != tuple(source.shape[:3]):
            raise ValueError(
                f"mask is {list(mask.shape)} but source is {list(source.shape)}; give the mask of this picture"
            )
        if guidance.looks_at_region and not (mask > 0).any():
            raise ValueError(
                "mask is empty, so guidance has no region to compare with its prompt; select one, or set clip to 0"
            )
        self.guidance, self.decode = guidance, decode
        with gradients():
            self.source = normal(to_diffusion(source).clamp(-1, 1)).detach()
            self.mask = normal(mask).detach().clamp(0, 1).to(self.source)[:, None]
            self.held = None if held is None else normal(held).detach()
            self._cells = None if cells is None else normal(cells).detach()
        # Now and not at the first step: a host's text encoder loads its weights in the mode that surrounds us.
        self._texts: list[Tensor | None] = []
        for terms in guidance.terms:
            text = None
            if terms.looks_at_region and terms.scorer is not None:
                encoded = terms.scorer.encode_texts([terms.prompt])
                with gradients():
                    text = normal(encoded)[0].detach()
            self._texts.append(text)
        self._window: Window | None = None
        self._terms: list[_Term] = []

    def cells(self, latents: Tensor) -> Tensor:
        """The mask of latent cells [1,1,h,w] for latents of that size, between 0 and 1."""
        size = tuple(latents.shape[-2:])
        if self._cells is None or tuple(self._cells.shape[-2:]) != size:
            self._cells = functional.adaptive_max_pool2d(self.mask, size)
        return self._cells.to(latents)

    def _prepare(self, window: Window, latents: Tensor, decoded: Tensor) -> int:
        """Pixels a cell of what is decoded; the first time, what the terms need at that size."""
        top, bottom, left, right = window.sides
        scale = decoded.shape[-1] // (right - left)
        if scale < 1 or tuple(decoded.shape[-2:]) != ((bottom - top) * scale, (right - left) * scale):
            raise ValueError(
                f"decode made {list(decoded.shape)} of {bottom - top}x{right - left} cells; "
                "use a decoder that makes whole pixels of every cell"
            )
        if not self._terms:
            size = (latents.shape[-2] * scale, latents.shape[-1] * scale)
            rows, columns = window.pixels(scale)
            source, mask = (
                functional.adaptive_avg_pool2d(plane, size)[..., rows, columns].to(latents)
                for plane in (self.source, self.mask)
            )
            self._terms = [
                _Term(terms, text, source, mask)
                for terms, text in zip(self.guidance.terms, self._texts, strict=True)
                if terms.active
            ]
        return scale

    def _window_of(self, latents: Tensor) -> Window:
        height, width = latents.shape[-2:]
        across, down = self.source.shape[-1], self.source.shape[-2]
        if across % width or down % height or across // width != down // height:
            raise ValueError(
                f"source is {across}x{down} px, but latents of {width}x{height} cells do not cover it in whole cells; "
                "pad the picture first"
            )
        return window_around(self.cells(latents), self.guidance.window == "frame")

    def __call__(self, estimate: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Losses [B] of the region, of the background, and of the range, of clean latents [B,C,h,w].

        What is switched off is 0 without a gradient.
        """
        if self._window is None:
            self._window = self._window_of(estimate)
        window = self._window
        if self.held is not None:
            open_ = self.cells(estimate)
            estimate = open_ * estimate + (1 - open_) * self.held.to(estimate)
        top, bottom, left, right = window.sides
        decoded = self.decode(estimate[..., top:bottom, left:right])
        pixels = window.trimmed(decoded, self._prepare(window, estimate, decoded))
        zero = pixels.new_zeros(len(pixels))
        region, background, outside = zero, zero, zero
        for term in self._terms:
            if term.terms.looks_at_region:
                region = region + term.region(pixels, self.guidance.seed, step)
            if term.terms.looks_at_background:
                background = background + term.background(pixels)
            if term.terms.value_range:
                outside = outside + term.range(pixels)
        return region, background, outside
