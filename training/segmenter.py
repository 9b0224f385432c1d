"""Measure the embedded segmenter on tune scenes, the way the pipeline uses it: after overlaps are resolved.

python -m training.segmenter [--scenes 150]

Every constant of the segmenter that says "tune scenes" was chosen by this table.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import trange

from retouch_core.models.graph_segmenter import GraphSegmenter
from retouch_core.models.protocols import Segmenter
from retouch_core.regions.entities import disjoint

from .world.scenes import Scene, scene

FOUND_IOU = 0.5
STRAY_SHARE = 0.5
"""An entity with less than this share of its pixels on objects is a stray."""


@dataclass(frozen=True)
class Measured:
    """One scene: the best IoU of each object, the number of entities and of strays, and processor seconds."""

    best: tuple[float, ...]
    entities: int
    strays: int
    seconds: float


def best_ious(objects: Tensor, entities: Tensor) -> Tensor:
    """bool [K,H,W] and [N,H,W] -> [K], the IoU of each object with the entity that fits it best (0 without any)."""
    if not len(entities):
        return torch.zeros(len(objects))
    a, b = objects.flatten(1).float(), entities.flatten(1).float()
    shared = a @ b.T
    return (shared / (a.sum(1)[:, None] + b.sum(1)[None] - shared)).amax(1)


def measure(drawn: Scene, segmenter: Segmenter) -> Measured:
    """Segment one scene and compare with its exact masks."""
    image = torch.from_numpy(drawn.image)[None].float() / 255
    start = time.process_time()
    entities = disjoint(*segmenter(image)).masks
    seconds = time.process_time() - start
    objects = torch.from_numpy(drawn.masks)
    on_objects = (entities & objects.any(0)).flatten(1).sum(1) / entities.flatten(1).sum(1)
    best = best_ious(objects, entities)
    return Measured(tuple(best.tolist()), len(entities), int((on_objects < STRAY_SHARE).sum()), seconds)


def _row(name: str, values: list[float]) -> str:
    ious = torch.tensor(values)
    return f"{name:<10} {len(values):5d} {ious.mean():9.3f} {(ious > FOUND_IOU).float().mean():9.3f} {ious.quantile(0.1):9.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=150)
    scenes = parser.parse_args().scenes
    groups: dict[str, dict[str, list[float]]] = {
        key: defaultdict(list) for key in ("ground", "class", "colour")
    }
    rows: list[Measured] = []
    segmenter = GraphSegmenter()
    segmenter(torch.zeros(1, 32, 32, 3))  # imports its libraries, which is no part of a scene's time
    for index in trange(scenes, desc="tune scenes", unit="scene"):
        drawn = scene("tune", index)
        rows.append(measure(drawn, segmenter))
        for thing, iou in zip(drawn.spec.things, rows[-1].best, strict=True):
            groups["ground"][drawn.spec.ground].append(iou)
            groups["class"][thing.name].append(iou)
            groups["colour"][thing.colour].append(iou)
    heading = f"{'objects':>5} {'mean IoU':>9} {'found':>9} {'IoU p10':>9}"
    for key, group in groups.items():
        print(f"{key:<9} {heading}")
        for name in sorted(group):
            print(_row(name, group[name]))
        print()
    print(_row("all", [iou for row in rows for iou in row.best]))
    print(
        f"per scene: {sum(r.entities for r in rows) / scenes:.2f} entities, {sum(r.strays for r in rows) / scenes:.2f}"
        f" strays, {1000 * sum(r.seconds for r in rows) / scenes:.0f} ms of processor time"
    )


if __name__ == "__main__":
    main()
