"""Drawn scenes as arrays in memory, cached on disk: what the trainers read."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .grounds import GROUND_NAMES, SIDE
from .icons import CLASSES, COLOUR_NAMES
from .scenes import COUNTS, Scene, scene

CACHE = Path(__file__).resolve().parent.parent / ".cache"
MOST = COUNTS[-1]
PLACES = ("left", "right", "top", "bottom", "center")
TWIN_SHARE = 8
"""Every so many-th scene of an archive is one with identical objects."""
CHUNK = 250


@dataclass(frozen=True)
class Archive:
    """N scenes.

    Attributes:
        images: uint8 [N,128,128,3].
        owners: uint8 [N,128,128], 0 for ground, k + 1 for object k.
        things: long [N,5,6] of (class, colour, place, x, y, side), -1 where there is no object.
        grounds: long [N], index into GROUND_NAMES.
    """

    images: Tensor
    owners: Tensor
    things: Tensor
    grounds: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def objects(self) -> Tensor:
        """(scene, object) index pairs, long [K,2]."""
        return (self.things[..., 0] >= 0).nonzero()

    def pixels(self, indices: Tensor) -> Tensor:
        """Scenes as float [B,3,128,128] in 0..1."""
        return self.images[indices].permute(0, 3, 1, 2).float() / 255

    def masks(self, pairs: Tensor) -> Tensor:
        """bool [B,128,128] of the objects named by (scene, object) pairs [B,2]."""
        return self.owners[pairs[:, 0]] == (pairs[:, 1] + 1)[:, None, None]


def pack(scenes: list[Scene]) -> tuple[np.ndarray, ...]:
    """Scenes as the four arrays of an `Archive`."""
    images = np.stack([s.image for s in scenes])
    owners = np.zeros((len(scenes), SIDE, SIDE), np.uint8)
    things = np.full((len(scenes), MOST, 6), -1, np.int16)
    grounds = np.array([GROUND_NAMES.index(s.spec.ground) for s in scenes], np.int8)
    for i, drawn in enumerate(scenes):
        for k, (mask, t) in enumerate(zip(drawn.masks, drawn.spec.things, strict=True)):
            owners[i][mask] = k + 1
            indices = CLASSES.index(t.name), COLOUR_NAMES.index(t.colour), PLACES.index(t.place)
            things[i, k] = (*indices, t.x, t.y, t.size)
    return images, owners, things, grounds


def _arrays(split: str, start: int, count: int) -> tuple[np.ndarray, ...]:
    return pack([scene(split, i, twins=i % TWIN_SHARE == 0) for i in range(start, start + count)])


def _chunk(job: tuple[str, int]) -> tuple[np.ndarray, ...]:
    return _arrays(*job, CHUNK)


def _from_arrays(arrays: tuple[np.ndarray, ...]) -> Archive:
    images, owners, things, grounds = (torch.from_numpy(a) for a in arrays)
    return Archive(images, owners, things.long(), grounds.long())


def draw_archive(split: str, start: int, count: int) -> Archive:
    """The scenes start..start+count of a split, the same as in an `archive`, drawn at once in this process."""
    return _from_arrays(_arrays(split, start, count))


def archive(split: str, count: int) -> Archive:
    """The first `count` scenes of a split (a multiple of 250), drawn once and cached under training/.cache."""
    path = CACHE / f"{split}_{count}.npz"
    if path.exists():
        with np.load(path) as stored:
            arrays = tuple(stored[k] for k in ("images", "owners", "things", "grounds"))
    else:
        jobs = [(split, start) for start in range(0, count, CHUNK)]
        with multiprocessing.Pool(os.cpu_count()) as pool:
            parts = list(tqdm(pool.imap(_chunk, jobs), total=len(jobs), desc=f"drawing {split} scenes"))
        arrays = tuple(np.concatenate(column) for column in zip(*parts, strict=True))
        CACHE.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, **dict(zip(("images", "owners", "things", "grounds"), arrays, strict=True)))
        partial.replace(path)
    return _from_arrays(arrays)
