"""The sixteen icon classes, drawn in unit coordinates with Pillow and shaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 38, 42),
    "orange": (241, 134, 24),
    "yellow": (243, 213, 44),
    "green": (46, 162, 68),
    "blue": (42, 88, 214),
    "purple": (128, 52, 172),
    "pink": (245, 138, 186),
    "white": (241, 241, 241),
}

SUPERSAMPLE = 3
"""Icons are drawn this many times larger and box-filtered down, which gives antialiased edges."""

WINDOW = (188, 224, 246)
DARK = (28, 28, 30)
BARK = (101, 66, 36)
LEAF = (48, 122, 46)

Point = tuple[float, float]
Rgb = tuple[int, int, int]


class Pen:
    """Draws the same shape into the colour plane and, for shapes that add to the silhouette, the alpha plane."""

    def __init__(self, size: int, colour: Rgb) -> None:
        self.size = size
        self.colour = colour
        self.dark: Rgb = tuple(int(c * 0.38) for c in colour)  # type: ignore[assignment]
        self.light: Rgb = tuple(int(c + (255 - c) * 0.6) for c in colour)  # type: ignore[assignment]
        self.rgb = Image.new("RGB", (size, size), colour)
        self.alpha = Image.new("L", (size, size), 0)
        self._paint = ImageDraw.Draw(self.rgb)
        self._cover = ImageDraw.Draw(self.alpha)

    def _scaled(self, values: Sequence[float]) -> list[float]:
        return [v * self.size for v in values]

    def _both(self, kind: str, points: Any, fill: Rgb | None, **options: Any) -> None:
        getattr(self._paint, kind)(points, fill=fill or self.colour, **options)
        getattr(self._cover, kind)(points, fill=255, **options)

    def stroke(self, width: float) -> int:
        return max(1, round(width * self.size))

    def disc(self, box: Sequence[float], fill: Rgb | None = None) -> None:
        self._both("ellipse", self._scaled(box), fill)

    def bar(self, box: Sequence[float], fill: Rgb | None = None) -> None:
        self._both("rectangle", self._scaled(box), fill)

    def shape(self, points: Sequence[Point], fill: Rgb | None = None) -> None:
        self._both("polygon", [(x * self.size, y * self.size) for x, y in points], fill)

    def line(self, points: Sequence[float], fill: Rgb, width: float) -> None:
        self._both("line", self._scaled(points), fill, width=self.stroke(width))

    def dome(self, box: Sequence[float]) -> None:
        self._both("pieslice", self._scaled(box), None, start=180, end=360)

    def hole(self, box: Sequence[float]) -> None:
        self._cover.ellipse(self._scaled(box), fill=0)

    def spot(self, box: Sequence[float], fill: Rgb) -> None:
        self._paint.ellipse(self._scaled(box), fill=fill)

    def patch(self, box: Sequence[float], fill: Rgb) -> None:
        self._paint.rectangle(self._scaled(box), fill=fill)

    def facet(self, points: Sequence[Point], fill: Rgb) -> None:
        self._paint.polygon([(x * self.size, y * self.size) for x, y in points], fill=fill)

    def seam(self, points: Sequence[float], fill: Rgb, width: float) -> None:
        self._paint.line(self._scaled(points), fill=fill, width=self.stroke(width))

    def frame(self, box: Sequence[float], fill: Rgb, width: float) -> None:
        self._paint.rectangle(self._scaled(box), outline=fill, width=self.stroke(width))

    def rim(self, box: Sequence[float], fill: Rgb, width: float) -> None:
        self._paint.ellipse(self._scaled(box), outline=fill, width=self.stroke(width))

    def arc(self, box: Sequence[float], start: float, end: float, fill: Rgb, width: float) -> None:
        self._paint.arc(self._scaled(box), start, end, fill=fill, width=self.stroke(width))


def _spokes(centre: Point, radius: float, count: int, inner: float | None = None) -> list[Point]:
    """Corners of a regular polygon with its first corner up, or of a star where `inner` is given."""
    corners = count if inner is None else 2 * count
    points = []
    for i in range(corners):
        angle = -math.pi / 2 + 2 * math.pi * i / corners
        reach = radius * (inner if inner is not None and i % 2 else 1)
        points.append((centre[0] + reach * math.cos(angle), centre[1] + reach * math.sin(angle)))
    return points


def _ball(pen: Pen) -> None:
    pen.disc((0.05, 0.05, 0.95, 0.95))
    pen.spot((0.22, 0.17, 0.46, 0.4), pen.light)


def _box(pen: Pen) -> None:
    square = (0.08, 0.08, 0.92, 0.92)
    pen.bar(square)
    pen.seam((0.08, 0.08, 0.92, 0.92), pen.dark, 0.055)
    pen.seam((0.92, 0.08, 0.08, 0.92), pen.dark, 0.055)
    pen.frame(square, pen.dark, 0.07)


def _triangle(pen: Pen) -> None:
    pen.shape([(0.5, 0.05), (0.97, 0.93), (0.03, 0.93)])


def _star(pen: Pen) -> None:
    pen.shape(_spokes((0.5, 0.53), 0.51, 5, inner=0.42))


def _heart(pen: Pen) -> None:
    t = np.linspace(0, 2 * np.pi, 64)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    pen.shape([(0.5 + u / 36, 0.46 - v / 36) for u, v in zip(x, y, strict=True)])


def _ring(pen: Pen) -> None:
    pen.disc((0.05, 0.05, 0.95, 0.95))
    pen.hole((0.31, 0.31, 0.69, 0.69))


def _cross(pen: Pen) -> None:
    pen.bar((0.35, 0.05, 0.65, 0.95))
    pen.bar((0.05, 0.35, 0.95, 0.65))


def _moon(pen: Pen) -> None:
    pen.disc((0.06, 0.06, 0.94, 0.94))
    pen.hole((0.35, -0.02, 1.09, 0.78))


def _apple(pen: Pen) -> None:
    pen.disc((0.06, 0.24, 0.6, 0.96))
    pen.disc((0.4, 0.24, 0.94, 0.96))
    pen.bar((0.3, 0.32, 0.7, 0.9))
    pen.spot((0.18, 0.34, 0.34, 0.52), pen.light)
    pen.line((0.5, 0.32, 0.56, 0.05), BARK, 0.075)
    pen.disc((0.57, 0.05, 0.88, 0.2), LEAF)


def _fish(pen: Pen) -> None:
    pen.disc((0.02, 0.2, 0.76, 0.82))
    pen.shape([(0.65, 0.5), (0.98, 0.18), (0.98, 0.84)])
    pen.spot((0.13, 0.36, 0.27, 0.5), (255, 255, 255))
    pen.spot((0.17, 0.4, 0.24, 0.47), DARK)
    pen.arc((0.2, 0.24, 0.44, 0.78), -70, 70, pen.dark, 0.045)


def _car(pen: Pen) -> None:
    pen.bar((0.02, 0.46, 0.98, 0.74))
    pen.shape([(0.2, 0.47), (0.32, 0.2), (0.7, 0.2), (0.84, 0.47)])
    pen.facet([(0.28, 0.45), (0.36, 0.26), (0.49, 0.26), (0.49, 0.45)], WINDOW)
    pen.facet([(0.53, 0.45), (0.53, 0.26), (0.67, 0.26), (0.76, 0.45)], WINDOW)
    for left in (0.12, 0.62):
        pen.disc((left, 0.6, left + 0.26, 0.86), DARK)
        pen.spot((left + 0.08, 0.68, left + 0.18, 0.78), (192, 192, 192))


def _house(pen: Pen) -> None:
    pen.bar((0.14, 0.44, 0.86, 0.96))
    pen.shape([(0.5, 0.04), (0.98, 0.46), (0.02, 0.46)], (112, 62, 42))
    pen.patch((0.42, 0.64, 0.6, 0.96), (86, 52, 32))
    pen.patch((0.2, 0.54, 0.36, 0.7), WINDOW)
    pen.patch((0.66, 0.54, 0.82, 0.7), WINDOW)


def _tree(pen: Pen) -> None:
    pen.bar((0.42, 0.6, 0.58, 0.98), BARK)
    pen.disc((0.1, 0.3, 0.56, 0.74))
    pen.disc((0.44, 0.3, 0.9, 0.74))
    pen.disc((0.23, 0.02, 0.77, 0.56))


def _cup(pen: Pen) -> None:
    pen.disc((0.6, 0.32, 0.98, 0.72))
    pen.hole((0.71, 0.42, 0.88, 0.62))
    pen.shape([(0.08, 0.18), (0.76, 0.18), (0.68, 0.94), (0.16, 0.94)])
    pen.disc((0.08, 0.08, 0.76, 0.28), (76, 46, 30))
    pen.rim((0.08, 0.08, 0.76, 0.28), pen.light, 0.045)


def _flower(pen: Pen) -> None:
    pen.line((0.5, 0.5, 0.5, 0.98), LEAF, 0.08)
    pen.disc((0.5, 0.74, 0.78, 0.89), LEAF)
    for x, y in _spokes((0.5, 0.36), 0.22, 5):
        pen.disc((x - 0.165, y - 0.165, x + 0.165, y + 0.165))
    pen.disc((0.38, 0.24, 0.62, 0.48), (122, 76, 30))


def _mushroom(pen: Pen) -> None:
    pen.dome((0.04, 0.06, 0.96, 0.98))
    pen.bar((0.04, 0.5, 0.96, 0.56))
    pen.bar((0.35, 0.56, 0.65, 0.95), (236, 221, 190))
    for box in ((0.19, 0.28, 0.34, 0.43), (0.43, 0.11, 0.6, 0.28), (0.66, 0.29, 0.81, 0.44)):
        pen.spot(box, (250, 245, 235))


ICONS: dict[str, Callable[[Pen], None]] = {
    "ball": _ball,
    "box": _box,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "ring": _ring,
    "cross": _cross,
    "moon": _moon,
    "apple": _apple,
    "fish": _fish,
    "car": _car,
    "house": _house,
    "tree": _tree,
    "cup": _cup,
    "flower": _flower,
    "mushroom": _mushroom,
}
CLASSES: tuple[str, ...] = tuple(ICONS)
COLOUR_NAMES: tuple[str, ...] = tuple(COLOURS)


def draw_icon(
    name: str, colour: Rgb, size: int, *, flip: bool = False, angle: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """One icon as (rgb float32 [size,size,3] in 0..255, alpha float32 [size,size] in 0..1).

    `angle` is in degrees, counter-clockwise; `flip` mirrors left and right before the rotation.
    """
    pen = Pen(size * SUPERSAMPLE, colour)
    ICONS[name](pen)
    rgb, alpha = pen.rgb, pen.alpha
    if flip:
        rgb, alpha = (im.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for im in (rgb, alpha))
    if angle:
        rgb = rgb.rotate(angle, Image.Resampling.BILINEAR, fillcolor=colour)
        alpha = alpha.rotate(angle, Image.Resampling.BILINEAR)
    box = Image.Resampling.BOX
    pixels = np.asarray(rgb.resize((size, size), box), np.float32)
    cover = np.asarray(alpha.resize((size, size), box), np.float32) / 255
    # Light falls from the upper left, whatever way the icon is turned.
    ramp = np.linspace(0, 1, size, dtype=np.float32)
    shade = 1.12 - 0.3 * (0.6 * ramp[:, None] + 0.4 * ramp[None, :])
    return np.clip(pixels * shade[..., None], 0, 255), cover
