"""The graph segmenter on shapes with exact masks, on scenes, on photographs, and on awkward input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import retouch_core.models.graph_segmenter as module
from retouch_core.models.graph_segmenter import GraphSegmenter, merged
from retouch_core.models.protocols import Segmenter
from retouch_core.regions.entities import disjoint
from retouch_core.tensors.checks import InputWarning
from retouch_core.tensors.regions import Regions

SIDE = 128
Y, X = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
RED, BROWN, BLUE = (0.84, 0.15, 0.16), (0.44, 0.24, 0.16), (0.74, 0.88, 0.96)


def disc(cx: float, cy: float, radius: float) -> np.ndarray:
    return (X - cx) ** 2 + (Y - cy) ** 2 <= radius**2


def flat(colour: tuple[float, float, float]) -> np.ndarray:
    return np.tile(np.float32(colour), (SIDE, SIDE, 1))


def grounds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    along = ((X + 2 * Y) / (3 * SIDE))[..., None]
    odd = ((X // 16 + Y // 16) % 2)[..., None]
    grain = rng.normal(0, 0.015, (SIDE, SIDE, 1)).astype(np.float32)
    return {
        "flat": flat((0.45, 0.62, 0.3)),
        "gradient": flat((0.3, 0.5, 0.7)) * (1 - along) + flat((0.8, 0.7, 0.5)) * along,
        "checks": flat((0.5, 0.5, 0.6)) + 0.12 * odd,
        "horizon": np.where((Y > 70)[..., None], flat((0.4, 0.6, 0.3)), flat((0.6, 0.8, 0.95))),
        "grain": flat((0.85, 0.77, 0.6)) + grain,
    }


def painted(ground: np.ndarray, *layers: tuple[np.ndarray, tuple[float, float, float]]) -> np.ndarray:
    picture = ground.copy()
    for mask, colour in layers:
        picture[mask] = colour
    return picture


def entities(picture: np.ndarray, leftovers: str = "ignore") -> Regions:
    image = torch.from_numpy(np.ascontiguousarray(picture, np.float32))[None]
    return disjoint(*GraphSegmenter()(image), score_min=0.2, leftovers=leftovers)


def best(regions: Regions, mask: np.ndarray) -> float:
    truth = torch.from_numpy(mask)
    shared = (regions.masks & truth).flatten(1).sum(1)
    return float((shared / (regions.masks | truth).flatten(1).sum(1)).max()) if len(regions) else 0.0


@pytest.mark.parametrize("kind", sorted(grounds()))
def test_finds_things_on_every_ground(kind: str) -> None:
    left, right = disc(34, 40, 20), disc(90, 84, 24)
    found = entities(painted(grounds()[kind], (left, RED), (right, (0.5, 0.2, 0.68))))
    assert best(found, left) > 0.95
    assert best(found, right) > 0.95


@pytest.mark.parametrize("kind", sorted(grounds()))
def test_things_and_nothing_else_where_the_ground_is_plain(kind: str) -> None:
    thing = disc(60, 64, 22)
    found = entities(painted(grounds()[kind], (thing, RED)))
    assert len(found) == 1
    everything = entities(painted(grounds()[kind], (thing, RED)), leftovers="components")
    assert everything.masks.any(0).float().mean() > 0.98


def test_a_thing_of_several_colours_is_one_entity() -> None:
    wall = (X > 40) & (X < 84) & (Y > 60) & (Y < 100)
    roof = (Y > 34) & (Y <= 60) & (np.abs(X - 62) < (Y - 34) * 1.1)
    window = (X > 48) & (X < 58) & (Y > 70) & (Y < 82)
    found = entities(painted(grounds()["grain"], (wall, RED), (roof, BROWN), (window, BLUE)))
    assert best(found, wall | roof) > 0.93
    assert len(found) == 1


def test_the_hole_of_a_ring_stays_ground() -> None:
    hole = disc(64, 64, 12)
    ring = disc(64, 64, 30) & ~hole
    found = entities(painted(grounds()["gradient"], (ring, RED)))
    assert best(found, ring) > 0.93
    assert found.masks[:, torch.from_numpy(hole)].float().mean() < 0.1


def test_soft_shadows_are_ground() -> None:
    thing = disc(60, 60, 20)
    shadow = np.roll(thing, (3, 2), (0, 1)) & ~thing
    ground = grounds()["grain"]
    ground[shadow] *= 0.75
    found = entities(painted(ground, (thing, (0.16, 0.35, 0.84))))
    assert best(found, thing) > 0.93
    assert found.masks[:, torch.from_numpy(shadow)].any(0).float().mean() < 0.2


def test_what_the_frame_cuts_is_found() -> None:
    cut, whole = disc(3, 60, 20), disc(80, 60, 20)
    found = entities(painted(grounds()["grain"], (cut, RED), (whole, RED)))
    assert best(found, cut) > 0.93
    assert best(found, whole) > 0.93


@pytest.mark.parametrize("factor", [2, 5])
def test_masks_of_enlarged_pictures_lie_exactly_where_the_thing_is(factor: int) -> None:
    thing = disc(50, 70, 24)
    small = painted(grounds()["flat"], (thing, RED))
    picture = small.repeat(factor, 0).repeat(factor, 1)
    truth = thing.repeat(factor, 0).repeat(factor, 1)
    found = entities(picture)
    assert best(found, truth) > 0.97
    inside = found.masks[0].nonzero().float().mean(0)
    exact = torch.from_numpy(truth).nonzero().float().mean(0)
    assert (inside - exact).abs().max() < 0.25 * factor


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 40), (16, 900), (301, 133), (700, 501)])
def test_any_size(height: int, width: int) -> None:
    y, x = np.mgrid[0:height, 0:width]
    reach = min(height, width) * 0.3
    thing = (x - width / 2) ** 2 + (y - height / 2) ** 2 < reach**2
    picture = np.where(thing[..., None], RED, (0.45, 0.62, 0.3)).astype(np.float32)
    masks, scores = GraphSegmenter()(torch.from_numpy(picture)[None])
    assert masks.shape == (len(scores), height, width) and masks.dtype == torch.bool
    truth = torch.from_numpy(thing)
    ious = [float((m & truth).sum() / (m | truth).sum()) for m in masks]
    assert max(ious) > 0.85


def test_fulfils_the_protocol() -> None:
    segmenter = GraphSegmenter()
    assert isinstance(segmenter, Segmenter)
    image = torch.from_numpy(painted(grounds()["checks"], (disc(60, 60, 20), RED)))[None]
    before = image.clone()
    masks, scores = segmenter(image)
    assert torch.equal(image, before)
    assert scores.dtype == torch.float32 and bool(((scores >= 0) & (scores <= 1)).all())
    assert torch.equal(scores, scores.sort(descending=True).values)
    again = segmenter(image)
    assert torch.equal(masks, again[0]) and torch.equal(scores, again[1])


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_constant_picture_has_no_thing(value: float) -> None:
    masks, scores = GraphSegmenter()(torch.full((1, 64, 48, 3), value))
    assert len(masks) <= 1
    assert not (scores >= 0.2).any()


def test_noise_is_survived() -> None:
    masks, scores = GraphSegmenter(max_entities=5)(torch.rand(1, 96, 96, 3, generator=torch.manual_seed(0)))
    assert masks.shape[0] == scores.shape[0] <= 5


def many_discs() -> Tensor:
    picture = grounds()["flat"]
    for cy in range(16, SIDE, 24):
        for cx in range(16, SIDE, 24):
            picture[disc(cx, cy, 8)] = RED
    return torch.from_numpy(picture)[None]


def test_the_number_of_entities_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(GraphSegmenter()(many_discs())[0]) >= 25
    assert len(GraphSegmenter(max_entities=7)(many_discs())[0]) == 7
    monkeypatch.setattr(module, "MAX_MASK_BYTES", 3 * SIDE * SIDE)
    assert len(GraphSegmenter()(many_discs())[0]) == 3


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="max_entities must be at least 1, got 0"):
        GraphSegmenter(max_entities=0)
    with pytest.raises(ValueError, match="must hold 1 picture"):
        GraphSegmenter()(torch.zeros(2, 32, 32, 3))
    with pytest.raises(ValueError, match="at least 16"):
        GraphSegmenter()(torch.zeros(1, 15, 32, 3))
    with pytest.raises(ValueError, match="NaN"):
        GraphSegmenter()(torch.full((1, 32, 32, 3), torch.nan))
    with pytest.warns(InputWarning):
        GraphSegmenter()(torch.full((1, 32, 32, 3), 1.5))


def merged_by_hand(labels: np.ndarray, colours: np.ndarray, level: float) -> np.ndarray:
    """The definition of `merged`, searched through anew for every join."""
    labels = labels.copy()
    while True:
        steps = [(labels[:, 1:], labels[:, :-1]), (labels[1:], labels[:-1])]
        pairs = {
            (min(a, b), max(a, b)) for p, q in steps for a, b in zip(p.flat, q.flat, strict=True) if a != b
        }
        means = {k: colours[labels == k].mean(0) for k in np.unique(labels)}
        costs = {pair: np.linalg.norm(means[pair[0]] - means[pair[1]]) for pair in pairs}
        near = min(costs, key=lambda pair: costs[pair], default=None)
        if near is None or costs[near] >= level:
            return labels
        labels[labels == near[1]] = near[0]


@pytest.mark.parametrize("seed", range(4))
def test_merging_equals_its_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(36).reshape(6, 6).repeat(2, 0).repeat(2, 1)
    colours = rng.uniform(0, 60, (12, 12, 3))
    levels = (8.0, 15.0, 30.0)
    for level, got in zip(levels, merged(labels, colours, levels), strict=True):
        want = merged_by_hand(labels, colours, level)
        pairs = set(zip(got.flat, want.flat, strict=True))
        assert len(pairs) == len(np.unique(got)) == len(np.unique(want))


def test_objects_of_scenes() -> None:
    from training.segmenter import measure
    from training.world.scenes import scene

    rows = [measure(scene("tune", i), GraphSegmenter()) for i in range(12)]
    ious = torch.tensor([iou for row in rows for iou in row.best])
    assert ious.mean() > 0.87
    assert (ious > 0.5).float().mean() >= 0.97


def test_coins_of_a_photograph() -> None:
    data = pytest.importorskip("skimage.data")
    measure = pytest.importorskip("skimage.measure")
    picture = torch.from_numpy(data.coins()).float()[None, :, :, None].expand(-1, -1, -1, 3) / 255
    found = disjoint(*GraphSegmenter()(picture))
    coins = [
        part
        for mask in found.masks.numpy()
        for part in measure.regionprops(mask.astype(np.uint8))
        if part.eccentricity < 0.6 and part.solidity > 0.9 and 700 < part.area < 5000
    ]
    assert len(coins) >= 20, "the picture shows 24 coins, four rows of six"


def test_the_eyeball_of_a_photograph() -> None:
    data = pytest.importorskip("skimage.data")
    photo = data.retina()[::4, ::4].astype(np.float32) / 255
    found = entities(photo)
    assert best(found, photo.max(-1) > 0.12) > 0.95
