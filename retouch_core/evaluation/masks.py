"""Masks as lists write them: a picture, runs of pixels (PIE-Bench, COCO) or outlines (COCO)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..pictures import read_picture

WHITE = 0.5
"""A mask picture holds a pixel from this brightness on."""

Size = tuple[int, int]
"""(height, width) in pixels."""


class ListedMask(Protocol):
    """A mask of a list, which is drawn only when it is needed."""

    def check(self, size: Size, where: str) -> None:
        """Raise ValueError, which begins with `where`, unless the mask belongs to a picture of that size."""
        ...

    def draw(self, size: Size) -> Tensor:
        """Bool [H,W], True where the list wants a change."""
        ...

    def digest(self) -> str:
        """What tells two masks apart."""
        ...


@dataclass(frozen=True)
class PictureMask:
    """A picture of the same size, white where the change is wanted."""

    path: Path

    def check(self, size: Size, where: str) -> None:
        if not self.path.is_file():
            raise ValueError(f"{where}: its mask {self.path} does not exist; correct the path")
        try:
            with Image.open(self.path) as picture:
                width, height = picture.size
        except Exception as error:
            raise ValueError(
                f"{where}: its mask {self.path} is not a picture that can be read; save it as PNG"
            ) from error
        _same((height, width), size, where)

    def draw(self, size: Size) -> Tensor:
        return read_picture(self.path)[0].mean(-1) >= WHITE

    def digest(self) -> str:
        size = self.path.stat().st_size if self.path.is_file() else None
        return f"picture {self.path.name} {size}"


@dataclass(frozen=True)
class StartRuns:
    """PIE-Bench's runs: start, length, start, length, ... over the picture's pixels row by row, starts from 0.

    A run that goes past the last pixel ends there, as in the benchmark's own decoder; one that begins past it belongs to a
    picture of another size.
    """

    runs: tuple[int, ...]

    @classmethod
    def of(cls, value: Any, where: str) -> StartRuns:
        """Raises ValueError unless `value` is such a list."""
        if not isinstance(value, list) or not all(type(number) is int and number >= 0 for number in value):
            raise ValueError(f"{where}: mask must be a list of whole numbers from 0 up; correct it")
        if len(value) % 2:
            raise ValueError(
                f"{where}: mask has {len(value)} numbers, but starts and lengths come in pairs; correct it"
            )
        return cls(tuple(value))

    def check(self, size: Size, where: str) -> None:
        count = size[0] * size[1]
        beyond = next((start for start in self.runs[::2] if start >= count), None)
        if beyond is not None:
            raise ValueError(
                f"{where}: mask has a run at pixel {beyond}, but the picture has {count} ({size[1]}x{size[0]}); "
                "it belongs to a picture of another size"
            )

    def draw(self, size: Size) -> Tensor:
        flat = torch.zeros(size[0] * size[1], dtype=torch.bool)
        for start, length in zip(self.runs[::2], self.runs[1::2], strict=True):
            flat[start : start + length] = True
        return flat.view(size)

    def digest(self) -> str:
        return _hashed(self.runs)


@dataclass(frozen=True)
class CocoRuns:
    """COCO's runs: lengths of zeros and ones in turns, column by column, for a picture of `size`."""

    counts: tuple[int, ...]
    size: Size

    @classmethod
    def of(cls, value: Any, where: str) -> CocoRuns:
        """Runs as a list, or compressed to a string as COCO publishes them.

        Raises:
            ValueError: no {"size": [h, w], "counts": ...} with counts that fill the size.
        """
        counts, size = (value.get("counts"), value.get("size")) if isinstance(value, dict) else (None, None)
        if isinstance(counts, str):
            counts = _unpacked(counts, where)
        whole = all(
            isinstance(numbers, list) and all(type(n) is int and n >= 0 for n in numbers)
            for numbers in (counts, size)
        )
        if not whole or counts is None or size is None or len(size) != 2:
            raise ValueError(
                f'{where}: mask must be {{"size": [height, width], "counts": [...]}} with no count below 0; correct it'
            )
        if sum(counts) != size[0] * size[1]:
            raise ValueError(
                f"{where}: mask has runs over {sum(counts)} pixels, but its size {size} has {size[0] * size[1]}; correct it"
            )
        return cls(tuple(counts), (size[0], size[1]))

    def check(self, size: Size, where: str) -> None:
        _same(self.size, size, where)

    def draw(self, size: Size) -> Tensor:
        values = torch.arange(len(self.counts)) % 2 == 1
        flat = values.repeat_interleave(torch.tensor(self.counts, dtype=torch.long))
        return flat.view(size[1], size[0]).T.contiguous()

    def digest(self) -> str:
        return _hashed((self.size, self.counts))


def _unpacked(text: str, where: str) -> list[int]:
    """Run lengths out of COCO's string (`rleFrString` of its maskApi.c).

    A sign holds 5 bits of a number, the lowest first, and whether more follow; the last one's highest bit is the number's
    sign. From the fourth on, numbers are differences from the last but one.
    """
    counts: list[int] = []
    number, bits = 0, 0
    for sign in text:
        code = ord(sign) - ord("0")
        if not 0 <= code < 64:
            raise ValueError(
                f"{where}: mask has {sign!r} in its compressed counts, which never holds it; correct it"
            )
        number |= (code & 31) << bits
        bits += 5
        if code & 32:
            continue
        if code & 16:
            number -= 1 << bits
        counts.append(number + (counts[-2] if len(counts) > 2 else 0))
        number, bits = 0, 0
    if bits:
        raise ValueError(f"{where}: mask has compressed counts that break off in a number; correct it")
    return counts


@dataclass(frozen=True)
class Outlines:
    """COCO's polygons, x and y in turns, for a picture of `size`; filled by Pillow, whose border differs from
    pycocotools' by up to a pixel."""

    polygons: tuple[tuple[float, ...], ...]
    size: Size

    def check(self, size: Size, where: str) -> None:
        _same(self.size, size, where)

    def draw(self, size: Size) -> Tensor:
        drawn = Image.new("L", (size[1], size[0]))
        pen = ImageDraw.Draw(drawn)
        for polygon in self.polygons:
            pen.polygon(list(zip(polygon[::2], polygon[1::2], strict=True)), fill=1, outline=1)
        return torch.from_numpy(np.asarray(drawn) > 0)

    def digest(self) -> str:
        return _hashed((self.size, self.polygons))


def framed(mask: Tensor) -> Tensor:
    """Bool [H,W] with its outermost pixels on all sides held, as PIE-Bench measures: its annotations fray there."""
    out = mask.clone()
    out[[0, -1]] = True
    out[:, [0, -1]] = True
    return out


def _same(mask: Size, picture: Size, where: str) -> None:
    if mask != picture:
        raise ValueError(
            f"{where}: mask is for {mask[1]}x{mask[0]} px but the picture has {picture[1]}x{picture[0]}; "
            "it belongs to a picture of another size"
        )


def _hashed(values: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
