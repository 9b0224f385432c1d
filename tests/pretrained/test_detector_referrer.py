"""A detector and a segmenter joined: which boxes stay, what the maps are, and how the search uses them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retouch_core.models.pretrained.referrers.detector_referrer import DetectorReferrer
from retouch_core.models.protocols import InstanceReferrer
from retouch_core.regions.referring import refer
from retouch_core.tensors.checks import InputWarning

SIZE = (20, 40)
IMAGE = torch.full((1, *SIZE, 3), 0.5)


class Found:
    """A detector that finds the same boxes for each phrase it knows."""

    def __init__(self, **found: Sequence[tuple[Sequence[float], float]]) -> None:
        self.networks: tuple[nn.Module, ...] = (nn.Linear(1, 1),)
        self.found = found

    def boxes(self, image: Tensor, phrase: str) -> tuple[Tensor, Tensor]:
        some = self.found.get(phrase, [])
        boxes = torch.tensor([list(box) for box, _ in some], dtype=torch.float32)
        return boxes.reshape(-1, 4), torch.tensor([score for _, score in some], dtype=torch.float32)

    def unknown_words(self, text: str) -> tuple[str, ...]:
        return ("blorp",) if "blorp" in text else ()


class Filled:
    """A mask of each box: probability 0.9 within, 0.2 without, kept as logits of half the size till asked for."""

    def __init__(self) -> None:
        self.networks: tuple[nn.Module, ...] = (nn.Linear(1, 1),)
        self.pictures, self.most = 0, 0

    def logits(self, image: Tensor, boxes: Tensor, *, tell: Any = None) -> Tensor:
        self.pictures += 1
        return boxes.clone()

    def probabilities(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        self.most = max(self.most, len(logits))
        maps = torch.full((len(logits), *size), 0.2)
        for place, (x0, y0, x1, y1) in zip(maps, logits.round().int().tolist(), strict=True):
            place[y0:y1, x0:x1] = 0.9
        return maps


CARS = [((20, 2, 30, 12), 0.5), ((0, 0, 10, 10), 0.75), ((0, 0, 10, 9), 0.6), ((5, 5, 15, 15), 0.3)]


def test_instances_come_best_first_without_doubles() -> None:
    referrer = DetectorReferrer(Found(car=CARS), Filled())
    assert isinstance(referrer, InstanceReferrer)
    assert len(referrer.networks) == 2
    found = referrer.instances(IMAGE, " car ")
    # The third box is 0.9 of the second; the fourth overlaps it by 25 of 175.
    assert found.boxes.tolist() == [[0, 0, 10, 10], [20, 2, 30, 12], [5, 5, 15, 15]]
    torch.testing.assert_close(found.scores, torch.tensor([0.75, 0.5, 0.3]))
    assert found.masks.shape == (3, *SIZE) and found.masks.dtype == torch.float32
    assert float(found.masks[1, 2, 20]) == pytest.approx(0.9) and float(
        found.masks[1, 12, 20]
    ) == pytest.approx(0.2)
    assert len(DetectorReferrer(Found(car=CARS), Filled(), overlap=1.0).instances(IMAGE, "car").scores) == 4


def test_boxes_are_cut_to_the_picture_and_specks_and_nan_go() -> None:
    nan = float("nan")
    boxes = [((-5, -5, 50, 12), 0.9), ((39.5, 0, 60, 20), 0.8), ((1, 1, 9, nan), 0.7), ((1, 1, 9, 9), nan)]
    found = DetectorReferrer(Found(car=boxes), Filled()).instances(IMAGE, "car")
    assert found.boxes.tolist() == [[0, 0, 40, 12]]


def test_maps_are_the_best_product_of_probability_and_score() -> None:
    segmenter = Filled()
    referrer = DetectorReferrer(Found(car=CARS, cat=[((8, 0, 12, 20), 0.4)]), segmenter)
    heat = referrer.heat_maps(IMAGE, ["car", "nothing", "cat"])
    assert heat.shape == (3, *SIZE) and segmenter.pictures == 1
    assert segmenter.most == 1, "large maps are made one at a time"
    for phrase, place in (("car", heat[0]), ("cat", heat[2])):
        found = referrer.instances(IMAGE, phrase)
        for y in range(SIZE[0]):
            for x in range(SIZE[1]):
                best = max(float(m[y, x]) * float(s) for m, s in zip(found.masks, found.scores, strict=True))
                assert float(place[y, x]) == pytest.approx(best)
    assert not heat[1].any()
    assert referrer.heat_maps(IMAGE, []).shape == (0, *SIZE)
    assert torch.equal(referrer.heat_maps(IMAGE, ["nothing"]), torch.zeros(1, *SIZE))


def test_no_instance_is_legal() -> None:
    found = DetectorReferrer(Found(), Filled()).instances(IMAGE, "car")
    assert found.masks.shape == (0, *SIZE) and found.boxes.shape == (0, 4) and found.scores.shape == (0,)


def test_more_things_than_wanted_are_dropped_with_a_warning() -> None:
    many = [((4 * i, 0, 4 * i + 4, 20), 0.9 - 0.05 * i) for i in range(10)]
    with pytest.warns(InputWarning, match="means 10 things here, and the best 3"):
        found = DetectorReferrer(Found(car=many), Filled(), most=3).instances(IMAGE, "car")
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.85, 0.8]))


def test_the_search_takes_the_best_or_all() -> None:
    referrer = DetectorReferrer(Found(car=CARS), Filled())
    best = refer(IMAGE, "car", referrer, pick="best")
    assert best.selected.tolist() == [True, False, False]
    union = best.regions.masks[best.selected].any(0)
    assert int(union.sum()) == 100 and bool(union[:10, :10].all())
    assert refer(IMAGE, "car", referrer, instance_min=0.4).selected.tolist() == [True, True, False]
    nothing = refer(IMAGE, "blorp", referrer)
    assert not nothing.present and "no instance" in nothing.message and "blorp" in nothing.notes[0]


def test_phrases_are_told_and_can_be_stopped() -> None:
    told: list[tuple[int, int]] = []
    referrer = DetectorReferrer(Found(car=CARS), Filled())
    referrer.heat_maps(IMAGE, ["car", "cat"], tell=lambda done, of: told.append((done, of)))
    assert told == [(1, 2), (2, 2)]

    def stop(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        referrer.heat_maps(IMAGE, ["car", "cat"], tell=stop)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"overlap": 1.5}, "overlap must be in"),
        ({"most": 0}, "most must be"),
        ({"most": 2.5}, "most must be"),
    ],
)
def test_wrong_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DetectorReferrer(Found(), Filled(), **options)


def test_wrong_input() -> None:
    referrer = DetectorReferrer(Found(), Filled())
    with pytest.raises(ValueError, match="phrase is empty"):
        referrer.instances(IMAGE, " ")
    with pytest.raises(ValueError, match="must hold 1 picture"):
        referrer.instances(IMAGE.repeat(2, 1, 1, 1), "car")
    with pytest.raises(ValueError, match="must hold 1 picture"):
        referrer.heat_maps(IMAGE.repeat(2, 1, 1, 1), ["car"])
