"""Scenes as data, and how they are drawn; every random choice comes from the seed of the scene."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .grounds import GROUND_NAMES, SIDE, draw_ground
from .icons import CLASSES, COLOUR_NAMES, COLOURS, draw_icon

SPLITS = {"train": 1, "tune": 2, "test": 3}
"""The three seed ranges; nothing is ever chosen on `test`, which only the evaluation reads."""

COUNTS = (1, 2, 3, 4, 5)
COUNT_WEIGHTS = (0.12, 0.26, 0.28, 0.22, 0.12)
SIZES = ((34, 62), (32, 60), (30, 52), (28, 48), (26, 42))
"""Range of icon sides in pixels for scenes of 1..5 objects."""

MAX_ANGLE = 14.0
"""Largest rotation of an icon, degrees."""

COLOUR_JITTER = 12
"""Largest change of each colour channel, in 8-bit steps."""

GAP = 3
"""Free pixels between the boxes of two objects, so that masks are exact and shadows do not touch."""

SHADOW = (2, 3, 0.25)
"""Offset to the right and down in pixels, and strength."""


@dataclass(frozen=True)
class Thing:
    """One object: class, colour name, exact rgb, upper left corner and side of its box in pixels, flip, angle in degrees."""

    name: str
    colour: str
    rgb: tuple[int, int, int]
    x: int
    y: int
    size: int
    flip: bool
    angle: float

    @property
    def centre(self) -> tuple[float, float]:
        """Centre of the box in 0..1 of the picture, (x, y)."""
        return (self.x + self.size / 2) / SIDE, (self.y + self.size / 2) / SIDE

    @property
    def place(self) -> str:
        """The place word that fits best: left, right, top, bottom or center."""
        dx, dy = self.centre[0] - 0.5, self.centre[1] - 0.5
        if max(abs(dx), abs(dy)) < 0.13:
            return "center"
        if abs(dx) >= abs(dy):
            return "left" if dx < 0 else "right"
        return "top" if dy < 0 else "bottom"


@dataclass(frozen=True)
class Spec:
    """A whole scene as data."""

    ground: str
    ground_seed: int
    things: tuple[Thing, ...]

    def without(self, index: int) -> Spec:
        """The same scene with one object less."""
        return replace(self, things=self.things[:index] + self.things[index + 1 :])

    def with_thing(self, index: int, thing: Thing) -> Spec:
        """The same scene with another object in place of one."""
        return replace(self, things=(*self.things[:index], thing, *self.things[index + 1 :]))


@dataclass(frozen=True)
class Scene:
    """A drawn scene: image uint8 [128,128,3], masks bool [N,128,128] in the order of `spec.things`."""

    spec: Spec
    image: np.ndarray
    masks: np.ndarray


def _free_box(
    rng: np.random.Generator, taken: list[tuple[int, int, int]], low: int, high: int
) -> tuple[int, int, int] | None:
    for _ in range(40):
        size = int(rng.integers(low, high + 1))
        x, y = (int(v) for v in rng.integers(1, SIDE - 1 - size, 2))
        if all(
            x + size + GAP <= u or u + s + GAP <= x or y + size + GAP <= v or v + s + GAP <= y
            for u, v, s in taken
        ):
            return x, y, size
    return None


def dress(rng: np.random.Generator, box: tuple[int, int, int], name: str, colour: str) -> Thing:
    """A thing of that class and colour in a box (x, y, side), with a random pose and shade."""
    jitter = rng.integers(-COLOUR_JITTER, COLOUR_JITTER + 1, 3)
    rgb = tuple(int(np.clip(c + j, 0, 255)) for c, j in zip(COLOURS[colour], jitter, strict=True))
    flip, angle = bool(rng.random() < 0.5), float(rng.uniform(-MAX_ANGLE, MAX_ANGLE))
    return Thing(name, colour, rgb, *box, flip, angle)  # type: ignore[arg-type]


def random_spec(rng: np.random.Generator, *, twins: bool = False, at_least: int = 1) -> Spec:
    """A random scene of 1–5 objects; with `twins` its first two objects share class and colour."""
    count = int(rng.choice(COUNTS, p=COUNT_WEIGHTS))
    count = max(count, at_least, 2 if twins else 1)
    low, high = SIZES[count - 1]
    boxes: list[tuple[int, int, int]] = []
    for _ in range(count):
        box = _free_box(rng, boxes, low, high)
        if box is not None:
            boxes.append(box)
    things: list[Thing] = []
    for i, box in enumerate(boxes):
        name, colour = str(rng.choice(CLASSES)), str(rng.choice(COLOUR_NAMES))
        if twins and i == 1:
            name, colour = things[0].name, things[0].colour
        things.append(dress(rng, box, name, colour))
    return Spec(str(rng.choice(GROUND_NAMES)), int(rng.integers(2**31)), tuple(things))


def spec_of(split: str, index: int, *, twins: bool = False, at_least: int = 1) -> Spec:
    """The scene number `index` of a split ("train", "tune" or "test"); twin scenes are a series of their own."""
    rng = np.random.default_rng((SPLITS[split], index, int(twins), at_least))
    return random_spec(rng, twins=twins, at_least=at_least)


def draw(spec: Spec) -> Scene:
    """Draw a scene: ground, then for each object its shadow and itself."""
    canvas = draw_ground(spec.ground, spec.ground_seed).copy()
    masks = np.zeros((len(spec.things), SIDE, SIDE), bool)
    right, down, strength = SHADOW
    for mask, thing in zip(masks, spec.things, strict=True):
        rgb, cover = draw_icon(thing.name, thing.rgb, thing.size, flip=thing.flip, angle=thing.angle)
        x, y, size = thing.x, thing.y, thing.size
        sx, sy = min(x + right, SIDE - size), min(y + down, SIDE - size)
        canvas[sy : sy + size, sx : sx + size] *= (1 - strength * cover)[..., None]
        window = canvas[y : y + size, x : x + size]
        window[:] = window * (1 - cover[..., None]) + rgb * cover[..., None]
        mask[y : y + size, x : x + size] = cover > 0.5
    return Scene(spec, np.clip(np.rint(canvas), 0, 255).astype(np.uint8), masks)


def scene(split: str, index: int, *, twins: bool = False, at_least: int = 1) -> Scene:
    """Draw scene number `index` of a split."""
    return draw(spec_of(split, index, twins=twins, at_least=at_least))
