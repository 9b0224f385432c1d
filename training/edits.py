"""Training material of the denoisers: edit masks on the latent grid, and latents of scenes and of their masked copies."""

from __future__ import annotations

import random
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from retouch_core.tensors.regions import mask_boxes

from .bundle import EMBEDDED, fingerprint
from .loop import RUNS, autocast, device
from .world.archive import Archive, draw_archive
from .world.grounds import SIDE

CELL = 8
GRID = SIDE // CELL
SHAPES = ("box", "box", "box", "ellipse", "silhouette", "stranger")
"""Shapes of edit masks, with their weights: a silhouette alone would tell the denoiser what to draw, so most are not."""
MARGIN = 10
"""Largest margin of a box mask on each side, pixels; sides are drawn independently (aspect jitter)."""
NEIGHBOUR = 0.06
"""A cell that is covered by another object to more than this share is never edited."""
MASKS = 2
"""Edit masks a scene: half of the time two of one object, otherwise one of each of two."""
EMPTY, WHOLE = 0.3, 0.15
"""Shares of scenes that also give an empty patch, and the whole ground."""
NOTHING, GROUND = -1, -2
"""Instead of a class: nothing is to be drawn there, or the ground from edge to edge."""
CHUNK, BATCH = 500, 20
"""Scenes of a file, and scenes encoded at once."""

_Y, _X = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")


def snapped(mask: Tensor) -> Tensor:
    """Pixel masks bool [B,128,128] -> cells bool [B,16,16] that hold at least one pixel of the mask."""
    return F.max_pool2d(mask[:, None].float(), CELL)[:, 0] > 0


def _stretched(mask: Tensor, box: Tensor) -> Tensor:
    """A silhouette [128,128] moved and stretched onto `box` (x0, y0, x1, y1)."""
    x0, y0, x1, y1 = (int(v) for v in mask_boxes(mask[None])[0])
    u0, v0, u1, v1 = (int(v) for v in box)
    shape = F.interpolate(mask[None, None, y0:y1, x0:x1].float(), size=(v1 - v0, u1 - u0))[0, 0] > 0.5
    moved = torch.zeros_like(mask)
    moved[v0:v1, u0:u1] = shape
    return moved


def edit_cells(own: Tensor, others: Tensor, stranger: Tensor, rng: random.Random) -> Tensor:
    """Cells bool [16,16] to edit for one object.

    own, others, stranger: bool [128,128]; `stranger` is the silhouette of any object of any scene.
    """
    shape = rng.choice(SHAPES)
    x0, y0, x1, y1 = mask_boxes(own[None])[0].tolist()
    left, up, right, down = (rng.uniform(0, MARGIN) for _ in range(4))
    x0, y0, x1, y1 = max(x0 - left, 0), max(y0 - up, 0), min(x1 + right, SIDE), min(y1 + down, SIDE)
    if shape == "box":
        area = (x0 <= _X) & (x1 >= _X) & (y0 <= _Y) & (y1 >= _Y)
    elif shape == "ellipse":
        reach = rng.uniform(1.2, 1.45) / 2
        across, along = (_X - (x0 + x1) / 2) / ((x1 - x0) * reach), (_Y - (y0 + y1) / 2) / ((y1 - y0) * reach)
        area = across.square() + along.square() <= 1
    else:
        area = own if shape == "silhouette" else _stretched(stranger, torch.tensor([x0, y0, x1, y1]).round())
        radius = rng.randint(2, 8)
        area = F.max_pool2d((area | own)[None, None].float(), 2 * radius + 1, 1, radius)[0, 0] > 0
    own_cells = snapped(own[None])[0]
    crowded = F.avg_pool2d(others[None, None].float(), CELL)[0, 0] > NEIGHBOUR
    return (snapped((area | own)[None])[0]) & (own_cells | ~crowded)


def empty_cells(things: Tensor, rng: random.Random) -> Tensor | None:
    """Cells bool [16,16] of a box that holds no thing (bool [128,128]), or None where there is no room."""
    for _ in range(12):
        width, height = rng.randint(3, 8), rng.randint(3, 8)
        left, top = rng.randint(0, GRID - width), rng.randint(0, GRID - height)
        x0, y0, x1, y1 = left * CELL, top * CELL, (left + width) * CELL, (top + height) * CELL
        if things[y0:y1, x0:x1].float().mean() < 0.01:
            cells = torch.zeros(GRID, GRID, dtype=torch.bool)
            cells[top : top + height, left : left + width] = True
            return cells
    return None


@dataclass(frozen=True)
class Samples:
    """What to edit in scenes.

    Attributes:
        cells: bool [K,16,16].
        source: long [K], the scene of each sample.
        about: long [K,4] of (class, colour, ground, place), the class NOTHING or GROUND where no thing is drawn; the
            place is the cell of the 3x3 grid, row by row, that holds the centre of the thing.
    """

    cells: Tensor
    source: Tensor
    about: Tensor


def place_of(thing: list[int]) -> int:
    """Cell 0..8 of the 3x3 grid with the centre of a thing (class, colour, place, x, y, side) of `Archive.things`."""
    _, _, _, x, y, side = thing
    column, row = (min(int((at + side / 2) * 3 / SIDE), 2) for at in (x, y))
    return 3 * row + column


