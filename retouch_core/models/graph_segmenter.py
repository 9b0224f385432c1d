"""Entities without a trained model: what stands out from the ground, and merged regions of a colour graph."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..tensors.checks import check_image, clamped
from .figure_ground import FigureGround, figure_ground, frame_of

WORK_PIXELS = 256 * 256
"""Larger pictures are reduced to about that many pixels before anything is looked for; masks are enlarged again."""

MAX_ENTITIES = 40
MAX_MASK_BYTES = 1 << 29
"""The masks of one picture together: at 20 megapixels 26 entities."""

MIN_AREA_PX = 40
"""Smallest proposal at the size worked on; `disjoint` has a stricter rule of its own."""

GRAPH_SCALES = (100, 300)
GRAPH_SIGMA = 0.6
GRAPH_MIN_SIZE = 30
"""Felzenszwalb and Huttenlocher's parameters, for a picture 128 px long; the single scale 200 lost 0.004 of mean IoU
(tune scenes)."""

MERGE_LEVELS = (10.0, 16.0, 24.0)
"""Neighbouring regions join, most alike first, up to these distances of their mean colours: the levels at which
regions are proposed (chosen on photographs, neutral on tune scenes)."""

FRAME_TOUCH = 0.04
"""Regions that hold less of the frame than this share may be parts of one thing."""

FRAME_BACKGROUND = 0.25
BACKGROUND_SCORE = 0.19
"""What holds more of the frame than this share is background: below the 0.2 from which entities count, so that the
caller's rule for leftovers decides what becomes of it."""

CONTOUR_QUANTILE = 0.3
CONTOUR_SCALE = 6.0
"""A contour is as strong as its weak stretches; contrast at which the strength reaches 1 - 1/e (tune scenes)."""

SOLIDITY_POWER = 2
"""How much lace and whiskers, which an opening by one pixel removes, take from a score (tune scenes, photographs)."""

REGION_FACTOR = (0.35, 0.45)
"""Regions of the graph count that much, plus that much times the share of them that is figure, of a thing whose
outline the ground model drew (tune scenes)."""

SAME_IOU = 0.8
VISIBLE_SHARE = 0.5
"""A proposal needs that much of itself outside better ones, else it is a part or a union of them."""

BODY_SHARE = 0.25
"""That much of what is visible of it must survive an opening by two pixels, else it is a rim beside a better one
(tune scenes)."""

TINY_HOLE = 0.02
"""Holes up to this share of a thing are closed; larger ones show ground, as the hole of a ring does."""


