"""Largest value within a square, at a cost that does not grow with the square (methods.md 6).

Masks of two values are packed 64 pixels to a word and grown by shifted ORs, whose reach triples from step to step.
Grey ones take van Herk's and Gil and Werman's running maximum: two maxima per value and axis, whatever the radius
(van Herk 1992, "A fast algorithm for local minimum and maximum filters on rectangular and octagonal kernels").
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

WORD = 64
"""Pixels to a word."""

STRIP = 512
"""Columns that the running maximum takes at a time, so that what it holds fits into the cache."""

ROWS = 256
"""Rows of packed words that are grown sideways at a time, for the same reason."""

Bools = NDArray[np.bool_]


def window_max(values: Tensor, radius: int) -> Tensor:
    """Maximum of [B,H,W] over the square of `radius` px around each pixel; what lies beyond the frame never counts.

    Args:
        values: bool, or floating point without NaN.
        radius: from 0 up.

    Returns:
        [B,H,W] in the dtype and on the device of `values`; a bool mask stays bool.
    """
    if radius <= 0 or not values.numel():
        return values.clone()
    if values.device.type != "cpu":
        return _ladder(values, radius)
    if values.dtype == torch.bool:
        grown = np.stack([dilate_bools(mask, radius) for mask in values.numpy()])
        return torch.from_numpy(grown)
    plain = values.detach()
    if values.dtype not in (torch.float32, torch.float64):
        # numpy has no bfloat16; a maximum is one of the values, so that nothing is lost on the way there and back.
        plain = plain.float()
    out = torch.empty(plain.shape, dtype=plain.dtype)
    for one, into in zip(plain.numpy(), out.numpy(), strict=True):
        _grey_max(one, radius, into)
    return out.to(values.dtype)


def window_min(values: Tensor, radius: int) -> Tensor:
    """Minimum of [B,H,W] over the same square; everything else as in `window_max`."""
    if values.dtype == torch.bool:
        return ~window_max(~values, radius)
    return -window_max(-values, radius)


def bools_of(mask: Tensor) -> Tensor | None:
    """The mask as bool if it holds nothing but 0 and 1, else None."""
    if mask.dtype == torch.bool:
        return mask
    if mask.device.type != "cpu" or mask.dtype not in (torch.float32, torch.float64):
        ones = mask == 1
        return ones if torch.equal(ones, mask != 0) else None
    # numpy compares several times faster than torch on one core.
    array = mask.detach().numpy()
    ones_here = array == 1
    return torch.from_numpy(ones_here) if np.array_equal(ones_here, array != 0) else None


def floats_of(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A bool mask as 0 and 1 of another type."""
    if mask.device.type == "cpu" and dtype == torch.float32:
        return torch.from_numpy(mask.numpy().astype(np.float32))
    return mask.to(dtype)


def nonzero_box(mask: Tensor, margin: int = 0) -> tuple[int, int, int, int] | None:
    """Half-open box (top, left, bottom, right) of what is not 0 in [H,W], `margin` px wider but inside the frame.

    None where everything is 0.
    """
    held = mask != 0
    rows, columns = held.any(1).nonzero()[:, 0], held.any(0).nonzero()[:, 0]
    if not len(rows):
        return None
    height, width = mask.shape
    return (
        max(int(rows[0]) - margin, 0),
        max(int(columns[0]) - margin, 0),
        min(int(rows[-1]) + 1 + margin, height),
        min(int(columns[-1]) + 1 + margin, width),
    )


def chessboard_distance(mask: Bools) -> NDArray[np.int32]:
    """Steps of a king [H,W] from each pixel to the nearest one that the mask holds; 0 on it.

    An empty mask is infinitely far: the result is then larger than any distance in the picture.
    """
    from scipy.ndimage import distance_transform_cdt

    if not mask.any():
        return np.full(mask.shape, sum(mask.shape) + 1, dtype=np.int32)
    distance: NDArray[np.int32] = distance_transform_cdt(~mask, metric="chessboard").astype(
        np.int32, copy=False
    )
    return distance


