"""Between a picture of any size and the canvas a model works on: cut out, scaled, continued by reflection, and back.

What a plan cuts out always lies within the picture, so that a model sees as much of the real surroundings as there
are; only a picture that is smaller than the canvas is continued, to the right and below, and nothing is ever shifted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tensors.boxes import Box
from ..tensors.convert import to_bchw
from .composite import composite


@dataclass(frozen=True)
class CropPlan:
    """What of a picture is worked on, and at which size.

    Attributes:
        source: (H, W) of the picture in px.
        box: the part of it that is shown, within its frame.
        inner: (h, w) in px to which that part is scaled, in the upper left of the canvas.
        work: (h, w) of the canvas; what lies beyond `inner` is the reflected continuation.
        part: the part of the picture that the edit belongs to, within `box`: masks count only there. Empty where
            nothing is to be changed.
    """

    source: tuple[int, int]
    box: Box
    inner: tuple[int, int]
    work: tuple[int, int]
    part: Box

    def __post_init__(self) -> None:
        frame = Box.whole(self.source)
        if self.box.empty or self.box not in frame:
            raise ValueError(f"box {self.box} must lie within the picture of {_px(self.source)}; cut it off")
        if self.part not in self.box:
            raise ValueError(f"part {self.part} must lie within box {self.box}; make the box larger")
        if min(self.inner) < 1 or self.inner[0] > self.work[0] or self.inner[1] > self.work[1]:
            raise ValueError(
                f"inner is {_px(self.inner)} but the canvas is {_px(self.work)}; use a larger canvas"
            )

    @classmethod
    def whole(cls, source: tuple[int, int], side: int) -> CropPlan:
        """The whole of a picture of `source` = (H, W), scaled so that its longer side is that of a square of `side` px."""
        longer = max(source)
        height, width = (min(side, max(1, round(length * side / longer))) for length in source)
        frame = Box.whole(source)
        return cls(source, frame, (height, width), (side, side), frame)

    def within(self, window: Box) -> CropPlan:
        """The same crop of the picture that is cut down to `window`, which must hold its box."""
        return replace(
            self, source=window.size, box=self.box.from_corner(window), part=self.part.from_corner(window)
        )

    @property
    def resampled(self) -> bool:
        """Whether anything is scaled; if not, pixels go there and back with their very bits."""
        return self.inner != self.box.size

    @property
    def scale(self) -> float:
        """Canvas pixels per picture pixel, along the longer side of the box."""
        longer = int(self.box.width > self.box.height)
        return self.inner[longer] / self.box.size[longer]

    def __str__(self) -> str:
        return f"{self.box} of {_px(self.source)} px on {_px(self.work)} px at scale {self.scale:.3g}"


def crop(image: Tensor, plan: CropPlan) -> Tensor:
    """IMAGE [B,H,W,C] -> [B,h,w,C] of `plan.work`, antialiased where it shrinks; the same values where nothing is scaled.

    Raises:
        ValueError: an image of another size than the plan's.
    """
    _check_size("image", (image.shape[1], image.shape[2]), plan.source, "the plan is of")
    rows, columns = plan.box.slices
    pixels = to_bchw(image[:, rows, columns])
    if plan.resampled:
        pixels = _resampled(pixels, plan.inner)
    if plan.inner != plan.work:
        down, right = (
            _folded(length, side).to(image.device) for length, side in zip(plan.inner, plan.work, strict=True)
        )
        pixels = pixels[:, :, down][:, :, :, right]
    return pixels.movedim(1, -1).clone(memory_format=torch.contiguous_format)


def uncrop(edited: Tensor, plan: CropPlan) -> Tensor:
    """IMAGE [B,h,w,C] of `plan.work` -> [B,height,width,C] of `plan.box`: the inverse of `crop` where nothing is scaled.

    Raises:
        ValueError: a picture of another size than the canvas.
    """
    _check_size("edited", (edited.shape[1], edited.shape[2]), plan.work, "the crop is")
    height, width = plan.inner
    pixels = edited[:, :height, :width]
    if plan.resampled:
        pixels = _resampled(to_bchw(pixels), plan.box.size).movedim(1, -1)
    return pixels.contiguous()


def crop_mask(mask: Tensor, plan: CropPlan, *, part_only: bool = False) -> Tensor:
    """MASK [B,H,W], float or bool -> float [B,h,w] of `plan.work`.

    A work pixel takes the greatest value it covers, so that nothing is lost; the continuation takes 0.

    Args:
        mask: at the size of the picture.
        plan: the crop.
        part_only: whether to leave out what lies beyond `plan.part`, that is in the parts of other crops.

    Raises:
        ValueError: a mask of another size than the plan's.
    """
    _check_size("mask", (mask.shape[1], mask.shape[2]), plan.source, "the plan is of")
    down, across = plan.box.slices
    inner = mask[:, down, across]
    inner = inner.float() if not inner.is_floating_point() or inner.dtype == torch.float16 else inner
    if part_only and plan.part != plan.box:
        rows, columns = plan.part.from_corner(plan.box).slices
        kept = torch.zeros_like(inner)
        kept[:, rows, columns] = inner[:, rows, columns]
        inner = kept
    if plan.resampled:
        inner = F.adaptive_max_pool2d(inner[:, None], plan.inner)[:, 0]
    height, width = plan.inner
    return F.pad(inner, (0, plan.work[1] - width, 0, plan.work[0] - height))


def uncrop_mask(mask: Tensor, plan: CropPlan) -> Tensor:
    """MASK [B,h,w] of `plan.work` -> [B,height,width] of `plan.box`, bilinear; see `placed`.

    Raises:
        ValueError: a mask of another size than the canvas.
    """
    _check_size("mask", (mask.shape[1], mask.shape[2]), plan.work, "the crop is")
    height, width = plan.inner
    inner = mask[:, :height, :width]
    if plan.resampled:
        inner = F.interpolate(inner[:, None], size=plan.box.size, mode="bilinear", align_corners=False)[:, 0]
    return inner


def placed(mask: Tensor, plan: CropPlan) -> Tensor:
    """MASK [B,height,width] of `plan.box` -> [B,H,W] of the whole picture, 0 beyond the box."""
    if plan.box.size == plan.source:
        return mask
    out = mask.new_zeros(len(mask), *plan.source)
    rows, columns = plan.box.slices
    out[:, rows, columns] = mask
    return out


def stitch(source: Tensor, edited: Tensor, plan: CropPlan, mask: Tensor, *, mode: str = "feather") -> Tensor:
    """The edited crop in its picture; outside the mask, and beyond `plan.part`, the source bit for bit.

    Args:
        source: IMAGE [1,H,W,3] or [m,H,W,3].
        edited: IMAGE [m,h,w,3] of `plan.work`; NaN in it cannot leave the mask.
        plan: what `crop` was called with.
        mask: composite MASK [1,H,W] or [m,H,W] of the picture's size.
        mode: how the edit changes over into the source inside the mask, see `composite`.

    Returns:
        [m,H,W,3] in the dtype of `source`, a new tensor.

    Raises:
        ValueError: sizes or batches that do not fit together.
    """
    return stitch_parts(source, [(edited, plan, mask)], mode=mode)


def stitch_parts(
    source: Tensor, parts: Sequence[tuple[Tensor, CropPlan, Tensor]], *, mode: str = "feather"
) -> Tensor:
    """Several crops of one picture, each (edited, plan, mask) as `stitch` takes them, one after the other.

    A mask may also have the size of its plan's box.

    Only the boxes are touched, so that a small crop of a huge picture costs one copy of the picture.
    """
    count = max([len(source), *(len(edited) for edited, _, _ in parts)])
    if len(source) not in (1, count):
        raise ValueError(f"source holds {len(source)} pictures but edited {count}; give one, or one for each")
    out = source.expand(count, -1, -1, -1).clone(memory_format=torch.contiguous_format)
    for edited, plan, mask in parts:
        _check_size("source", (source.shape[1], source.shape[2]), plan.source, "the crop is of")
        rows, columns = plan.part.slices
        down, across = plan.part.from_corner(plan.box).slices
        if tuple(mask.shape[1:]) == plan.box.size:
            own = mask[:, down, across]
        else:
            _check_size("mask", (mask.shape[1], mask.shape[2]), plan.source, "the picture is")
            own = mask[:, rows, columns]
        if plan.part.empty:
            continue
        inside = uncrop(edited, plan)[:, down, across].expand(count, -1, -1, -1)
        out[:, rows, columns] = composite(out[:, rows, columns], inside, own, mode=mode)
    return out


def _resampled(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    # Half precision has no antialiasing filter on every device.
    wide = pixels.float() if pixels.dtype in (torch.float16, torch.bfloat16) else pixels
    return F.interpolate(wide, size=size, mode="bicubic", antialias=True).clamp(0, 1).to(pixels.dtype)


def _folded(length: int, side: int) -> Tensor:
    """Indices [side] into 0..length-1 that run on and are reflected at both ends as often as needed."""
    if length == 1:
        return torch.zeros(side, dtype=torch.long)
    period = 2 * (length - 1)
    along = torch.arange(side) % period
    return torch.minimum(along, period - along)


def _check_size(name: str, size: tuple[int, int], wanted: tuple[int, int], whose: str) -> None:
    if size != wanted:
        raise ValueError(f"{name} is {_px(size)} px but {whose} {_px(wanted)}; give one of that size")


def _px(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"
