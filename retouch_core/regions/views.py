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

FILLS = ("black", "mean", "blur")
FRAMINGS = ("crop", "full")


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
    visible; bicubic with antialiasing.

    Args:
        image: IMAGE [1,H,W,3].
        masks: bool [N,H,W], none of them empty.
        size: side S of the views in pixels.
        margin: share of the box's longer side to add on every side, as far as the frame goes.

    Raises:
        ValueError: an empty mask, other shapes, an unknown kind or fill, a negative margin, a size below 1.
    """
    framing, cover = _parse(kind, fill)
    pixels = to_bchw(clamped(check_image(image, batch=1)))[0].float()
    _check_masks(masks, pixels)
    if size < 1:
        raise ValueError(f"size must be at least 1 px, got {size!r}; use the scorer's image_size")
    if margin < 0:
        raise ValueError(
            f"margin must be at least 0, got {margin!r}; 0.1 adds a tenth of the box on every side"
        )
    masks = masks.to(pixels.device)
    ground = _ground(pixels, cover or fill)
    height, width = pixels.shape[1:]
    views = pixels.new_empty(len(masks), 3, size, size)
    # One region at a time: boxes differ in size, and a batch of full-size crops could exceed the memory.
    for number, (mask, box) in enumerate(zip(masks, mask_boxes(masks).long().tolist(), strict=True)):
        box = _widened(box, margin, height, width) if framing == "crop" else [0, 0, width, height]
        views[number] = _resized(_square(pixels, ground, mask if cover else None, box), size)
    return views


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


def _check_masks(masks: Tensor, pixels: Tensor) -> None:
    if masks.ndim != 3 or masks.dtype != torch.bool:
        raise ValueError(
            f"masks must be bool [N,H,W], got {masks.dtype} {list(masks.shape)}; use masks > 0.5"
        )
    if masks.shape[1:] != pixels.shape[1:]:
        raise ValueError(
            f"masks are {masks.shape[2]}x{masks.shape[1]} px but the picture is {pixels.shape[2]}x{pixels.shape[1]}; "
            "segment this very picture"
        )
    empty = (~masks.flatten(1).any(1)).nonzero()[:, 0].tolist()
    if empty:
        raise ValueError(f"masks {empty} are empty (area 0); drop empty regions before scoring")


def _ground(pixels: Tensor, fill: str) -> Tensor:
    """The fill, as large as the picture: [3,H,W]."""
    if fill == "blur":
        return _blurred(pixels)
    colour = pixels.new_zeros(3) if fill == "black" else pixels.new_tensor(CLIP_MEAN)
    return colour[:, None, None].expand_as(pixels)


def _blurred(pixels: Tensor) -> Tensor:
    sigma = BLUR * max(pixels.shape[1:])
    reach = max(1, round(3 * sigma))
    offsets = torch.arange(-reach, reach + 1, dtype=pixels.dtype, device=pixels.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = functional.pad(pixels[:, None], (reach, reach, reach, reach), mode="replicate")
    across = functional.conv2d(padded, kernel.view(1, 1, 1, -1))
    return functional.conv2d(across, kernel.view(1, 1, -1, 1))[:, 0]


def _widened(box: list[int], margin: float, height: int, width: int) -> list[int]:
    x0, y0, x1, y1 = box
    extra = round(margin * max(x1 - x0, y1 - y0))
    return [max(0, x0 - extra), max(0, y0 - extra), min(width, x1 + extra), min(height, y1 + extra)]


def _square(pixels: Tensor, ground: Tensor, mask: Tensor | None, box: list[int]) -> Tensor:
    """[3,L,L]: the box in the middle of a square; picture where frame and mask allow it, else the ground."""
    x0, y0, x1, y1 = box
    side = max(x1 - x0, y1 - y0)
    top, left = y0 - (side - (y1 - y0)) // 2, x0 - (side - (x1 - x0)) // 2
    rows = torch.arange(top, top + side, device=pixels.device)
    columns = torch.arange(left, left + side, device=pixels.device)
    height, width = pixels.shape[1:]
    shown = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))[None]
    # Beyond the frame there is no picture, but the blurred ground goes on as its last row and column.
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    if mask is not None:
        shown = shown & mask[rows][:, columns]
    return torch.where(shown, pixels[:, rows][:, :, columns], ground[:, rows][:, :, columns])


def _resized(square: Tensor, size: int) -> Tensor:
    if square.shape[-1] == size:
        return square
    # Bicubic overshoots at hard edges; models are promised 0..1.
    return functional.interpolate(square[None], size=(size, size), mode="bicubic", antialias=True)[0].clamp(
        0, 1
    )
