"""A picture of any size goes onto the model's square and back without being shifted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retouch_core.editing.work_frame import WorkFrame

sides = st.integers(16, 300)


def picture(height: int, width: int) -> torch.Tensor:
    return torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(height * 1000 + width))


@settings(max_examples=30)
@given(sides, sides)
def test_shape_there_and_back(height: int, width: int) -> None:
    frame = WorkFrame.fit((height, width), 128)
    work = frame.to_work(picture(height, width))
    assert work.shape == (1, 128, 128, 3)
    assert max(frame.inner) == 128
    assert frame.from_work(work).shape == (1, height, width, 3)
    assert work.min() >= 0 and work.max() <= 1


@pytest.mark.parametrize("size", [(128, 128), (128, 77), (16, 128), (121, 128)])
def test_nothing_is_resampled_where_the_longer_side_fits(size: tuple[int, int]) -> None:
    image = picture(*size)
    frame = WorkFrame.fit(size, 128)
    work = frame.to_work(image)
    assert torch.equal(work[:, : size[0], : size[1]], image)
    assert torch.equal(frame.from_work(work), image)


def test_continuation_is_numpys_reflection() -> None:
    image = picture(128, 50)
    work = WorkFrame.fit((128, 50), 128).to_work(image)
    expected = np.pad(image[0].numpy(), ((0, 0), (0, 78), (0, 0)), mode="reflect")
    assert np.array_equal(work[0].numpy(), expected)


def test_masks_keep_every_pixel_and_never_reach_the_continuation() -> None:
    frame = WorkFrame.fit((400, 300), 128)
    mask = torch.zeros(1, 400, 300)
    mask[0, 399, 299] = 1
    work = frame.mask_to_work(mask)
    assert work[0, 127, 95] == 1 and work.sum() == 1
    assert frame.mask_to_work(torch.ones(1, 400, 300))[0, :, 96:].sum() == 0


def test_mask_of_an_unscaled_picture_comes_back_as_it_was() -> None:
    frame = WorkFrame.fit((128, 100), 128)
    mask = (torch.rand(1, 128, 100) > 0.5).float()
    assert torch.equal(frame.mask_from_work(frame.mask_to_work(mask)), mask)


@settings(max_examples=20)
@given(st.integers(140, 900), st.integers(140, 900))
def test_a_gradient_stays_where_it_is(height: int, width: int) -> None:
    """A linear ramp survives both resamplings, away from the frame, to half an 8-bit step: no shift by a fraction."""
    ramp = torch.linspace(0, 1, width)[None, None, :, None].expand(1, height, width, 3).contiguous()
    frame = WorkFrame.fit((height, width), 128)
    back = frame.from_work(frame.to_work(ramp))
    inner = slice(width // 8 + 8, width - width // 8 - 8)
    assert (back - ramp)[:, :, inner].abs().max() < 0.5 / 255 + 2e-3
