"""What a caller may hand in: one exact sentence for everything else (methods.md 0.3)."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

MIN_SIDE = 16
"""Smallest image side, in pixels, that the stages accept; smaller pictures are refused."""

RANGE_TOLERANCE = 1e-3
"""How far outside 0..1 a pixel may be before we warn that models see a clamped copy."""

ASPECT_TOLERANCE = 0.01
"""Relative difference of aspect ratio up to which a mask of another size is resized rather than refused."""

HOST_PLACEHOLDER = (64, 64)
"""Size of the all-zero mask that ComfyUI hands out where a picture has no alpha channel; it means 'empty'."""


class InputWarning(UserWarning):
    """Something in the input was repaired; the message says what and how to avoid it."""


def check_image(image: Tensor, name: str = "image", *, batch: int | None = None) -> Tensor:
    """Return `image` unchanged if it is an IMAGE [B,H,W,3], finite, with sides of at least 16 px.

    Values outside 0..1 are legal (see `clamped`), NaN and infinities are not.

    Raises:
        TypeError: not a floating point tensor.
        ValueError: wrong rank, channel count or size, NaN or Inf, or a batch other than `batch`.
    """
    if not isinstance(image, Tensor) or not image.is_floating_point():
        kind = image.dtype if isinstance(image, Tensor) else type(image).__name__
        raise TypeError(
            f"{name} must be a float tensor [B,H,W,3] in 0..1, got {kind}; convert it with image.float() / 255"
        )
    shape = tuple(image.shape)
    if image.ndim != 4 or shape[-1] != 3:
        raise ValueError(
            f"{name} must have shape [B,H,W,3], got {list(shape)}; add the batch axis and use three channels"
        )
    if min(shape[1:3]) < MIN_SIDE:
        raise ValueError(
            f"{name} is {shape[2]}x{shape[1]} px, but both sides must be at least {MIN_SIDE}; enlarge the picture first"
        )
    if batch is not None and shape[0] != batch:
        raise ValueError(f"{name} must hold {batch} picture(s), got {shape[0]}; pass them one by one")
    if not _finite(image):
        bad = int((~torch.isfinite(image)).sum())
        raise ValueError(f"{name} holds {bad} NaN or infinite values; repair the step that made it")
    return image


def clamped(image: Tensor, name: str = "image") -> Tensor:
    """A copy in 0..1 for models to look at; warns when values lie outside by more than `RANGE_TOLERANCE`.

    Composites must keep selecting from the original tensor, so that pixels outside the mask stay bit for bit.
    """
    low, high = float(image.min()), float(image.max())
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        warnings.warn(
            f"{name} has values in [{low:.4g}, {high:.4g}]; models see it clamped to 0..1, so scale it to that range",
            InputWarning,
            stacklevel=2,
        )
    return image.clamp(0, 1)


def check_mask(mask: Tensor, name: str = "mask") -> Tensor:
    """Return `mask` as MASK [B,H,W] float (a [H,W] or bool mask is accepted), finite.

    Raises:
        TypeError: not a tensor.
        ValueError: wrong rank, NaN or Inf.
    """
    if not isinstance(mask, Tensor):
        raise TypeError(
            f"{name} must be a tensor [B,H,W] in 0..1, got {type(mask).__name__}; convert it with torch.as_tensor"
        )
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim != 3:
        raise ValueError(f"{name} must have shape [B,H,W], got {list(mask.shape)}; drop the channel axis")
    if not mask.is_floating_point():
        return mask.float()
    if not _finite(mask):
        raise ValueError(f"{name} holds NaN or infinite values; repair the step that made it")
    return mask


def fit_mask(
    mask: Tensor, size: tuple[int, int], name: str = "mask", picture: str = "the picture"
) -> tuple[Tensor, str | None]:
    """Bring a MASK [B,h,w] to `size` = (H, W); returns it with a note for the report, or no note if it fitted.

    Messages call the mask `name` and what it belongs to `picture`.

    The same aspect ratio is resized bilinearly; the host's all-zero 64x64 placeholder means an empty mask.

    Raises:
        ValueError: another aspect ratio.
    """
    mask = check_mask(mask, name)
    height, width = mask.shape[-2:]
    if (height, width) == size:
        return mask, None
    if (height, width) == HOST_PLACEHOLDER and not mask.any():
        return mask.new_zeros(mask.shape[0], *size), f"{name} was the 64x64 placeholder and counts as empty"
    if not math.isclose(width / height, size[1] / size[0], rel_tol=ASPECT_TOLERANCE):
        raise ValueError(
            f"{name} is {width}x{height} px but {picture} is {size[1]}x{size[0]}; use a mask of the same aspect ratio"
        )
    fitted = torch.nn.functional.interpolate(mask[:, None], size=size, mode="bilinear", antialias=True)[:, 0]
    return fitted, f"{name} was resized from {width}x{height} to {size[1]}x{size[0]}"


def check_batches(images: int, masks: int, name: str = "mask") -> None:
    """Raise ValueError unless the two batch sizes are equal or one of them is 1; messages call the mask `name`."""
    if images != masks and 1 not in (images, masks):
        raise ValueError(
            f"{name} has batch {masks} but image has batch {images}; make them equal or one of them 1"
        )


def check_text(text: str, name: str = "query") -> str:
    """Return `text` stripped.

    Raises:
        TypeError: not a string.
        ValueError: empty or blank.
    """
    if not isinstance(text, str):
        raise TypeError(
            f"{name} must be text, got {type(text).__name__}; write a few words such as 'the red car'"
        )
    if not text.strip():
        raise ValueError(f"{name} is empty; write a few words such as 'the red car'")
    return text.strip()


def check_range(
    value: float, name: str, low: float, high: float, *, open_low: bool = False, hint: str = ""
) -> float:
    """Return `value` if it lies in [low, high] (or (low, high] with `open_low`), else raise ValueError."""
    inside = (low < value if open_low else low <= value) and value <= high
    if not inside:
        bracket = "(" if open_low else "["
        advice = f"; {hint}" if hint else "; choose a value in that range"
        raise ValueError(f"{name} must be in {bracket}{low:g}, {high:g}], got {value!r}{advice}")
    return value


def check_count(value: int, name: str, what: str) -> int:
    """Return `value` if it is a whole number of at least 1, else raise ValueError.

    Args:
        what: what there are that many of, for the sentence.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}; that many {what}")
    return value


def _finite(values: Tensor) -> bool:
    # A finite sum has finite terms only, and costs a tenth of a look at each; a sum may overflow where no term does.
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())
