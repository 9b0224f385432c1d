"""Running extrema, feather and hole filling at any radius, against max-pooling in float64, scipy and skimage."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch.nn import functional

from retouch_core.regions.morphology import dilate_px, feather, fill_holes
from retouch_core.tensors.extrema import (
    _ladder,
    bools_of,
    chessboard_distance,
    nonzero_box,
    window_max,
    window_min,
)

SIDES = st.sampled_from([1, 2, 3, 7, 16, 63, 64, 65, 130, 150])
RADII = st.sampled_from([0, 1, 2, 5, 8, 31, 32, 33, 64, 100, 127, 200, 5000])


def drawn(seed: int, height: int, width: int, kind: str, share: float = 0.03) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    values = torch.rand(1, height, width, generator=draw)
    values = torch.where(torch.rand(1, height, width, generator=draw) < share, values, torch.zeros(()))
    if kind == "signed":
        return values - 0.5
    return values if kind == "soft" else values > 0 if kind == "bool" else (values > 0).float()


def pooled(mask: torch.Tensor, radius: int) -> torch.Tensor:
    """The definition: a max-pool of stride 1 over the square, in float64, cut into windows that torch can pad."""
    values = mask.double()
    for axis in (0, 1):
        reach = min(radius, mask.shape[1 + axis] - 1)
        size = (2 * reach + 1, 1) if axis == 0 else (1, 2 * reach + 1)
        values = functional.max_pool2d(
            values[:, None], size, stride=1, padding=(reach, 0) if axis == 0 else (0, reach)
        )[:, 0]
    return values


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    height=SIDES,
    width=SIDES,
    radius=RADII,
    kind=st.sampled_from(["soft", "hard", "bool", "signed"]),
)
def test_dilation_and_erosion_equal_max_pooling(
    seed: int, height: int, width: int, radius: int, kind: str
) -> None:
    mask = drawn(seed, height, width, kind)
    for turned in (mask, ~mask if kind == "bool" else 1 - mask):
        grown, shrunk = dilate_px(turned, radius), dilate_px(turned, -radius)
        assert grown.dtype == shrunk.dtype == turned.dtype
        assert torch.equal(grown.double(), pooled(turned, radius))
        assert torch.equal(shrunk.double(), -pooled(-turned.double(), radius))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_stay_what_they_are(dtype: torch.dtype) -> None:
    mask = drawn(1, 40, 70, "soft").to(dtype)
    assert window_max(mask, 9).dtype == dtype
    assert torch.equal(window_max(mask, 9).double(), pooled(mask, 9))
    assert torch.equal(window_min(mask, 9).double(), -pooled(-mask.double(), 9))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    height=SIDES,
    width=SIDES,
    radius=RADII,
    kind=st.sampled_from(["soft", "bool"]),
)
def test_other_devices_take_a_way_that_gives_the_same(
    seed: int, height: int, width: int, radius: int, kind: str
) -> None:
    mask = drawn(seed, height, width, kind)
    assert torch.equal(_ladder(mask, radius), window_max(mask, radius))


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    radius=st.integers(1, 40),
    hard=st.booleans(),
    share=st.sampled_from([0.002, 0.1]),
)
def test_feather_is_bit_for_bit_the_mean_of_dilations(
    seed: int, radius: int, hard: bool, share: float
) -> None:
    """Added up one by one in float32, as the definition is written."""
    mask = drawn(seed, 50, 70, "hard" if hard else "soft", share)
    total, grown = mask.clone(), mask
    for _ in range(radius):
        grown = functional.max_pool2d(grown[:, None], 3, stride=1, padding=1)[:, 0]
        total = total + grown
    expected = torch.maximum(mask, total / (radius + 1)).clamp(max=1)
    assert torch.equal(feather(mask, radius), expected)


def test_feather_of_a_bool_mask_is_soft_and_of_a_huge_radius_exact() -> None:
    mask = torch.zeros(1, 30, 41, dtype=torch.bool)
    mask[0, 4, 7] = True
    far = ndimage.distance_transform_cdt(~mask[0].numpy(), metric="chessboard")
    soft = feather(mask, 3000)
    assert soft.dtype == torch.float32
    assert torch.equal(soft[0], torch.from_numpy((3001 - far).astype(np.float32)) / 3001)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.3, 0.5, 0.6, 0.8]), margin=st.integers(0, 5))
def test_holes_of_masks_anywhere_in_a_picture(seed: int, share: float, margin: int) -> None:
    from skimage.morphology import reconstruction

    mask = torch.zeros(2, 25, 31)
    mask[:, margin : 25 - 2 * margin, margin:] = drawn(seed, 25 - 3 * margin, 31 - margin, "soft", share)
    cross = ndimage.generate_binary_structure(2, 1)
    for one, filled in zip(mask, fill_holes(mask), strict=True):
        start = one.numpy().copy()
        start[1:-1, 1:-1] = start.max()
        assert np.array_equal(filled.numpy(), reconstruction(start, one.numpy(), "erosion", footprint=cross))
    hard = fill_holes(mask > 0)
    assert hard.dtype == torch.bool
    assert np.array_equal(hard[0].numpy(), ndimage.binary_fill_holes(mask[0].numpy() > 0))
    assert torch.equal(fill_holes((mask > 0).float()), hard.float())


def test_two_values_are_noticed_and_boxes_hold_everything() -> None:
    assert bools_of(torch.tensor([[[0.0, 1, 0.5]]])) is None
    assert bools_of(torch.tensor([[[0.0, 1, torch.nan]]])) is None
    assert bools_of(torch.tensor([[[0, 255]]], dtype=torch.uint8)) is None
    assert bools_of(torch.tensor([[[0.0, 1]]], dtype=torch.float16)).tolist() == [[[False, True]]]  # type: ignore[union-attr]
    mask = torch.zeros(9, 12)
    assert nonzero_box(mask) is None
    mask[3, 5] = mask[6, 2] = 0.1
    assert nonzero_box(mask) == (3, 2, 7, 6)
    assert nonzero_box(mask, 4) == (0, 0, 9, 10)
    assert chessboard_distance(np.zeros((3, 4), dtype=bool)).min() > 4


def test_a_batch_is_its_masks_one_by_one() -> None:
    batch = torch.cat([drawn(k, 40, 90, "soft") for k in range(3)] + [torch.zeros(1, 40, 90)])
    for radius in (-7, 7):
        assert torch.equal(
            dilate_px(batch, radius), torch.cat([dilate_px(one[None], radius) for one in batch])
        )
    assert dilate_px(batch[:0], 5).shape == (0, 40, 90)
    assert dilate_px(batch[:0].bool(), -5).dtype == torch.bool


@pytest.mark.parametrize("kind", ["binary", "soft"])
def test_the_benchmark_compares_equals(kind: str) -> None:
    from benchmarks.morphology import copied_grow, picture_mask

    mask = picture_mask(120, 150, kind)
    assert 0 < int((mask > 0).sum()) < mask.numel()
    assert torch.equal(dilate_px(mask, 9), copied_grow(mask, 9))
