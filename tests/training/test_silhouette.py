"""The strict judge: icons against themselves, against brute force, and against other classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.evaluation.silhouette import (
    ANGLES,
    SIDES,
    Halo,
    best_fit,
    drawn,
    halo,
    icons,
    with_edge,
)
from training.world.icons import CLASSES, draw_icon
from training.world.scenes import SHADOW, draw, scene

SIDE = 128


def placed(name: str, x: int, y: int, side: int, angle: float = 0.0, flip: bool = False) -> torch.Tensor:
    """A silhouette bool [128,128] with its box at (x, y)."""
    _, cover = draw_icon(name, (200, 30, 30), side, flip=flip, angle=angle)
    plane = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    plane[y : y + side, x : x + side] = torch.from_numpy(cover > 0.5)
    return plane


@pytest.mark.parametrize("name", CLASSES)
def test_an_icon_fits_itself(name: str) -> None:
    mask = placed(name, 31, 47, SIDES[5], ANGLES[2], flip=True)
    fit = best_fit(mask, name)
    assert fit.iou == 1.0
    assert torch.equal(fit.mask, mask)


@pytest.mark.parametrize("name", CLASSES)
def test_sizes_and_angles_between_the_drawn_ones_still_fit(name: str) -> None:
    assert best_fit(placed(name, 20, 60, 41, 7.3), name).iou > 0.85


def test_the_best_fit_is_that_of_brute_force() -> None:
    generator = np.random.default_rng(0)
    blob = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    for _ in range(40):
        x, y = generator.integers(40, 70, 2)
        blob[y : y + 6, x : x + 5] = True
    best = 0.0
    planes = icons("moon").numpy()
    seen = blob.numpy()
    sides = [side for _ in range(2) for _ in ANGLES for side in SIDES]
    rows, columns = np.nonzero(seen)
    for plane, side in zip(planes, sides, strict=True):
        # Only places at which the boxes of the two meet can share a pixel.
        for y in range(max(0, rows.min() - side), min(SIDE - side, rows.max()) + 1, 1):
            for x in range(max(0, columns.min() - side), min(SIDE - side, columns.max()) + 1, 1):
                shared = np.count_nonzero(plane[:side, :side] & seen[y : y + side, x : x + side])
                both = np.count_nonzero(plane) + np.count_nonzero(seen) - shared
                best = max(best, shared / both)
    assert best_fit(blob, "moon").iou == pytest.approx(best, abs=1e-6)


def test_nothing_drawn_fits_nothing() -> None:
    fit = best_fit(torch.zeros(SIDE, SIDE, dtype=torch.bool), "car")
    assert fit.iou == 0.0 and not fit.mask.any()


def test_a_wrong_class_fits_worse_than_the_right_one() -> None:
    mask = placed("star", 40, 40, 48, 5.0)
    fits = {name: best_fit(mask, name).iou for name in CLASSES}
    assert max(fits, key=lambda name: fits[name]) == "star"
    assert fits["ring"] < 0.6 and fits["moon"] < 0.6


@pytest.mark.parametrize("index", range(6))
def test_what_was_drawn_is_the_exact_mask_without_the_shadow(index: int) -> None:
    made = scene("tune", 900 + index)
    picture, ground = (torch.from_numpy(d.image).float() / 255 for d in (made, draw(made.spec.without(0))))
    mask = torch.from_numpy(made.masks[0])
    everywhere = torch.ones(SIDE, SIDE, dtype=torch.bool)
    found = drawn(picture, ground, everywhere)
    assert float((found & mask).sum() / (found | mask).sum()) > 0.85
    # A bare shadow is no drawing.
    shaded = ground.clone()
    shaded[40:80, 40:80] *= 1 - SHADOW[2]
    assert not drawn(shaded, ground, everywhere)[42:78, 42:78].any()
    assert not drawn(picture, ground, torch.zeros_like(everywhere)).any()


def test_edge_and_shadow_lie_to_the_right_and_below() -> None:
    one = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    one[60, 50] = True
    grown = with_edge(one)
    rows, columns = grown.nonzero().unbind(1)
    assert (int(rows.min()), int(rows.max())) == (60 - 3, 60 + SHADOW[1] + 3)
    assert (int(columns.min()), int(columns.max())) == (50 - 3, 50 + SHADOW[0] + 3)


def test_halo_is_the_ratio_of_errors() -> None:
    ground = torch.zeros(SIDE, SIDE, 3)
    where = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    where[:4, :5] = True
    found = halo(ground + 0.2, ground, ground - 0.1, where)
    assert found.values == 60
    assert found.edited == pytest.approx(60 * 0.04) and found.ratio == pytest.approx(2.0)
    assert (found + Halo(0.0, 0.6, 60)).ratio == pytest.approx((2.4 / 1.2) ** 0.5)