def dilate_bools(mask: Bools, radius: int) -> Bools:
    """Dilation of a bool mask [H,W] by a square; what lies beyond the frame counts as empty."""
    height, width = mask.shape
    across, down = min(radius, width - 1), min(radius, height - 1)
    border = -(-across // WORD)
    words = -(-width // WORD)
    wide = np.zeros((height, words + 2 * border), dtype="<u8")
    packed = np.packbits(mask, axis=1, bitorder="little")
    first = border * (WORD // 8)
    wide.view(np.uint8)[:, first : first + packed.shape[1]] = packed
    # A mask grown by n px is whole up to n px on either side, so that the next shift may be 2n + 1.
    for top in range(0, height, ROWS):
        rows = wide[top : top + ROWS]
        other, spare = np.empty_like(rows), np.empty_like(rows)
        reached = 0
        while reached < across:
            step = min(2 * reached + 1, across - reached)
            _or_columns(rows, step, other, spare)
            rows[...] = other
            reached += step
    bits = np.ascontiguousarray(wide[:, border : border + words])
    other = np.empty_like(bits)
    reached = 0
    while reached < down:
        step = min(2 * reached + 1, down - reached)
        _or_rows(bits, step, other)
        bits, other = other, bits
        reached += step
    return np.unpackbits(bits.view(np.uint8), axis=1, count=width, bitorder="little").view(np.bool_)


def _or_columns(
    bits: NDArray[np.uint64], step: int, out: NDArray[np.uint64], spare: NDArray[np.uint64]
) -> None:
    """Into `out`: each pixel or the ones `step` px to its left and right; `spare` is scratch."""
    count = bits.shape[1]
    words, rest = divmod(step, WORD)
    np.copyto(out, bits)
    low, high = np.uint64(rest), np.uint64(WORD - rest)
    for skipped, by in ((words, low), (words + 1, high)):
        if skipped >= count or (skipped > words and not rest):
            continue
        kept = spare[:, : count - skipped]
        # From the right neighbours the low bits move in, of the next word the high ones; mirrored from the left.
        near, far = (np.right_shift, np.left_shift) if skipped == words else (np.left_shift, np.right_shift)
        near(bits[:, skipped:], by, out=kept)
        out[:, : count - skipped] |= kept
        far(bits[:, : count - skipped], by, out=kept)
        out[:, skipped:] |= kept


def _or_rows(bits: NDArray[np.uint64], step: int, out: NDArray[np.uint64]) -> None:
    """Into `out`: each pixel or the ones `step` px above and below; beyond the frame the outermost row stands in.

    It may, because its own window reaches as far into the picture as the missing row's would.
    """
    np.bitwise_or(bits[:-step], bits[step:], out=out[:-step])
    np.bitwise_or(bits[-step:], bits[-1], out=out[-step:])
    out[step:] |= bits[:-step]
    out[:step] |= bits[0]


def _grey_max(values: NDArray[np.floating], radius: int, out: NDArray[np.floating]) -> None:
    """Maximum of [H,W] over the square, into `out`."""
    tall = np.empty_like(values)
    _running_max(values, radius, tall)
    flat = np.empty(values.shape[::-1], dtype=values.dtype)
    _running_max(np.ascontiguousarray(tall.T), radius, flat)
    out[...] = flat.T


def _running_max(values: NDArray[np.floating], radius: int, out: NDArray[np.floating]) -> None:
    """Maximum over `radius` rows above and below, along the first axis: rows are long, so that numpy's loops are."""
    height, width = values.shape
    radius = min(radius, height - 1)
    window = 2 * radius + 1
    blocks = -(-(height + 2 * radius) // window)
    for left in range(0, width, STRIP):
        strip = values[:, left : left + STRIP]
        padded = np.full((blocks * window, strip.shape[1]), -np.inf, dtype=values.dtype)
        padded[radius : radius + height] = strip
        ahead = padded.reshape(blocks, window, -1)
        behind = ahead.copy()
        # Within blocks of one window: the maximum up to each row, and from each row on. A window spans two blocks at most.
        for row in range(1, window):
            np.maximum(ahead[:, row], ahead[:, row - 1], out=ahead[:, row])
            np.maximum(behind[:, -row - 1], behind[:, -row], out=behind[:, -row - 1])
        last = behind.reshape(blocks * window, -1)
        np.maximum(last[:height], padded[2 * radius : 2 * radius + height], out=out[:, left : left + STRIP])


def _ladder(values: Tensor, radius: int) -> Tensor:
    """The same with torch alone, for other devices: windows double in length, log2(radius) maxima an axis."""
    kind = values.dtype
    if kind == torch.bool:
        values = values.to(torch.uint8)
    lowest = -torch.inf if values.is_floating_point() else 0
    for dim in (1, 2):
        reach = min(radius, values.shape[dim] - 1)
        edge = list(values.shape)
        edge[dim] = reach
        border = values.new_full(edge, lowest)
        line = torch.cat([border, values, border], dim)
        reached, wanted = 1, 2 * reach + 1
        while reached < wanted:
            step = min(reached, wanted - reached)
            length = line.shape[dim] - step
            line = torch.maximum(line.narrow(dim, 0, length), line.narrow(dim, step, length))
            reached += step
        values = line
    return values.to(kind)
