"""Losses that lead a sampler: D <- D - sigma^2 dL/dx (methods.md 10.3), around any denoiser of the sigma form.

It is the rule eps <- eps + sqrt(1 - abar) dL/dx_t of the published codes, since x_t = sqrt(abar) x.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from ..models.differentiable import gradients, normal
from ..models.noise import per_sample
from ..tensors.checks import InputWarning
from .clean_image import clean_estimate
from .guidance import Denoise
from .loss_terms import Guidance
from .losses import finite_rows
from .picture_losses import Decode, PictureLosses
from .sampler import step_of

MAX_SKIPPED = 3
"""Steps of one run whose losses may be NaN before it stops (methods.md 10.6)."""


def guided_steps(guidance: Guidance, steps: int) -> list[int]:
    """Which of `steps` steps are guided: every n-th of the first share."""
    return [k for k in range(0, steps, guidance.every) if k < guidance.until * steps]


def moved(denoised: Tensor, gradient: Tensor, sigma: Tensor) -> Tensor:
    """D - sigma^2 * gradient, for a gradient with respect to x of the sigma form; sigma [B]."""
    return denoised - per_sample(sigma, denoised.ndim) ** 2 * gradient


def _spread(values: Tensor, area: Tensor) -> Tensor:
    """Root mean square [B] of [B,C,h,w] over an area [B,1,h,w] of weights; 0 for an area of nothing."""
    weight = area.sum((1, 2, 3)) * values.shape[1]
    return ((area * values.square()).sum((1, 2, 3)) / weight.clamp(min=1e-12)).sqrt()


def bounded(change: Tensor, denoised: Tensor, areas: Sequence[Tensor], bound: float | None) -> Tensor:
    """The change, made smaller where its root mean square exceeds `bound` times that of D in one of the areas."""
    if bound is None:
        return change
    factor = change.new_ones(len(change))
    for area in areas:
        allowed, found = bound * _spread(denoised, area), _spread(change, area)
        factor = torch.where(found > allowed, torch.minimum(factor, allowed / found), factor)
    return change * per_sample(factor, change.ndim)


class GuidedDenoise:
    """A denoiser whose estimate follows the losses.

    Attributes:
        guided: calls that moved the estimate, so far.
        skipped: calls whose losses or gradients were NaN or infinite for some row, which was left as it was.
    """

    def __init__(
        self,
        denoise: Denoise,
        guidance: Guidance,
        pictures: Sequence[PictureLosses],
        sigmas: Tensor,
        *,
        rows: Sequence[int] | None = None,
    ) -> None:
        """Wrap `denoise`.

        Args:
            denoise: (x [B,C,h,w], sigma [B]) -> D. For the path `full` it must be differentiable in x; where it is
                not, a warning says so and the path is `detach_unet`.
            pictures: the losses of each picture of a batch.
            sigmas: levels [S+1] of the run, by which a call finds its step.
            rows: picture of each row; None means that all rows belong to the first.
        """
        self.denoise, self.guidance, self.pictures, self.rows = denoise, guidance, list(pictures), rows
        self._levels = sigmas.detach().to("cpu", torch.float64)
        self._due = frozenset(guided_steps(guidance, len(sigmas) - 1))
        self._through = guidance.path == "full"
        self._last, self._bad = -1, 0
        self.guided, self.skipped = 0, 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """D [B,C,h,w], moved where this step is guided."""
        step = step_of(sigma, self._levels)
        if step < self._last:
            self._bad = 0  # another run has begun
        self._last = step
        if step not in self._due:
            return self.denoise(x, sigma)
        if x.ndim != 4:
            raise ValueError(
                f"guidance works on picture latents [B,C,h,w], got {list(x.shape)}; leave it out for video models"
            )
        found = self._through_denoiser(x, sigma, step) if self._through else None
        if found is None:
            denoised = self.denoise(x, sigma)
            with gradients():
                leaf = normal(x).detach().requires_grad_()
                plain, level = normal(denoised).detach(), normal(sigma).detach()
                # The predicted noise is a constant here, so D moves with x.
                change = self._change(leaf, plain + (leaf - leaf.detach()), level, step)
        else:
            denoised, change = found
        self.guided += 1
        return denoised + change.to(denoised)

    def _through_denoiser(self, x: Tensor, sigma: Tensor, step: int) -> tuple[Tensor, Tensor] | None:
        """D and its change with the gradient through the denoiser; None where it allows none."""
        try:
            with gradients():
                leaf, level = normal(x).detach().requires_grad_(), normal(sigma).detach()
                denoised = self.denoise(leaf, level)
                if denoised.requires_grad:
                    return denoised.detach(), self._change(leaf, denoised, level, step)
                reason = "it computes without gradients"
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:120]
        self._through = False
        warnings.warn(
            f"path full needs gradients through the model, which allows none ({reason}); it counts as detach_unet, "
            "so choose that",
            InputWarning,
            stacklevel=3,
        )
        return None

    def _change(self, leaf: Tensor, denoised: Tensor, sigma: Tensor, step: int) -> Tensor:
        """What to add to D, without a graph; 0 in rows that came out NaN."""
        guidance = self.guidance
        estimate = clean_estimate(leaf, denoised, sigma, guidance.estimate)
        of_row = [0] * len(leaf) if self.rows is None else list(self.rows)
        parts, areas, held = [], [], False
        for number in dict.fromkeys(of_row):
            chosen = [k for k, picture in enumerate(of_row) if picture == number]
            picture = self.pictures[number]
            losses = picture(estimate if len(chosen) == len(leaf) else estimate[chosen], step)
            held = held or picture.held is not None
            parts.append((chosen, losses))
            areas.append((chosen, picture.cells(leaf)))
        order = [k for chosen, _ in parts for k in chosen]
        back = torch.tensor(order).argsort()
        region, background, outside = (
            torch.cat([losses[kind] for _, losses in parts])[back] for kind in range(3)
        )
        opened = torch.cat([area.expand(len(chosen), -1, -1, -1) for chosen, area in areas])[back]
        plain = denoised.detach()
        change, fine = torch.zeros_like(plain), torch.ones(len(plain), dtype=torch.bool, device=plain.device)
        jobs = self._jobs(region, background, outside, opened, held)
        for k, (loss, weight, within) in enumerate(jobs):
            (gradient,) = torch.autograd.grad(loss.sum(), leaf, retain_graph=k + 1 < len(jobs))
            fine &= finite_rows(loss.detach()[:, None]) & finite_rows(gradient)
            step_taken = (moved(plain, gradient, sigma) - plain) * weight
            change = change + bounded(step_taken, plain, within, guidance.bound)
        if not fine.all():
            self._skip()
            change = torch.where(per_sample(fine, change.ndim), change, torch.zeros_like(change))
        return change

    def _jobs(
        self, region: Tensor, background: Tensor, outside: Tensor, opened: Tensor, held: bool
    ) -> list[tuple[Tensor, Tensor | float, list[Tensor]]]:
        """(loss [B], where its change may act, areas in which the change is bounded), one for each backward pass."""
        closed = 1 - opened
        wanted: list[tuple[Tensor, Tensor | float, list[Tensor]]]
        if held:
            wanted = [(region + background + outside, 1.0, [opened])]
        elif self.guidance.update == "everywhere" or not (region.requires_grad or background.requires_grad):
            wanted = [(region + background + outside, 1.0, [opened, closed])]
        else:
            wanted = [(region + outside, opened, [opened]), (background + outside, closed, [closed])]
        return [job for job in wanted if job[0].requires_grad]

    def _skip(self) -> None:
        self.skipped += 1
        self._bad += 1
        if self._bad >= MAX_SKIPPED:
            scale = max((terms.scale for terms in self.guidance.terms), default=0.0)
            raise FloatingPointError(
                f"guidance met NaN or infinite losses in {self._bad} steps of one run; lower its scale "
                f"(now {scale:g}) or run the decoder and the scorer in float32"
            )


def with_losses(
    denoise: Denoise,
    guidance: Guidance,
    *,
    decode: Decode,
    source: Tensor,
    mask: Tensor,
    sigmas: Tensor,
    held: Tensor | None = None,
    cells: Tensor | None = None,
) -> Denoise:
    """A denoiser for `retouch_latent` or `sample` that follows `guidance`; `denoise` itself where nothing counts.

    Args:
        denoise: (x [B,C,h,w], sigma [B]) -> D; differentiable in x for the path `full`.
        guidance: terms and options.
        decode: latents -> pixels of the guidance's path: the editor's `decode_pixels` for `full` and `detach_unet`, a
            small decoder for `tiny`, `linear_decoder(...)` for `linear`.
        source: IMAGE [1,H,W,3] of whole cells; mask: MASK [1,H,W].
        sigmas: levels [S+1] of the run.
        held: the source latent [1,C,h,w] where the sampler holds it outside the mask, as `retouch_latent` does: the
            losses then see what is kept, everything acts inside, and one backward pass does for all terms. None for a
            sampler without a blend: region terms act inside and background terms outside (`update`).
        cells: latent mask [1,1,h,w]; None takes the largest value of each cell.

    Raises:
        ValueError: an empty mask under a prompt that counts, sizes that do not fit; while sampling, latents of another
            rank.
        FloatingPointError: while sampling, when the losses were NaN in three steps of a run.
    """
    if not guidance.active:
        return denoise
    losses = PictureLosses(guidance, decode, source, mask, held=held, cells=cells)
    return GuidedDenoise(denoise, guidance, [losses], sigmas)
