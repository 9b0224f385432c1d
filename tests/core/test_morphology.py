"""Dilation, feather, latent masks and hole filling against methods.md 6, scipy, skimage and PIL."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from retouch_core.regions.morphology import dilate, dilate_px, feather, fill_holes, radius_px, to_latent


def one_pixel(side: int, row: int, column: int) -> torch.Tensor:
    mask = torch.zeros(1, side, side)
    mask[0, row, column] = 1
    return mask


def random_mask(seed: int, height: int = 11, width: int = 9, *, soft: bool = True) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    values = torch.rand(2, height, width, generator=draw)
    values = torch.where(torch.rand(2, height, width, generator=draw) < 0.6, 0.0, values)
    return values if soft else (values > 0).float()


@pytest.mark.parametrize(("k", "count"), [(1, 1), (3, 9), (5, 25), (7, 49)])
def test_one_pixel_grows_to_a_square(k: int, count: int) -> None:
    grown = dilate(one_pixel(7, 3, 3), k)
    assert int(grown.sum()) == count
    assert set(grown.unique().tolist()) <= {0.0, 1.0}


def test_kernel_of_one_changes_nothing() -> None:
    mask = random_mask(0)
    assert torch.equal(dilate(mask, 1), mask)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), radius=st.integers(0, 12))
def test_dilation_and_erosion_of_soft_masks_agree_with_scipy(seed: int, radius: int) -> None:
    mask = random_mask(seed)
    window = (1, 2 * radius + 1, 2 * radius + 1)
    high = ndimage.maximum_filter(mask.double().numpy(), window, mode="constant", cval=-np.inf)
    low = ndimage.minimum_filter(mask.double().numpy(), window, mode="constant", cval=np.inf)
    assert np.array_equal(dilate_px(mask, radius).double().numpy(), high)
    assert np.array_equal(dilate_px(mask, -radius).double().numpy(), low)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), a=st.sampled_from([1, 3, 5, 7]), b=st.sampled_from([1, 3, 5, 7]))
def test_dilations_add_up_and_never_lose(seed: int, a: int, b: int) -> None:
    mask = random_mask(seed)
    twice = dilate(dilate(mask, a), b)
    assert torch.equal(twice, dilate(mask, a + b - 1))
    assert bool((mask <= twice).all()) and float(twice.max()) <= 1


@pytest.mark.parametrize("radius", [3, 40, 5000])
def test_empty_stays_empty_full_stays_full(radius: int) -> None:
    assert not dilate_px(torch.zeros(1, 8, 6), radius).any()
    assert dilate_px(torch.ones(1, 8, 6), radius).all()
    assert dilate_px(torch.ones(1, 8, 6), -radius).all()
    assert feather(torch.ones(1, 8, 6), radius).eq(1).all()
    assert not feather(torch.zeros(1, 8, 6), radius).any()


def test_radius_beyond_the_picture_fills_it() -> None:
    assert dilate_px(one_pixel(7, 0, 6), 100).all()


@pytest.mark.parametrize("k", [0, 2, 4, -2])
def test_even_kernels_are_refused(k: int) -> None:
    with pytest.raises(ValueError, match="k must be an odd"):
        dilate(one_pixel(7, 3, 3), k)


def test_negative_kernels_erode() -> None:
    mask = dilate(one_pixel(9, 4, 4), 5)
    assert torch.equal(dilate(mask, -3), dilate(one_pixel(9, 4, 4), 3))


@pytest.mark.parametrize(("size", "radius"), [(256, 4), (512, 8), (1024, 16)])
def test_radius_of_kernel_three(size: int, radius: int) -> None:
    assert radius_px(3, size, size // 2) == radius
    assert radius_px(3, size // 2, size) == radius
    assert radius_px(5, size, size) == 2 * radius
    assert radius_px(1, size, size) == 0


def test_radius_refuses_even_kernels() -> None:
    with pytest.raises(ValueError, match="got 4"):
        radius_px(4, 512, 512)


def test_feather_of_an_impulse() -> None:
    row = torch.tensor([[[0.0, 0, 0, 1, 0, 0, 0]]])
    assert torch.allclose(feather(row, 2)[0, 0], torch.tensor([0, 1 / 3, 2 / 3, 1, 2 / 3, 1 / 3, 0]))


@pytest.mark.parametrize("radius", [1, 3, 6, 30])
def test_feather_is_the_chebyshev_ramp(radius: int) -> None:
    mask = random_mask(5, 23, 31, soft=False)[:1] * one_pixel(31, 9, 9)[:, :23]
    mask[0, 9, 9] = mask[0, 4, 20] = 1
    distance = ndimage.distance_transform_cdt(1 - mask[0].numpy(), metric="chessboard")
    ramp = np.clip((radius + 1 - distance) / (radius + 1), 0, 1)
    assert np.allclose(feather(mask, radius)[0].numpy(), ramp, atol=1e-6)


def test_feather_of_soft_masks_is_the_mean_of_dilations() -> None:
    mask = random_mask(8)
    mean = sum(ndimage.maximum_filter(mask.double().numpy(), (1, 2 * j + 1, 2 * j + 1)) for j in range(5)) / 5
    assert np.allclose(feather(mask, 4).numpy(), mean, atol=1e-6)


@pytest.mark.parametrize("radius", [1, 2, 5, 8])
def test_gaussian_feather_keeps_the_inside_and_ends_at_the_radius(radius: int) -> None:
    mask = torch.zeros(1, 40, 40)
    mask[0, 18:22, 15:25] = 1
    soft = feather(mask, radius, "gaussian")
    assert soft[mask == 1].eq(1).all()
    assert not soft[dilate_px(mask, radius) == 0].any()
    assert bool(((soft > 0) & (soft < 1)).any())
    assert torch.equal(feather(mask, 0, "gaussian"), mask)


def test_latent_masks_of_one_pixel() -> None:
    mask = one_pixel(16, 3, 3)
    assert to_latent(mask).tolist() == [[[[1, 0], [0, 0]]]]
    assert to_latent(mask, mode="nearest").tolist() == [[[[0, 0], [0, 0]]]]
    assert to_latent(mask, mode="area").tolist() == [[[[1 / 64, 0], [0, 0]]]]
    by_pil = np.asarray(Image.fromarray(mask[0].numpy()).resize((2, 2), Image.Resampling.NEAREST))
    assert to_latent(mask, mode="nearest")[0, 0].tolist() == by_pil.tolist()


@pytest.mark.parametrize("cell", [2, 4, 8])
def test_nearest_and_lanczos_agree_with_pil(cell: int) -> None:
    mask = ndimage.zoom(np.random.default_rng(cell).random((6, 8)) > 0.5, 8, order=0).astype(np.float32)
    image = Image.fromarray(mask)
    size = (mask.shape[1] // cell, mask.shape[0] // cell)
    nearest = np.asarray(image.resize(size, Image.Resampling.NEAREST))
    lanczos = np.asarray(image.resize(size, Image.Resampling.LANCZOS))
    ours = torch.from_numpy(mask)[None]
    assert np.array_equal(to_latent(ours, cell, "nearest")[0, 0].numpy(), nearest)
    clear = np.abs(lanczos - 0.5) > 1e-4
    assert clear.mean() > 0.9
    assert np.array_equal(to_latent(ours, cell, "lanczos")[0, 0].numpy()[clear], (lanczos >= 0.5)[clear])


@pytest.mark.parametrize("mode", ["amax", "area", "nearest", "lanczos"])
def test_latent_sizes_round_up_and_ends_are_kept(mode: str) -> None:
    assert to_latent(torch.zeros(2, 20, 33), mode=mode).tolist() == torch.zeros(2, 1, 3, 5).tolist()
    assert torch.allclose(to_latent(torch.ones(1, 20, 33), mode=mode), torch.ones(1, 1, 3, 5))


def test_amax_keeps_the_last_partial_cell() -> None:
    mask = torch.zeros(1, 17, 17)
    mask[0, 16, 16] = 1
    assert to_latent(mask)[0, 0].nonzero().tolist() == [[2, 2]]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_holes_of_hard_masks_agree_with_scipy(seed: int) -> None:
    mask = (torch.rand(1, 14, 17, generator=torch.Generator().manual_seed(seed)) > 0.4).float()
    assert np.array_equal(fill_holes(mask)[0].numpy() > 0, ndimage.binary_fill_holes(mask[0].numpy()))


def test_holes_of_soft_masks_are_filled_level_by_level() -> None:
    levels = [0.0, 0.25, 0.5, 1.0]
    picks = torch.randint(0, 4, (1, 12, 13), generator=torch.Generator().manual_seed(3))
    mask = torch.tensor(levels)[picks]
    expected = np.zeros((12, 13))
    for level in levels[1:]:
        expected = np.where(ndimage.binary_fill_holes(mask[0].numpy() >= level), level, expected)
    assert np.array_equal(fill_holes(mask)[0].numpy(), expected.astype(np.float32))
    assert fill_holes(mask)[0].ge(mask[0]).all()


def test_holes_at_the_frame_stay_open() -> None:
    ring = torch.ones(1, 6, 6)
    ring[0, 2:4, 2:4] = 0
    assert fill_holes(ring).all()
    ring[0, 2:4, 4:] = 0
    assert torch.equal(fill_holes(ring), ring)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: dilate_px(m, 1.5), "r must be a whole number"),
        (lambda m: feather(m, -1), "r must be a whole number"),
        (lambda m: feather(m, 1, "box"), "mode must be one of chebyshev"),
        (lambda m: to_latent(m, 0), "cell must be"),
        (lambda m: to_latent(m, 8, "median"), "mode must be one of amax"),
        (lambda m: dilate_px(m * torch.nan, 1), "NaN"),
        (lambda m: dilate_px(m[None], 1), r"shape \[B,H,W\]"),
    ],
)
def test_bad_input_is_one_sentence(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call(torch.ones(1, 8, 8))
