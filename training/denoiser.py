"""Train the embedded 9-channel inpaint denoiser on latents, with the frozen text tower of the scorer.

python -m training.denoiser [--minutes 42] [--scenes 16000]
"""

from __future__ import annotations

import argparse
import random
from typing import Any

import torch
from torch import Tensor

from . import tokenizer
from .bundle import EMBEDDED, save_half
from .edits import Material, prepare
from .loop import autocast, device, train
from .optim import Muon
from .scorer import ids_of
from .world.archive import PLACES, archive
from .world.grounds import GROUND_NAMES
from .world.icons import CLASSES, COLOUR_NAMES
from .world.phrases import ground_phrase, thing_phrase

BATCH = 64
OUTSIDE_WEIGHT = 0.1
"""Weight of latent cells outside the mask, which the sampler overwrites anyway."""
COLOURLESS, CLASSLESS, PLACED, DROPPED = 0.1, 0.05, 0.1, 0.02
"""Shares of phrases without a colour, without a class, with a place word, and dropped altogether."""
NAMED_GROUND = 0.25
"""Share of empty patches whose phrase names the ground; the others have the empty phrase, which so means 'nothing there'."""


def scheduler() -> Any:
    """Scaled-linear betas and v-prediction; the first level is pure enough to start from noise, the last is clean."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )


def network() -> Any:
    """The configuration that diffusers and the host both hold (training.host_parity)."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16,
        in_channels=9,
        out_channels=4,
        block_out_channels=(64, 128),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=32,
    )


def phrase_for(about: list[int], rng: random.Random) -> str:
    """The prompt of one sample of `Material.about`."""
    name, colour, place, ground = about
    share = rng.random()
    if name < 0:
        return ground_phrase(GROUND_NAMES[ground], rng) if share < NAMED_GROUND else ""
    if share < DROPPED:
        return ""
    share = rng.random()
    return thing_phrase(
        CLASSES[name] if share >= CLASSLESS else None,
        COLOUR_NAMES[colour] if not CLASSLESS <= share < CLASSLESS + COLOURLESS else None,
        PLACES[place] if rng.random() < PLACED else None,
        rng,
    )


class Samples:
    """Shuffled passes over the material."""

    def __init__(self, material: Material) -> None:
        self.material = material
        self.order = torch.randperm(len(material.source))
        self.at = 0

    def __call__(self) -> Tensor:
        if self.at + BATCH > len(self.order):
            self.order, self.at = torch.randperm(len(self.order)), 0
        self.at += BATCH
        return self.order[self.at - BATCH : self.at]


def main() -> None:
    from transformers import CLIPTextModel

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=42)
    parser.add_argument("--scenes", type=int, default=16000, help="size of the archive")
    parser.add_argument("--encoded", type=int, default=9000, help="how many of them are encoded")
    args = parser.parse_args()
    torch.manual_seed(0)
    material = prepare(archive("train", args.scenes), args.encoded)
    held = len(material.source) // 50
    print(
        f"denoiser: {len(material.source)} samples, latent std {float(material.scenes[:500].float().std()):.3f}",
        flush=True,
    )
    tower = CLIPTextModel.from_pretrained(EMBEDDED / "clip").float().eval().to(device())
    words, rng, noise_schedule = tokenizer.build(), random.Random(0), scheduler()
    model = network().to(device())
    optimiser = Muon(model.named_parameters(), plain=("conv_in", "conv_out", "time_embedding"))
    samples = Samples(
        Material(
            material.scenes, *(getattr(material, k)[held:] for k in ("masked", "cells", "source", "about"))
        )
    )

    def loss_of(source: Material, pick: Tensor, rng: random.Random) -> tuple[Tensor, Tensor]:
        latents = source.scenes[source.source[pick]].float().to(device())
        cells = source.cells[pick][:, None].float().to(device())
        masked = source.masked[pick].float().to(device())
        phrases = [phrase_for(about, rng) for about in source.about[pick].tolist()]
        with torch.no_grad():
            told = tower(ids_of(words, phrases).to(device())).last_hidden_state
        steps = torch.randint(1000, (len(pick),), device=device())
        noise = torch.randn_like(latents)
        noisy = noise_schedule.add_noise(latents, noise, steps)
        target = noise_schedule.get_velocity(latents, noise, steps)
        with autocast():
            guess = model(torch.cat([noisy, cells, masked], 1), steps, told).sample
        error = (guess.float() - target).square()
        weight = OUTSIDE_WEIGHT + (1 - OUTSIDE_WEIGHT) * cells
        inside = (error * cells).sum() / (cells.sum() * 4)
        return (error * weight).sum() / (weight.sum() * 4), inside

    def step(progress: float) -> Tensor:
        return loss_of(samples.material, samples(), rng)[0]

    @torch.no_grad()
    def report() -> dict[str, float]:
        state = torch.random.get_rng_state()
        torch.manual_seed(1)
        pick = torch.arange(min(held, 256))
        inside = sum(float(loss_of(material, part, random.Random(1))[1]) for part in pick.split(64)) / len(
            pick.split(64)
        )
        torch.random.set_rng_state(state)
        return {"held_out_inside": round(inside, 5)}

    def save(values: dict[str, Tensor]) -> None:
        model.load_state_dict(values)
        noise_schedule.save_pretrained(EMBEDDED / "scheduler")
        save_half(model, EMBEDDED / "unet_inpaint")

    average = train(
        "denoiser", model, optimiser, step, minutes=args.minutes, report=report, rate=0.015, every=120
    )
    save(average.values)


if __name__ == "__main__":
    main()
