"""Undoing shift and zoom against exact ones (a picture that is a function), and refusing what is no such thing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from retouch_core.editing.registration import Registration, moved_back, register


def waves(seed: int, height: int, width: int, scale: float = 1, dx: float = 0, dy: float = 0) -> torch.Tensor:
    """IMAGE [1,H,W,3] of waves in all directions, drawn exactly as an edit model with that zoom and shift would show it."""
    draw = np.random.default_rng(seed)
    x = (np.arange(width) + 0.5 - width / 2 - dx) / scale
    y = (np.arange(height) + 0.5 - height / 2 - dy) / scale
    grid_y, grid_x = np.meshgrid(y, x, indexing="ij")
    out = np.zeros((height, width, 3))
    for _ in range(60):
        length, angle, phase = draw.uniform(5, 40), draw.uniform(0, math.pi), draw.uniform(0, 7)
        along = grid_x * math.cos(angle) + grid_y * math.sin(angle)
        out += draw.uniform(0.2, 1, 3) * np.sin(2 * math.pi * along / length + phase)[..., None]
    return torch.from_numpy(0.5 + 0.1 * out / out.std()).float().clamp(0, 1)[None]


def hole(height: int, width: int) -> torch.Tensor:
    mask = torch.zeros(1, height, width)
    mask[:, height // 3 : 2 * height // 3, width // 4 : width // 2] = 1
    return mask


@pytest.mark.parametrize(
    ("scale", "dx", "dy"),
    [
        (1, 0, 0),
        (1, 12, -12),
        (1.03, 0, 0),
        (0.97, -12, 7.4),
        (1.03, 12, 12),
        (1.013, -3.3, 11.6),
        (0.985, 0.4, -0.7),
    ],
)
def test_shift_and_zoom_are_found(scale: float, dx: float, dy: float) -> None:
    size = (230, 300)
    source, mask = waves(1, *size), hole(*size)
    edited = waves(1, *size, scale, dx, dy)
    # What the model was asked for, and a colour it changed by itself.
    edited = torch.where(mask[..., None] > 0, waves(2, *size), 0.95 * edited + 0.03)
    found = register(source, edited, mask)
    assert found.refused is None
    assert abs(found.scale - scale) <= 0.002
    assert max(abs(found.dx - dx), abs(found.dy - dy)) <= 0.25
    assert found.error < 0.25 and "moved back by" in found.told()


def test_large_pictures_are_found_at_a_smaller_size() -> None:
    source, edited = waves(3, 400, 1300), waves(3, 400, 1300, 0.98, -12, 5)
    found = register(source, edited, torch.zeros(1, 400, 1300))
    assert found.refused is None and abs(found.scale - 0.98) <= 0.002
    assert max(abs(found.dx + 12), abs(found.dy - 5)) <= 0.25


def test_moving_back_gives_the_source() -> None:
    source, edited = waves(1, 120, 160), waves(1, 120, 160, 1.02, 4.3, -6.1)
    back, there = moved_back(edited, Registration(1.02, 4.3, -6.1, 1, 0, None))
    assert (back - source)[there].abs().mean() < 0.004
    inner = there.clone()
    assert not inner.all() and inner[:, 10:-10, 10:-10].all()
    same, there = moved_back(edited, Registration(1.0001, 0.01, 0, 1, 0, None))
    assert same is edited and there.all()


@pytest.mark.parametrize("other", ["unrelated", "noise", "mirrored", "flat"])
def test_unrelated_pictures_are_refused_with_a_reason(other: str) -> None:
    source, mask = waves(1, 200, 220), hole(200, 220)
    edited = {
        "unrelated": waves(5, 200, 220),
        "noise": torch.rand(1, 200, 220, 3, generator=torch.Generator().manual_seed(0)),
        "mirrored": source.flip(2),
        "flat": torch.full_like(source, 0.5),
    }[other]
    found = register(source, edited, mask)
    assert found.refused is not None and "does not show the same scene" in found.refused
    assert found.told() == found.refused


def test_what_was_bent_moved_too_far_or_has_no_detail_is_refused() -> None:
    source, mask = waves(1, 200, 220), hole(200, 220)
    rows = torch.arange(200)
    bent = torch.stack([source[0, row].roll(int(3 * math.sin(row / 18) * 1.5), 0) for row in rows.tolist()])[
        None
    ]
    found = register(source, bent, mask)
    assert found.refused is not None and ("px off" in found.refused or "same scene" in found.refused)
    assert register(source, waves(1, 200, 220, 1, 40, 0), mask).refused is not None
    flat = torch.full_like(source, 0.3)
    assert "too little detail" in (register(flat, flat, mask).refused or "")
    assert "only 0 % of the picture" in (register(source, source, torch.ones(1, 200, 220)).refused or "")


def test_what_is_not_finite_is_left_out() -> None:
    source, edited = waves(1, 200, 220), waves(1, 200, 220, 1, 5, -3)
    edited[0, 80:120, 100:140] = math.nan
    found = register(source, edited, torch.zeros(1, 200, 220))
    assert found.refused is None and abs(found.dx - 5) < 0.25 and abs(found.dy + 3) < 0.25
    with pytest.raises(ValueError, match="register pictures one by one"):
        register(source, edited[:, 1:], torch.zeros(1, 200, 220))


def demo(name: str) -> np.ndarray:
    from retouch_core.demo import PICTURES
    from retouch_core.pictures import read_picture

    return read_picture(PICTURES / f"{name}.png")[0].double().numpy()


@pytest.mark.parametrize("name", ["grass", "wood", "tiles"])
def test_textured_pictures_moved_by_scipys_spline(name: str) -> None:
    from scipy import ndimage

    picture, (scale, dx, dy) = demo(name), (0.98, -7.6, 11.3)
    height, width = picture.shape[:2]
    rows = (np.arange(height) - (height - 1) / 2 - dy) / scale + (height - 1) / 2
    columns = (np.arange(width) - (width - 1) / 2 - dx) / scale + (width - 1) / 2
    places = np.meshgrid(rows, columns, indexing="ij")
    moved = np.stack(
        [ndimage.map_coordinates(picture[..., k], places, order=3, mode="nearest") for k in range(3)], -1
    )
    found = register(
        *(torch.from_numpy(p).float()[None] for p in (picture, moved.clip(0, 1))), hole(height, width)
    )
    assert found.refused is None and abs(found.scale - scale) <= 0.002
    assert max(abs(found.dx - dx), abs(found.dy - dy)) <= 0.25


@pytest.mark.parametrize(("name", "other"), [("grass", "wood"), ("tiles", "sky"), ("night", "horizon")])
def test_other_demo_pictures_are_refused(name: str, other: str) -> None:
    pair = (torch.from_numpy(demo(each)).float()[None] for each in (name, other))
    assert "same scene" in (register(*pair, torch.zeros(1, 128, 128)).refused or "")
