"""Referring segmentation: the numbers of methods.md 5.1 and 5.3, entity snapping, and what a map becomes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from retouch_core.models.protocols import InstanceReferrer, Instances, Referrer
from retouch_core.regions.heat import parts
from retouch_core.regions.referring import binarised, refer
from retouch_core.tensors.regions import Regions


class GivenMaps:
    """A referrer that answers every phrase with one map."""

    def __init__(self, heat: Tensor) -> None:
        self.heat = heat
        self.asked: list[str] = []

    def heat_maps(self, image: Tensor, phrases: Sequence[str]) -> Tensor:
        self.asked += phrases
        return self.heat.expand(len(phrases), -1, -1)

    def unknown_words(self, text: str) -> tuple[str, ...]:
        return tuple(w for w in text.split() if w.startswith("xy"))


class GivenInstances(GivenMaps):
    """A detector that answers every phrase with the same instances."""

    def __init__(self, masks: Tensor, scores: Tensor) -> None:
        super().__init__(masks.amax(0, keepdim=True) if len(masks) else torch.zeros(1, *masks.shape[1:]))
        self.found = Instances(masks, torch.zeros(len(masks), 4), scores)

    def instances(self, image: Tensor, phrase: str) -> Instances:
        return self.found


PICTURE = torch.rand(1, 40, 60, 3, generator=torch.Generator().manual_seed(0))


def two_blobs() -> Tensor:
    """[1,40,60]: 20x20 px at 0.9 on the left, 10x10 px at 0.6 on the right, 0.05 elsewhere."""
    heat = torch.full((1, 40, 60), 0.05)
    heat[0, 10:30, 5:25] = 0.9
    heat[0, 10:20, 40:50] = 0.6
    return heat


def test_the_roles_are_told_apart() -> None:
    assert isinstance(GivenMaps(two_blobs()), Referrer)
    assert not isinstance(GivenMaps(two_blobs()), InstanceReferrer)
    assert isinstance(GivenInstances(two_blobs(), torch.ones(1)), InstanceReferrer)


@pytest.mark.parametrize(
    ("rule", "k", "kept"),
    [
        ("direct", 150, [0, 0, 0]),
        ("inverted", 150, [0, 0, 1]),
        ("rdm_code", 150, [0, 0, 1]),
        ("direct", 0, [1, 1, 1]),
        ("inverted", 0, [0, 0, 0]),
        ("inverted", 255, [1, 1, 1]),
        ("direct", 51, [0, 1, 1]),  # 51/255 is 0.2, which float32 holds from above
        ("inverted", 204, [0, 1, 1]),
    ],
)
def test_three_readings_of_the_threshold(rule: str, k: int, kept: list[int]) -> None:
    p = torch.tensor([[0.1, 0.2, 0.5]])
    assert binarised(p, rule=rule, k=k).int().tolist() == [kept]


def test_where_the_reading_of_the_program_cuts() -> None:
    """Its library stretches to 0..1, multiplies by 255, adds a half and drops the fraction; level 100 stays."""
    p = torch.linspace(0.3, 0.7, 256, dtype=torch.float64)[None]
    levels = np.floor((np.linspace(0.3, 0.7, 256) - 0.3) / 0.4 * 255 + 0.5)
    assert binarised(p, rule="rdm_code")[0].tolist() == (levels >= 100).tolist()
    assert binarised(p, rule="rdm_code", k=3).equal(binarised(p, rule="rdm_code"))


def test_stretched_noise_is_not_a_thing() -> None:
    noise = 0.19 * torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(1))
    assert not binarised(noise, rule="rdm_code").any()
    assert binarised(noise, rule="rdm_code", presence_min=0.0).any()
    assert not binarised(
        torch.full((1, 8, 8), 0.9), rule="rdm_code"
    ).any()  # as save_image(normalize=True) makes it


def test_each_map_is_stretched_by_itself() -> None:
    maps = (
        torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(2))
        * torch.tensor([1, 0.6, 0.3])[:, None, None]
    )
    together = binarised(maps, rule="rdm_code")
    assert torch.equal(together, torch.cat([binarised(m[None], rule="rdm_code") for m in maps]))


@pytest.mark.parametrize(("rule", "sign"), [("direct", -1), ("inverted", 1)])
def test_area_follows_k(rule: str, sign: int) -> None:
    p = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(3))
    areas = [int(binarised(p, rule=rule, k=k).sum()) for k in range(0, 256, 5)]
    assert all(sign * (b - a) >= 0 for a, b in itertools.pairwise(areas)) and areas[0] != areas[-1]


@pytest.mark.parametrize("k", [-1, 256, math.nan, math.inf, "150"])
def test_k_outside_its_range_is_refused(k: object) -> None:
    with pytest.raises(ValueError, match=r"^k must be in \[0, 255\], got .*; RDM uses 150$"):
        binarised(torch.rand(1, 4, 4), k=k)  # type: ignore[arg-type]


def test_other_options_are_refused() -> None:
    with pytest.raises(ValueError, match="rule must be one of inverted, direct, rdm_code, got 'otsu'"):
        binarised(torch.rand(1, 4, 4), rule="otsu")
    with pytest.raises(ValueError, match="presence_min must be in"):
        binarised(torch.rand(1, 4, 4), presence_min=2)
    referrer = GivenMaps(two_blobs())
    with pytest.raises(ValueError, match="pick must be one of best, all, got 'first'"):
        refer(PICTURE, "a star", referrer, pick="first")
    with pytest.raises(ValueError, match="query is empty"):
        refer(PICTURE, " ", referrer)
    with pytest.raises(ValueError, match="image must hold 1 picture"):
        refer(PICTURE.repeat(2, 1, 1, 1), "a star", referrer)
    with pytest.raises(ValueError, match="snap holds regions of 30x20 px but image is 60x40"):
        refer(PICTURE, "a star", referrer, snap=Regions(torch.ones(1, 20, 30) > 0, None, (20, 30)))


@pytest.mark.parametrize(
    "heat", [two_blobs() * 3, two_blobs() - 1, two_blobs()[:, :20], two_blobs() * math.nan]
)
def test_a_map_that_is_no_map_is_refused(heat: Tensor) -> None:
    with pytest.raises(ValueError, match=r"^referrer gave "):
        refer(PICTURE, "a star", GivenMaps(heat))


def test_parts_make_up_the_mask_exactly() -> None:
    heat = two_blobs()[0]
    mask = heat > 0.5
    mask[35, 3] = mask[36, 57] = True
    regions = parts(mask, heat)
    assert torch.equal(regions.union()[0] > 0, mask) and int(regions.masks.sum(0).max()) == 1
    assert regions.areas.tolist() == [400, 100, 2]  # specks together, last
    assert regions.scores is not None and regions.scores.tolist() == pytest.approx([0.9, 0.6, 0.05])


def test_parts_touch_over_corners_as_well() -> None:
    mask = torch.zeros(40, 60, dtype=torch.bool)
    mask[:10, :10] = mask[10:20, 10:20] = True
    assert len(parts(mask, mask.float())) == 1
    assert len(parts(mask & False, mask.float())) == 0


def test_all_keeps_every_part_and_best_one() -> None:
    referrer = GivenMaps(two_blobs())
    everything = refer(PICTURE, "a star on the left", referrer)
    assert everything.present and everything.selected.tolist() == [True, True]
    assert torch.equal(everything.chosen.union()[0] > 0, two_blobs()[0] >= 0.5)
    best = refer(PICTURE, "a star on the left", referrer, pick="best")
    assert best.selected.tolist() == [True, False] and int(best.chosen.areas[0]) == 400
    assert referrer.asked == ["a star on the left"] * 2  # words of place are the referrer's business
    assert best.heat is not None and torch.equal(best.heat, two_blobs())
    assert best.regions.trace[-1]["stage"] == "referring" and best.regions.trace[-1]["area"] == 500


def test_nothing_found_is_a_result() -> None:
    found = refer(PICTURE, "a xyzzy", GivenMaps(torch.full((1, 40, 60), 0.1)))
    assert not found.present and len(found.regions) == 0 and found.regions.union().shape == (1, 40, 60)
    assert "0.10" in found.message and "0.41" in found.message
    assert "xyzzy" in found.notes[0]
    snapped = refer(PICTURE, "a star", GivenMaps(torch.full((1, 40, 60), 0.1)), snap=entities())
    assert not snapped.present and len(snapped.regions) == 3 and not snapped.selected.any()


def entities() -> Regions:
    """The left blob and a margin, the right blob, and a strip that no blob touches."""
    masks = torch.zeros(3, 40, 60, dtype=torch.bool)
    masks[0, 8:32, 3:27] = masks[1, 10:20, 40:50] = masks[2, 38:] = True
    return Regions(masks, torch.ones(3), (40, 60))


def test_snapping_scores_entities_by_their_mean_and_takes_them_whole() -> None:
    found = refer(PICTURE, "a star", GivenMaps(two_blobs()), snap=entities(), pick="best")
    left = (400 * 0.9 + (24 * 24 - 400) * 0.05) / 24**2
    assert found.regions.scores is not None
    assert found.regions.scores.tolist() == pytest.approx([left, 0.6, 0.05], abs=1e-6)
    assert found.selected.tolist() == [True, False, False]
    assert int(found.chosen.areas[0]) == 24 * 24  # the margin too: edges are the entity's


@pytest.mark.parametrize(("u", "count"), [(0.4, 1), (0.6, 2), (0.8, 2), (0.97, 3)])
def test_snapping_keeps_the_share_u(u: float, count: int) -> None:
    """Shares by hand: 0.6403, 0.6 and 0.05 of 1.2903 are 0.496, 0.465 and 0.039."""
    found = refer(PICTURE, "a star", GivenMaps(two_blobs()), snap=entities(), u=u)
    assert int(found.selected.sum()) == count
    assert found.regions.trace[-1]["options"]["beta"] == 1.0


def test_snapping_to_no_entities_says_so() -> None:
    none = entities().select(torch.zeros(0, dtype=torch.long))
    found = refer(PICTURE, "a star", GivenMaps(two_blobs()), snap=none)
    assert not found.present and "no entity" in found.message


def instances(*scores: float) -> GivenInstances:
    """One 10x10 px square a score, of probability 0.8, with a column of exactly 0.5 to its right."""
    masks = torch.zeros(len(scores), 40, 60)
    for k in range(len(scores)):
        masks[k, 5:15, 12 * k : 12 * k + 10] = 0.8
        masks[k, 5:15, 12 * k + 10] = 0.5
    return GivenInstances(masks, torch.tensor(scores))


def test_best_of_instances_keeps_exactly_one_and_a_half_is_off() -> None:
    found = refer(PICTURE, "a star", instances(0.3, 0.7, 0.6), pick="best")
    assert int(found.selected.sum()) == 1
    expected = torch.zeros(40, 60)
    expected[5:15, 12:22] = 1
    assert torch.equal(found.chosen.union()[0], expected)


def test_all_instances_from_the_least_score_up() -> None:
    found = refer(PICTURE, "a star", instances(0.3, 0.7, 0.2))
    assert found.regions.scores is not None and found.regions.scores.tolist() == pytest.approx(
        [0.7, 0.3, 0.2]
    )
    assert found.selected.tolist() == [True, True, False]
    assert int(refer(PICTURE, "a star", instances(0.3, 0.7, 0.2), instance_min=0.5).selected.sum()) == 1


@pytest.mark.parametrize("scores", [(), (0.1, 0.2)])
def test_no_detection_is_a_result(scores: tuple[float, ...]) -> None:
    for pick in ("best", "all"):
        found = refer(PICTURE, "a star", instances(*scores), pick=pick)
        assert not found.present and not found.selected.any() and "was not found" in found.message


def test_instances_are_snapped_by_their_map() -> None:
    found = refer(PICTURE, "a star", instances(0.9), snap=entities(), pick="best")
    assert found.selected.tolist() == [True, False, False]
