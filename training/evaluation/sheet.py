"""A sheet of edits to look at: input beside result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from retouch_core.result import Result

from .cases import Case


def edit_sheet(pairs: Sequence[tuple[Case, Result]], path: Path, *, zoom: int = 4, columns: int = 3) -> None:
    """Input beside the chosen result, enlarged by repetition of pixels, with query and prompt above."""
    side, head, gap = 128 * zoom, 34, 12
    rows = -(-len(pairs) // columns)
    sheet = Image.new("RGB", (columns * (2 * side + gap) - gap, rows * (side + head)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=22)
    for i, (case, result) in enumerate(pairs):
        x, y = i % columns * (2 * side + gap), i // columns * (side + head)
        draw.text((x + 4, y + 4), f"{i + 1}. {case.query} becomes {case.prompt}", fill="black", font=font)
        for k, image in enumerate((case.image, result.image)):
            pixels = (image[0] * 255).round().byte().numpy()
            big = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(big, (x + k * side, y + head))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, quality=88)
