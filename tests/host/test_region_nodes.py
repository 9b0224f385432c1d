"""The chain of region nodes against the library's search, on the shipped pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

pytestmark = pytest.mark.host

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "retouch_core" / "demo_pictures"
CASES = [(c["picture"], c["query"]) for c in json.loads((PICTURES / "cases.json").read_text())]
MORE = [("wood.png", "background"), ("sky.png", "a purple mushroom in the top left corner")]

Pack = Callable[[str], ModuleType]


@pytest.fixture(scope="module")
def parts(pack: Pack) -> Any:
    """The library's own models, whose scorer also travels on the wire here."""
    return pack("retouch_core.models.embedded").load_embedded()


def picture_of(pack: Pack, name: str) -> Tensor:
    return pack("retouch_core.pictures").read_picture(PICTURES / name)


def chain(pack: Pack, parts: Any, image: Tensor, query: str) -> dict[str, Any]:
    """EntitySegment, RegionScores, AdaptiveThreshold, LocationFilter, DilateMask with their defaults."""
    images, entities, _ = (
        pack("nodes.entity_segment").RetouchEntitySegment.execute(image, parts.segmenter).args
    )
    scored, _, report = (
        pack("nodes.region_scores")
        .RetouchRegionScores.execute(images[0], entities[0], parts.scorer, query)
        .args
    )
    kept, _, _ = pack("nodes.adaptive_threshold").RetouchAdaptiveThreshold.execute(scored).args
    placed, mask, phrase, _ = pack("nodes.location_filter").RetouchLocationFilter.execute(kept, query).args
    (area,) = pack("nodes.dilate_mask").RetouchDilateMask.execute(mask, neighbours=entities[0]).args
    return {"regions": placed, "mask": mask, "phrase": phrase, "area": area, "report": report}


@pytest.mark.parametrize(("name", "query"), CASES + MORE)
def test_the_chain_finds_what_the_library_finds(pack: Pack, parts: Any, name: str, query: str) -> None:
    image = picture_of(pack, name)
    recipe = pack("retouch_core.recipes").recipe("default")
    found = pack("retouch_core.regions.search").search(
        image, query, parts.segmenter, parts.scorer, settings=recipe.settings()
    )
    made = chain(pack, parts, image, query)
    expected = found.regions.masks[found.selected].any(0, keepdim=True).float()
    assert torch.equal(made["mask"], expected)
    if not found.present:
        assert len(made["regions"]) == 0 and "was not found" in made["report"]
        assert not made["area"].any()
        return
    assert expected.any()
    frame = pack("retouch_core.editing.work_frame").WorkFrame.fit((image.shape[1], image.shape[2]), 128)
    edit = pack("retouch_core.pipeline")._edit_area(found, frame, recipe, 8)
    assert torch.equal(made["area"], edit.composite)


def test_numbers_stay_with_their_regions(pack: Pack, parts: Any) -> None:
    image = picture_of(pack, CASES[0][0])
    _, entities, _ = pack("nodes.entity_segment").RetouchEntitySegment.execute(image, parts.segmenter).args
    made = chain(pack, parts, image, CASES[0][1])
    for label, mask in zip(made["regions"].labels, made["regions"].masks, strict=True):
        assert torch.equal(entities[0].masks[int(label) - 1], mask)


def test_a_batch_goes_picture_by_picture(pack: Pack, parts: Any) -> None:
    node = pack("nodes.entity_segment").RetouchEntitySegment
    first, second = (picture_of(pack, name) for name, _ in CASES[:2])
    images, regions, mask = node.execute(torch.cat([first, second]), parts.segmenter).args
    assert torch.equal(images[1], second) and mask.shape == (2, *first.shape[1:3])
    assert torch.equal(regions[1].masks, node.execute(second, parts.segmenter).args[1][0].masks)


def test_masks_become_regions_and_empty_ones_go(pack: Pack) -> None:
    masks = torch.zeros(4, 32, 48)
    masks[0, 2:9, 3:9] = 1
    masks[1, 5:20, 5:30] = 0.7
    masks[3, 25:30, 40:47] = 0.4
    regions, union = pack("nodes.masks_to_regions").RetouchMasksToRegions.execute(masks).args
    assert len(regions) == 2 and regions.labels == ("1", "2")
    assert regions.trace[-1]["overlap"] is True and regions.trace[-1]["empty"] == 2
    assert torch.equal(union[0] > 0, (masks > 0.5).any(0))
    nothing, none = pack("nodes.masks_to_regions").RetouchMasksToRegions.execute(torch.zeros(0, 32, 48)).args
    assert len(nothing) == 0 and none.shape == (1, 32, 48) and not none.any()


