"""Pictures of any size go onto a canvas and back: nothing is shifted, and where nothing is scaled nothing is lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retouch_core.editing.crop import (
    CropPlan,
    crop,
    crop_mask,
    placed,
    stitch,
    stitch_parts,
    uncrop,
    uncrop_mask,
)
from retouch_core.tensors.boxes import Box

sides = st.integers(16, 300)


def picture(height: int, width: int, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.rand(batch, height, width, 3, generator=generator)


def plain(source: tuple[int, int], box: Box, work: tuple[int, int] | None = None) -> CropPlan:
    """A plan that scales nothing."""
    return CropPlan(source, box, box.size, work or box.size, box)


@st.composite
def unscaled(draw: st.DrawFn) -> CropPlan:
    height, width = draw(st.integers(16, 120)), draw(st.integers(16, 120))
    y0, x0 = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    box = Box(y0, x0, draw(st.integers(y0 + 1, height)), draw(st.integers(x0 + 1, width)))
    work = box.height + draw(st.integers(0, 150)), box.width + draw(st.integers(0, 150))
    top, left = draw(st.integers(box.y0, box.y1 - 1)), draw(st.integers(box.x0, box.x1 - 1))
    part = Box(top, left, draw(st.integers(top + 1, box.y1)), draw(st.integers(left + 1, box.x1)))
    return CropPlan((height, width), box, box.size, work, part)


@settings(deadline=None, max_examples=60)
@given(unscaled())
def test_there_and_back_is_exact_where_nothing_is_scaled(plan: CropPlan) -> None:
    image = picture(*plan.source)
    rows, columns = plan.box.slices
    work = crop(image, plan)
    assert work.shape == (1, *plan.work, 3)
    assert torch.equal(uncrop(work, plan), image[:, rows, columns])
    mask = (image[..., 0] > 0.5).float()
    shown = placed(uncrop_mask(crop_mask(mask, plan), plan), plan)
    assert torch.equal(shown[:, rows, columns], mask[:, rows, columns])
    assert float(shown.sum()) == float(mask[:, rows, columns].sum())
    own = placed(uncrop_mask(crop_mask(mask, plan, part_only=True), plan), plan)
    down, across = plan.part.slices
    assert torch.equal(own[:, down, across], mask[:, down, across])
    assert float(own.sum()) == float(mask[:, down, across].sum())


@settings(deadline=None, max_examples=60)
@given(unscaled(), st.sampled_from(["binary", "soft", "full", "empty", "one"]))
def test_an_edit_that_changes_nothing_gives_the_source_and_any_other_stays_in_its_mask(
    plan: CropPlan, kind: str
) -> None:
    image = picture(*plan.source) * 3 - 1
    mask = {
        "binary": (image[..., 1] > 0.5).float(),
        "soft": picture(*plan.source)[..., 1],
        "full": torch.ones(1, *plan.source),
        "empty": torch.zeros(1, *plan.source),
        "one": torch.zeros(1, *plan.source).index_put(
            (torch.tensor(0), torch.tensor(plan.part.y0), torch.tensor(plan.part.x0)), torch.tensor(1.0)
        ),
    }[kind]
    same = stitch(image, crop(image, plan), plan, mask)
    assert (same - image).abs().max() <= 1e-6  # a soft mask adds two products
    if kind != "soft":
        assert torch.equal(same, image)
    made = stitch(image, torch.full((2, *plan.work, 3), torch.nan), plan, mask)
    assert made.shape == (2, *plan.source, 3)
    down, across = plan.part.slices
    kept = torch.ones_like(mask, dtype=torch.bool)
    kept[:, down, across] = mask[:, down, across] == 0
    for one in made:
        assert torch.equal(one[kept[0]], image[0][kept[0]])
        assert one[~kept[0]].isnan().all()


def test_where_the_mask_is_one_the_edit_is_taken() -> None:
    image, plan = picture(60, 50), plain((60, 50), Box(10, 20, 42, 50), (32, 64))
    edited = torch.rand(1, 32, 64, 3)
    made = stitch(image, edited, plan, torch.ones(1, 60, 50))
    assert torch.equal(made[:, 10:42, 20:], edited[:, :, :30])
    assert torch.equal(made[:, :10], image[:, :10]) and torch.equal(made[:, :, :20], image[:, :, :20])


@pytest.mark.parametrize("mode", ["laplacian", "poisson"])
def test_other_ways_to_change_over_stay_inside_the_mask_too(mode: str) -> None:
    image, plan = picture(60, 50), plain((60, 50), Box(10, 5, 42, 45), (32, 40))
    mask = torch.zeros(1, 60, 50)
    mask[:, 14:38, 10:40] = 1
    made = stitch(image, 0.5 * crop(image, plan) + 0.3, plan, mask, mode=mode)
    assert torch.equal(made[mask == 0], image[mask == 0]) and not torch.equal(
        made[mask == 1], image[mask == 1]
    )


def test_source_and_edit_are_not_written_to() -> None:
    image, plan = picture(40, 40), plain((40, 40), Box.whole((40, 40)))
    before = image.clone()
    work = crop(image, plan)
    work.zero_()
    uncrop(work, plan)
    stitch(image, work, plan, torch.ones(1, 40, 40)).fill_(7)
    assert torch.equal(image, before) and not work.any()


@settings(deadline=None, max_examples=30)
@given(sides, sides)
def test_the_whole_picture_there_and_back(height: int, width: int) -> None:
    plan = CropPlan.whole((height, width), 128)
    work = crop(picture(height, width), plan)
    assert work.shape == (1, 128, 128, 3)
    assert max(plan.inner) == 128
    assert uncrop(work, plan).shape == (1, height, width, 3)
    assert work.min() >= 0 and work.max() <= 1


@pytest.mark.parametrize("size", [(128, 128), (128, 77), (16, 128), (121, 128)])
def test_nothing_is_resampled_where_the_longer_side_fits(size: tuple[int, int]) -> None:
    image, plan = picture(*size), CropPlan.whole(size, 128)
    assert not plan.resampled and plan.scale == 1
    work = crop(image, plan)
    assert torch.equal(work[:, : size[0], : size[1]], image)
    assert torch.equal(uncrop(work, plan), image)


def test_continuation_is_numpys_reflection() -> None:
    image = picture(128, 50)
    work = crop(image, CropPlan.whole((128, 50), 128))
    expected = np.pad(image[0].numpy(), ((0, 0), (0, 78), (0, 0)), mode="reflect")
    assert np.array_equal(work[0].numpy(), expected)
    cut = crop(image, plain((128, 50), Box(100, 40, 128, 50), (64, 24)))
    inside = image[0, 100:, 40:].numpy()
    assert np.array_equal(cut[0].numpy(), np.pad(inside, ((0, 36), (0, 14), (0, 0)), mode="reflect"))


def test_masks_keep_every_pixel_and_never_reach_the_continuation() -> None:
    plan = CropPlan.whole((400, 300), 128)
    mask = torch.zeros(1, 400, 300)
    mask[0, 399, 299] = 1
    work = crop_mask(mask, plan)
    assert work[0, 127, 95] == 1 and work.sum() == 1
    assert crop_mask(torch.ones(1, 400, 300), plan)[0, :, 96:].sum() == 0
    assert torch.equal(crop_mask(mask > 0, plan), work)
    assert torch.equal(crop_mask(mask.half(), plan), work)


@settings(deadline=None, max_examples=20)
@given(st.integers(140, 900), st.integers(140, 900))
def test_a_gradient_stays_where_it_is(height: int, width: int) -> None:
    """A linear ramp survives both resamplings, away from the frame, to half an 8-bit step: no shift by a fraction."""
    ramp = torch.linspace(0, 1, width)[None, None, :, None].expand(1, height, width, 3).contiguous()
    plan = CropPlan.whole((height, width), 128)
    back = uncrop(crop(ramp, plan), plan)
    inner = slice(width // 8 + 8, width - width // 8 - 8)
    assert (back - ramp)[:, :, inner].abs().max() < 0.5 / 255 + 2e-3


@pytest.mark.parametrize("scale", [0.5, 2.0, 3.0])
def test_a_scaled_crop_of_a_gradient_stays_where_it_is(scale: float) -> None:
    ramp = torch.linspace(0, 1, 200)[None, None, :, None].expand(1, 90, 200, 3).contiguous()
    box = Box(10, 60, 70, 160)
    inner = (round(box.height * scale), round(box.width * scale))
    plan = CropPlan((90, 200), box, inner, (320, 320), box)
    back = uncrop(crop(ramp, plan), plan)
    assert (back - ramp[:, 10:70, 60:160])[:, :, 8:-8].abs().max() < 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_dtypes_stay(dtype: torch.dtype) -> None:
    image = picture(70, 90).to(dtype)
    for plan in (CropPlan.whole((70, 90), 32), plain((70, 90), Box(5, 5, 37, 37))):
        work = crop(image, plan)
        made = stitch(image, work, plan, torch.ones(1, 70, 90))
        assert work.dtype == made.dtype == dtype


def test_several_crops_of_one_picture() -> None:
    image = picture(64, 96)
    plans = [plain((64, 96), Box(0, 0, 32, 32)), plain((64, 96), Box(32, 48, 64, 96), (32, 64))]
    edits = [torch.full((2, *plan.work, 3), value) for plan, value in zip(plans, (2.0, 3.0), strict=True)]
    mask = torch.zeros(1, 64, 96)
    mask[:, :16], mask[:, 40:] = 1, 1
    made = stitch_parts(image, [(e, p, mask) for e, p in zip(edits, plans, strict=True)])
    assert made.shape == (2, 64, 96, 3)
    assert (made[:, :16, :32] == 2).all() and (made[:, 40:, 48:] == 3).all()
    rest = torch.ones(64, 96, dtype=torch.bool)
    rest[:16, :32] = rest[40:, 48:] = False
    assert torch.equal(made[:, rest], image.expand(2, -1, -1, -1)[:, rest])
    assert torch.equal(stitch_parts(image, []), image)


def test_ten_edits_in_a_row_leave_the_rest_alone() -> None:
    first = picture(201, 333)
    current, touched = first, torch.zeros(201, 333, dtype=torch.bool)
    for k in range(10):
        box = Box(10 * k, 20 * k, 10 * k + 90, 20 * k + 121)
        plan = CropPlan((201, 333), box, (64 + k, 70), (80, 96), box)
        mask = torch.zeros(1, 201, 333)
        mask[:, 11 * k + 5 : 11 * k + 25, 20 * k + 30 : 20 * k + 60] = 0.1 * k + 0.05
        touched |= mask[0] > 0
        current = stitch(current, crop(current, plan).flip(1), plan, mask)
    assert torch.equal(current[:, ~touched], first[:, ~touched])


FRAME = (40, 60)
PLAN = plain(FRAME, Box(8, 8, 40, 40), (32, 40))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: crop(picture(40, 61), PLAN), "image is 61x40 px but the plan is of 60x40"),
        (lambda: crop_mask(torch.zeros(1, 40, 61), PLAN), "mask is 61x40 px but the plan is of 60x40"),
        (lambda: uncrop(picture(32, 32), PLAN), "edited is 32x32 px but the crop is 40x32"),
        (lambda: uncrop_mask(torch.zeros(1, 32, 32), PLAN), "mask is 32x32 px but the crop is 40x32"),
        (
            lambda: stitch(picture(*FRAME), picture(64, 80), PLAN, torch.zeros(1, *FRAME)),
            "edited is 80x64 px but the crop is 40x32",
        ),
        (
            lambda: stitch(picture(41, 60), picture(32, 40), PLAN, torch.zeros(1, *FRAME)),
            "source is 60x41 px but the crop is of 60x40",
        ),
        (
            lambda: stitch(picture(*FRAME), picture(32, 40), PLAN, torch.zeros(1, 64, 64)),
            "mask is 64x64 px but the picture is 60x40",
        ),
        (
            lambda: stitch(picture(*FRAME, 3), picture(32, 40, 4), PLAN, torch.zeros(1, *FRAME)),
            "source holds 3 pictures but edited 4",
        ),
        (lambda: plain(FRAME, Box(8, 8, 41, 40)), "box 32x33.8.8 must lie within the picture of 60x40"),
        (lambda: plain(FRAME, Box(8, 8, 8, 40)), "box 32x0.8.8 must lie within the picture"),
        (
            lambda: CropPlan(FRAME, Box(8, 8, 16, 16), (8, 8), (8, 8), Box(0, 8, 9, 9)),
            "part 1x9.8.0 must lie",
        ),
        (lambda: CropPlan(FRAME, Box(8, 8, 16, 16), (9, 8), (8, 8), Box(8, 8, 9, 9)), "inner is 8x9 but the"),
    ],
)
def test_what_does_not_fit_is_one_sentence(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        call()  # type: ignore[operator]
    assert "\n" not in str(refusal.value)
