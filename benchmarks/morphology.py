"""Growing a mask beside the host's own GrowMask (tapered_corners off), with equal output.

What is timed is the processor's time of one thread, so that a busy machine does not count; `--wall` takes the clock
instead. Pairs are interleaved in changing order, after one uncounted run each.

    python -m benchmarks.morphology
    COMFYUI_PATH=~/comfy/ComfyUI-0.25 python -m benchmarks.morphology --pairs 5 --radius 64
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from retouch_core.regions.morphology import dilate_px, feather, fill_holes
from training.host_pack import HostMissing, import_host

from .pairs import interleaved, ratios

GOALS = {"binary": 50.0, "soft": 8.0}
"""Smallest median ratio of times, the host's to ours, at 12 megapixels and r = 64."""
GROWTH = 1.5
"""Largest ratio of our times at r = 256 and r = 8."""
SMALL, LARGE = 8, 256
SEED = 7


def picture_mask(height: int, width: int, kind: str) -> Tensor:
    """MASK [1,H,W] of discs all over the picture; `soft` ones have a value of their own and a rough inside."""
    draw = np.random.default_rng(SEED)
    mask = np.zeros((height, width), dtype=np.float32)
    for _ in range(40):
        y, x = int(draw.integers(0, height)), int(draw.integers(0, width))
        radius = int(draw.integers(8, max(min(height, width) // 12, 9)))
        rows, columns = slice(max(y - radius, 0), y + radius), slice(max(x - radius, 0), x + radius)
        grid_y, grid_x = np.ogrid[
            rows.start : min(rows.stop, height), columns.start : min(columns.stop, width)
        ]
        disc = (grid_y - y) ** 2 + (grid_x - x) ** 2 < radius**2
        value = (
            draw.random(disc.shape, dtype=np.float32) if kind == "soft" else np.ones(disc.shape, np.float32)
        )
        mask[rows, columns] = np.where(disc, value, mask[rows, columns])
    return torch.from_numpy(mask)[None]


def host_grow(mask: Tensor, radius: int) -> Tensor:
    """The host's node."""
    from comfy_extras.nodes_mask import GrowMask

    grown: Tensor = GrowMask.execute(mask, radius, False).args[0]
    return grown


def copied_grow(mask: Tensor, radius: int) -> Tensor:
    """What the host's node does, where there is no host: grey dilations by 3 x 3, one after the other."""
    from scipy import ndimage

    values = mask[0].numpy()
    for _ in range(radius):
        values = ndimage.grey_dilation(values, footprint=np.ones((3, 3)))
    return torch.from_numpy(values)[None]


def told(name: str, ours: list[float], theirs: list[float], goal: str) -> float:
    """Print one line and return the median ratio."""
    found = ratios(theirs, ours)
    middle = statistics.median(found)
    print(
        f"{name:<34} {1000 * statistics.median(ours):8.1f} ms {1000 * statistics.median(theirs):9.1f} ms   "
        f"{middle:7.2f}x ({min(found):.2f} to {max(found):.2f})   {goal}"
    )
    return middle


def main() -> int:
    """Print the table; 1 where outputs differ or a goal is missed."""
    parser = argparse.ArgumentParser(prog="benchmarks.morphology")
    parser.add_argument("--height", type=int, default=3000)
    parser.add_argument("--width", type=int, default=4000)
    parser.add_argument("--radius", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--wall", action="store_true", help="wall clock instead of the thread's own time")
    options = parser.parse_args()
    torch.set_num_threads(1)
    clock = time.perf_counter if options.wall else time.thread_time
    try:
        import_host()
        import comfyui_version

        grow, named = host_grow, f"GrowMask of ComfyUI {comfyui_version.__version__}"
    except HostMissing as reason:
        grow, named = copied_grow, f"scipy's grey_dilation as GrowMask calls it ({reason})"
    size = f"{options.height * options.width / 1e6:.1f} megapixels"
    print(
        f"{size}, one thread, {'wall clock' if options.wall else 'thread time'}, {options.pairs} interleaved pairs"
    )
    print(f"ours, then {named}; ratio theirs / ours, median (smallest to largest)\n")
    good = True
    for kind, goal in GOALS.items():
        mask = picture_mask(options.height, options.width, kind)

        def ours(mask: Tensor = mask) -> Tensor:
            return dilate_px(mask, options.radius)

        def theirs(mask: Tensor = mask) -> Tensor:
            return grow(mask, options.radius)

        if not torch.equal(ours(), theirs()):
            print(f"{kind}: the outputs differ")
            return 1
        took = interleaved({"ours": ours, "theirs": theirs}, options.pairs, clock)
        good &= (
            told(f"dilate {kind}, r={options.radius}", took["ours"], took["theirs"], f"goal {goal:g}x")
            >= goal
        )
    print(f"\nours at r={SMALL}, then at r={LARGE}; ratio large / small")
    steps: dict[str, tuple[Callable[[Tensor, int], Tensor], str]] = {
        "dilate binary": (dilate_px, "binary"),
        "dilate soft": (dilate_px, "soft"),
        "erode binary": (lambda mask, r: dilate_px(mask, -r), "binary"),
        "erode soft": (lambda mask, r: dilate_px(mask, -r), "soft"),
        "feather binary": (feather, "binary"),
    }
    for name, (step, kind) in steps.items():
        mask = picture_mask(options.height, options.width, kind)
        step(mask, SMALL), step(mask, LARGE)
        runs = {"small": partial(step, mask, SMALL), "large": partial(step, mask, LARGE)}
        took = interleaved(runs, options.pairs, clock)
        good &= told(name, took["small"], took["large"], f"goal at most {GROWTH:g}x") <= GROWTH
    mask = picture_mask(options.height, options.width, "binary")
    fill_holes(mask)
    filling = interleaved({"fill": partial(fill_holes, mask)}, options.pairs, clock)["fill"]
    print(f"\nfill_holes binary {1000 * statistics.median(filling):.1f} ms")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
