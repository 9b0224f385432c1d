"""Views of 64 regions of a 12-megapixel picture, beside the loops over PIL crops that a user would write, and beside encoding.

The scorer is a ViT-B/16 with random weights: time and memory do not depend on them. What is timed is the processor's time
of one thread, so that a busy machine does not count; `--wall` takes the clock instead.

    python -m benchmarks.views
    python -m benchmarks.views --encoded 8 --rounds 1      # a quick look
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from retouch_core.models.clip_scorer import ClipScorer
from retouch_core.models.pretrained.scorers.towers import chunk_for
from retouch_core.regions.entities import disjoint
from retouch_core.regions.views import MARGIN, region_views
from retouch_core.tensors.normalisation import CLIP_MEAN, CLIP_STD
from retouch_core.tensors.regions import mask_boxes

from .pairs import interleaved, ratios

GOAL_FASTER = 10.0
"""Smallest ratio of times, the loop's to ours."""
GOAL_SHARE = 0.1
"""Largest share of the time of encoding the views."""
GOAL_SLOWER = 1.05
"""Largest ratio of times, the chosen chunk's to one by one; what is above 1 is noise."""
GOAL_PEAK = 1.5
"""Gigabytes beyond the model, the picture and all masks included."""
GOAL_DISJOINT = 2.0
"""Seconds for making 100 masks disjoint."""
CHUNKS = (1, 2, 4, 8, 16, 64)
REGIONS, PROPOSALS = 64, 100
SEED = 11