@dataclass(frozen=True)
class GraphSegmenter:
    """Class-agnostic proposals from colour alone; deterministic, no weights (see `protocols.Segmenter`).

    Things are the parts of the picture that its ground, learnt from the frame, does not explain. Where things touch
    the frame or the picture has no plain ground, as in most photographs, regions of Felzenszwalb and Huttenlocher's
    graph segmentation ("Efficient Graph-Based Image Segmentation", 2004) merged by mean colour stand beside them.

    Attributes:
        max_entities: most proposals returned.
    """

    max_entities: int = MAX_ENTITIES

    def __post_init__(self) -> None:
        if self.max_entities < 1:
            raise ValueError(
                f"max_entities must be at least 1, got {self.max_entities!r}; {MAX_ENTITIES} is usual"
            )

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """IMAGE [1,H,W,3] -> masks bool [N,H,W], which may overlap, and scores float32 [N] in 0..1, best first.

        A score is the strength of the weak stretches of a contour, less for regions than for things that stand out
        from the ground; background stays below 0.2.
        """
        picture = clamped(check_image(image, batch=1)).detach().float().cpu()
        size = (picture.shape[1], picture.shape[2])
        masks, scores = propose(_reduced(picture))
        count = min(len(masks), self.max_entities, max(1, MAX_MASK_BYTES // (size[0] * size[1])))
        enlarged = torch.zeros(count, *size, dtype=torch.bool)
        for target, mask in zip(enlarged, masks, strict=False):
            target.copy_(_enlarged(torch.from_numpy(mask), size))
        return enlarged.to(image.device), torch.tensor(
            scores[:count], dtype=torch.float32, device=image.device
        )


def propose(rgb: np.ndarray) -> tuple[list[np.ndarray], list[float]]:
    """Proposals for a picture float [h,w,3] in 0..1 at its own size: masks bool [h,w] and scores, best first."""
    split = figure_ground(rgb)
    edges = _edges(split.colours)
    frame = frame_of(*edges.shape)
    things = list(_things(split))
    found = [(_strength(mask, edges, frame) * _frame_factor(mask, frame, 1.0), mask) for mask in things]
    inner = _within(things, split)
    base, extra = REGION_FACTOR
    seen: set[bytes] = set()
    for mask in _regions(split.colours, frame):
        key = np.packbits(mask).tobytes()
        area = mask.sum()
        if key in seen or (mask & inner).sum() > VISIBLE_SHARE * area:
            continue
        seen.add(key)
        factor = base + extra * float((mask & split.figure).sum() / area)
        found.append((_strength(mask, edges, frame) * _frame_factor(mask, frame, factor), mask))
    return _distinct(found, ~split.shadow)


def _within(things: list[np.ndarray], split: FigureGround) -> np.ndarray:
    """Ground seen through the holes of things and darkened beside them: no region of its own."""
    from scipy import ndimage

    inner = split.shadow.copy()
    for mask in things:
        inner |= ndimage.binary_fill_holes(mask)
    return inner & ~split.figure


def _reduced(picture: Tensor) -> np.ndarray:
    height, width = picture.shape[1:3]
    factor = math.sqrt(WORK_PIXELS / (height * width))
    chw = picture.permute(0, 3, 1, 2)
    if factor < 1:
        size = [max(8, round(height * factor)), max(8, round(width * factor))]
        chw = torch.nn.functional.interpolate(chw, size=size, mode="bilinear", antialias=True)
    return chw[0].permute(1, 2, 0).contiguous().numpy()


def _enlarged(mask: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(mask.shape) == size:
        return mask
    soft = torch.nn.functional.interpolate(mask[None, None].float(), size=size, mode="bilinear")
    return soft[0, 0] >= 0.5


def _edges(colours: np.ndarray) -> np.ndarray:
    """Colour change per pixel [h,w], the strongest within one pixel of each place."""
    from scipy import ndimage

    squares = [ndimage.gaussian_gradient_magnitude(colours[..., c], 0.7) ** 2 for c in range(3)]
    strongest: np.ndarray = ndimage.maximum_filter(np.sqrt(sum(squares)), 3)
    return strongest


def _strength(mask: np.ndarray, edges: np.ndarray, frame: np.ndarray) -> float:
    """How clearly a contour separates, 0..1; the picture's frame is no evidence."""
    from scipy import ndimage

    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    inside = mask[box]
    weights = edges[box][inside & ~ndimage.binary_erosion(inside) & ~frame[box]]
    if not len(weights):
        return 0.0
    weak = np.partition(weights, int(CONTOUR_QUANTILE * len(weights)))[int(CONTOUR_QUANTILE * len(weights))]
    solid = float(ndimage.binary_opening(inside).sum() / inside.sum())
    return (1 - math.exp(-float(weak) / CONTOUR_SCALE)) * solid**SOLIDITY_POWER


def _frame_factor(mask: np.ndarray, frame: np.ndarray, factor: float) -> float:
    share = float((mask & frame).sum() / frame.sum())
    return BACKGROUND_SCORE if share > FRAME_BACKGROUND else factor


def _things(split: FigureGround) -> Iterator[np.ndarray]:
    from scipy import ndimage

    for mask in _components(split.figure):
        if ndimage.binary_opening(mask).sum() < MIN_AREA_PX / 2:
            continue
        holes = ndimage.binary_fill_holes(mask) & ~mask
        if holes.any():
            parts, _ = ndimage.label(holes)
            areas = np.bincount(parts.ravel())
            areas[0] = 0
            mask = mask | ((areas > 0) & (areas <= TINY_HOLE * mask.sum()))[parts]
        yield mask


def _components(mask: np.ndarray) -> Iterator[np.ndarray]:
    """The 8-connected parts of at least `MIN_AREA_PX`."""
    from scipy import ndimage

    parts, count = ndimage.label(mask, np.ones((3, 3)))
    areas = np.bincount(parts.ravel(), minlength=count + 1)
    for name in range(1, count + 1):
        if areas[name] >= MIN_AREA_PX:
            yield parts == name


def _regions(colours: np.ndarray, frame: np.ndarray) -> Iterator[np.ndarray]:
    """Regions of every scale and level, and unions of connected ones away from the frame."""
    from skimage.segmentation import felzenszwalb

    zoom = max(1.0, max(colours.shape[:2]) / 128)
    for scale in GRAPH_SCALES:
        labels = felzenszwalb(
            colours / 100, scale=scale * zoom, sigma=GRAPH_SIGMA, min_size=round(GRAPH_MIN_SIZE * zoom)
        )
        for partition in merged(labels, colours, MERGE_LEVELS):
            areas = np.bincount(partition.ravel())
            for name in np.flatnonzero(areas >= MIN_AREA_PX):
                yield partition == name
            touch = np.bincount(partition[frame], minlength=len(areas)) / frame.sum()
            yield from _components((touch < FRAME_TOUCH)[partition])


def merged(labels: np.ndarray, colours: np.ndarray, levels: tuple[float, ...]) -> Iterator[np.ndarray]:
    """Partitions int [h,w] in which neighbours closer in mean colour than each of the ascending `levels` are joined.

    The two most alike neighbours join first, and the mean colour of the joined region counts from then on.
    """
    count = int(labels.max()) + 1
    areas = np.bincount(labels.ravel(), minlength=count).astype(float)
    sums = [np.bincount(labels.ravel(), colours[..., c].ravel(), minlength=count) for c in range(3)]
    means = np.stack(sums, 1) / areas[:, None]
    first = np.concatenate([labels[:, 1:].ravel(), labels[1:].ravel()])
    second = np.concatenate([labels[:, :-1].ravel(), labels[:-1].ravel()])
    differ = first != second
    pairs = np.unique(np.minimum(first, second)[differ] * count + np.maximum(first, second)[differ])
    neighbours: list[set[int]] = [set() for _ in range(count)]
    age = [0] * count
    parent = np.arange(count)
    queue: list[tuple[float, int, int, int, int]] = []

    def offer(a: int, b: int) -> None:
        heapq.heappush(queue, (math.dist(means[a], means[b]), a, b, age[a], age[b]))

    for pair in pairs.tolist():
        a, b = divmod(pair, count)
        neighbours[a].add(b)
        neighbours[b].add(a)
        offer(a, b)
    for level in levels:
        while queue and queue[0][0] < level:
            _, a, b, age_a, age_b = heapq.heappop(queue)
            if age[a] != age_a or age[b] != age_b:
                continue
            means[a] = (means[a] * areas[a] + means[b] * areas[b]) / (areas[a] + areas[b])
            areas[a] += areas[b]
            parent[parent == b] = a
            age[a] += 1
            age[b] = -1
            for other in neighbours[b] - {a}:
                neighbours[other].discard(b)
                neighbours[other].add(a)
            neighbours[a] = (neighbours[a] | neighbours[b]) - {a, b}
            for other in neighbours[a]:
                offer(a, other)
        yield parent[labels]


def _distinct(
    found: list[tuple[float, np.ndarray]], free: np.ndarray
) -> tuple[list[np.ndarray], list[float]]:
    """Best first, without near copies, parts and unions of better ones, and rims that others leave."""
    from scipy import ndimage

    masks: list[np.ndarray] = []
    scores: list[float] = []
    for score, mask in sorted(found, key=lambda pair: -pair[0]):
        visible = mask & free
        area = mask.sum()
        if visible.sum() < VISIBLE_SHARE * area or any(
            (mask & other).sum() > SAME_IOU * (mask | other).sum() for other in masks
        ):
            continue
        if ndimage.binary_opening(visible, iterations=2).sum() < BODY_SHARE * visible.sum():
            continue
        masks.append(mask)
        scores.append(score)
        free = free & ~mask
    return masks, scores
