"""Finding and undoing the shift and zoom that an edit model gave to the whole picture, or saying why not.

Scale by search, translation by phase correlation (Kuglin and Hines 1975), both refined by least squares on the pixels
outside the mask (Lucas and Kanade 1981), from coarse to fine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tensors.checks import check_mask
from ..tensors.extrema import window_max

SCALES = tuple(1 + step / 100 for step in range(-6, 7))
"""Zooms that are tried; the refinement closes the gaps."""
SEARCH_SIDE = 256
WORK_SIDES = (256, 512, 1024)
"""Longest sides at which the search and the refinement work."""
LARGEST_SHIFT = 0.1
"""Share of the longest side by which a picture may be shifted."""
DETAIL_PX = 4.0
"""Standard deviation, in pixels of the working size, of the blur that is taken away: only detail is compared."""
BAND = 0.2
"""Standard deviation in cycles per pixel of the frequencies that the phase correlation listens to."""
ROUNDS = 12
DONE_PX = 0.003
"""Rounds of least squares per size, and the step at the picture's rim below which they end."""
KEEP_MARGIN = 3
"""Pixels of the working size around the mask that are not compared: the edit's own outline reaches there."""
LEAST_OUTSIDE = 0.1
"""Share of the picture that must lie outside the mask."""
LEAST_DETAIL = 0.004
"""Standard deviation of the detail below which there is nothing to hold on to: one level of 255."""
LEAST_LIKENESS = 0.4
"""Correlation of the details, after the move, below which the pictures are not of the same scene."""
ERROR_BOUND_PX = 1.0
ERROR_BOUND_SHARE = 0.001
"""Largest root mean square of what is left of motion, over patches of the picture: in its own pixels, or as a share of
its longest side, whichever is more."""
PATCHES = 6
"""Patches a side in which that is measured."""
COARSE_FACTOR, COARSE_SIDE = 3, 96
"""It is measured at the finest working size and at this fraction (1/n, but at least so many pixels) of it: a small
picture's slopes see motions that pass over the large one's details."""
IDENTITY_PX = 0.05
"""Motion below which resampling would blur more than it mends."""

_BLUR_REACH = 3


@dataclass(frozen=True)
class Registration:
    """Where the source's content lies in the edited picture: at `centre + scale * (place - centre) + (dx, dy)`.

    Attributes:
        scale: zoom; above 1 the edit shows everything larger.
        dx, dy: shift in pixels to the right and down.
        likeness: correlation of the details outside the mask after the move, -1..1.
        error: motion that is left there, in pixels.
        refused: why the move is not to be trusted, as one sentence; None if it is.
    """

    scale: float
    dx: float
    dy: float
    likeness: float
    error: float
    refused: str | None

    def told(self) -> str:
        """A sentence for a report."""
        if self.refused:
            return self.refused
        return (
            f"the edit was moved back by {-self.dx:+.2f} px across and {-self.dy:+.2f} px down and zoomed by "
            f"{100 / self.scale:.2f} %; {self.error:.2f} px of motion are left"
        )


