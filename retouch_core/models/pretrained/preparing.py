"""How a published image processor prepares a picture, done on the device in float32 instead of in 8 bits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ...tensors.checks import check_image, clamped
from ...tensors.convert import to_bchw
from .loading import ModelError, load_part

RESAMPLING = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, as processors write them, in torch's words."""

SETTINGS = ("preprocessor_config.json", "processor_config.json")
"""Where an image processor's settings lie; transformers 5 writes the second."""


@dataclass(frozen=True)
class Preparation:
    """What a processor's file says: mean and std of three channels, and the word for torch's `interpolate`."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    mode: str

    @classmethod
    def of(cls, processor: Any) -> Preparation:
        """The recipe of a transformers image processor.

        Raises:
            ModelError: a step that this recipe has no place for, such as no normalisation or another resampling.
        """
        kind = type(processor).__name__
        for step in ("do_resize", "do_rescale", "do_normalize"):
            if not getattr(processor, step, True):
                raise ModelError(
                    f"{kind} has {step} off, which no published checkpoint has; copy the model's own files again"
                )
        mean, std = (
            tuple(map(float, getattr(processor, name, None) or ())) for name in ("image_mean", "image_std")
        )
        if len(mean) != 3 or len(std) != 3:
            raise ModelError(
                f"{kind} has image_mean {list(mean)} and image_std {list(std)}, but three numbers each are needed; "
                "copy the model's own files again"
            )
        number = int(getattr(processor, "resample", 2))
        if number not in RESAMPLING:
            raise ModelError(
                f"{kind} has resample {number}, but only {', '.join(map(str, RESAMPLING))} are known; "
                "copy the model's own files again"
            )
        return cls((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]), RESAMPLING[number])

    def resized(self, image: Tensor, size: tuple[int, int], device: torch.device) -> Tensor:
        """IMAGE [1,H,W,3] -> float32 [1,3,h,w] of `size` = (h, w) on the device, with antialiasing, not normalised."""
        pixels = to_bchw(clamped(image).detach()).to(device, torch.float32)
        if tuple(pixels.shape[-2:]) == size:
            return pixels
        smooth = self.mode != "nearest-exact"
        pixels = functional.interpolate(pixels, size=size, mode=self.mode, antialias=smooth)
        return pixels.clamp(0, 1)

    def normed(self, pixels: Tensor) -> Tensor:
        """Pixels [1,3,h,w] in 0..1 less the mean, over the deviation."""
        mean, std = (pixels.new_tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return (pixels - mean) / std


def picture_size(image: Tensor) -> tuple[int, int]:
    """(H, W) of an IMAGE [1,H,W,3].

    Raises:
        TypeError, ValueError: no IMAGE of one picture (see `check_image`).
    """
    height, width = check_image(image, batch=1).shape[1:3]
    return int(height), int(width)


def padded(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Pixels [1,3,h,w] with zeros below and to the right, up to `size`."""
    height, width = pixels.shape[-2:]
    return functional.pad(pixels, (0, size[1] - width, 0, size[0] - height))


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


def uncovered(maps: Tensor, frame: tuple[int, int], inner: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Maps [n,h,w] of a padded input at the size of the picture, [n,H,W]: enlarged, cut free of padding, resized.

    Args:
        frame: sides of the input with its padding; inner: sides of what is picture in it, at the top left.
    """
    at_input = functional.interpolate(maps[None], size=frame, mode="bilinear", align_corners=False)
    return stretched(at_input[0, :, : inner[0], : inner[1]], size)


def stretched(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps [n,h,w] -> [n,H,W] of `size`, bilinear as all published post-processing does it."""
    return functional.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


def check_overflow(values: Tensor, name: str) -> None:
    """Raise ValueError where a network's numbers are not finite, as they may be in float16."""
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise ValueError(
            f"{name} hold {bad} of {values.numel()} values that are not finite; "
            "run the segmenter in float32 or bfloat16"
        )


def image_processor(folder: Path, name: str, what: str) -> Any:
    """The image processor of a folder: class `name`, or its quick form where an older transformers has that alone.

    Raises:
        ModelError: neither class is there, or the folder's file is missing or damaged.
    """
    import transformers

    cls = getattr(transformers, name, None) or getattr(transformers, f"{name}Fast", None)
    if cls is None:
        raise ModelError(
            f"{what} needs {name}, which transformers {transformers.__version__} lacks; run pip install -U transformers"
        )
    if not any((folder / file).is_file() for file in SETTINGS):
        raise ModelError(
            f"{folder} has no {SETTINGS[0]}, which says how {what} takes pictures; copy all files of the "
            "model's repository there"
        )
    return load_part(cls, folder, what)


def side_of(size: Any, *names: str) -> int | None:
    """The first of the entries `names` that a processor's size has."""
    for name in names:
        value = size.get(name) if isinstance(size, dict) else getattr(size, name, None)
        if value:
            return int(value)
    return None