def drawn_picture(height: int, width: int) -> Tensor:
    """IMAGE [1,H,W,3] of large patches and fine grain."""
    draw = torch.Generator().manual_seed(SEED)
    patches = torch.rand(1, 3, height // 100, width // 100, generator=draw)
    picture = torch.nn.functional.interpolate(patches, (height, width), mode="bilinear").movedim(1, -1)
    grain = torch.rand(height, width, 1, generator=draw)
    return picture.mul_(0.8).add_(grain, alpha=0.2).contiguous()


def drawn_masks(count: int, height: int, width: int) -> NDArray[np.bool_]:
    """Ellipses of many sizes all over the picture, bool [N,H,W]; neighbours overlap."""
    draw = np.random.default_rng(SEED)
    masks = np.full((count, height, width), False)  # written, not only promised: their memory counts
    for mask in masks:
        y, x = int(draw.integers(0, height)), int(draw.integers(0, width))
        b, a = (int(draw.uniform(0.02, 0.14) * side) + 2 for side in (height, width))
        rows, columns = (
            slice(max(y - b, 0), min(y + b, height)),
            slice(max(x - a, 0), min(x + a, width)),
        )
        grid_y, grid_x = np.ogrid[rows, columns]
        mask[rows, columns] = ((grid_y - y) / b) ** 2 + ((grid_x - x) / a) ** 2 < 1
    return masks


def by_pil(picture: Image.Image, masks: NDArray[np.bool_], size: int, crop_first: bool) -> Tensor:
    """`crop+fill` on black, region by region as a user would write it; `crop_first` masks the crop, not the frame."""
    views = []
    for mask in masks:
        cover = Image.fromarray(mask.astype(np.uint8) * 255)
        x0, y0, x1, y1 = cover.getbbox() or (0, 0, 1, 1)
        extra = round(MARGIN * max(x1 - x0, y1 - y0))
        box = (
            max(0, x0 - extra),
            max(0, y0 - extra),
            min(picture.width, x1 + extra),
            min(picture.height, y1 + extra),
        )
        if crop_first:
            piece, cover = picture.crop(box), cover.crop(box)
            shown = Image.composite(piece, Image.new("RGB", piece.size), cover)
        else:
            shown = Image.composite(picture, Image.new("RGB", picture.size), cover).crop(box)
        side = max(shown.size)
        square = Image.new("RGB", (side, side))
        square.paste(shown, ((side - shown.width) // 2, (side - shown.height) // 2))
        small = square.resize((size, size), Image.Resampling.BICUBIC)
        views.append(torch.from_numpy(np.asarray(small).copy()).movedim(-1, 0).float() / 255)
    return torch.stack(views)


class _NoWords:
    """A tokenizer that is never asked."""

    model_max_length = 77


def vit_scorer() -> ClipScorer:
    """A CLIP with the image tower of ViT-B/16 and next to no text tower."""
    from transformers import CLIPConfig, CLIPModel

    text = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    image = {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": 16,
    }
    torch.manual_seed(SEED)
    config = CLIPConfig(
        text_config=text | {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2},
        vision_config=image,
        projection_dim=512,
    )
    return ClipScorer(CLIPModel(config), _NoWords(), mean=CLIP_MEAN, std=CLIP_STD)


def resident() -> float:
    """Gigabytes of memory that the process holds now; 0 where the system does not say."""
    try:
        with open("/proc/self/status", encoding="ascii") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 2**20
    except OSError:
        return 0.0


def highest() -> float:
    """Gigabytes that it held at most."""
    import resource

    unit = 2**30 if sys.platform == "darwin" else 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def encoded(scorer: ClipScorer, views: Tensor, chunk: int) -> Tensor:
    """Embeddings of all views, `chunk` at a time."""
    return torch.cat([scorer.encode_images(some) for some in views.split(chunk)])


def timed(run: Callable[[], Any], clock: Callable[[], float]) -> float:
    """Seconds of one run."""
    began = clock()
    run()
    return clock() - began


def judged(name: str, value: str, good: bool, goal: str) -> bool:
    """Print one line; whether its goal is met."""
    print(f"{name:<52} {value:>34}   goal {goal}{'' if good else '   MISSED'}")
    return good


def main() -> int:
    """Print the table; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(prog="benchmarks.views")
    parser.add_argument("--height", type=int, default=3000)
    parser.add_argument("--width", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--encoded", type=int, default=REGIONS, help="views to encode for each chunk size")
    parser.add_argument("--wall", action="store_true", help="wall clock instead of the thread's own time")
    options = parser.parse_args()
    torch.set_num_threads(1)
    clock = time.perf_counter if options.wall else time.thread_time
    height, width = options.height, options.width
    print(
        f"{REGIONS} regions of {height * width / 1e6:.1f} megapixels, one thread, "
        f"{'wall clock' if options.wall else 'thread time'}\n"
    )
    good = True
    with torch.inference_mode():
        scorer = vit_scorer()
        scorer.encode_images(torch.rand(1, 3, 224, 224))
        gc.collect()
        before = resident()
        picture, arrays = drawn_picture(height, width), drawn_masks(REGIONS, height, width)
        masks = torch.from_numpy(arrays)
        chunk = chunk_for("cpu")
        views = region_views(picture, masks, scorer.image_size)
        encoded(scorer, views[:8], chunk)
        peak = highest() - before

        sides = (mask_boxes(masks)[:, 2:] - mask_boxes(masks)[:, :2]).amax(1)
        print(f"boxes have longer sides from {int(sides.min())} to {int(sides.max())} px")
        pil = Image.fromarray(picture[0].mul(255).round().byte().numpy())
        ours = partial(region_views, picture, masks, scorer.image_size)
        loops = {
            "masking the frame, then cropping": partial(by_pil, pil, arrays, 224, False),
            "cropping, then masking": partial(by_pil, pil, arrays, 224, True),
        }
        apart = float((loops["cropping, then masking"]() - views).abs().max())
        print(
            f"largest difference from PIL's views {apart:.4f} of 1, where 8 bits leave 0.004 and overshoot more\n"
        )
        took = interleaved({"ours": ours, **loops}, options.rounds, clock)
        making = statistics.median(took["ours"])
        for number, name in enumerate(loops):
            faster = ratios(took[name], took["ours"])
            middle = statistics.median(faster)
            value = f"{making:.2f} s / {statistics.median(took[name]):.2f} s = {middle:.1f}x"
            if number == 0:
                good &= judged(f"views / PIL, {name}", value, middle >= GOAL_FASTER, f"{GOAL_FASTER:g}x")
            else:
                print(f"{f'views / PIL, {name}':<52} {value:>34}")

        some = views[: options.encoded]
        per_view = {size: timed(partial(encoded, scorer, some, size), clock) / len(some) for size in CHUNKS}
        for size, seconds in per_view.items():
            mark = " (chosen)" if size == chunk else ""
            print(f"encoding, {size:>2} at once{mark:<36} {1000 * seconds:>26.0f} ms a view")
        if chunk in per_view:
            ratio = per_view[chunk] / per_view[1]
            good &= judged(
                "chosen chunk / one by one", f"{ratio:.3f}", ratio <= GOAL_SLOWER, f"at most {GOAL_SLOWER:g}"
            )
        share = making / (per_view.get(chunk, per_view[1]) * REGIONS)
        good &= judged(
            "making views / encoding them", f"{share:.3f}", share <= GOAL_SHARE, f"at most {GOAL_SHARE:g}"
        )
        good &= judged(
            "peak memory beyond the model, masks included",
            f"{peak:.2f} GB",
            peak < GOAL_PEAK,
            f"{GOAL_PEAK:g} GB",
        )

        del views, masks, arrays, pil, ours, loops, some
        gc.collect()
        proposals = torch.from_numpy(drawn_masks(PROPOSALS, height, width))
        scores = torch.linspace(0.3, 0.9, PROPOSALS)
        apart_took = [timed(partial(disjoint, proposals, scores), clock) for _ in range(options.rounds)]
        middle = statistics.median(apart_took)
        good &= judged(
            f"{PROPOSALS} masks made disjoint",
            f"{middle:.2f} s",
            middle < GOAL_DISJOINT,
            f"{GOAL_DISJOINT:g} s",
        )
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