def register(source: Tensor, edited: Tensor, mask: Tensor) -> Registration:
    """Find the shift and zoom of one edited picture against its source, on what lies outside the mask.

    Args:
        source, edited: IMAGE [1,H,W,3]; where the edit is not finite nothing is compared.
        mask: MASK [1,H,W], above 0 where the edit shows something else.

    Raises:
        ValueError: pictures that are not one each or not of one size.
    """
    mask = check_mask(mask)
    if len(source) != 1 or len(edited) != 1 or source.shape != edited.shape or mask.shape != source.shape[:3]:
        raise ValueError(
            f"source {list(source.shape)}, edited {list(edited.shape)} and mask {list(mask.shape)} must be one each "
            "of one size; register pictures one by one"
        )
    closed = (mask > 0) | ~torch.isfinite(edited).all(-1)
    outside = 1 - float(closed.float().mean())
    if outside < LEAST_OUTSIDE:
        return _refusal(
            f"the edit was not registered: only {100 * outside:.0f} % of the picture lie outside the mask, "
            f"and at least {100 * LEAST_OUTSIDE:.0f} % are needed"
        )
    pairs = [_Pair.of(source, edited, closed, side) for side in _sides(max(source.shape[1:3]))]
    detail = pairs[-1].detail()
    if detail < LEAST_DETAIL:
        return _refusal(
            f"the edit was not registered: outside the mask there is too little detail to hold on to "
            f"({255 * detail:.1f} levels of 255, at least {255 * LEAST_DETAIL:.1f} are needed)"
        )
    move = _search(pairs[0])
    for pair in pairs:
        move = pair.refined(move)
    scale, dx, dy = move
    likeness, error = pairs[-1].quality(move)
    finest = max(pairs[-1].source.shape[-2:])
    coarse = _Pair.of(source, edited, closed, max(finest // COARSE_FACTOR, COARSE_SIDE))
    error = max(error, coarse.quality(move)[1])
    found = f"zoom {100 * scale:.1f} %, shift {dx:+.1f}, {dy:+.1f} px"
    refused = None
    longest = max(source.shape[1:3])
    bound = max(ERROR_BOUND_PX, ERROR_BOUND_SHARE * longest)
    if not likeness >= LEAST_LIKENESS:
        refused = (
            f"the edit was refused: outside the mask it does not show the same scene as the source (likeness "
            f"{likeness:.2f} at the best place found, {found}; at least {LEAST_LIKENESS} is needed)"
        )
    elif max(abs(dx), abs(dy)) > LARGEST_SHIFT * longest or not SCALES[0] <= scale <= SCALES[-1]:
        refused = (
            f"the edit was refused: it lies too far from the source ({found}; zooms of {100 * SCALES[0]:.0f} to "
            f"{100 * SCALES[-1]:.0f} % and shifts up to {LARGEST_SHIFT * longest:.0f} px are undone)"
        )
    elif error > bound:
        refused = (
            f"the edit was refused: after the best shift and zoom ({found}) parts of it still lie {error:.1f} px off, "
            f"and {bound:.2g} px is the bound; it was bent or redrawn, not moved"
        )
    return Registration(scale, dx, dy, likeness, error, refused)


def moved_back(edited: Tensor, found: Registration) -> tuple[Tensor, Tensor]:
    """The edit [1,H,W,3] laid over its source, and bool [1,H,W] where it has something to show.

    A motion too small to see returns the picture as it is. Resampled by cubic interpolation.
    """
    _, height, width, _ = edited.shape
    rim = abs(found.scale - 1) * max(height, width) / 2
    if max(rim, abs(found.dx), abs(found.dy)) < IDENTITY_PX:
        return edited, torch.ones(1, height, width, dtype=torch.bool, device=edited.device)
    grid = _grid(height, width, (found.scale, found.dx, found.dy), (height, width), edited)
    moved = F.grid_sample(
        edited.movedim(-1, 1), grid, mode="bicubic", padding_mode="border", align_corners=False
    ).movedim(1, -1)
    there = (grid[..., 0].abs() <= 1) & (grid[..., 1].abs() <= 1)
    return moved, there


Move = tuple[float, float, float]


@dataclass(frozen=True)
class _Pair:
    """Detail [1,1,h,w] of source and edit at a working size, 1 where they are compared, and the full size (H, W)."""

    source: Tensor
    edited: Tensor
    open: Tensor
    full: tuple[int, int]

    @classmethod
    def of(cls, source: Tensor, edited: Tensor, closed: Tensor, side: int) -> _Pair:
        height, width = source.shape[1:3]
        factor = min(1.0, side / max(height, width))
        size = (max(round(height * factor), 8), max(round(width * factor), 8))
        shut = F.interpolate(closed[:, None].float(), size=size, mode="area")[:, 0] > 0
        keep = (~window_max(shut.cpu(), KEEP_MARGIN)).float()[:, None]
        # Small from here on, and solved in float64, which not every device has.
        before, after = (
            F.interpolate(_grey(picture), size=size, mode="area").cpu() for picture in (source, edited)
        )
        return cls(_detail(before, keep), _detail(after, keep), keep, (height, width))

    def detail(self) -> float:
        values = self.source[self.open > 0]
        return float(values.std()) if len(values) > 1 else 0.0

    def sampled(self, move: Move, *pictures: Tensor) -> list[Tensor]:
        """Pictures of the edit's frame as they look from the source's."""
        height, width = self.source.shape[-2:]
        grid = _grid(height, width, move, self.full, self.source)
        return [
            F.grid_sample(picture, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
            for picture in pictures
        ]

    def compared(self, move: Move) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The edit and its slopes along the full picture's axes, moved, and where both are open."""
        height, width = self.source.shape[-2:]
        slope_x, slope_y = _slopes(self.edited)
        near, across, down, seen = self.sampled(move, self.edited, slope_x, slope_y, self.open)
        return near, across * width / self.full[1], down * height / self.full[0], (seen > 0.99) * self.open

    def refined(self, move: Move) -> Move:
        """Gauss-Newton on (scale, dx, dy), in pixels of the full picture."""
        height, width = self.source.shape[-2:]
        x, y = _places(height, width, self.full, self.source)
        rim = max(self.full) / 2
        for _ in range(ROUNDS):
            near, across, down, weight = self.compared(move)
            gain = float((near * self.source * weight).sum() / (near * near * weight).sum().clamp(min=1e-12))
            gain = gain if 0.25 < gain < 4 else 1.0
            rest = self.source - gain * near
            # Huber's weights: what changed although the mask does not say so must not pull.
            spread = 1.5 * rest[weight > 0].abs().median() if (weight > 0).any() else rest.new_ones(())
            weight = weight * (spread / rest.abs().clamp(min=1e-9)).clamp(max=1)
            steps = (
                torch.stack([gain * (across * x + down * y) / rim, gain * across, gain * down])
                .flatten(1)
                .double()
            )
            weights = weight.flatten().double()
            matrix = (steps * weights) @ steps.T
            right = (steps * weights) @ rest.flatten().double()
            matrix += 1e-9 * matrix.diagonal().mean().clamp(min=1e-12) * torch.eye(3, dtype=matrix.dtype)
            change = torch.linalg.solve(matrix.cpu(), right.cpu()).tolist()
            if not all(math.isfinite(value) and abs(value) < 0.2 * rim for value in change):
                break
            move = (move[0] + change[0] / rim, move[1] + change[1], move[2] + change[2])
            if max(map(abs, change)) < DONE_PX:
                break
        return move

    def quality(self, move: Move) -> tuple[float, float]:
        """Correlation of the details, and the root mean square motion left in patches, in pixels of the full picture."""
        near, across, down, weight = self.compared(move)
        both = (near * self.source * weight).sum()
        power = ((near**2 * weight).sum() * (self.source**2 * weight).sum()).sqrt()
        likeness = float(both / power.clamp(min=1e-12))
        rest = (self.source - near) * weight
        squares = [_patched(term) for term in (across**2 * weight, across * down * weight, down**2 * weight)]
        pulls = [_patched(term) for term in (across * rest, down * rest)]
        corner = squares[0] * squares[2] - squares[1] ** 2
        # A patch counts where it has slopes in both directions; its share is the strength of its weaker one.
        trace = squares[0] + squares[2]
        weaker = corner / trace.clamp(min=1e-12)
        counts = torch.where(corner > 1e-4 * trace**2, weaker, 0)
        left_x = (squares[2] * pulls[0] - squares[1] * pulls[1]) / corner.clamp(min=1e-20)
        left_y = (squares[0] * pulls[1] - squares[1] * pulls[0]) / corner.clamp(min=1e-20)
        motion = torch.where(counts > 0, left_x**2 + left_y**2, 0)
        return likeness, float(((motion * counts).sum() / counts.sum().clamp(min=1e-20)).sqrt())


def _refusal(why: str) -> Registration:
    return Registration(1.0, 0.0, 0.0, 0.0, math.inf, why)


def _sides(longest: int) -> list[int]:
    """Working sizes up to the picture's own, at least one."""
    return [side for side in WORK_SIDES if side <= longest] + ([longest] if longest < WORK_SIDES[-1] else [])


def _search(pair: _Pair) -> Move:
    """Of all zooms, each with the shift at its phase correlation's peak, the one under which the details agree most."""
    height, width = pair.source.shape[-2:]
    window = torch.hann_window(height)[:, None] * torch.hann_window(width)[None]
    window = window.to(pair.source)
    frequency = torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.rfftfreq(width)[None] ** 2
    band = torch.exp(-frequency / (2 * BAND**2)).to(pair.source)
    there = torch.fft.rfft2(pair.source[0, 0] * window)
    best, move = -math.inf, (1.0, 0.0, 0.0)
    for scale in SCALES:
        (zoomed,) = pair.sampled((scale, 0.0, 0.0), pair.edited)
        cross = torch.fft.rfft2(zoomed[0, 0] * window) * there.conj()
        # Frequencies that the picture hardly holds are not raised to the height of the others.
        level = cross.abs()
        peaks = torch.fft.irfft2(band * cross / (level + level.mean()).clamp(min=1e-20), s=(height, width))
        row, column = divmod(int(peaks.argmax()), width)
        row, column = (row + height // 2) % height - height // 2, (column + width // 2) % width - width // 2
        tried = (scale, scale * column * pair.full[1] / width, scale * row * pair.full[0] / height)
        likeness = pair.quality(tried)[0]
        if likeness > best:
            best, move = likeness, tried
    return move


def _places(height: int, width: int, full: tuple[int, int], like: Tensor) -> tuple[Tensor, Tensor]:
    """Centres of a working size's pixels, in pixels of the full picture from its middle: [1,w] and [h,1]."""
    x = ((torch.arange(width) + 0.5) / width - 0.5) * full[1]
    y = ((torch.arange(height) + 0.5) / height - 0.5) * full[0]
    return x[None].to(like), y[:, None].to(like)


def _grid(height: int, width: int, move: Move, full: tuple[int, int], like: Tensor) -> Tensor:
    """Where to look in the edit, [1,h,w,2] in the units of `grid_sample`."""
    x, y = _places(height, width, full, like)
    scale, dx, dy = move
    across, down = (2 * (scale * x + dx) / full[1]), (2 * (scale * y + dy) / full[0])
    return torch.stack(torch.broadcast_tensors(across, down), -1)[None]


def _grey(image: Tensor) -> Tensor:
    """[1,1,H,W]; what is not finite becomes the mean of the rest."""
    grey = image.float().mean(-1)[:, None]
    finite = torch.isfinite(grey)
    mean = grey[finite].mean() if finite.any() else 0.0
    return torch.where(finite, grey, mean)


def _detail(grey: Tensor, keep: Tensor) -> Tensor:
    """What a blur over the open pixels takes away; 0 where closed."""
    return (grey - _blurred(grey * keep) / _blurred(keep).clamp(min=1e-6)) * keep


def _blurred(x: Tensor) -> Tensor:
    reach = int(_BLUR_REACH * DETAIL_PX)
    offsets = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    taps = torch.exp(-0.5 * (offsets / DETAIL_PX) ** 2)
    taps = taps / taps.sum()
    padded = F.pad(x, (reach, reach, reach, reach))
    return F.conv2d(F.conv2d(padded, taps.view(1, 1, 1, -1)), taps.view(1, 1, -1, 1))


def _slopes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences per pixel along width and height."""
    wide = F.pad(x, (1, 1, 1, 1), mode="replicate")
    return (wide[..., 1:-1, 2:] - wide[..., 1:-1, :-2]) / 2, (wide[..., 2:, 1:-1] - wide[..., :-2, 1:-1]) / 2


def _patched(x: Tensor) -> Tensor:
    """Means over a raster of patches."""
    return F.adaptive_avg_pool2d(x, (PATCHES, PATCHES))
