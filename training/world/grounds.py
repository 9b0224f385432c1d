"""Eight kinds of textured ground."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

SIDE = 128
"""Side of every scene in pixels."""

_Y, _X = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / (SIDE - 1)


def _near(rng: np.random.Generator, colour: Sequence[float], spread: float = 14) -> np.ndarray:
    return np.asarray(colour, np.float32) + rng.uniform(-spread, spread, 3).astype(np.float32)


def _mix(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    return first * (1 - share[..., None]) + second * share[..., None]


def _smooth_noise(rng: np.random.Generator, cells: int, amplitude: float) -> np.ndarray:
    """Gaussian noise on a coarse grid, interpolated to [SIDE,SIDE]."""
    grid = Image.fromarray(rng.standard_normal((cells, cells)).astype(np.float32))
    return np.asarray(grid.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) * amplitude


def _sky(rng: np.random.Generator) -> np.ndarray:
    horizon = rng.uniform(0.45, 0.75)
    air = _mix(_near(rng, (118, 174, 230)), _near(rng, (206, 228, 245)), np.clip(_Y / horizon, 0, 1))
    land = _mix(
        _near(rng, (122, 170, 90)), _near(rng, (86, 136, 64)), np.clip((_Y - horizon) / (1 - horizon), 0, 1)
    )
    return np.where((horizon < _Y)[..., None], land, air)


def _sand(rng: np.random.Generator) -> np.ndarray:
    grain = rng.standard_normal((SIDE, SIDE, 1)).astype(np.float32) * 2
    return _near(rng, (222, 198, 150)) + _smooth_noise(rng, 16, 5)[..., None] + grain


def _wood(rng: np.random.Generator) -> np.ndarray:
    rings, warp = rng.uniform(4, 8), _smooth_noise(rng, 4, 0.25)
    grain = 0.5 + 0.5 * np.sin(2 * np.pi * (_Y * rings + warp))
    return _mix(_near(rng, (165, 116, 70)), _near(rng, (130, 86, 48)), grain)


def _tiles(rng: np.random.Generator) -> np.ndarray:
    count = int(rng.integers(4, 9))
    odd = ((np.floor(_X * count) + np.floor(_Y * count)) % 2).astype(np.float32)
    base = rng.uniform(90, 200, 3).astype(np.float32)
    return _mix(base, base + np.float32(rng.uniform(18, 40)), odd)


def _clouds(rng: np.random.Generator) -> np.ndarray:
    base = rng.uniform(70, 190, 3).astype(np.float32)
    return base + np.stack([_smooth_noise(rng, 8, 12) for _ in range(3)], -1)


def _gradient(rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * (_X - 0.5) + np.sin(angle) * (_Y - 0.5)
    ends = rng.uniform(60, 220, (2, 3)).astype(np.float32)
    return _mix(ends[0], ends[1], np.clip(along * 0.9 + 0.5, 0, 1))


def _grass(rng: np.random.Generator) -> np.ndarray:
    return _near(rng, (106, 156, 74)) + _smooth_noise(rng, 24, 7)[..., None]


def _night(rng: np.random.Generator) -> np.ndarray:
    return _near(rng, (45, 48, 62), 10) + _smooth_noise(rng, 6, 6)[..., None]


GROUNDS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "sky": _sky,
    "sand": _sand,
    "wood": _wood,
    "tiles": _tiles,
    "clouds": _clouds,
    "gradient": _gradient,
    "grass": _grass,
    "night": _night,
}
GROUND_NAMES: tuple[str, ...] = tuple(GROUNDS)


def draw_ground(kind: str, seed: int) -> np.ndarray:
    """One ground, float32 [128,128,3], roughly 0..255; the same for the same kind and seed."""
    return np.asarray(GROUNDS[kind](np.random.default_rng(seed)), np.float32)
