"""Boxes of one picture repainted by an `Editor`: the callback that learnable regions take (S01; methods.md 7)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.protocols import Editor
from .blend import latent_masks, open_where
from .composite import composite
from .crop import CropPlan, crop, crop_mask, uncrop
from .guidance import guided_denoiser
from .sampler import candidate_noise, region_denoiser, sample, start_latent
from .schedule import sigmas_of

STEPS, SCALE, STRENGTH = 50, 7.5, 1.0
"""What the official code leaves at diffusers' own values (methods.md 7.1)."""
GREY = 0.5
"""What an inpainting denoiser sees in place of the box (methods.md 9.3)."""


class BoxEditor:
    """(IMAGE [1,H,W,3], half-open pixel boxes xyxy long [n,4]) -> IMAGE [n,H,W,3], outside its box each bit for bit.

    Every box starts from the same noise, so that only the box decides; all n go through the denoiser together. The
    picture is encoded once. An editor with mask input is shown the picture without the box, another one blends.
    """

    def __init__(
        self,
        editor: Editor,
        prompt: str,
        *,
        steps: int = STEPS,
        scale: float = SCALE,
        strength: float = STRENGTH,
        seed: int = 0,
    ) -> None:
        """Take an editor and what to paint; `scale` is that of classifier-free guidance."""
        self._editor, self._scale, self._seed = editor, scale, seed
        self._strength = strength
        self._sigmas = sigmas_of(editor.scheduler, steps, strength)
        self._target, self._empty = editor.encode_prompts([prompt, ""]).split(1)
        self._held: tuple[Tensor, CropPlan, Tensor, Tensor] | None = None

    @torch.no_grad()
    def __call__(self, image: Tensor, boxes: Tensor) -> Tensor:
        if self._held is None or self._held[0] is not image:
            plan = CropPlan.whole((image.shape[1], image.shape[2]), self._editor.size)
            work = crop(image, plan)
            self._held = (image, plan, work, self._editor.encode(work))
        _, plan, work, z0 = self._held
        masks = torch.zeros(len(boxes), *image.shape[1:3])
        for mask, (x0, y0, x1, y1) in zip(masks, boxes.tolist(), strict=True):
            mask[y0:y1, x0:x1] = 1
        seen = crop_mask(masks, plan)
        cells = torch.nn.functional.adaptive_max_pool2d(seen[:, None], tuple(z0.shape[-2:])).to(z0)
        painted = self._editor.decode(self._paint(work, z0, seen, cells))
        return composite(image, uncrop(painted, plan).to(image), masks)

    def _paint(self, work: Tensor, z0: Tensor, seen: Tensor, cells: Tensor) -> Tensor:
        """Latents [n,C,h,w]."""
        extra: dict[str, Tensor] = {}
        if self._editor.inpaint:
            opened = cells.repeat_interleave(self._editor.cell, -1).repeat_interleave(self._editor.cell, -2)
            hidden = torch.where(opened.movedim(1, -1).to(work) > 0, GREY, work)
            extra = {"mask": cells, "masked_latents": self._editor.encode(hidden)}

        def network(x: Tensor, sigma: Tensor, told: Tensor) -> Tensor:
            # Guidance stacks its conditionings along the batch.
            rows = {name: value.repeat(len(x) // len(cells), 1, 1, 1) for name, value in extra.items()}
            return self._editor.denoise(x, sigma, told, **rows)

        denoise = guided_denoiser(network, self._target, None, self._empty, self._scale, 0.0)
        noise = candidate_noise(z0.shape[1:], self._seed, 1).to(z0)
        masks = latent_masks(cells, len(self._sigmas) - 1)
        start = "noise" if self._strength == 1 else "source"
        held = region_denoiser(denoise, z0, noise, masks, self._sigmas)
        begun = start_latent(z0, noise, float(self._sigmas[0]), start).expand(len(cells), -1, -1, -1)
        made = sample(held, begun, self._sigmas)
        return torch.where(open_where(cells), made, z0)
