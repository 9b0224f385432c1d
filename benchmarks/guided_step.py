"""What losses add to a step of the sampler: CLIP term, perceptual and L2 background terms through the half-size decoder.

Guided and plain steps of the embedded denoiser at 128 px with classifier-free guidance, in turns, by the processor's time.

    python -m benchmarks.guided_step
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial

import torch
from torch.nn import functional

from benchmarks.pairs import interleaved, ratios, told
from retouch_core.demo import PICTURES
from retouch_core.editing.guidance import guided_denoiser
from retouch_core.editing.loss_guidance import with_losses
from retouch_core.editing.loss_terms import CUTOUTS, Guidance, LossTerms
from retouch_core.editing.schedule import sigmas_of
from retouch_core.models.diffusers_editor import DiffusersEditor
from retouch_core.pictures import read_picture
from retouch_core.pipeline import Retoucher

GOAL = 2.5
STEPS, NOISY = 25, 3
"""Of a run, and the step that is timed."""
SCALE = 3.0


def main() -> int:
    """Print the ratios; 1 where a guided step costs more than the goal."""
    parser = argparse.ArgumentParser(prog="benchmarks.guided_step")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--cutouts", type=int, nargs="+", default=[CUTOUTS, 4, 8])
    options = parser.parse_args()
    retoucher, image = Retoucher.embedded(), read_picture(PICTURES / "grass.png")
    editor = retoucher.plain
    assert isinstance(editor, DiffusersEditor)
    mask = torch.zeros(1, *image.shape[1:3])
    mask[:, 40:90, 10:60] = 1
    latents = editor.encode(image)
    target, empty = editor.encode_prompts(["a red apple", ""]).split(1)
    denoise = guided_denoiser(editor.denoise, target, None, empty, SCALE, 0.0)
    sigmas = sigmas_of(editor.scheduler, STEPS)
    missed = False
    for cutouts in dict.fromkeys(options.cutouts):
        terms = LossTerms("a red apple", retoucher.scorer, retoucher.perceptual(), cutouts=cutouts)
        guided = with_losses(
            denoise,
            Guidance((terms,), path="tiny_half", until=1.0),
            decode=editor.half_decoder(),
            source=image,
            mask=mask,
            sigmas=sigmas,
            held=latents,
            cells=functional.max_pool2d(mask[None], editor.cell),
        )
        for rows in (1, 4):
            x = sigmas[NOISY] * torch.randn(rows, *latents.shape[1:])
            level = sigmas[NOISY].expand(rows)
            runs = {"guided": partial(guided, x, level), "plain": partial(denoise, x, level)}
            interleaved(runs, 2)
            seconds = interleaved(runs, options.pairs, time.process_time)
            print(f"{rows} candidates, {cutouts} views: {told(seconds['guided'], seconds['plain'])}")
            usual = cutouts == CUTOUTS
            ratio = statistics.median(ratios(seconds["guided"], seconds["plain"]))
            missed |= usual and ratio > GOAL
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
