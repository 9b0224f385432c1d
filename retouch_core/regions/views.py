"""What an image-text model is shown of a region: square views [N,3,S,S] (methods.md 2.2)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ..tensors.checks import check_image, clamped
from ..tensors.convert import to_bchw
from ..tensors.frames import CLIP_MEAN
from ..tensors.regions import mask_boxes

MARGIN = 0.1
"""Width of the frame around a cropped region, as a share of its longer side (our choice)."""

BLUR = 0.02
"""Sigma of the `blur` fill, as a share of the picture's longer side (our choice)."""

BLOCK = 32
"""Rows of a view that are resampled together; each sees only the rows of the picture near it."""

CUBIC = -0.5
"""Keys' parameter in torch's antialiased bicubic resampling, as in PIL."""

FILLS = ("black", "mean", "blur")
FRAMINGS = ("crop", "full")

Box = tuple[int, int, int, int]
"""Half-open pixels xyxy."""


def region_views(
    image: Tensor,
    masks: Tensor,
    size: int,
    kind: str = "crop+fill",
    fill: str = "black",
    margin: float = MARGIN,
) -> Tensor:
    """Views of regions for an image-text model: [N,3,size,size] in 0..1, before the model's own normalisation.

    A kind is a framing and, after a plus sign, what covers the pixels outside the mask: `fill` stands for the
    argument of that name, `black`, `mean` (the mean colour of CLIP's training pictures, 0 after its normalisation)
    or `blur` (the blurred picture) for themselves.

    * `crop+fill`: the region's box with a margin, everything but the region filled;
    * `crop`: the same box as a square of the picture, with its surroundings as far as the frame goes;
    * `full+black`: the whole frame, everything but the region filled, as the papers print it.

    Views are padded to a square with the fill and never cropped, so that a region at the side of the frame stays
    visible; bicubic with antialiasing, as torch and PIL have it (to 1e-5). Of the picture only the boxes are copied, one
    at a time: beside the views, memory does not grow with the number of regions.

    Args:
        image: IMAGE [1,H,W,3].
        masks: bool [N,H,W], none of them empty.
        size: side S of the views in pixels.
        margin: share of the box's longer side to add on every side, as far as the frame goes.

    Raises:
        ValueError: an empty mask, other shapes, an unknown kind or fill, a negative margin, a size below 1.
    """
    framing, cover = _parse(kind, fill)
    image = check_image(image, batch=1)
    low, high = torch.aminmax(image)
    if low < 0 or high > 1:  # a copy of a large picture is made only where it must be
        image = clamped(image)
    pixels = to_bchw(image)[0]
    boxes = _checked_boxes(masks, pixels)
    if size < 1:
        raise ValueError(f"size must be at least 1 px, got {size!r}; use the scorer's image_size")
    if margin < 0:
        raise ValueError(
            f"margin must be at least 0, got {margin!r}; 0.1 adds a tenth of the box on every side"
        )
    fill = cover or fill
    colour = pixels.new_tensor(CLIP_MEAN if fill == "mean" else (0, 0, 0), dtype=torch.float32)[:, None, None]
    ground = _blurred(pixels.float()) if fill == "blur" else None
    height, width = pixels.shape[1:]
    views = torch.empty(len(masks), 3, size, size, device=pixels.device)
    under: dict[Box, Tensor] = {}
    for view, mask, box in zip(views, masks, boxes, strict=True):
        frame = _widened(box, margin, height, width) if framing == "crop" else (0, 0, width, height)
        side, left, top = _square_of(frame)
        # Only what differs from the ground is resampled: the region, or all of the picture that the square holds.
        shown = box
        if not cover:
            shown = max(left, 0), max(top, 0), min(left + side, width), min(top + side, height)
        seen = _cut(pixels, shown)
        if ground is not None:
            seen.sub_(_cut(ground, shown))
        elif fill == "mean":
            seen.sub_(colour)
        if cover:
            seen.mul_(mask[shown[1] : shown[3], shown[0] : shown[2]].to(seen))
        weights, blocks = _cubic(side, size, seen)
        tall = _resampled(seen, shown[1] - top, weights, blocks)
        view.copy_(_resampled(tall.mT, shown[0] - left, weights, blocks).mT)
        if ground is None:
            view.add_(colour)
        else:
            if frame not in under:
                under = {frame: _ground_view(ground, frame, size)}
            view.add_(under[frame])
    # Bicubic overshoots at hard edges; models are promised 0..1.
    return views.clamp_(0, 1)


def _parse(kind: str, fill: str) -> tuple[str, str | None]:
    """The framing, and what covers the pixels outside the mask, if anything does."""
    if fill not in FILLS:
        raise ValueError(f"fill must be one of {', '.join(FILLS)}, got {fill!r}; choose one of them")
    framing, plus, cover = kind.partition("+")
    if framing not in FRAMINGS or (cover not in ("fill", *FILLS) if plus else framing == "full"):
        raise ValueError(
            f"kind must be crop, crop+fill or full+fill, got {kind!r}; fill may be {', '.join(FILLS)}"
        )
    if not plus:
        return framing, None
    return framing, fill if cover == "fill" else cover


