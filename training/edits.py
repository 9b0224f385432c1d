"""Training material of the denoiser: edit masks on the latent grid, and latents of scenes and of their masked copies."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from retouch_core.tensors.regions import mask_boxes

from .bundle import EMBEDDED, fingerprint
from .loop import RUNS, autocast, device
from .world.archive import Archive
from .world.grounds import SIDE

CELL = 8
GRID = SIDE // CELL
SHAPES = ("box", "box", "box", "ellipse", "silhouette", "stranger")
"""Shapes of edit masks, with their weights: a silhouette alone would tell the denoiser what to draw, so most are not."""
MARGIN = 10
"""Largest margin of a box mask on each side, pixels; sides are drawn independently (aspect jitter)."""
NEIGHBOUR = 0.06
"""A cell that is covered by another object to more than this share is never edited."""

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


def ground_cells(things: Tensor, rng: random.Random) -> Tensor | None:
    """Cells bool [16,16] of a box or ellipse that holds no thing (bool [128,128]), or None where there is no room."""
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
class Material:
    """Latents of scenes and of their masked copies.

    Attributes:
        scenes: half [N,4,16,16], scaled latents of whole scenes.
        masked: half [K,4,16,16], scaled latents of the same with the edit cells grey.
        cells: bool [K,16,16].
        source: long [K], the scene of each sample.
        about: long [K,4] (class, colour, place, ground); class -1 where nothing is to be drawn.
    """

    scenes: Tensor
    masked: Tensor
    cells: Tensor
    source: Tensor
    about: Tensor


@torch.no_grad()
def encode(model: torch.nn.Module, pixels: Tensor, scale: float) -> Tensor:
    """Pixels [B,3,128,128] in 0..1 -> scaled latents, half, on the CPU."""
    pixels = (pixels * 2 - 1).to(device(), memory_format=torch.channels_last)
    with autocast():
        return (model.encode(pixels).latents.float() * scale).half().cpu()  # type: ignore[operator]


def prepare(world: Archive, count: int, *, masks: int = 2, empties: float = 0.4) -> Material:
    """Latents of the first `count` scenes, `masks` edit masks a scene and an empty patch in a share of them.

    The result is cached beside the runs.
    """
    from diffusers import AutoencoderTiny

    path = RUNS / f"material_{count}_{masks}_{fingerprint('vae')}.pt"
    if path.exists():
        return Material(**torch.load(path, weights_only=True))
    model = AutoencoderTiny.from_pretrained(EMBEDDED / "vae").float().eval().to(device())
    model = model.to(memory_format=torch.channels_last)
    scale, rng, batch = float(model.config.scaling_factor), random.Random(0), 20
    pairs = world.objects()
    columns: dict[str, list[Tensor]] = {"scenes": [], "masked": [], "cells": [], "source": [], "about": []}
    for start in tqdm(range(0, count, batch), desc="encoding scenes"):
        indices = torch.arange(start, min(start + batch, count))
        pixels = world.pixels(indices)
        columns["scenes"].append(encode(model, pixels, scale))
        cells, source, about = [], [], []
        for scene in indices.tolist():
            owners, things = world.owners[scene], world.things[scene]
            present = (things[:, 0] >= 0).nonzero()[:, 0].tolist()
            for k in rng.sample(present, min(masks, len(present))):
                own = owners == k + 1
                stranger = world.masks(pairs[rng.randrange(len(pairs))][None])[0]
                cells.append(edit_cells(own, (owners > 0) & ~own, stranger, rng))
                source.append(scene)
                about.append([*things[k, :3].tolist(), int(world.grounds[scene])])
            if rng.random() < empties:
                empty = ground_cells(owners > 0, rng)
                if empty is not None:
                    cells.append(empty)
                    source.append(scene)
                    about.append([-1, -1, -1, int(world.grounds[scene])])
        grid, where = torch.stack(cells), torch.tensor(source)
        hole = grid.repeat_interleave(CELL, 1).repeat_interleave(CELL, 2)[:, None]
        columns["masked"].append(encode(model, pixels[where - start].masked_fill(hole, 0.5), scale))
        columns["cells"].append(grid)
        columns["source"].append(where)
        columns["about"].append(torch.tensor(about))
    stored = {k: torch.cat(v) for k, v in columns.items()}
    RUNS.mkdir(parents=True, exist_ok=True)
    torch.save(stored, path)
    return Material(**stored)
