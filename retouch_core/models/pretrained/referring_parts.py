"""What the pretrained referrers share: pictures and phrases as their networks take them."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...tensors.checks import InputWarning, check_image, clamped
from ...tensors.convert import to_bchw
from ..clip_scorer import WORD
from .loading import ModelError

OF_IMAGES, OF_ALL = "preprocessor_config.json", "processor_config.json"
"""Where a folder keeps the settings of its image processor; transformers 5 writes them into the second, nested."""
NESTED = "image_processor"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
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


def pixels_of(image: Tensor, weight: Tensor) -> Tensor:
    """IMAGE [1,H,W,3] -> pixels [1,3,H,W] float32 in 0..1 where `weight` is.

    Raises:
        TypeError, ValueError: no such image.
    """
    return to_bchw(clamped(check_image(image, batch=1))).to(weight.device, torch.float32)


def image_settings(folder: Path, what: str) -> dict[str, Any]:
    """The settings of a folder's image processor, of either generation's file.

    Raises:
        ModelError: neither file, or one that cannot be read.
    """
    for name in (OF_IMAGES, OF_ALL):
        path = folder / name
        if not path.is_file():
            continue
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{path} cannot be read; copy the file of {what} there again") from error
        found = settings.get(NESTED) if name == OF_ALL and isinstance(settings, dict) else settings
        if isinstance(found, dict):
            return found
    raise ModelError(
        f"{folder} has no {OF_IMAGES} with the settings of {what}; copy all files of the model's repository there"
    )


def look_of(settings: Mapping[str, Any], folder: Path) -> Look:
    """The look that `image_settings` asks for; what they leave out is as ImageNet has it.

    Raises:
        ModelError: values that make no sense.
    """
    number = settings.get("resample", 2)
    try:
        return Look(
            tuple(float(value) for value in settings.get("image_mean") or IMAGENET_MEAN),
            tuple(float(value) for value in settings.get("image_std") or IMAGENET_STD),
            MODES[2 if number is None else int(number)],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{folder} asks for a mean, a std or a resampling that cannot be used ({error}); copy its {OF_IMAGES} again"
        ) from error


def side_of(settings: Mapping[str, Any], default: int, folder: Path) -> int:
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


def unknown_words(tokenizer: Any, text: str) -> tuple[str, ...]:
    """Words that turn into the tokenizer's unknown token; none where it has no such token or spells words out."""
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is None:
        return ()
    return tuple(
        word
        for word in dict.fromkeys(WORD.findall(text))
        if unknown in tokenizer(word, add_special_tokens=False).input_ids
    )


def warn_of_cuts(tokenizer: Any, texts: Sequence[str], length: int) -> None:
    """Warn of each text that has more tokens than a network holds."""
    for text in texts:
        count = len(tokenizer(text).input_ids)
        if count > length:
            warnings.warn(
                f"{text!r} has {count} tokens and was cut to {length}; say it in fewer words",
                InputWarning,
                stacklevel=3,
            )


def check_count(value: int, name: str, what: str) -> int:
    """Return `value` if it is a whole number of at least 1, else raise ValueError."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}; that many {what}")
    return value
