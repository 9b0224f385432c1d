"""What a crop must hold whatever the picture, the region and the model's wishes: room, aspect, multiples, no hidden scale."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from retouch_core.editing.crop import CropPlan, crop, crop_mask, placed, stitch_parts, uncrop_mask
from retouch_core.editing.crop_plans import (
    MAX_ASPECT,
    MAX_PARTS,
    WorkSize,
    plan_crop,
    plan_crops,
    work_side,
)
from retouch_core.tensors.boxes import Box

MULTIPLES = (1, 8, 16, 64)


@st.composite
def regions(draw: st.DrawFn) -> tuple[Box, tuple[int, int]]:
    """A box in a picture of 16 to 4096 px, often at its frame, one pixel, or everything."""
    size = draw(st.integers(16, 4096)), draw(st.integers(16, 4096))
    edges = []
    for length in size:
        low = draw(st.one_of(st.just(0), st.integers(0, length - 1)))
        high = draw(st.one_of(st.just(length), st.just(low + 1), st.integers(low + 1, length)))
        edges.append((low, high))
    (y0, y1), (x0, x1) = edges
    return Box(y0, x0, y1, x1), size


@st.composite
def wishes(draw: st.DrawFn, aspects: Any = None) -> WorkSize:
    multiple = draw(st.sampled_from(MULTIPLES))
    side = draw(
        st.one_of(st.none(), st.integers(-(-16 // multiple), 2048 // multiple).map(lambda k: k * multiple))
    )
    aspect = draw(st.sampled_from(aspects or [1.0, None, 0.5, 1.5, 16 / 9]))
    context = draw(st.sampled_from([0.0, 0.1, 0.5, 2.0]))
    return WorkSize(side, multiple, aspect, context, draw(st.sampled_from([1.0, 1.0, 1.7, 4.0])))


def planned(part: Box, source: tuple[int, int], want: WorkSize) -> tuple[Box, CropPlan]:
    wanted = want.wanted(part, source)
    return wanted, want.plan(part, source, want.canvas(*wanted.size))


@settings(deadline=None, max_examples=150)
@given(regions(), wishes())
def test_every_plan(region: tuple[Box, tuple[int, int]], want: WorkSize) -> None:
    part, source = region
    wanted, plan = planned(part, source, want)
    assert part in wanted and wanted in plan.box and plan.box in Box.whole(source)
    margin = want.context * max(part.size)
    for low, high, at, to, limit in zip(
        (wanted.y0, wanted.x0),
        (wanted.y1, wanted.x1),
        (part.y0, part.x0),
        (part.y1, part.x1),
        source,
        strict=True,
    ):
        assert low == 0 or at - low >= margin
        assert high == limit or high - to >= margin
    assert all(side % want.multiple == 0 for side in plan.work)
    scales = [inner / shown for inner, shown in zip(plan.inner, plan.box.size, strict=True)]
    assert abs(scales[0] - scales[1]) <= (1 + max(scales)) / min(plan.box.size)  # a pixel of either size
    for axis in (0, 1):
        # Reflected only where the picture ends.
        assert plan.inner[axis] == plan.work[axis] or plan.box.size[axis] == source[axis]
    fits = all(side <= room for side, room in zip(wanted.size, plan.work, strict=True))
    assert fits or (want.side is not None and max(scales) < 1 + 1e-9)
    if want.side is None or (fits and want.enlarge == 1):
        assert plan.inner == plan.box.size and not plan.resampled
    if not fits:
        # No smaller than it must be: one side is full.
        assert plan.inner[0] == plan.work[0] or plan.inner[1] == plan.work[1]
    assert plan.scale <= want.enlarge * (1 + 1 / min(plan.box.size))


@settings(deadline=None, max_examples=60)
@given(regions(), st.sampled_from(MULTIPLES), st.sampled_from([0.5, 2 / 3, 1.0, 1.5, 16 / 9, 2.0]))
def test_the_canvas_has_the_aspect_to_less_than_one_multiple_and_no_more_pixels(
    region: tuple[Box, tuple[int, int]], multiple: int, aspect: float
) -> None:
    height, width = WorkSize(1024, multiple, aspect).canvas(*region[0].size)
    assert height * width <= 1024**2
    assert abs(height * math.sqrt(aspect) - 1024) < multiple * math.sqrt(aspect) + 1e-6
    assert abs(width / math.sqrt(aspect) - 1024) < multiple / math.sqrt(aspect) + 1e-6
    height, width = WorkSize(None, multiple, aspect).canvas(*region[0].size)
    assert height >= region[0].height and width >= region[0].width
    assert width - multiple < aspect * height + 1e-6 and aspect * (height - multiple) < width + multiple


def test_sdxl_gets_its_own_bucket() -> None:
    assert WorkSize(1024, 64, 16 / 9).canvas(100, 100) == (768, 1344)
    assert WorkSize(512, 64).canvas(700, 100) == (512, 512)


def mask_of(kind: str, height: int, width: int) -> torch.Tensor:
    mask = torch.zeros(1, height, width)
    if kind in ("top", "left", "bottom", "right"):
        rows = {"top": slice(0, 5), "bottom": slice(height - 5, height)}.get(kind, slice(None))
        columns = {"left": slice(0, 3), "right": slice(width - 3, width)}.get(kind, slice(None))
        mask[:, rows, columns] = 0.4
    elif kind == "full":
        mask[:] = 1
    elif kind == "one pixel":
        mask[:, height // 3, width - 1] = 1
    elif kind == "dots":
        mask[:, ::37, ::41] = 0.7
    elif kind == "corners":
        mask[:, :2, :2] = mask[:, -2:, -2:] = 1
    elif kind == "noise":
        mask = torch.rand(1, height, width, generator=torch.Generator().manual_seed(height)) * 2 - 1.5
    return mask


KINDS = ["top", "left", "bottom", "right", "full", "one pixel", "empty", "dots", "corners", "noise"]


@settings(deadline=None, max_examples=80)
@given(
    st.sampled_from(KINDS),
    st.integers(16, 260),
    st.integers(16, 260),
    st.sampled_from([32, 64, None]),
    st.sampled_from([1.0, None, 1.5]),
    st.booleans(),
)
def test_masks_of_every_kind(
    kind: str, height: int, width: int, side: int | None, aspect: float | None, apart: bool
) -> None:
    mask, want = mask_of(kind, height, width), WorkSize(side, 8, aspect)
    image = torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(width))
    plans = plan_crops(mask, want, apart=apart)[0]
    assert 1 <= len(plans) <= (MAX_PARTS if apart else 1)
    assert len({plan.work for plan in plans}) == 1
    for one, other in combinations(plans, 2):
        assert (one.part & other.part).empty
    inside = torch.zeros(1, height, width, dtype=torch.bool)
    for plan in plans:
        rows, columns = plan.part.slices
        inside[:, rows, columns] = True
    assert inside[mask > 0].all()
    made = stitch_parts(image, [(crop(image, plan), plan, (mask > 0).float()) for plan in plans])
    assert torch.equal(made[mask <= 0], image[mask <= 0])
    shown = torch.stack(
        [placed(uncrop_mask(crop_mask(mask, plan, part_only=True), plan), plan) for plan in plans]
    ).amax(0)
    if not any(plan.resampled for plan in plans):
        assert torch.equal(made, image)
        assert torch.equal(shown.clamp(min=0), mask.clamp(min=0))
    if aspect is None:
        assert all(work - max(p.inner[k] for p in plans) < 8 for k, work in enumerate(plans[0].work))
    if kind == "empty":
        assert plans[0].part.empty and plans[0].box == Box.whole((height, width))


@pytest.mark.parametrize("size", [(16, 4095), (4096, 17), (1023, 1025), (16, 16)])
@pytest.mark.parametrize("side", [64, 512])
@pytest.mark.parametrize("kind", ["top", "left", "bottom", "right", "full", "one pixel", "corners"])
def test_the_rest_stays_at_any_size_even_where_the_model_gives_nan(
    size: tuple[int, int], side: int, kind: str
) -> None:
    image = torch.rand(1, *size, 3, generator=torch.Generator().manual_seed(side))
    mask = mask_of(kind, *size)
    for apart in (False, True):
        (plans,) = plan_crops(mask, WorkSize(side), apart=apart)
        nothing = torch.full((1, side, side, 3), torch.nan)
        made = stitch_parts(image, [(nothing, plan, mask) for plan in plans])
        assert torch.equal(made[mask == 0], image[mask == 0]) and made[mask > 0].isnan().all()


@settings(deadline=None, max_examples=60)
@given(st.integers(64, 700), st.integers(64, 700))
def test_a_mask_of_everything_is_the_whole_picture_scaled(height: int, width: int) -> None:
    assume(max(height, width) > 64)
    assert plan_crop(torch.ones(1, height, width), WorkSize(64)) == CropPlan.whole((height, width), 64)


def test_far_parts_get_their_own_crops_and_near_ones_share() -> None:
    mask = torch.zeros(1, 1000, 2000)
    mask[:, 100:120, 100:130] = mask[:, 130:150, 140:160] = 1  # these two fit one canvas
    mask[:, 800:840, 1900:1960] = 1
    mask[:, 500:520, 1000:1020] = 0.01
    (plans,) = plan_crops(mask, WorkSize(128), apart=True)
    assert len(plans) == 3 and all(plan.scale == 1 and plan.work == (128, 128) for plan in plans)
    assert sum(float(crop_mask(mask, plan, part_only=True).sum()) for plan in plans) == pytest.approx(
        float(mask.sum())
    )
    (together,) = plan_crops(mask, WorkSize(128))
    assert len(together) == 1 and together[0].scale < 0.07
    # Where both are large, one crop for both would scale them further down.
    (large,) = plan_crops(
        torch.nn.functional.pad(torch.ones(1, 300, 300), (0, 900)), WorkSize(128), apart=True
    )
    assert len(large) == 1


def test_what_grows_out_of_a_far_part_is_not_cut_off() -> None:
    mask = torch.zeros(1, 600, 600)
    mask[:, 50, 50] = mask[:, 500, 500] = 1
    (plans,) = plan_crops(mask, WorkSize(128, context=0.0), apart=True)
    assert [plan.part for plan in plans] == [Box(34, 34, 67, 67), Box(484, 484, 517, 517)]


def test_pictures_of_a_batch_share_one_canvas_and_nothing_else() -> None:
    masks = torch.zeros(3, 300, 400)
    masks[0, 10:40, 20:120] = 1
    masks[1, 200:290, 350:] = 1
    for want in (WorkSize(64), WorkSize(128, 16, None), WorkSize(None, 8, None), WorkSize(None, 64, 1.5)):
        plans = [group[0] for group in plan_crops(masks, want)]
        assert len({plan.work for plan in plans}) == 1
        assert (
            plans[2].part.empty
            and Box(10, 20, 40, 120) in plans[0].box
            and Box(200, 350, 290, 400) in plans[1].box
        )
    alone = [plan_crop(mask[None], WorkSize(64)) for mask in masks]
    assert alone == [group[0] for group in plan_crops(masks, WorkSize(64))]
    assert plan_crops(masks[:0], WorkSize(64)) == []
    assert plan_crops(masks > 0, WorkSize(64)) == plan_crops(masks, WorkSize(64))


def test_the_canvas_follows_the_region_and_the_picture_where_the_aspect_is_free() -> None:
    mask = torch.zeros(1, 400, 2000)
    mask[:, 150:250, 400:1400] = 1
    plan = plan_crop(mask, WorkSize(512, 64, None))
    assert plan.work[1] / plan.work[0] >= MAX_ASPECT - 0.01 and plan.box.width >= 1400 and plan.scale < 0.6
    small = plan_crop(torch.ones(1, 90, 70), WorkSize(512, 8, None))
    assert small.work == (96, 72) and small.scale == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"side": 500, "multiple": 64},
            "size 500 is no multiple of 64 px, which the model needs; use 448 or 512",
        ),
        ({"side": 48, "multiple": 64}, "size 48 is no multiple of 64 px, which the model needs; use 64"),
        ({"side": 8}, "size must be a whole number of pixels from 16 to 16384, got 8"),
        ({"side": 512.0}, "size must be a whole number of pixels from 16 to 16384, got 512.0"),
        ({"multiple": 0}, "multiple must be a whole number from 1 up, got 0"),
        ({"context": -0.1}, "context must be from 0 to 10, got -0.1"),
        ({"context": math.nan}, "context must be from 0 to 10, got nan"),
        ({"enlarge": 0.5}, "enlarge must be from 1 to 8, got 0.5"),
        ({"aspect": 0.0}, "aspect must be from 0.015625 to 64, got 0.0"),
    ],
)
def test_wishes_that_make_no_sense_are_one_sentence(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        WorkSize(**given)
    assert "\n" not in str(refusal.value)


def test_work_size_words() -> None:
    assert work_side("full", 512, 8) is None
    assert work_side("auto", 512, 8) == 512
    assert work_side(768, 512, 8) == work_side("768", 512, 8) == 768
    for value in ("large", 0, -512, 3.5, None, True, "-1"):
        with pytest.raises(ValueError, match="work_size must be full, auto or a number of pixels"):
            work_side(value, 512, 8)
    with pytest.raises(
        ValueError, match="work_size 500 is no multiple of 64 px, which the model needs; use 512"
    ):
        work_side(500, 512, 64)