def _checked_boxes(masks: Tensor, pixels: Tensor) -> list[Box]:
    """The half-open boxes of the masks, all of which must fit the picture and hold something."""
    if masks.ndim != 3 or masks.dtype != torch.bool:
        raise ValueError(
            f"masks must be bool [N,H,W], got {masks.dtype} {list(masks.shape)}; use masks > 0.5"
        )
    if masks.shape[1:] != pixels.shape[1:]:
        raise ValueError(
            f"masks are {masks.shape[2]}x{masks.shape[1]} px but the picture is {pixels.shape[2]}x{pixels.shape[1]}; "
            "segment this very picture"
        )
    boxes = [(x0, y0, x1, y1) for x0, y0, x1, y1 in mask_boxes(masks).long().tolist()]
    empty = [number for number, box in enumerate(boxes) if box == (0, 0, 0, 0)]
    if empty:
        raise ValueError(f"masks {empty} are empty (area 0); drop empty regions before scoring")
    return boxes


def _blurred(pixels: Tensor) -> Tensor:
    sigma = BLUR * max(pixels.shape[1:])
    reach = max(1, round(3 * sigma))
    offsets = torch.arange(-reach, reach + 1, dtype=pixels.dtype, device=pixels.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = functional.pad(pixels[:, None], (reach, reach, reach, reach), mode="replicate")
    across = functional.conv2d(padded, kernel.view(1, 1, 1, -1))
    return functional.conv2d(across, kernel.view(1, 1, -1, 1))[:, 0]


def _widened(box: Box, margin: float, height: int, width: int) -> Box:
    x0, y0, x1, y1 = box
    extra = round(margin * max(x1 - x0, y1 - y0))
    return max(0, x0 - extra), max(0, y0 - extra), min(width, x1 + extra), min(height, y1 + extra)


def _square_of(frame: Box) -> tuple[int, int, int]:
    """Side, left and top of the square that a frame lies in the middle of; it may reach beyond the picture."""
    x0, y0, x1, y1 = frame
    side = max(x1 - x0, y1 - y0)
    return side, x0 - (side - (x1 - x0)) // 2, y0 - (side - (y1 - y0)) // 2


def _cut(pixels: Tensor, box: Box) -> Tensor:
    """A copy [3,h,w] float32 of a box, rows of one colour side by side."""
    x0, y0, x1, y1 = box
    piece = pixels[:, y0:y1, x0:x1]
    return torch.empty(piece.shape, device=pixels.device).copy_(piece)


def _cubic(side: int, size: int, like: Tensor) -> tuple[Tensor, list[tuple[int, int, int, int]]]:
    """Antialiased bicubic resampling of `side` pixels to `size` as a matrix [size,side], and where it is not 0.

    Those are blocks of its rows and the columns that they touch (first row, end, first column, end). Rows sum to 1; what
    would lie beyond the side is left out, as torch's `interpolate(mode="bicubic", antialias=True)` and PIL do.
    """
    scale = side / size
    stretch = max(scale, 1.0)
    centres = scale * (torch.arange(size, dtype=torch.float64) + 0.5)
    first = (centres - 2 * stretch + 0.5).long().clamp(min=0)
    end = (centres + 2 * stretch + 0.5).long().clamp(max=side)
    places = first[:, None] + torch.arange(int((end - first).max()))
    away = ((places + 0.5 - centres[:, None]) / stretch).abs()
    near = ((CUBIC + 2) * away - (CUBIC + 3)) * away.square() + 1
    far = CUBIC * (((away - 5) * away + 8) * away - 4)
    taps = torch.where(away < 1, near, torch.where(away < 2, far, 0.0)) * (places < end[:, None])
    taps = (taps / taps.sum(1, keepdim=True)).to(like)
    matrix = like.new_zeros(size, side + places.shape[1]).scatter_(1, places.to(like.device), taps)[:, :side]
    starts, ends = first.tolist(), end.tolist()
    rows = ((row, min(row + BLOCK, size)) for row in range(0, size, BLOCK))
    return matrix, [(row, stop, starts[row], ends[stop - 1]) for row, stop in rows]


def _resampled(
    pixels: Tensor, offset: int, matrix: Tensor, blocks: list[tuple[int, int, int, int]]
) -> Tensor:
    """[3,n,m] whose rows begin at `offset` of a side that is 0 elsewhere -> [3,S,m] by a matrix of `_cubic`."""
    count = pixels.shape[1]
    found = pixels.new_zeros(3, len(matrix), pixels.shape[2])
    for row, stop, low, high in blocks:
        low, high = max(low, offset), min(high, offset + count)
        if low < high:
            part = matrix[row:stop, low:high].expand(3, -1, -1)
            found[:, row:stop] = torch.bmm(part, pixels[:, low - offset : high - offset])
    return found


def _ground_view(ground: Tensor, frame: Box, size: int) -> Tensor:
    """The ground alone [3,size,size]; beyond the picture it goes on as its last row and column."""
    side, left, top = _square_of(frame)
    height, width = ground.shape[1:]
    rows = torch.arange(top, top + side, device=ground.device).clamp(0, height - 1)
    columns = torch.arange(left, left + side, device=ground.device).clamp(0, width - 1)
    square = ground[:, rows][:, :, columns]
    if side == size:
        return square
    return functional.interpolate(square[None], size=(size, size), mode="bicubic", antialias=True)[0]
