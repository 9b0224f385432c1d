"""The area to repaint covers the region, spares other entities, and holds the composite mask strictly inside."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from retouch_core.regions.edit_mask import edit_mask, surroundings


def rectangle(x0: int, y0: int, x1: int, y1: int, side: int = 128) -> torch.Tensor:
    mask = torch.zeros(1, side, side)
    mask[0, y0:y1, x0:x1] = 1
    return mask


nothing = torch.zeros(1, 128, 128)


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 110),
    st.integers(0, 110),
    st.integers(4, 60),
    st.integers(4, 60),
    st.sampled_from(["box", "mask"]),
    st.integers(0, 4),
)
def test_covers_the_region_and_fades_inside(x: int, y: int, w: int, h: int, shape: str, fade: int) -> None:
    selected = rectangle(x, y, x + w, y + h)
    edit = edit_mask(selected, nothing, shape=shape, dilate=5, fade=fade)
    assert edit.latent.shape == (1, 1, 16, 16) and set(edit.latent.unique().tolist()) <= {0.0, 1.0}
    assert (edit.painted >= selected).all()
    assert (edit.composite[edit.painted == 0] == 0).all()
    assert (edit.composite[selected > 0] == 1).all()
    if fade:
        # Strictly larger: wherever the composite is open, all four neighbours inside the frame are repainted.
        opened = (edit.composite[0] > 0).numpy()
        assert (ndimage.binary_dilation(opened) <= (edit.painted[0] > 0).numpy()).all()


def test_fade_falls_monotonically_from_one_to_zero() -> None:
    edit = edit_mask(rectangle(48, 48, 80, 80), nothing, fade=3)
    column = edit.composite[0, 64, :65]
    assert (column.diff() >= 0).all()
    ramp = column[(column > 0) & (column < 1)]
    assert torch.allclose(ramp, torch.tensor([1 / 3, 2 / 3]))


def test_other_entities_stay_closed_to_the_pixel() -> None:
    selected, other = rectangle(40, 40, 70, 70), rectangle(73, 40, 100, 70)
    edit = edit_mask(selected, other, dilate=5, fade=3)
    assert (edit.composite[other > 0] == 0).all()
    assert edit.composite[0, 40:70, 71:73].max() == 0, "nor their antialiased edges"
    # Cells that only the other entity is in are not repainted: columns 80..95 are cells 10 and 11.
    assert edit.latent[0, 0, 5:8, 10:12].max() == 0


def test_box_gives_room_where_the_silhouette_does_not() -> None:
    cross = torch.maximum(rectangle(20, 60, 108, 68), rectangle(60, 20, 68, 108))
    box = edit_mask(cross, nothing, shape="box", dilate=1, fade=0)
    silhouette = edit_mask(cross, nothing, shape="mask", dilate=1, fade=0)
    assert box.painted[0, 30, 30] == 1 and silhouette.painted[0, 30, 30] == 0


def test_two_regions_have_two_boxes() -> None:
    parts = torch.cat([rectangle(8, 8, 24, 24), rectangle(100, 100, 120, 120)]) > 0
    selected = parts.any(0, keepdim=True).float()
    edit = edit_mask(selected, nothing, boxes=parts, dilate=1, fade=0)
    assert edit.painted[0, 64, 64] == 0
    assert edit_mask(selected, nothing, dilate=1, fade=0).painted[0, 64, 64] == 1


def test_empty_region_gives_empty_masks() -> None:
    edit = edit_mask(nothing, rectangle(0, 0, 30, 30))
    assert edit.latent.sum() == edit.composite.sum() == 0


def test_bad_options_are_named() -> None:
    with pytest.raises(ValueError, match=r"shape must be one of box, mask, got 'hull'"):
        edit_mask(nothing, nothing, shape="hull")
    with pytest.raises(ValueError, match=r"k must be an odd number .* got 4"):
        edit_mask(nothing, nothing, dilate=4)


def test_what_a_region_stands_on_is_no_neighbour() -> None:
    selected = rectangle(40, 40, 70, 70)
    sky = (1 - selected) * rectangle(0, 0, 128, 90)
    halo = rectangle(38, 38, 72, 72) - selected
    beside = rectangle(72, 40, 100, 70)
    far = rectangle(100, 100, 120, 120)
    masks = torch.cat([sky, halo, beside, far]) > 0
    assert surroundings(selected, masks).tolist() == [True, True, False, False]
    assert surroundings(selected, masks[:0]).tolist() == []
    assert surroundings(nothing, masks).tolist() == [False] * 4
