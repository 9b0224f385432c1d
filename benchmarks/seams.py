"""Whether a seam shows: identity edits (the same content through the model) and real edits, with the defaults.

An identity edit encodes and decodes the picture and lays that over it by the mask that the default recipe would use,
with the autoencoder's error taken back as the default recipe does it, and, in the lines that say `bare`, without; then the
model's own error shows. Real edits are those of the default recipe on test scenes. Steps are mean differences of
neighbouring pixels across the outline, held against those that the picture has there anyway (`metrics.seam`).

    python -m benchmarks.seams
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from retouch_core.editing.changed import detailed
from retouch_core.editing.colour_match import match_colours
from retouch_core.editing.composite import MODES, composite
from retouch_core.metrics.seam import Seam, seam
from retouch_core.pipeline import Retoucher
from retouch_core.recipes import DEFAULT, recipe
from retouch_core.regions.edit_mask import edit_mask
from training.evaluation.cases import edits

LEVEL = 1 / 255
SIDE = 128


def grounds() -> dict[str, Tensor]:
    """Name -> IMAGE [1,128,128,3]."""
    generator = torch.Generator().manual_seed(2)
    ramp = torch.linspace(0.2, 0.8, SIDE)
    noise = torch.rand(SIDE, SIDE, 3, generator=generator)
    frequency = torch.fft.fftfreq(SIDE)[:, None].square() + torch.fft.rfftfreq(SIDE)[None].square()
    fall = frequency.clamp(min=1 / SIDE**2).rsqrt()[..., None]
    white = torch.randn(SIDE, SIDE, 3, generator=generator)
    natural = torch.fft.irfft2(torch.fft.rfft2(white, dim=(0, 1)) * fall, s=(SIDE, SIDE), dim=(0, 1))
    found = {
        "flat": torch.tensor([0.45, 0.6, 0.5]).expand(SIDE, SIDE, 3),
        "gradient": (ramp[:, None, None] * torch.tensor([1.0, 0.8, 0.6])).expand(SIDE, SIDE, 3),
        "noise": 0.5 + 0.2 * (noise - 0.5),
        "photograph-like (1/f)": (0.5 + 0.15 * natural / natural.std()).clamp(0, 1),
    }
    return {name: picture[None].contiguous() for name, picture in found.items()}


def disc() -> Tensor:
    """MASK [1,128,128] of a thing in the middle."""
    along = torch.arange(SIDE) - SIDE // 2
    return (along[:, None].square() + along[None].square() < 20**2).float()[None]


def as_laid(mask: Tensor, least: float, mode: str, source: Tensor, made: Tensor) -> Tensor:
    """An identity edit as the default recipe lays it: `made` is the source through the autoencoder."""
    return composite(source, detailed(made, made, source, least), mask, mode=mode)


def line(name: str, seams: list[Seam]) -> str:
    """Means over several pictures, in levels of 255."""
    step, natural, shift = (
        statistics.mean(getattr(one, part) for one in seams) / LEVEL
        for part in ("step", "natural", "colour_shift")
    )
    return f"{name:<44} {step:6.2f} {natural:8.2f} {shift:8.2f}"


def main() -> int:
    """Print the table; 1 where an identity edit shows."""
    parser = argparse.ArgumentParser(prog="benchmarks.seams")
    parser.add_argument("--scenes", type=int, default=24)
    options = parser.parse_args()
    retoucher = Retoucher.embedded()
    settings, editor = recipe(DEFAULT), retoucher.editor
    mask = edit_mask(
        disc(),
        torch.zeros(1, SIDE, SIDE),
        cell=editor.cell,
        shape=settings.shape,
        dilate=settings.dilate,
        fade=round(settings.feather * SIDE),
    ).composite
    print(f"{'levels of 255':<44} {'step':>6} {'natural':>8} {'shift':>8}")
    missed = False
    least = settings.change_min
    ways: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        **{mode: partial(as_laid, mask, least, mode) for mode in MODES},
        "bare feather": lambda a, b: composite(a, b, mask),
        "bare feather, colours matched": lambda a, b: composite(a, match_colours(a, b, mask)[0], mask),
    }
    for ground, image in grounds().items():
        made = editor.decode(editor.encode(image))
        for way, lay in ways.items():
            (found,) = seam(image, lay(image, made), mask)
            print(line(f"identity, {ground}, {way}", [found]))
            if way in MODES:
                missed |= found.step > max(1.2 * found.natural, LEVEL) or found.colour_shift > LEVEL
    real: list[Seam] = []
    bare: list[Seam] = []
    for case in edits("test", options.scenes):
        result = retoucher.retouch(case.image, case.query, case.prompt, candidates=1)
        if not len(result):
            continue
        (_, made) = result.painted[0]
        real += seam(case.image, result.image, result.mask)
        bare += seam(case.image, composite(case.image, made, result.mask), result.mask)
    print(line(f"real edits, {len(real)} test scenes, feather", real))
    print(line("the same, bare feather", bare))
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
