"""One sheet a pair: what the list asks for, what was found and taken, what came out, and every candidate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL.Image import Image
from torch import Tensor

from ..result import Result
from ..sheet import Panel, fitted, panel_sheet, region_overlay

TILE = 256
"""Longer side of a picture on the sheet, in px."""


def pair_sheet(
    result: Result,
    wanted: Tensor | None,
    title: str,
    numbers: Mapping[str, Any],
    perceptual: str,
    iou: float | None,
) -> Image:
    """The first row is input, the list's mask (bool [H,W], where there is one), numbered regions, mask and result; the
    candidates follow with their scores.

    Args:
        numbers: what was measured of the result; perceptual: what its distance is called.
        iou: of what was found with the list's mask.
    """
    overlay = region_overlay(result.source, result.regions, result.selected)[0]
    count = len(result.regions)
    first = [Panel(fitted(result.source[0], TILE), "input")]
    if wanted is not None:
        first.append(
            Panel(_mask(wanted.float()), f"the list's mask · {100 * float(wanted.float().mean()):.1f} %")
        )
    agreement = "" if iou is None else f" · IoU {iou:.2f}"
    area = 100 * float((result.mask > 0).float().mean())
    first += [
        Panel(fitted(overlay, TILE), f"{int(result.selected.sum())} of {count} regions{agreement}"),
        Panel(_mask(result.mask[0]), f"edited · {area:.1f} %"),
        Panel(fitted(result.candidate(int(numbers["candidate"])), TILE), _caption(numbers, perceptual), True)
        if len(result)
        else Panel(fitted(result.image[0], TILE), "unchanged"),
    ]
    rest = [
        Panel(
            fitted(result.candidate(k), TILE),
            f"candidate {k + 1} · {float(result.scores[k]):.3f}",
            k == numbers["candidate"],
        )
        for k in range(len(result))
    ]
    width = len(first)
    rows = [first, *(rest[start : start + width] for start in range(0, len(rest), width))]
    return panel_sheet(rows, title, tile=TILE)


def _mask(mask: Tensor) -> Image:
    return fitted(mask[..., None].expand(-1, -1, 3), TILE)


def _caption(numbers: Mapping[str, Any], perceptual: str) -> str:
    clip = "" if numbers["clip"] is None else f" · CLIP {numbers['clip']:.3f}"
    return f"SSIM {numbers['ssim']:.3f} · PSNR {numbers['psnr']:.1f} · {perceptual} {numbers['perceptual']:.3f}{clip}"
