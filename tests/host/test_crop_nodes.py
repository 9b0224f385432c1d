"""Crop Region, Stitch Region and the Region Sampler's work_size: what is cut out comes back where it was, and only that."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

pytestmark = pytest.mark.host

Pack = Callable[[str], ModuleType]


@pytest.fixture(scope="module")
def cut(pack: Pack) -> Any:
    node = pack("nodes.crop_region").RetouchCropRegion
    return lambda *given, **named: node.execute(*given, **{"size": 64, "multiple": 8} | named).result


@pytest.fixture(scope="module")
def stitch(pack: Pack) -> Any:
    node = pack("nodes.stitch_region").RetouchStitchRegion
    return lambda *given, **named: node.execute(*given, **named).result


def noise(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def boxes(height: int, width: int, *places: tuple[int, int, int, int]) -> Tensor:
    """MASK [P,H,W] with one box y0, x0, y1, x1 for each picture."""
    mask = torch.zeros(len(places), height, width)
    for k, (y0, x0, y1, x1) in enumerate(places):
        mask[k, y0:y1, x0:x1] = 1
    return mask


PLACES = [(0, 0, 20, 30), (101, 80, 133, 99), (40, 170, 41, 171), (0, 0, 133, 200), (0, 60, 133, 64)]


@pytest.mark.parametrize("aspect", ["square", "free", "16:9"])
@pytest.mark.parametrize("size", [0, 64, 256])
def test_an_identity_edit_gives_the_source_outside_and_where_nothing_was_scaled(
    cut: Any, stitch: Any, aspect: str, size: int
) -> None:
    image, mask = noise(1, len(PLACES), 133, 200, 3), boxes(133, 200, *PLACES)
    crops, small, record, report = cut(image, mask, size=size, aspect=aspect, context=0.25)
    assert len(crops) == len(small) == len(PLACES) and crops.shape[1:3] == small.shape[1:3]
    assert all(side % 8 == 0 for side in crops.shape[1:3])
    made, where = stitch(crops, record)
    assert torch.equal(where, mask) and made.shape == image.shape
    assert torch.equal(made[mask == 0], image[mask == 0])
    for k, (_, plan) in enumerate(record.rows):
        if not plan.resampled:
            assert torch.equal(made[k], image[k])
            assert float(small[k].sum()) == float(mask[k].sum())
        assert f"picture {k + 1}: {plan}" in report
    inverted = stitch(1 - crops, record)[0]
    assert (inverted != image).any(-1)[mask > 0].float().mean() > 0.99


def test_parts_apart_and_candidates(cut: Any, stitch: Any) -> None:
    image = noise(2, 2, 150, 400, 3)
    mask = boxes(150, 400, (10, 10, 20, 30), (60, 60, 90, 90))
    mask[0, 120:140, 350:380] = 0.5
    crops, small, record, _ = cut(image, mask, parts="apart")
    assert crops.shape == (3, 64, 64, 3) and [k for k, _ in record.rows] == [0, 0, 1]
    assert float(small.sum()) == pytest.approx(float(mask.sum()))
    assert torch.equal(stitch(crops, record)[0][mask != 0.5], image[mask != 0.5])
    edited = torch.arange(6.0)[:, None, None, None].expand(6, 64, 64, 3) / 10
    made, where = stitch(edited, record)
    assert len(made) == len(where) == 4
    for row, (picture, first, second) in enumerate(
        [(0, 0.0, 0.2), (0, 0.1, 0.3), (1, 0.4, None), (1, 0.5, None)]
    ):
        assert torch.equal(where[row], mask[picture])
        assert torch.equal(made[row][mask[picture] == 0], image[picture][mask[picture] == 0])
        if second is None:
            assert (made[row, 60:90, 60:90] == first).all()
        else:
            assert (made[row, 10:20, 10:30] == first).all()
            half = (image[0, 120:140, 350:380] + second) / 2
            assert (made[row, 120:140, 350:380] - half).abs().max() < 1e-6
    together, _, whole, report = cut(image, mask)
    assert len(together) == 2 and "scale 0.1" in report and len(whole.rows) == 2


def test_one_mask_for_many_pictures_and_many_masks_for_one(cut: Any, stitch: Any) -> None:
    mask = boxes(90, 120, (10, 10, 30, 40))
    for image, planes in (
        (noise(3, 3, 90, 120, 3), mask),
        (noise(3, 1, 90, 120, 3), boxes(90, 120, *[(5, 5, 9, 90)] * 3)),
    ):
        crops, _, record, _ = cut(image, planes)
        made, where = stitch(torch.zeros_like(crops), record)
        assert len(crops) == len(made) == len(where) == 3
        full = planes.expand(3, -1, -1)
        assert not made[full == 1].any() and torch.equal(
            made[full == 0], image.expand(3, -1, -1, -1)[full == 0]
        )


def test_alpha_dtype_and_another_source(cut: Any, stitch: Any) -> None:
    image, mask = noise(4, 1, 90, 120, 4).half(), boxes(90, 120, (10, 10, 30, 40))
    crops, _, record, _ = cut(image, mask)
    assert crops.shape[-1] == 3
    made = stitch(crops, record)[0]
    assert made.dtype == torch.float16 and torch.equal(made, image)
    other = noise(5, 1, 90, 120, 3)
    moved = stitch(crops, record, source=other)[0]
    assert torch.equal(moved[mask == 0], other[mask == 0])
    assert torch.equal(moved[mask == 1], image[..., :3].float()[mask == 1])


def test_an_empty_mask_gives_the_source(cut: Any, stitch: Any) -> None:
    image = noise(6, 1, 90, 120, 3)
    for mask in (torch.zeros(1, 90, 120), torch.zeros(1, 64, 64)):
        crops, small, record, report = cut(image, mask)
        assert crops.shape == (1, 64, 64, 3) and not small.any() and "mask is empty" in report
        assert torch.equal(stitch(1 - crops, record)[0], image)


def refused(call: Callable[[], Any], *parts: str) -> None:
    with pytest.raises((ValueError, TypeError)) as error:
        call()
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def test_what_does_not_fit_is_one_sentence(cut: Any, stitch: Any) -> None:
    image, mask = noise(7, 1, 90, 120, 3), boxes(90, 120, (10, 10, 30, 40))
    crops, _, record, _ = cut(image, mask)
    refused(
        lambda: stitch(noise(1, 1, 128, 128, 3), record),
        "edited is 128x128 px but crop is 64x64; scale edited",
    )
    refused(lambda: stitch(crops[:0], record), "edited holds 0 pictures but crop 1")
    refused(lambda: stitch(crops * torch.nan, record), "edited holds", "NaN")
    refused(
        lambda: stitch(crops, record, source=image[:, :80]),
        "source is 120x80 px but crop was cut from 120x90",
    )
    refused(lambda: stitch(crops, record, source=image.repeat(2, 1, 1, 1)), "source holds 2 pictures")
    refused(lambda: stitch(crops, mask), "crop must come from Crop Region, got Tensor")
    refused(lambda: cut(image, mask, size=500, multiple=64), "size 500 is no multiple of 64", "448 or 512")
    refused(lambda: cut(image, mask, aspect="7:5"), "aspect must be one of square", "'7:5'")
    refused(lambda: cut(image, mask, parts="all"), "parts must be one of together, apart")
    refused(lambda: cut(image, torch.ones(1, 30, 90)), "mask", "image")
    refused(
        lambda: cut(image.repeat(2, 1, 1, 1), mask.repeat(3, 1, 1)),
        "mask has batch 3 but image has batch 2",
    )


@pytest.fixture(scope="module")
def sample(pack: Pack, small: Any) -> Any:
    node, fixed = pack("nodes.region_sampler").RetouchRegionSampler, (small.model(), small.vae())

    def call(**given: Any) -> Any:
        defaults = {
            "model": fixed[0],
            "vae": fixed[1],
            "target": small.conditioning(1),
            "cfg": 1.0,
            "steps": 2,
        }
        return node.execute(**defaults | {"candidates": 1} | given).result

    return call


def test_the_sampler_on_a_crop_is_crop_then_sampler_then_stitch(sample: Any, cut: Any, stitch: Any) -> None:
    image = noise(8, 2, 131, 203, 3)
    mask = boxes(131, 203, (20, 30, 50, 50), (100, 170, 131, 203))
    made, latent, where, report = sample(image=image, mask=mask, work_size=64, candidates=2)
    assert made.shape == (4, 131, 203, 3) and latent["samples"].shape == (4, 4, 8, 8)
    full = mask.repeat_interleave(2, 0)
    assert torch.equal(where, full) and "64x64" in report
    assert torch.equal(made[full == 0], image.repeat_interleave(2, 0)[full == 0])
    crops, small_mask, record, _ = cut(image, mask)
    apart = sample(image=crops, mask=small_mask, candidates=2)
    assert torch.equal(apart[1]["samples"], latent["samples"])
    assert torch.equal(stitch(apart[0], record)[0], made)


def test_full_is_the_default_and_a_crop_of_everything_is_the_picture(sample: Any) -> None:
    image, mask = noise(9, 1, 72, 64, 3), boxes(72, 64, (20, 20, 50, 44))
    whole = sample(image=image, mask=mask)
    for work_size in ("full", "auto", "256"):
        made = sample(image=image, mask=mask, work_size=work_size)
        assert torch.equal(made[0], whole[0]) and torch.equal(made[1]["samples"], whole[1]["samples"])


def test_far_parts_regions_and_empty_masks_of_a_batch(sample: Any) -> None:
    image = noise(10, 2, 90, 240, 3)
    mask = boxes(90, 240, (10, 10, 30, 30), (0, 0, 0, 0))
    mask[0, 60:80, 200:220] = 1
    made, latent, _, report = sample(image=image, mask=mask, work_size=64, candidates=2)
    assert len(made) == 2 and len(latent["samples"]) == 4 and "3 crops" in report
    outside = mask[0] == 0
    for one in made:
        assert torch.equal(one[outside], image[0][outside])
        assert not torch.equal(one[10:30, 10:30], image[0, 10:30, 10:30])
        assert not torch.equal(one[60:80, 200:220], image[0, 60:80, 200:220])
    region = torch.zeros_like(mask)
    region[0, 20:24, 20:24] = 1
    kept, _, own, _ = sample(
        image=image, mask=mask, work_size=64, region=region, change_min=1.0, candidates=2
    )
    assert (own[0] <= mask[0]).all() and 0 < int((own[0] > 0).sum()) < 400
    assert torch.equal(kept[0][own[0] == 0], image[0][own[0] == 0])
    empty = sample(image=image, mask=mask * 0, work_size=64)
    assert torch.equal(empty[0], image) and not empty[2].any() and "mask is empty" in empty[3]


def test_auto_is_the_side_that_the_model_was_trained_on(pack: Pack, small: Any, tmp_path: Path) -> None:
    import comfy.latent_formats

    from training.random_bundle import save_random_bundle

    side = pack("nodes._crops").native_side
    assert side(small.model()) == 1024
    old = small.model().clone()
    old.add_object_patch("latent_format", comfy.latent_formats.SD15())
    assert side(old) == 512
    bundle = save_random_bundle(tmp_path)
    assert side(pack("nodes._bundle").host_model(bundle)) == 128


def test_asking_for_the_side_leaves_the_hosts_log_alone(
    pack: Pack, tiny: Any, caplog: pytest.LogCaptureFixture
) -> None:
    import comfy.supported_models

    model = tiny.model()
    model.model.model_config = comfy.supported_models.SD20({"in_channels": 9})
    with caplog.at_level(logging.WARNING):
        assert pack("nodes._crops").native_side(model) > 0
    assert caplog.text == ""


def test_bad_work_sizes_are_named(sample: Any) -> None:
    image, mask = noise(11, 1, 72, 64, 3), boxes(72, 64, (20, 20, 50, 44))
    refused(
        lambda: sample(image=image, mask=mask, work_size="large"), "work_size must be full, auto", "'large'"
    )
    refused(lambda: sample(image=image, mask=mask, work_size=100), "work_size 100 is no multiple of 8")