def samples(world: Archive, rng: random.Random) -> Samples:
    """Edits of every scene of `world`: `MASKS` of its things, and in some an empty patch or the whole ground."""
    pairs = world.objects()
    cells, source, about = [], [], []

    def add(scene: int, area: Tensor, *facts: int) -> None:
        cells.append(area)
        source.append(scene)
        about.append(facts)

    for scene in range(len(world)):
        owners, things, ground = world.owners[scene], world.things[scene].tolist(), int(world.grounds[scene])
        present = [k for k in range(len(things)) if things[k][0] >= 0]
        picked = [rng.choice(present)] * MASKS if rng.random() < 0.5 else rng.sample(present, len(present))
        for k in picked[:MASKS]:
            own = owners == k + 1
            stranger = world.masks(pairs[rng.randrange(len(pairs))][None])[0]
            area = edit_cells(own, (owners > 0) & ~own, stranger, rng)
            add(scene, area, *things[k][:2], ground, place_of(things[k]))
        empty = empty_cells(owners > 0, rng) if rng.random() < EMPTY else None
        if empty is not None:
            add(scene, empty, NOTHING, -1, ground, -1)
        if rng.random() < WHOLE:
            add(scene, snapped((owners == 0)[None])[0], GROUND, -1, ground, -1)
    return Samples(torch.stack(cells), torch.tensor(source), torch.tensor(about))


@dataclass(frozen=True)
class Material:
    """Scaled latents of scenes and of their masked copies.

    Attributes:
        scenes: half [N,4,16,16].
        masked: half [K,4,16,16], the scene of each sample with its cells grey; [0,4,16,16] if it was not asked for.
        edits: the K samples.
    """

    scenes: Tensor
    masked: Tensor
    edits: Samples

    def __len__(self) -> int:
        return len(self.edits.source)


@torch.no_grad()
def encode(model: torch.nn.Module, pixels: Tensor, scale: float) -> Tensor:
    """Pixels [B,3,128,128] in 0..1 -> scaled latents, half, on the CPU."""
    pixels = (pixels * 2 - 1).to(device(), memory_format=torch.channels_last)
    with autocast():
        return (model.encode(pixels).latents.float() * scale).half().cpu()  # type: ignore[operator]


def _encoder() -> tuple[Any, float]:
    from diffusers import AutoencoderTiny

    model = AutoencoderTiny.from_pretrained(EMBEDDED / "vae").float().eval().to(device())
    return model.to(memory_format=torch.channels_last), float(model.config.scaling_factor)


def _shard(folder: Path, start: int, encoder: tuple[Any, float], masked: bool) -> dict[str, Tensor]:
    """The material of scenes start..start+CHUNK, from its files where they are there."""
    plain, hidden = (folder / f"{kind}_{start}.pt" for kind in ("scenes", "masked"))
    stored = torch.load(plain, weights_only=True) if plain.exists() else {}
    if stored and (hidden.exists() or not masked):
        return stored | (torch.load(hidden, weights_only=True) if masked else {})
    world = draw_archive("train", start, CHUNK)
    if not stored:
        made = samples(world, random.Random(start))
        latents = [encode(encoder[0], world.pixels(i), encoder[1]) for i in torch.arange(CHUNK).split(BATCH)]
        stored = {"scenes": torch.cat(latents), **{f.name: getattr(made, f.name) for f in fields(made)}}
        _save(stored, plain)
    if masked and not hidden.exists():
        parts = []
        for cells, source in zip(stored["cells"].split(BATCH), stored["source"].split(BATCH), strict=True):
            hole = cells.repeat_interleave(CELL, 1).repeat_interleave(CELL, 2)[:, None]
            parts.append(encode(encoder[0], world.pixels(source).masked_fill(hole, 0.5), encoder[1]))
        _save({"masked": torch.cat(parts)}, hidden)
        stored["masked"] = torch.cat(parts)
    return stored


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    partial = path.with_suffix(".partial")
    torch.save(tensors, partial)
    partial.replace(path)


def prepare(count: int, *, masked: bool = True) -> Material:
    """Material of the first `count` training scenes (a multiple of CHUNK).

    It is written beside the runs in files of CHUNK scenes, so that an interrupted preparation goes on where it was.
    """
    folder = RUNS / f"edits_{fingerprint('vae')}"
    folder.mkdir(parents=True, exist_ok=True)
    encoder = _encoder()
    columns: dict[str, list[Tensor]] = {"masked": [torch.zeros(0, 4, GRID, GRID, dtype=torch.half)]}
    for start in tqdm(range(0, count, CHUNK), desc=f"encoding {CHUNK} scenes at a time"):
        shard = _shard(folder, start, encoder, masked)
        shard["source"] = shard["source"] + start
        for name, value in shard.items():
            columns.setdefault(name, []).append(value)
    whole = {name: torch.cat(parts) for name, parts in columns.items()}
    edits = Samples(whole["cells"], whole["source"], whole["about"])
    return Material(whole["scenes"], whole["masked"], edits)
