"""What an inpainting denoiser is shown of the old picture (methods.md 9.3), through the whole chain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from stubs import ColourEditor, ColourScorer, ColourSegmenter
from torch import Tensor

from retouch_core.pipeline import Retoucher
from retouch_core.recipes import recipe

PLAIN = replace(recipe("default"), scale=1.0, steps=3, candidates=1, change_min=0.0)


class Shown(ColourEditor):
    """Keeps what it was shown, and every x at which it was asked."""

    def __init__(self) -> None:
        super().__init__(inpaint=True)
        self.shown: list[tuple[Tensor, Tensor]] = []
        self.asked: list[tuple[Tensor, Tensor]] = []

    def denoise(self, x: Tensor, sigma: Tensor, conditioning: Tensor, **extra: Any) -> Tensor:
        self.shown.append((extra["mask"], extra["masked_latents"]))
        self.asked.append((x, sigma))
        return super().denoise(x, sigma, conditioning, **extra)


def picture() -> Tensor:
    image = torch.full((1, 64, 64, 3), 0.5) + 0.05 * torch.rand(
        1, 64, 64, 3, generator=torch.Generator().manual_seed(0)
    )
    image[:, 16:32, 16:32] = torch.tensor([1.0, 0, 0])
    return image


def shown(inpaint_input: str, prompt: str) -> tuple[Shown, Tensor, Tensor]:
    """The editor with what it saw, the mask and the latents of the picture that it was shown."""
    editor = Shown()
    worker = Retoucher(ColourSegmenter(), ColourScorer(), editor)
    worker.retouch(picture(), "the red thing", prompt, recipe=replace(PLAIN, inpaint_input=inpaint_input))
    masks, latents = zip(*editor.shown, strict=True)
    assert all(torch.equal(mask, masks[0]) for mask in masks)
    assert all(torch.equal(latent, latents[0]) for latent in latents)
    return editor, masks[0], latents[0]


def test_unmasked_shows_the_picture_as_it_is_and_leaves_the_mask_channel_alone():
    editor, mask, latents = shown("unmasked", "a blue thing")
    torch.testing.assert_close(latents, editor.encode(picture()), rtol=0, atol=1e-6)
    _, usual, _ = shown("masked", "a blue thing")
    assert torch.equal(mask, usual) and set(mask.unique().tolist()) == {0.0, 1.0}


def test_masked_shows_grey_in_the_cells_that_are_painted():
    editor, mask, latents = shown("masked", "a blue thing")
    expected = torch.where(mask > 0, 0.0, editor.encode(picture()))  # grey is 0 in -1..1
    torch.testing.assert_close(latents, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("inpaint_input", ["masked", "unmasked"])
def test_without_a_prompt_the_picture_is_always_masked(inpaint_input: str):
    """ROM passes the masked picture when the prompt is empty: to remove a thing, the model must not see it."""
    _, mask, latents = shown(inpaint_input, "")
    assert bool((mask > 0).any())
    assert float(latents[(mask > 0).expand_as(latents)].abs().max()) < 1e-6


def test_outside_the_mask_every_step_sees_the_source_at_its_level():
    """The other half of ROM's change: what is predicted outside the mask is overwritten by the source."""
    editor, mask, _ = shown("unmasked", "a blue thing")
    source = editor.encode(picture())
    noises = [((x - source) / sigma.view(-1, 1, 1, 1))[:, :, mask[0, 0] == 0] for x, sigma in editor.asked]
    for noise in noises[1:]:
        torch.testing.assert_close(noise, noises[0], rtol=0, atol=1e-4)
