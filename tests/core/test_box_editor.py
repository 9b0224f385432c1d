"""Boxes repainted together are each what the sampler makes of it alone."""

from __future__ import annotations

import pytest
import torch
from stubs import COLOURS, ColourEditor

from retouch_core.editing.box_editor import BoxEditor
from retouch_core.editing.guidance import guided_denoiser
from retouch_core.editing.sampler import retouch_latent
from retouch_core.editing.schedule import sigmas_of

BOXES = torch.tensor([[8, 16, 40, 48], [0, 0, 13, 9]])


@pytest.mark.parametrize("inpaint", [False, True])
def test_each_box_is_painted_and_the_rest_kept(inpaint: bool):
    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    editor = ColourEditor(inpaint=inpaint)
    made = BoxEditor(editor, "red", steps=4, scale=1.0)(image, BOXES)
    assert made.shape == (2, 64, 64, 3) and editor.calls == 4
    for picture, (x0, y0, x1, y1) in zip(made, BOXES.tolist(), strict=True):
        outside = torch.ones(64, 64, dtype=torch.bool)
        outside[y0:y1, x0:x1] = False
        assert torch.equal(picture[outside], image[0][outside])
        assert (picture[~outside] - torch.tensor(COLOURS["red"])).abs().max() < 0.1


def test_together_they_are_what_the_sampler_makes_of_each():
    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    editor = ColourEditor()
    made = BoxEditor(editor, "blue", steps=5, scale=3.0, seed=7)(image, BOXES)
    target, empty = editor.encode_prompts(["blue", ""]).split(1)
    denoise = guided_denoiser(editor.denoise, target, None, empty, 3.0, 0.0)
    for picture, (x0, y0, x1, y1) in zip(made, BOXES.tolist(), strict=True):
        cells = torch.zeros(1, 1, 8, 8)
        cells[..., y0 // 8 : -(-y1 // 8), x0 // 8 : -(-x1 // 8)] = 1
        latents = retouch_latent(
            denoise, editor.encode(image), cells, sigmas_of(editor.scheduler, 5), seed=7, candidates=1
        )
        alone = editor.decode(latents)[0]
        torch.testing.assert_close(picture[y0:y1, x0:x1], alone[y0:y1, x0:x1], atol=1e-5, rtol=0)


def test_pictures_of_other_sizes_go_through_the_frame_and_come_back():
    image = torch.rand(1, 50, 90, 3)
    made = BoxEditor(ColourEditor(), "green", steps=2, scale=1.0)(image, torch.tensor([[20, 10, 60, 40]]))
    assert made.shape == (1, 50, 90, 3) and torch.equal(made[0, :10], image[0, :10])
