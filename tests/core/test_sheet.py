"""The contact sheet shows the pictures themselves, marks what was chosen, and takes every legal size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFont

from retouch_core.sheet import (
    ACCENT,
    GLYPHS,
    PAPER,
    Panel,
    contact_sheet,
    drawable,
    panel_sheet,
    region_overlay,
)
from retouch_core.tensors.regions import Regions

TILE = 96


def picture(height: int = 32, width: int = 32, seed: int = 0, count: int = 1) -> torch.Tensor:
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(seed))


def regions_of(count: int, height: int = 32, width: int = 32, scores: bool = True) -> Regions:
    """`count` vertical bands."""
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for index in range(count):
        masks[index, :, index * width // count : (index + 1) * width // count] = True
    return Regions(masks, torch.linspace(0.3, 0.1, count) if scores else None, (height, width))


def drawn(
    m: int, n: int, *, height: int = 32, width: int = 32, best: int | None = 0, title: str = "t"
) -> Image.Image:
    regions = regions_of(n, height, width)
    selected = torch.arange(n) == 0
    mask = regions.select(selected).union()
    candidates = picture(height, width, 1, max(m, 1))[:m]
    return contact_sheet(
        picture(height, width),
        regions,
        selected,
        mask,
        candidates,
        torch.rand(m),
        best if m else None,
        title,
        TILE,
    )


def where_is(sheet: Image.Image, part: np.ndarray) -> list[tuple[int, int]]:
    """Corners (x, y) at which `part` [h,w,3] lies on the sheet, pixel for pixel."""
    pixels = np.asarray(sheet)
    height, width = part.shape[:2]
    corners = np.argwhere((pixels[: -height or None, : -width or None] == part[0, 0]).all(-1))
    return [(x, y) for y, x in corners.tolist() if (pixels[y : y + height, x : x + width] == part).all()]


def enlarged(image: torch.Tensor, times: int) -> np.ndarray:
    return np.kron((image[0] * 255).round().numpy().astype(np.uint8), np.ones((times, times, 1), np.uint8))


@pytest.mark.parametrize(("m", "n"), [(0, 0), (0, 3), (1, 0), (1, 1), (4, 5), (9, 40)])
def test_every_count_is_legal(m: int, n: int):
    sheet = drawn(m, n)
    assert sheet.mode == "RGB" and sheet.width > 4 * TILE
    rows = 1 + -(-m // 4)
    assert rows * TILE < sheet.height < rows * (TILE + 60) + 100


@pytest.mark.parametrize("size", [(16, 200), (200, 16), (16, 16), (37, 53), (1, 3000), (700, 400)])
def test_every_size_is_legal(size: tuple[int, int]):
    assert drawn(2, 3, height=size[0], width=size[1]).width > 0


def test_small_pictures_keep_their_pixels_visible():
    sheet = drawn(2, 3)
    assert len(where_is(sheet, enlarged(picture(), 3))) == 1, "the input once, each of its pixels 3x3"
    best = enlarged(picture(seed=1, count=2)[:1], 3)
    assert len(where_is(sheet, best)) == 2, "the best candidate once among the candidates, once as best"


def test_unchanged_source_stands_in_for_the_best():
    assert len(where_is(drawn(0, 0), enlarged(picture(), 3))) == 3, "input, no regions, result"


def test_only_the_best_is_framed():
    def framed(sheet: Image.Image) -> bool:
        return bool((np.asarray(sheet) == ACCENT).all(-1).any())

    assert framed(drawn(2, 3)) and not framed(drawn(0, 3)) and not framed(drawn(2, 3, best=None))
    sheet = drawn(2, 3, best=1)
    ((x, y), *_) = where_is(sheet, enlarged(picture(seed=1, count=2)[1:], 3))
    assert sheet.getpixel((x - 1, y - 1)) == ACCENT and sheet.getpixel((x + TILE, y + TILE)) == ACCENT


def test_inputs_stay_as_they_are():
    source, regions, candidates = picture(), regions_of(3), picture(seed=1, count=2)
    mask, scores = regions.union(), torch.tensor([0.1, 0.2])
    before = [t.clone() for t in (source, candidates, mask, scores, regions.masks)]
    contact_sheet(source, regions, None, mask, candidates, scores, 1, "t", TILE)
    for then, now in zip(before, (source, candidates, mask, scores, regions.masks), strict=True):
        assert torch.equal(then, now)


def test_long_titles_and_captions_stay_on_the_paper():
    title = "wordwordword " * 60
    sheet = np.asarray(drawn(1, 1, title=title))
    assert (sheet[:, -5:] == PAPER).all() and (sheet[:, :5] == PAPER).all()
    panel = Panel(Image.new("RGB", (60, 60)), "x" * 400)
    assert (np.asarray(panel_sheet([[panel]], tile=TILE))[:, -3:] == PAPER).all()


def test_nothing_to_show_is_legal():
    assert panel_sheet([], "only words").height > 0


# ------------------------------------------------------------------------------------------------- regions


@pytest.mark.parametrize("size", [(32, 32), (100, 60), (512, 512), (600, 1000)])
def test_overlay_is_an_image_large_enough_to_read(size: tuple[int, int]):
    overlay = region_overlay(picture(*size), regions_of(3, *size))
    assert overlay.dtype == torch.float32 and overlay.min() >= 0 and overlay.max() <= 1
    times = overlay.shape[1] / size[0]
    assert times == int(times) and overlay.shape == (1, size[0] * times, size[1] * times, 3)
    assert max(overlay.shape[1:3]) >= 512


def test_labels_keep_their_number_and_colour_when_others_leave():
    """A region that is number 3 of three is still drawn as number 3 when it is the only one left."""
    image = torch.full((1, 512, 512, 3), 0.5)
    three = replace(regions_of(3, 512, 512, scores=False), labels=("1", "2", "3"))
    third = torch.arange(3) == 2
    alone, among = (region_overlay(image, regions) for regions in (three.select(third), three))
    inside = three.masks[2]
    assert torch.equal(alone[0][inside], among[0][inside])
    unlabelled = region_overlay(image, replace(three, labels=None).select(third))
    assert not torch.equal(unlabelled[0][inside], among[0][inside])
    assert torch.equal(region_overlay(image, replace(three, labels=None)), among)


def test_overlay_without_regions_is_the_picture():
    image = (picture(512, 20) * 255).round() / 255
    assert torch.equal(region_overlay(image, regions_of(0, 512, 20)), image)


def test_selected_region_keeps_its_colours_and_the_rest_is_dimmed():
    image = torch.full((1, 512, 512, 3), 0.6)
    regions = regions_of(2, 512, 512)
    overlay = region_overlay(image, regions, torch.tensor([True, False]))
    inside = (slice(20, 60), slice(20, 200))
    assert torch.equal(overlay[0][inside], image[0][inside])
    assert overlay[0, 20:60, 300:480].mean() < 0.5
    assert not torch.equal(overlay[0, :, :20], image[0, :, 20:40]), "the selected region is outlined"


@pytest.mark.parametrize("scores", [True, False])
def test_each_region_is_numbered_inside_itself(scores: bool):
    """Number labels are the only difference between a region and one of the same colour elsewhere."""
    image = torch.zeros(1, 512, 512, 3)
    overlay = region_overlay(image, regions_of(3, 512, 512, scores=scores))
    for band in range(3):
        inner = overlay[0, 10:500, band * 171 + 10 : band * 171 + 160]
        assert inner.reshape(-1, 3).unique(dim=0).shape[0] > 3, "a label lies here"


def test_empty_masks_among_regions_are_legal():
    regions = Regions(torch.zeros(2, 32, 32, dtype=torch.bool), torch.zeros(2), (32, 32))
    region_overlay(picture(), regions)


# ------------------------------------------------------------------------------------------------- letters


def test_accents_are_dropped_and_other_scripts_marked():
    assert drawable("une façade → “rouge”") == "une facade > “rouge”"
    assert drawable("car\n\t car") == "car car"
    assert drawable("車 car") == "? car"


@given(st.text())
def test_everything_drawn_has_a_glyph(text: str):
    assert set(drawable(text)) <= GLYPHS


def test_the_built_in_font_has_every_glyph_we_count_on():
    font = ImageFont.load_default(size=20)
    missing = bytes(font.getmask("\u8eca"))
    assert [glyph for glyph in GLYPHS if bytes(font.getmask(glyph)) == missing] == []
