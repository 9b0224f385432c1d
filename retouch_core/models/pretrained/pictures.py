"""Pictures as published networks take them: what a folder's image processor says, done on the device in float32
instead of in 8 bits."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...tensors.checks import check_image, clamped
from ...tensors.convert import to_bchw
from ...tensors.normalisation import IMAGENET_MEAN, IMAGENET_STD
from .files import ModelError

OF_IMAGES, OF_ALL = "preprocessor_config.json", "processor_config.json"
"""Where a folder keeps the settings of its image processor; transformers 5 writes them into the second, nested."""
NESTED = "image_processor"
MODES = {0: "nearest-exact", 1: "bicubic", 2: "bilinear", 3: "bicubic"}
"""PIL's numbers of resampling filters; Lanczos, which torch lacks, becomes bicubic as transformers makes it."""


@dataclass(frozen=True)
class Look:
    """How a network wants its colours and its resizing.

    Args:
        mean, std: of the three channels, in 0..1.
        mode: of `torch.nn.functional.interpolate`.

    Raises:
        ValueError: other than three numbers, a std that is not positive, or an unknown mode.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    mode: str = "bilinear"

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not all(math.isfinite(value) for value in values):
                raise ValueError(f"{name} must be three numbers, one a channel, got {values!r}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be above 0, got {self.std!r}")
        if self.mode not in MODES.values():
            raise ValueError(
                f"mode must be one of {', '.join(sorted(set(MODES.values())))}, got {self.mode!r}"
            )

    def resized(self, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        """Pixels [1,3,H,W] in 0..1 -> [1,3,*size] in 0..1, antialiased as PIL does it."""
        if tuple(pixels.shape[-2:]) == size:
            return pixels
        if self.mode == "nearest-exact":
            return F.interpolate(pixels, size=size, mode=self.mode)
        # Bicubic overshoots, which 8-bit pictures cut off.
        return F.interpolate(pixels, size=size, mode=self.mode, antialias=True).clamp(0, 1)

    def normalised(self, pixels: Tensor) -> Tensor:
        """Pixels [1,3,H,W] in 0..1, less the mean and over the deviation."""
        mean, std = (pixels.new_tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return (pixels - mean) / std


def image_settings(folder: Path) -> dict[str, Any]:
    """The settings of a folder's image processor, of either generation's file; empty where it has none.

    Raises:
        ModelError: a file that is no JSON object.
    """
    for name in (OF_IMAGES, OF_ALL):
        path = folder / name
        if not path.is_file():
            continue
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
            found = settings if name == OF_IMAGES else settings.get(NESTED, {})
            if not isinstance(found, dict):
                raise ValueError(f"it holds a {type(found).__name__}")
        except (OSError, ValueError, AttributeError) as error:
            raise ModelError(f"{path} cannot be read ({error}); copy the file there again") from error
        if found:
            return found
    return {}


def needed_settings(folder: Path, what: str) -> dict[str, Any]:
    """`image_settings` of a folder that must have some.

    Args:
        what: the model, for the sentence.

    Raises:
        ModelError: none, or a file that is no JSON object.
    """
    found = image_settings(folder)
    if not found:
        raise ModelError(
            f"{folder} has no {OF_IMAGES}, which says how {what} takes pictures; copy all files of the model's "
            "repository there"
        )
    return found


def look_of(settings: Mapping[str, Any], where: object, usual: Look | None = None) -> Look:
    """The look that settings ask for; what they leave out is as `usual` has it, or as ImageNet has.

    Args:
        settings: in the words of transformers (`image_mean`, `image_std`, `resample`) or open_clip (`mean`, `std`).
        where: what they came from, for the sentence.

    Raises:
        ModelError: values that make no sense.
    """
    usual = usual or Look()
    mean, std = (
        next((settings[word] for word in (f"image_{name}", name) if settings.get(word) is not None), default)
        for name, default in (("mean", usual.mean), ("std", usual.std))
    )
    number = settings.get("resample")
    try:
        return Look(
            tuple(float(value) for value in mean),
            tuple(float(value) for value in std),
            usual.mode if number is None else MODES[int(number)],
        )
    except (KeyError, TypeError, ValueError) as error:
        said = f"resample {error}, which is not known" if isinstance(error, KeyError) else error
        raise ModelError(
            f"{where} names colours or a resampling that cannot be used ({said}); copy the model's own file there"
        ) from error


def pixels_of(image: Tensor, weight: Tensor) -> Tensor:
    """IMAGE [1,H,W,3] -> pixels [1,3,H,W] float32 in 0..1 where `weight` is.

    Raises:
        TypeError, ValueError: no such image.
    """
    return to_bchw(clamped(check_image(image, batch=1)).detach()).to(weight.device, torch.float32)


def picture_size(image: Tensor) -> tuple[int, int]:
    """(H, W) of an IMAGE [1,H,W,3].

    Raises:
        TypeError, ValueError: no IMAGE of one picture (see `check_image`).
    """
    height, width = check_image(image, batch=1).shape[1:3]
    return int(height), int(width)


def fitted_size(size: tuple[int, int], shortest: int, longest: int) -> tuple[int, int]:
    """Sides (h, w) of a picture of `size` = (H, W) with its shorter side at `shortest` or its longer one at `longest`,
    whichever is less; rounded as transformers' `get_size_with_aspect_ratio` rounds, since its masks are cut by it."""
    height, width = size
    short, side = float(shortest), shortest
    if max(size) / min(size) * shortest > longest:
        short = longest * min(size) / max(size)
        side = round(short)
    if min(size) == side:
        return height, width
    if width < height:
        return int(short * height / width), side
    return side, int(short * width / height)


def square_side(settings: Mapping[str, Any], default: int, folder: Path) -> int:
    """The side of the square that pictures are brought to, out of `size` as an int or as height and width.

    Raises:
        ModelError: no square.
    """
    size = settings.get("size", default)
    sides = {size.get("height"), size.get("width")} if isinstance(size, dict) else {size}
    side = sides.pop()
    if sides or not isinstance(side, int) or side < 1:
        raise ModelError(
            f"{folder} asks for pictures of size {size!r}, not of a square; copy its {OF_IMAGES} again"
        )
    return side
