"""The chain of region nodes against the library's search, on the shipped pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
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
MORE = [
    *((name, "background") for name in ("wood.png", "sky.png", "horizon.png")),
    ("sky.png", "a purple mushroom in the top left corner"),
    ("tiles.png", "a dragon"),
    ("night.png", "the ground"),
    ("grass.png", "the leftmost thing"),
    ("horizon.png", "the top"),
]

Pack = Callable[[str], ModuleType]


@pytest.fixture(scope="module", autouse=True)
def _temp_folder(comfy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Previews go into a folder of this test."""
    import folder_paths

    before = folder_paths.get_temp_directory()
    folder_paths.set_temp_directory(str(tmp_path_factory.mktemp("temp")))
    yield
    folder_paths.set_temp_directory(before)


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
    frame = pack("retouch_core.editing.crop").CropPlan.whole((image.shape[1], image.shape[2]), 128)
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


def test_another_picture_than_the_regions_is_refused(pack: Pack, parts: Any) -> None:
    node = pack("nodes.region_scores").RetouchRegionScores
    with pytest.raises(ValueError, match="image is 128x128 px but regions are of 90x90"):
        node.execute(torch.rand(1, 128, 128, 3), four_corners(pack), parts.scorer, "a car")
    with pytest.raises(ValueError, match="query is empty"):
        node.execute(torch.rand(1, 90, 90, 3), four_corners(pack), parts.scorer, "  ")
    with pytest.raises(ValueError, match="image holds 2 pictures but regions are of one"):
        node.execute(torch.rand(2, 90, 90, 3), four_corners(pack), parts.scorer, "a car")


@pytest.mark.parametrize(
    ("query", "cells", "place_rule"),
    [("", "middle", "overlap"), ("in the middle of the picture", "", "centroid")],
)
def test_where_nothing_lies_nothing_is_left(pack: Pack, query: str, cells: str, place_rule: str) -> None:
    node = pack("nodes.location_filter").RetouchLocationFilter
    regions, mask, phrase, report = node.execute(four_corners(pack), query, cells, place_rule).args
    assert len(regions) == 0 and mask.shape == (1, 90, 90) and not mask.any()
    assert phrase and "none lies there" in report


def test_a_corner_without_regions_is_widened_and_the_report_says_so(pack: Pack) -> None:
    corners = four_corners(pack).select(torch.tensor([0, 1, 3]))
    node = pack("nodes.location_filter").RetouchLocationFilter
    regions, _, _, report = node.execute(corners, cells="bottom left").args
    assert regions.labels == ("1", "4") and "whole row or column" in report


def test_place_asks_for_no_scores_and_does_not_weigh_them(pack: Pack) -> None:
    """A region with hardly any share of the scores still has its rank: the threshold came before."""
    node = pack("nodes.location_filter").RetouchLocationFilter
    corners = four_corners(pack)
    scored = corners.with_scores(torch.tensor([0.9, -0.9, -0.8, -0.9]))
    for regions in (corners, scored):
        kept, _, phrase, _ = node.execute(regions, "the second house from the top").args
        assert kept.labels == ("2",) and phrase == "second from the top"
        assert (kept.scores is None) == (regions.scores is None)
    assert kept.scores.tolist() == pytest.approx([-0.9])
    with pytest.raises(ValueError, match="number 5 from the left, but only 4"):
        node.execute(corners, "the fifth house from the left")


def test_without_words_of_place_everything_passes(pack: Pack) -> None:
    node = pack("nodes.location_filter").RetouchLocationFilter
    for query in ("", " ", "the red car", "background"):
        kept, mask, phrase, _ = node.execute(four_corners(pack), query).args
        assert kept.labels == tuple("1234") and phrase == "" and mask.sum() == 4 * 144


