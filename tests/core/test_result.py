"""Candidates of a result: held as a window, whole on demand."""

from __future__ import annotations

import torch

from retouch_core.result import pasted
from retouch_core.tensors.boxes import Box


def test_pasted_planes_are_the_source_but_in_the_window() -> None:
    source = torch.rand(1, 7, 9, 3)
    patches = torch.rand(4, 3, 5, 3)
    whole = pasted(source, Box(2, 3, 5, 8), patches)
    for k, picture in enumerate(whole):
        expected = source[0].clone()
        for y in range(3):
            for x in range(5):
                expected[2 + y, 3 + x] = patches[k, y, x]
        assert torch.equal(picture, expected)
    mask = pasted(torch.zeros(1, 7, 9), Box(0, 0, 1, 2), torch.ones(1, 1, 2))
    assert mask.sum() == 2 and mask[0, 0, :2].eq(1).all()


def test_a_window_that_is_everything_is_not_copied() -> None:
    patches = torch.rand(2, 7, 9, 3)
    assert pasted(torch.rand(1, 7, 9, 3), Box.whole((7, 9)), patches) is patches


def test_no_patches_no_pictures() -> None:
    assert pasted(torch.rand(1, 7, 9, 3), Box(0, 0, 0, 0), torch.zeros(0, 0, 0, 3)).shape == (0, 7, 9, 3)
