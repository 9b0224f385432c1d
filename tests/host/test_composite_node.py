"""RetouchComposite: outside the mask the source, bit for bit, whatever comes in."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

pytestmark = pytest.mark.host

HEIGHT, WIDTH = 70, 85


@pytest.fixture(scope="module")
def run(pack: Callable[[str], ModuleType]) -> Any:
    node = pack("nodes.composite").RetouchComposite
    return lambda *given: node.execute(*given).result


def noise(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def soft_mask(batch: int = 1) -> Tensor:
    mask = torch.zeros(batch, HEIGHT, WIDTH)
    mask[:, 20:50, 30:60] = 1
    mask[:, 20:50, 26:30] = 0.3
    return mask


def test_outside_is_the_source_and_inside_the_edit(run: Any) -> None:
    edited, source, mask = noise(1, 1, HEIGHT, WIDTH, 3), noise(2, 1, HEIGHT, WIDTH, 3), soft_mask()
    made, report = run(edited, source, mask)
    assert torch.equal(made[:, mask[0] == 0], source[:, mask[0] == 0])
    assert torch.equal(made[:, mask[0] == 1], edited[:, mask[0] == 1])
    mixed = mask[..., None].double() * edited + (1 - mask[..., None].double()) * source
    assert (made - mixed).abs().max() <= 1e-6
    assert "outside it: 0." in report
    assert f"{100 * 30 * 34 / (HEIGHT * WIDTH):.1f} %" in report


def test_ten_edits_in_a_row_leave_the_rest_alone(run: Any) -> None:
    first = noise(0, 1, HEIGHT, WIDTH, 3)
    current, touched = first, torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    for k in range(10):
        mask = torch.zeros(1, HEIGHT, WIDTH)
        mask[:, 5 * k : 5 * k + 9, 3 * k : 6 * k + 4] = 0.1 * k + 0.05
        touched |= mask[0] > 0
        current = run(noise(k + 1, 1, HEIGHT, WIDTH, 3), current, mask)[0]
    assert not touched.all()
    assert torch.equal(current[:, ~touched], first[:, ~touched])


@pytest.mark.parametrize("counts", [(1, 1, 3), (3, 1, 1), (1, 3, 1), (3, 3, 1), (3, 1, 3), (3, 3, 3)])
def test_batches(run: Any, counts: tuple[int, int, int]) -> None:
    edited, source = noise(1, counts[0], HEIGHT, WIDTH, 3), noise(2, counts[1], HEIGHT, WIDTH, 3)
    mask = soft_mask(counts[2])
    mask[-1, :10] = 1
    made = run(edited, source, mask)[0]
    assert made.shape == (max(counts), HEIGHT, WIDTH, 3)
    for k, one in enumerate(made):
        parts = (part[min(k, len(part) - 1)] for part in (edited, source, mask))
        e, s, m = parts
        assert torch.equal(one[m == 0], s[m == 0])
        assert torch.equal(one[m == 1], e[m == 1])


def test_batches_that_do_not_match_are_refused(run: Any) -> None:
    with pytest.raises(ValueError, match="edited holds 2 pictures, source 3"):
        run(noise(1, 2, HEIGHT, WIDTH, 3), noise(2, 3, HEIGHT, WIDTH, 3), soft_mask())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_alpha_and_dtype_of_the_source_stay(run: Any, dtype: torch.dtype) -> None:
    source, mask = noise(2, 1, HEIGHT, WIDTH, 4).to(dtype), soft_mask()
    made = run(noise(1, 1, HEIGHT, WIDTH, 3), source, mask)[0]
    assert made.dtype == dtype
    assert torch.equal(made[..., 3], source[..., 3])
    assert torch.equal(made[:, mask[0] == 0], source[:, mask[0] == 0])


def test_nan_of_the_edit_is_refused_and_empty_masks_are_not(run: Any) -> None:
    edited, source = noise(1, 1, HEIGHT, WIDTH, 3), noise(2, 1, HEIGHT, WIDTH, 3)
    assert torch.equal(run(edited, source, torch.zeros(1, HEIGHT, WIDTH))[0], source)
    assert torch.equal(run(edited, source, torch.zeros(1, 64, 64))[0], source)
    with pytest.raises(ValueError, match="edited holds 1 NaN"):
        run(
            edited.index_fill(0, torch.tensor(0), 0).index_put(
                (torch.tensor(0),) * 4, torch.tensor(torch.nan)
            ),
            source,
            soft_mask(),
        )


def test_what_the_hosts_vae_crops_is_put_back_where_it_was(run: Any, comfy: Any) -> None:
    """Its own cropping is the reference: an edit that changed nothing lands on itself."""
    import comfy.sd
    import comfy.taesd.taesd

    vae = comfy.sd.VAE(sd=comfy.taesd.taesd.TAESD().state_dict())
    for height, width in ((70, 85), (71, 79), (64, 95), (65, 64)):
        source = noise(4, 1, height, width, 3)
        cropped = vae.vae_encode_crop_pixels(source)
        assert cropped.shape[1:3] == (height // 8 * 8, width // 8 * 8)
        made, report = run(cropped, source, torch.ones(1, height, width))
        assert torch.equal(made, source)
        assert "placed" in report


def test_other_sizes_are_refused(run: Any) -> None:
    source = noise(2, 1, HEIGHT, WIDTH, 3)
    for height, width in ((HEIGHT - 16, WIDTH), (HEIGHT, WIDTH + 1), (140, 170)):
        with pytest.raises(ValueError, match=f"edited is {width}x{height} px but source is 85x70; resize"):
            run(noise(1, 1, height, width, 3), source, soft_mask())


def test_region_gives_back_what_hardly_changed(run: Any) -> None:
    source, mask = torch.full((1, HEIGHT, WIDTH, 3), 0.4), soft_mask()
    edited = source + 0.02
    edited[:, 30:40, 40:44] = 0.9
    region = torch.zeros(1, HEIGHT, WIDTH)
    region[:, 22:26, 32:36] = 1
    made, report = run(edited, source, mask, region)
    different = (made != source).any(-1)[0]
    # The strong change and the thing itself, each with a little around it, and nothing else of the mask.
    assert different[30:40, 40:44].all() and different[22:26, 32:36].all()
    assert not different[:, 50:].any() and not different[44:].any() and not different[:, :30].any()
    whole, _ = run(edited, source, mask)
    assert (whole != source).any(-1)[0].sum() == (mask > 0).sum() > different.sum()
    assert torch.equal(run(edited, source, mask, region, 0.0)[0], whole)
    assert f"covers {100 * float((mask > 0).float().mean()):.1f} %" not in report


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"change_min": 1.5}, r"change_min must be in \[0, 1\], got 1\.5"),
        ({"change_min": "much"}, "change_min must be a number, got 'much'"),
        ({"region": torch.ones(1, 7, WIDTH)}, "region is"),
        ({"region": torch.ones(3, HEIGHT, WIDTH)}, "region has batch 3"),
        ({"region": torch.ones(0, HEIGHT, WIDTH)}, "region is a batch of no masks"),
    ],
)
def test_bad_regions_are_named(pack: Any, given: dict[str, Any], message: str) -> None:
    node = pack("nodes.composite").RetouchComposite
    pictures = {"edited": noise(1, 2, HEIGHT, WIDTH, 3), "source": noise(2, 2, HEIGHT, WIDTH, 3)}
    with pytest.raises((TypeError, ValueError), match=message):
        node.execute(**{**pictures, "mask": soft_mask(), "region": soft_mask(), **given})
