"""A small change in a huge picture beside the same change in a small one: time and memory of the whole retouch.

The region has 512 px of surroundings to work on in both, the mask is given (so segmentation is not timed), and the
networks have Stable Diffusion 1.5's own shapes with random weights. Time: interleaved pairs in one process. Memory: the
largest resident set of a process of its own for each size.

    python -m benchmarks.large_picture
    python -m benchmarks.large_picture --channels 32 --pairs 9 --steps 10
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from retouch_core.pipeline import Retoucher
from retouch_core.recipes import recipe
from retouch_core.result import Result

from .pairs import interleaved, ratios, told

SMALL, LARGE = 512, 4096
GOAL_TIME, GOAL_MEMORY = 1.15, 600
"""Largest ratio of the times, and largest difference of the peaks in MB."""
SEED = 3


def editor_of(channels: int) -> Any:
    """Stable Diffusion 1.5's layout with random weights; `channels` is 320 in the original."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from retouch_core.models.diffusers_editor import DiffusersEditor
    from training import tokenizer

    torch.manual_seed(SEED)
    down = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    up = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    unet = UNet2DConditionModel(
        sample_size=64,
        block_out_channels=tuple(channels * k for k in (1, 2, 4, 4)),
        down_block_types=down,
        up_block_types=up,
        cross_attention_dim=768,
        attention_head_dim=8,
    )
    wide = max(32, channels * 2 // 5)
    vae = AutoencoderKL(
        block_out_channels=(wide, wide * 2, wide * 4, wide * 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
    )
    words = tokenizer.build()
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            max_position_embeddings=16,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="trailing"
    )
    return DiffusersEditor(vae, text, words, unet, scheduler)


def picture(side: int) -> tuple[Tensor, Tensor]:
    """IMAGE [1,side,side,3] of noise, and MASK [1,side,side] with a disc of 300 px in the middle."""
    generator = torch.Generator().manual_seed(SEED)
    image = torch.rand((1, side, side, 3), generator=generator)
    along = torch.arange(side) - side // 2
    return image, (along[:, None] ** 2 + along[None] ** 2 < 150**2)[None].float()


def worker(channels: int) -> Retoucher:
    """The embedded scorer, and the random editor."""
    from retouch_core.models.embedded import load_embedded

    parts = load_embedded()
    return Retoucher(parts.segmenter, parts.scorer, editor_of(channels))


def once(retoucher: Retoucher, given: tuple[Tensor, Tensor], options: argparse.Namespace) -> Result:
    """One retouch of picture and mask."""
    image, mask = given
    settings = replace(recipe("default"), work_size="auto", steps=options.steps)
    return retoucher.retouch(
        image,
        "red star",
        "blue fish",
        recipe=settings,
        candidates=options.candidates,
        seed=SEED,
        mask=mask,
    )


def check_outside(result: Result) -> None:
    """Raise AssertionError unless the outside is the source's; row by row, as a copy of it would be the peak."""
    for made, old, held in zip(result.image[0], result.source[0], result.mask[0] == 0, strict=True):
        if not torch.equal(made[held], old[held]):
            raise AssertionError("a pixel outside the mask differs from the source")


def peak(options: argparse.Namespace, side: int) -> float:
    """MB of the largest resident set of a process that does one retouch."""
    command = [sys.executable, "-m", "benchmarks.large_picture", "--peak", str(side)]
    for name in ("channels", "steps", "candidates"):
        command += [f"--{name}", str(getattr(options, name))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def main() -> int:
    """Print the table; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(prog="benchmarks.large_picture")
    parser.add_argument("--channels", type=int, default=320)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--candidates", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--peak", type=int, help="only do one retouch at this side and print the peak")
    options = parser.parse_args()
    if options.peak:
        check_outside(once(worker(options.channels), picture(options.peak), options))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return 0
    small, large = peak(options, SMALL), peak(options, LARGE)
    retoucher = worker(options.channels)
    pictures = {side: picture(side) for side in (SMALL, LARGE)}
    runs = {str(side): partial(once, retoucher, given, options) for side, given in pictures.items()}
    for run in runs.values():
        check_outside(run())
    times = interleaved(runs, options.pairs)
    here, there = times[str(SMALL)], times[str(LARGE)]
    ratio = statistics.median(ratios(there, here))
    print(
        f"SD1.5's shape with {options.channels} channels, {options.steps} steps, {options.candidates} candidate(s), "
        f"{torch.get_num_threads()} threads"
    )
    print(f"{SMALL} px: {statistics.median(here):.2f} s, peak {small:.0f} MB")
    print(f"{LARGE} px: {statistics.median(there):.2f} s, peak {large:.0f} MB")
    print(f"time: {told(there, here)}, goal {GOAL_TIME}; memory {large - small:+.0f} MB, goal +{GOAL_MEMORY}")
    return 0 if ratio <= GOAL_TIME and large - small <= GOAL_MEMORY else 1


if __name__ == "__main__":
    raise SystemExit(main())
