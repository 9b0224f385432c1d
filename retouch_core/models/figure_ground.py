"""What in a picture its ground does not explain: the ground is learnt from the frame, colours and nearness decide."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

LIGHTNESS_WEIGHT = 0.7
"""Weight of L* against a* and b*: shading changes lightness more than hue (tune scenes)."""

SMOOTHING_PX = 0.3
"""Sigma of the blur before colours are compared; more would blunt outlines (tune scenes)."""

FRAME_KIN = 12.0
FRAME_SUPPORT = 0.08
"""A pixel of the frame speaks for the ground when this share of the frame lies within `FRAME_KIN` of its colour;
so things that the frame cuts do not pass for ground (set once on tune scenes, not swept)."""

FRAME_SUPPORT_MIN = 0.25
"""With less trusted frame than this share, the picture has no plain ground, and the whole frame speaks."""

FAR_COST = 0.1
NEAR_COST = 0.3
"""Colour distance that one pixel of way costs (in a picture 128 px long), from the frame and from known ground
(0.2 to 0.45 for the latter measured alike on tune scenes)."""

SEED_DISTANCE = 9.0
"""Distance up to which pixels join the ground that the second pass compares with (tune scenes)."""

FIGURE_DISTANCE = 7.0
"""Distance beyond which a pixel is not ground (tune scenes)."""

DISTANCE_CAP = 40.0

NEIGHBOURS = 3
"""Ground colours that must agree with a pixel; fewer lets strays in (tune scenes)."""

SHADOW_GAINS = (0.75, 0.82, 0.9)
"""Dimming of the ground that still counts as a shadow on it; the middle ones are for its soft edge (tune scenes)."""

SHADOW_DISTANCE = 5.0
SHADOW_REACH = 4 / 128
"""Distance after undoing the dimming, and how far from the thing its shadow may reach, of the longer side (tune scenes)."""

OUTLINE_SHARE = 0.48
"""Along an outline a pixel belongs to the thing from this share of the contrast beside it, as an antialiased
edge of half cover has (tune scenes)."""

_SAMPLES = 4096
_FRAME_SAMPLES = 512
_REFERENCE_SIDE = 128


@dataclass(frozen=True)
class FigureGround:
    """Maps of one picture.

    Attributes:
        colours: float32 [h,w,3], lightly blurred CIELAB with the lightness weighted down.
        distance: float32 [h,w], 0..`DISTANCE_CAP`, how far each pixel is from the ground's colours.
        shadow: bool [h,w], ground that is only dimmed, beside figure.
        figure: bool [h,w], what neither ground nor shadow explains.
    """

    colours: np.ndarray
    distance: np.ndarray
    shadow: np.ndarray
    figure: np.ndarray


def frame_of(height: int, width: int) -> np.ndarray:
    """The outermost pixels, bool [height,width]."""
    frame = np.ones((height, width), bool)
    frame[1:-1, 1:-1] = False
    return frame


def figure_ground(rgb: np.ndarray) -> FigureGround:
    """Split a picture float [h,w,3] in 0..1 into figure, shadow and ground.

    First every pixel is compared with trusted colours of the frame, nearby ones first; what agrees is ground. Then
    every pixel is compared with that ground, so that texture, horizons and gradients away from the frame are known
    as well. Shadows are ground again once their dimming is undone. Outlines are put where the contrast halves.
    """
    from scipy import ndimage

    height, width = rgb.shape[:2]
    sigma = (SMOOTHING_PX, SMOOTHING_PX, 0)
    unit = _REFERENCE_SIDE / max(height, width)
    colours = ndimage.gaussian_filter(perceptual(rgb), sigma)
    frame = frame_of(height, width)
    everywhere = np.ones((height, width), bool)

    first = _distance(colours, colours, _trusted(colours, frame), everywhere, FAR_COST * unit)
    ground = ndimage.binary_opening(first < SEED_DISTANCE, iterations=2)
    ground = ndimage.binary_erosion(ground, border_value=1)
    if not ground.any():
        ground = frame
    distance = _distance(colours, colours, ground, everywhere, NEAR_COST * unit)
    outlying = distance > FIGURE_DISTANCE

    relit = np.full((height, width), DISTANCE_CAP, np.float32)
    smooth = ndimage.gaussian_filter(rgb, sigma)
    for gain in SHADOW_GAINS:
        brighter = perceptual(smooth / gain)
        relit = np.minimum(relit, _distance(brighter, colours, ground, outlying, NEAR_COST * unit, 1))
    shadow = outlying & (relit < SHADOW_DISTANCE)
    core = ndimage.binary_opening(outlying & ~shadow)
    shadow &= _steps_to(core) <= SHADOW_REACH * max(height, width)

    figure = outlying & ~shadow
    beside = ndimage.maximum_filter(np.where(figure, distance, 0), 5)
    outline = figure & (_steps_to(~figure) <= 2)
    contrast = np.minimum(distance, relit + 2)
    figure &= ~(outline & (contrast < OUTLINE_SHARE * beside))
    return FigureGround(colours, distance, shadow, figure)


def perceptual(rgb: np.ndarray) -> np.ndarray:
    """[h,w,3] in sRGB 0..1 -> float32 CIELAB with the lightness weighted by `LIGHTNESS_WEIGHT`."""
    from skimage.color import rgb2lab

    lab: np.ndarray = rgb2lab(np.clip(rgb, 0, 1)).astype(np.float32)
    lab[..., 0] *= LIGHTNESS_WEIGHT
    return lab


def _steps_to(target: np.ndarray) -> np.ndarray:
    """Euclidean distance in pixels to the nearest True; infinite where there is none."""
    from scipy import ndimage

    if not target.any():
        return np.full(target.shape, np.inf)
    steps: np.ndarray = ndimage.distance_transform_edt(~target)
    return steps


def _trusted(colours: np.ndarray, frame: np.ndarray) -> np.ndarray:
    here = colours[frame]
    jury = here[:: math.ceil(len(here) / _FRAME_SAMPLES)]
    apart = ((here[:, None] - jury[None]) ** 2).sum(-1)
    support = (apart < FRAME_KIN**2).mean(1)
    trusted = np.zeros_like(frame)
    good = support >= FRAME_SUPPORT
    trusted[frame] = good if good.mean() >= FRAME_SUPPORT_MIN else True
    return trusted


def _distance(
    picture: np.ndarray,
    reference: np.ndarray,
    known: np.ndarray,
    wanted: np.ndarray,
    cost: float,
    neighbours: int = NEIGHBOURS,
) -> np.ndarray:
    """Mean distance of `picture` [h,w,3] to its nearest `reference` colours where `known`, asked where `wanted`."""
    from scipy.spatial import cKDTree

    apart = np.zeros(wanted.shape, np.float32)
    if not wanted.any():
        return apart
    places = np.argwhere(known)
    stride = math.ceil(len(places) / _SAMPLES)
    places = places[::stride]
    samples = np.concatenate([reference[known][::stride], cost * places], 1)
    asked = np.concatenate([picture[wanted], cost * np.argwhere(wanted)], 1)
    neighbours = min(neighbours, len(samples))
    found, _ = cKDTree(samples).query(asked, k=neighbours, eps=0.2, distance_upper_bound=DISTANCE_CAP)
    found = np.minimum(found, DISTANCE_CAP).reshape(len(asked), neighbours)
    apart[wanted] = found.mean(1)
    return apart
