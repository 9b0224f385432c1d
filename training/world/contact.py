"""A contact sheet of the world, to look at: every class in every colour, then random scenes.

python -m training.world.contact OUT.png
"""

from __future__ import annotations

import sys

import numpy as np
from PIL import Image

from .icons import CLASSES, COLOUR_NAMES, COLOURS, draw_icon
from .scenes import SIDE, scene


def contact(columns: int = 8, rows: int = 5, cell: int = 48) -> Image.Image:
    """Icons (classes across, colours down) above `rows` x `columns` scenes of the tune split."""
    icons = np.full((cell * len(COLOUR_NAMES), cell * len(CLASSES), 3), 120, np.float32)
    for row, colour in enumerate(COLOUR_NAMES):
        for column, name in enumerate(CLASSES):
            rgb, cover = draw_icon(name, COLOURS[colour], cell - 4)
            window = icons[row * cell + 2 : (row + 1) * cell - 2, column * cell + 2 : (column + 1) * cell - 2]
            window[:] = window * (1 - cover[..., None]) + rgb * cover[..., None]
    sheet = Image.new("RGB", (max(icons.shape[1], columns * SIDE), icons.shape[0] + rows * SIDE), "white")
    sheet.paste(Image.fromarray(icons.astype(np.uint8)), (0, 0))
    for i in range(columns * rows):
        drawn = scene("tune", i, twins=i % columns == columns - 1)
        sheet.paste(Image.fromarray(drawn.image), (i % columns * SIDE, icons.shape[0] + i // columns * SIDE))
    return sheet


if __name__ == "__main__":
    contact().save(sys.argv[1])
