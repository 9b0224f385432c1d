"""What a retoucher may have besides its segmenter, scorer and editor: attention, a perceptual distance, a small decoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from stubs import ColourEditor, ColourReferrer, ColourScorer, ColourSegmenter
from torch import Tensor

from retouch_core.demo import PICTURES
from retouch_core.pictures import read_picture
from retouch_core.pipeline import Retoucher
from retouch_core.recipes import Recipe, recipe


class Spot:
    """Attends to one of 8x8 patches alone."""

    def __init__(self, row: int, column: int) -> None:
        self.row, self.column = row, column

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        attention = torch.rand(8, 8, generator=torch.Generator().manual_seed(0)) * 1e-3
        attention[self.row, self.column] = 1
        return attention, torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(1))


class Distance:
    """Counts how often it was asked."""

    name = "mine"

    def __init__(self) -> None:
        self.asked = 0

    def against(self, reference: Tensor) -> Callable[[Tensor], Tensor]:
        def distance(pixels: Tensor) -> Tensor:
            self.asked += 1
            return (pixels - reference).square().flatten(1).mean(1)

        return distance


class Half:
    """A decoder of the colour editor's latents, at both sizes."""

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.whole, self.half = 0, 0

    def decode_pixels(self, latents: Tensor) -> Tensor:
        self.whole += 1
        return latents.repeat_interleave(8, 2).repeat_interleave(8, 3)[:, :3]

    def half_decoder(self) -> Callable[[Tensor], Tensor]:
        def decode(latents: Tensor) -> Tensor:
            self.half += 1
            return latents.repeat_interleave(4, 2).repeat_interleave(4, 3)[:, :3]

        return decode


def scene() -> Tensor:
    image = torch.zeros(1, 64, 64, 3)
    image[0, 8:24, 8:24, 0] = 1
    return image


def worker(**roles: Any) -> Retoucher:
    return Retoucher(ColourSegmenter(), ColourScorer(), ColourEditor(), None, ColourReferrer(), **roles)


def guided(path: str) -> Recipe:
    return replace(recipe("s02_rdm"), loss_path=path, steps=3, candidates=1)


@pytest.mark.parametrize(("row", "column"), [(1, 6), (6, 2)])
def test_learnable_regions_look_where_they_are_told(row: int, column: int) -> None:
    image = read_picture(PICTURES / "sky.png")
    height, width = image.shape[1:3]
    whole = Retoucher.embedded()
    retoucher = Retoucher(whole.segmenter, whole.scorer, whole.editor, attention=Spot(row, column))
    tiny = replace(recipe("s01_learnable_regions"), sizes=1, steps=1)
    mask = retoucher.retouch(image, "", "a red ball", tiny, candidates=1).mask[0]
    assert mask[int((row + 0.5) * height / 8), int((column + 0.5) * width / 8)] == 1
    assert mask.mean() < 0.3, "a box, not all of the picture"


def test_losses_weigh_what_they_are_given() -> None:
    mine = Distance()
    retoucher = worker(perceptual=mine)
    result = retoucher.retouch(scene(), "red", "green", guided("detach_unet"))
    assert mine.asked > 0 and retoucher.perceptual() is mine
    (losses,) = [stage for stage in result.report.stages if stage["stage"] == "losses"]
    assert losses["terms"][0]["perceptual_distance"] == "mine"
    assert retoucher.with_segmenter(ColourSegmenter()).perceptual() is mine


@pytest.mark.parametrize(("path", "whole", "half"), [("tiny", True, False), ("tiny_half", False, True)])
def test_losses_look_through_the_small_decoder(path: str, whole: bool, half: bool) -> None:
    small = Half(3)
    retoucher = worker(tiny_decoder=small)
    retoucher.retouch(scene(), "red", "green", guided(path))
    assert (small.whole > 0, small.half > 0) == (whole, half)
    before = (small.whole, small.half)
    retoucher.retouch(scene(), "red", "green", guided("detach_unet"))
    assert (small.whole, small.half) == before


def test_pixels_come_back_to_where_the_latents_are() -> None:
    from retouch_core.painting import _in_place

    away = torch.device("meta")
    decode = _in_place(lambda latents: torch.zeros(1, 3, 8, 8))
    assert decode(torch.zeros(1, 4, 1, 1, device=away)).device == away


def test_a_small_decoder_of_other_latents_is_refused() -> None:
    retoucher = worker(tiny_decoder=Half(16))
    with pytest.raises(ValueError, match="tiny_decoder takes latents of 16 channels, but editor makes 3"):
        retoucher.retouch(scene(), "red", "green", guided("tiny"))