def test_no_regions_pass_through_every_stage(pack: Pack, parts: Any) -> None:
    none = four_corners(pack).select(torch.zeros(0, dtype=torch.long))
    picture = torch.rand(1, 90, 90, 3)
    node = pack("nodes.region_scores").RetouchRegionScores
    for query in ("a car", "the left"):
        scored, mask, report = node.execute(picture, none, parts.scorer, query).args
        assert len(scored) == 0 and not mask.any() and "no regions were found" in report
    kept, mask, _ = pack("nodes.adaptive_threshold").RetouchAdaptiveThreshold.execute(none).args
    assert len(kept) == 0 and mask.shape == (1, 90, 90)
    placed, mask, _, _ = pack("nodes.location_filter").RetouchLocationFilter.execute(kept, "the left").args
    assert len(placed) == 0 and mask.shape == (1, 90, 90)


def test_gate_can_be_switched_off_and_everything_kept_is_in_the_trace(pack: Pack, parts: Any) -> None:
    image = picture_of(pack, "sky.png")
    _, entities, _ = pack("nodes.entity_segment").RetouchEntitySegment.execute(image, parts.segmenter).args
    node = pack("nodes.region_scores").RetouchRegionScores
    absent = "a purple mushroom on the left"
    closed, _, _ = node.execute(image, entities[0], parts.scorer, absent).args
    assert len(closed) == 0
    trace = {entry["stage"]: entry for entry in closed.trace}
    assert trace["query"]["phrase"] == "on the left" and trace["query"]["text"] == "a purple mushroom"
    assert len(trace["scores"]["scores"]) == len(entities[0]) and trace["presence"]["present"] is False
    opened, _, _ = node.execute(image, entities[0], parts.scorer, absent, gate=0.0).args
    assert len(opened) == len(entities[0])
    assert opened.scores.tolist() == pytest.approx(trace["scores"]["scores"], abs=1e-5)


def test_alpha_is_not_seen_and_passes_through(pack: Pack, parts: Any) -> None:
    image = picture_of(pack, "wood.png")
    clear = torch.cat([image, torch.zeros_like(image[..., :1])], -1)
    node = pack("nodes.entity_segment").RetouchEntitySegment
    (passed,), (found,), _ = node.execute(clear, parts.segmenter).args
    _, (expected,), _ = node.execute(image, parts.segmenter).args
    assert torch.equal(passed, clear) and torch.equal(found.masks, expected.masks)
    scores = pack("nodes.region_scores").RetouchRegionScores
    with_alpha, without = (
        scores.execute(i, found, parts.scorer, "the pink car").args[0] for i in (clear, image)
    )
    assert torch.equal(with_alpha.scores, without.scores)


def test_threshold_takes_the_scale_of_the_scorer(pack: Pack) -> None:
    """Closed form: shares of scores 0.1 apart are exp(0.1 beta) apart, and u decides how many are kept."""
    node = pack("nodes.adaptive_threshold").RetouchAdaptiveThreshold
    scored = four_corners(pack).with_scores(torch.tensor([0.1, 0.4, 0.2, 0.3]))
    sharp = scored.traced("scores", logit_scale=50.0)  # shares about 0.0067 apart: the best alone holds 0.99
    assert node.execute(sharp).args[0].labels == ("2",)
    assert node.execute(sharp, beta=1.0).args[0].labels == ("1", "2", "3", "4")  # 0.29, 0.26, 0.24, 0.21
    assert node.execute(sharp, mode="topk", k=2).args[0].labels == ("2", "4")
    with pytest.raises(ValueError, match="regions carry no scores"):
        node.execute(replace(scored, scores=None))


def test_a_cancel_stops_between_pictures(pack: Pack) -> None:
    import comfy.model_management

    seen = []

    def segment(image: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(image)
        comfy.model_management.interrupt_current_processing(True)
        return torch.zeros(0, *image.shape[1:3], dtype=torch.bool), torch.zeros(0)

    node = pack("nodes.entity_segment").RetouchEntitySegment
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            node.execute(torch.rand(3, 32, 32, 3), segment)
    finally:
        comfy.model_management.interrupt_current_processing(False)
    assert len(seen) == 1
