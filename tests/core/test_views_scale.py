"""Views made from what differs from the fill alone, against the definition: the whole square, resampled by torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional

from retouch_core.regions import views as module
from retouch_core.regions.views import MARGIN, region_views
from retouch_core.tensors.normalisation import CLIP_MEAN
from retouch_core.tensors.regions import mask_boxes

HEIGHT, WIDTH = 233, 371
KINDS = ["crop+fill", "crop", "full+fill"]
TOLERANCE = 1e-5
"""Of 1: float32 sums in another order."""


def drawn(height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    return torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(3))


def regions(height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    """Blobs with holes, a single pixel, the last row, a frame around everything, and all of the picture."""
    noise = np.random.default_rng(5).standard_normal((6, height, width))
    masks = [ndimage.gaussian_filter(n, 9) > 0.03 for n in noise]
    rows, columns = np.mgrid[:height, :width]
    masks[1] &= (rows > 40) & (rows < 90) & (columns > 200) & (columns < 330)
    masks[2] &= (rows > 140) & (columns < 90)
    assert all(mask.any() for mask in masks)
    single, last, border = (np.zeros((height, width), dtype=bool) for _ in range(3))
    single[100, 7] = last[-1] = border[0] = border[-1] = border[:, 0] = border[:, -1] = True
    return torch.from_numpy(np.stack([*masks, single, last, border, np.ones_like(single)]))


def by_definition(image: torch.Tensor, mask: torch.Tensor, size: int, kind: str, fill: str) -> torch.Tensor:
    """The square around the frame, picture where frame and mask allow it and fill elsewhere, then resampled."""
    height, width = mask.shape
    framing, _, cover = kind.partition("+")
    x0, y0, x1, y1 = 0, 0, width, height
    if framing == "crop":
        ys, xs = np.nonzero(mask.numpy())
        x0, y0, x1, y1 = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
        extra = round(MARGIN * max(x1 - x0, y1 - y0))
        x0, y0, x1, y1 = (
            max(0, x0 - extra),
            max(0, y0 - extra),
            min(width, x1 + extra),
            min(height, y1 + extra),
        )
    side = max(x1 - x0, y1 - y0)
    rows = np.arange(side) + y0 - (side - (y1 - y0)) // 2
    columns = np.arange(side) + x0 - (side - (x1 - x0)) // 2
    shown = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
    rows, columns = rows.clip(0, height - 1), columns.clip(0, width - 1)
    if cover:
        shown &= mask.numpy()[rows][:, columns]
    ground = np.zeros((height, width, 3)) + (np.array(CLIP_MEAN) if fill == "mean" else 0)
    if fill == "blur":
        sigma = 0.02 * max(height, width)
        reach = max(1, round(3 * sigma))
        ground = np.stack(
            [
                ndimage.gaussian_filter(
                    image[0, ..., c].double().numpy(), sigma, mode="nearest", radius=reach
                )
                for c in range(3)
            ],
            -1,
        )
    square = np.where(shown[..., None], image[0].double().numpy()[rows][:, columns], ground[rows][:, columns])
    pixels = torch.from_numpy(square).movedim(-1, 0)[None].double()
    return functional.interpolate(pixels, (size, size), mode="bicubic", antialias=True)[0].clamp(0, 1).float()


@pytest.mark.parametrize("fill", ["black", "mean", "blur"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [37, 224])
def test_views_are_the_resampled_squares(kind: str, fill: str, size: int) -> None:
    """Both smaller and larger than the boxes, in one and in several blocks."""
    image, masks = drawn(), regions()
    found = region_views(image, masks, size, kind, fill)
    assert found.dtype == torch.float32 and found.shape == (len(masks), 3, size, size)
    for view, mask in zip(found, masks, strict=True):
        expected = by_definition(image, mask, size, kind, fill)
        assert float((view - expected).abs().max()) < TOLERANCE


def test_the_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    image, masks = drawn(), regions()
    whole = region_views(image, masks, 96)
    for block in (1, 7, 96, 1000):
        monkeypatch.setattr(module, "BLOCK", block)
        assert torch.allclose(region_views(image, masks, 96), whole, atol=1e-6)


def test_same_input_same_bits_and_other_number_types() -> None:
    image, masks = drawn(), regions()
    once = region_views(image, masks, 64)
    assert torch.equal(once, region_views(image.clone(), masks.clone(), 64))
    assert torch.equal(once, region_views(image.movedim(1, 2).contiguous().movedim(1, 2), masks, 64))
    half = region_views(image.half(), masks, 64)
    assert half.dtype == torch.float32 and torch.allclose(half, once, atol=1e-3)


def test_boxes_of_masks_by_hand() -> None:
    masks = regions()
    empty = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
    for mask, box in zip(masks, mask_boxes(masks).tolist(), strict=True):
        ys, xs = mask.nonzero().T
        assert box == [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]
    assert mask_boxes(empty).tolist() == [[0, 0, 0, 0]] and mask_boxes(empty).dtype == torch.float32
    assert mask_boxes(empty[:0]).shape == (0, 4)
    turned = masks.transpose(1, 2)
    assert torch.equal(mask_boxes(turned), mask_boxes(masks)[:, [1, 0, 3, 2]])
