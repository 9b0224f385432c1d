"""Lists of drawn pictures in a published layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 64
RGB = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
COUNT = 5


def square(place: tuple[int, int], side: int = 20) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[place[1] : place[1] + side, place[0] : place[0] + side] = True
    return mask


def start_runs(mask: np.ndarray) -> list[int]:
    steps = np.diff(np.concatenate([[0], mask.ravel().astype(int), [0]]))
    starts, ends = (steps == 1).nonzero()[0], (steps == -1).nonzero()[0]
    return [int(v) for pair in zip(starts, ends - starts, strict=True) for v in pair]


def pie_bench(folder: Path, count: int = COUNT) -> Path:
    """Grey pictures with a red square and a blue one elsewhere; the last one has no red."""
    pictures = folder / "annotation_images"
    pictures.mkdir(parents=True)
    rng = np.random.default_rng(0)
    entries = {}
    for k in range(count):
        noise = rng.integers(110, 140, (SIDE, SIDE, 3))
        red, blue = square((4 + k, 6)), square((30, 40))
        noise[red] = RGB["red"] if k < count - 1 else noise[red]
        noise[blue] = RGB["blue"]
        Image.fromarray(noise.astype(np.uint8)).save(pictures / f"{k}.png")
        entries[f"{k:012d}"] = {
            "image_path": f"{k}.png",
            "original_prompt": "a [red] thing",
            "editing_prompt": f"a [{'green' if k % 2 else 'blue'}] thing",
            "editing_instruction": "paint it",
            "editing_type_id": "1" if k % 2 else "6",
            "blended_word": "red green",
            "mask": start_runs(red),
        }
    (folder / "mapping_file.json").write_text(json.dumps(entries))
    return folder