@pytest.mark.parametrize(
    ("text", "cells"),
    [
        ("", set()),
        ("top left, middle", {(0, 0), (1, 1)}),
        ("left", {(0, 0), (1, 0), (2, 0)}),
        ("100 000 001", {(0, 0), (2, 2)}),
        ("bottom middle", {(2, 1)}),
    ],
)
def test_cells_are_read_strictly(pack: Pack, text: str, cells: set[tuple[int, int]]) -> None:
    assert pack("nodes.location_filter").cells_of(text) == cells


@pytest.mark.parametrize("text", ["upstairs", "left top", "1010", "top left right"])
def test_other_cells_are_refused_by_name(pack: Pack, text: str) -> None:
    with pytest.raises(ValueError, match="names no cell"):
        pack("nodes.location_filter").cells_of(text)


def four_corners(pack: Pack) -> Any:
    masks = torch.zeros(4, 90, 90)
    for k, (y, x) in enumerate([(5, 5), (5, 70), (70, 5), (70, 70)]):
        masks[k, y : y + 12, x : x + 12] = 1
    return pack("nodes.masks_to_regions").RetouchMasksToRegions.execute(masks).args[0]


@pytest.mark.parametrize(
    ("query", "cells", "labels"),
    [
        ("", "", "1234"),
        ("the thing on the left", "", "13"),
        ("", "bottom right", "4"),
        ("the thing on the left", "top right", "2"),
        ("the thing in the lower half", "", "34"),
    ],
)
def test_place_by_words_or_by_cells(pack: Pack, query: str, cells: str, labels: str) -> None:
    regions, mask, _, _ = (
        pack("nodes.location_filter").RetouchLocationFilter.execute(four_corners(pack), query, cells).args
    )
    assert regions.labels == tuple(labels)
    assert mask.sum() == 144 * len(labels)


def test_dilation_pads_and_never_shifts(pack: Pack) -> None:
    node = pack("nodes.dilate_mask").RetouchDilateMask
    mask = torch.zeros(1, 61, 75)
    mask[0, 50:60, 66:74] = 1
    (plain,) = node.execute(mask, shape="mask", dilate=1, feather=0, cell=1).args
    assert torch.equal(plain, mask)
    (snapped,) = node.execute(mask, shape="mask", dilate=1, feather=0).args
    expected = torch.zeros_like(mask)
    expected[0, 48:, 64:] = 1
    assert torch.equal(snapped, expected)


def test_neighbours_stay_closed_and_masks_of_a_batch_stay_apart(pack: Pack) -> None:
    node = pack("nodes.dilate_mask").RetouchDilateMask
    corners = four_corners(pack)
    one = corners.masks[:1].float()
    (area,) = node.execute(one, neighbours=corners, dilate=63, feather=0).args
    assert (area[0][corners.masks[0]] == 1).all()
    assert not area[0][corners.masks[1:].any(0)].any()
    (both,) = node.execute(torch.cat([one, corners.masks[3:].float()]), shape="box").args
    assert torch.equal(both[:1], node.execute(one, shape="box").args[0]) and not (both[0] * both[1]).any()


def test_holes_are_filled_on_demand(pack: Pack) -> None:
    node = pack("nodes.dilate_mask").RetouchDilateMask
    mask = torch.zeros(1, 64, 64)
    mask[0, 16:48, 16:48] = 1
    mask[0, 24:40, 24:40] = 0
    plain, full = (
        node.execute(mask, shape="mask", dilate=1, feather=0, cell=1, fill_holes=on).args[0]
        for on in (False, True)
    )
    assert torch.equal(plain, mask) and full.sum() == 32 * 32


def test_an_empty_mask_stays_empty(pack: Pack) -> None:
    (area,) = pack("nodes.dilate_mask").RetouchDilateMask.execute(torch.zeros(1, 64, 64)).args
    assert area.shape == (1, 64, 64) and not area.any()


def test_another_picture_than_the_regions_is_refused(pack: Pack, parts: Any) -> None:
    node = pack("nodes.region_scores").RetouchRegionScores
    with pytest.raises(ValueError, match="image is 128x128 px but regions are of 90x90"):
        node.execute(torch.rand(1, 128, 128, 3), four_corners(pack), parts.scorer, "a car")
    with pytest.raises(ValueError, match="query is empty"):
        node.execute(torch.rand(1, 90, 90, 3), four_corners(pack), parts.scorer, "  ")
