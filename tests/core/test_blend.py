"""Latent masks per step (methods.md 8.3), exact blending, and the composite (8.5, 8.7)."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import ndimage

from retouch_core.editing.blend import blend, is_thin, latent_masks
from retouch_core.editing.composite import composite


def dot(size: int = 15) -> torch.Tensor:
    mask = torch.zeros(1, 1, size, size)
    mask[..., size // 2, size // 2] = 1
    return mask


def sides(masks: list[torch.Tensor]) -> list[int]:
    """Side of the square that a single cell became, step by step."""
    return [round(math.sqrt(mask.sum().item())) for mask in masks]


@pytest.mark.parametrize(
    ("steps", "count", "expected"), [(50, 3, [13, 12, 13, 12]), (10, 3, [3, 2, 3, 2]), (4, 3, [1, 1, 1, 1])]
)
def test_check_8_3_steps_per_mask(steps: int, count: int, expected: list[int]):
    seen = sides(latent_masks(dot(), steps, count))
    assert seen == sorted(seen, reverse=True)
    assert [Counter(seen)[side] for side in (7, 5, 3, 1)] == expected


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10, 20, 50])
@pytest.mark.parametrize("count", [0, 1, 3, 7, 10, 60])
def test_the_original_always_has_the_last_step(steps: int, count: int):
    masks = latent_masks(dot(), steps, count)
    assert len(masks) == steps
    assert torch.equal(masks[-1], dot())


def test_no_dilations_by_default():
    assert sides(latent_masks(dot(), 5)) == [1] * 5


def test_dilation_equals_scipy():
    generator = np.random.default_rng(1)
    region = generator.random((9, 12)) < 0.1
    masks = latent_masks(torch.from_numpy(region)[None, None].float(), 4, 3)
    for mask, size in zip(masks, (7, 5, 3, 1), strict=True):
        expected = ndimage.binary_dilation(region, np.ones((size, size)))
        assert np.array_equal(mask[0, 0].numpy() > 0, expected)


@pytest.mark.parametrize("seed", range(20))
def test_thinness_equals_the_definition(seed: int):
    generator = np.random.default_rng(seed)
    region = ndimage.binary_dilation(
        generator.random((12, 12)) < 0.03, np.ones((generator.integers(1, 5),) * 2)
    )
    vanishes = not ndimage.binary_opening(region, np.ones((3, 3))).any()
    expected = region.mean() < 0.01 or vanishes
    assert bool(is_thin(torch.from_numpy(region)[None, None].float())) == expected


def test_auto_dilates_thin_regions_only_and_each_mask_for_itself():
    thin, thick = torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16)
    thin[..., 8, 2:14] = 1
    thick[..., 4:12, 4:12] = 1
    assert sides(latent_masks(dot(), 8, "auto")) == sides(latent_masks(dot(), 8, 3))
    assert all(torch.equal(mask, thick) for mask in latent_masks(thick, 8, "auto"))
    both = latent_masks(torch.cat([thin, thick]), 8, "auto")
    for mask, alone in zip(both, latent_masks(thin, 8, 3), strict=True):
        assert torch.equal(mask[:1], alone)
        assert torch.equal(mask[1:], thick)
    strip = torch.zeros(1, 1, 16, 16)
    strip[..., :2] = 1
    assert is_thin(strip).item()


def test_a_large_region_below_one_percent_is_thin():
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., :4, :4] = 1
    assert is_thin(mask).item()
    mask[..., :8, :8] = 1
    assert not is_thin(mask).item()


@pytest.mark.parametrize(
    ("mask", "steps", "progressive", "message"),
    [
        (torch.zeros(4, 4), 5, 0, r"must have shape \[B,1,h,w\]"),
        (torch.full((1, 1, 4, 4), math.nan), 5, 0, "NaN"),
        (torch.full((1, 1, 4, 4), 1.5), 5, 0, r"must lie in 0\.\.1"),
        (torch.zeros(1, 1, 4, 4), 0, 0, "steps must be at least 1"),
        (torch.zeros(1, 1, 4, 4), 5, -1, "progressive must be 'auto'"),
        (torch.zeros(1, 1, 4, 4), 5, "often", "progressive must be 'auto'"),
    ],
)
def test_bad_latent_masks(mask, steps, progressive, message):
    with pytest.raises(ValueError, match=message):
        latent_masks(mask, steps, progressive)


def test_blend_selects_at_0_and_1_and_mixes_between():
    mask = torch.tensor([0.0, 0.25, 1.0])
    assert blend(torch.tensor(3.0), torch.tensor(7.0), mask).tolist() == [7.0, 6.0, 3.0]
    nan = torch.tensor(math.nan)
    assert blend(nan, torch.tensor(7.0), mask)[0] == 7
    assert blend(torch.tensor(3.0), nan, mask)[2] == 3


# --- composite ---


def pictures(count: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    source = torch.rand(1, 20, 24, 3, generator=generator)
    edited = torch.rand(count, 20, 24, 3, generator=generator)
    mask = torch.zeros(1, 20, 24)
    mask[:, 5:15, 6:18] = 0.4
    mask[:, 7:13, 8:16] = 1
    return source, edited, mask


def test_composite_is_the_source_outside_and_the_edit_inside():
    source, edited, mask = pictures()
    out = composite(source, edited, mask)
    outside, inside = (mask == 0)[0], (mask == 1)[0]
    assert torch.equal(out[:, outside], source.expand_as(edited)[:, outside])
    assert torch.equal(out[:, inside], edited[:, inside])
    ring = ~outside & ~inside
    expected = source.double() * 0.6 + edited.double() * 0.4
    torch.testing.assert_close(out[:, ring].double(), expected[:, ring], rtol=0, atol=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nothing_from_outside_the_mask_comes_through(value: float):
    source, edited, mask = pictures()
    edited = torch.full_like(edited, value)
    out = composite(source, edited, mask)
    outside = (mask == 0)[0]
    assert torch.equal(out[:, outside], source.expand_as(edited)[:, outside])


def test_ten_edits_in_a_row_leave_the_background_alone():
    source, _, mask = pictures()
    result = source * 1.7 - 0.2  # values outside 0..1 survive too
    first = result.clone()
    for k in range(10):
        result = composite(result, torch.rand(1, 20, 24, 3, generator=torch.Generator().manual_seed(k)), mask)
    outside = (mask == 0)[0]
    assert torch.equal(result[:, outside], first[:, outside])


def test_one_mask_for_each_candidate():
    source, edited, mask = pictures(2)
    masks = torch.cat([mask, torch.zeros_like(mask)])
    out = composite(source, edited, masks)
    assert torch.equal(out[1:], source)
    assert torch.equal(out[:1], composite(source, edited[:1], mask))


def test_an_empty_mask_returns_the_source_and_a_full_one_the_edit():
    source, edited, mask = pictures()
    assert torch.equal(composite(source, edited, torch.zeros_like(mask)), source.expand_as(edited))
    assert torch.equal(composite(source, edited, torch.ones_like(mask)), edited)


@pytest.mark.parametrize(
    ("source", "edited", "mask", "message"),
    [
        ((20, 24, 3), (1, 20, 24, 3), (1, 20, 24), "source must have shape"),
        ((1, 20, 24, 3), (1, 20, 24, 4), (1, 20, 24), "edited must have shape"),
        ((1, 20, 24, 3), (1, 20, 25, 3), (1, 20, 24), "share one height and width"),
        ((1, 20, 24, 3), (1, 20, 24, 3), (1, 21, 24), "share one height and width"),
        ((1, 20, 24, 3), (3, 20, 24, 3), (2, 20, 24), "mask_soft 2"),
    ],
)
def test_bad_composites(source, edited, mask, message):
    with pytest.raises(ValueError, match=message):
        composite(torch.zeros(source), torch.zeros(edited), torch.zeros(mask))


def test_a_mask_with_nan_is_refused():
    source, edited, mask = pictures()
    with pytest.raises(ValueError, match="mask_soft holds NaN"):
        composite(source, edited, mask * math.nan)
