"""Polish the whole embedded autoencoder on crops of what it restores worst.

python -m training.polish [--minutes 80] [--scenes 16000]

Latents optimised for the decoder as it comes out of training.decoder restore objects 4.5 dB better than the encoder's:
the encoder is what is weak, and fine patterns (stripes, wheels, crossed lines) are where.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor

from .autoencoder import restoration, spread
from .bundle import EMBEDDED, save_half
from .loop import autocast, device, train
from .optim import Muon
from .world.archive import Archive, archive
from .world.icons import CLASSES

CROP = 48
ON_THINGS, ANYWHERE = 12, 4
"""Crops of a step that show a thing, and crops from anywhere, which keep the ground good."""
EAGERNESS = {
    "fish": 4.0,
    "box": 3.5,
    "car": 3.5,
    "cup": 3.0,
    "mushroom": 2.0,
    "flower": 2.0,
    "house": 1.5,
    "star": 1.5,
}
"""How much more often than the others a class is shown: about its share of the squared error on tune scenes."""
LATENT_NOISE = 0.02
OBJECT_WEIGHT = 2.0
RATE = 0.012


class Crops:
    """Random crops with which pixels belong to things."""

    def __init__(self, world: Archive) -> None:
        self.world = world
        self.pairs = world.objects()
        eager = torch.tensor([EAGERNESS.get(name, 1.0) for name in CLASSES])
        self.reach = eager[world.things[self.pairs[:, 0], self.pairs[:, 1], 0]].cumsum(0)

    def __call__(self) -> tuple[Tensor, Tensor]:
        """Pictures [B,3,48,48] in -1..1 and bool [B,1,48,48], true on things."""
        world, free = self.world, self.world.images.shape[1] - CROP
        at = torch.searchsorted(self.reach, torch.rand(ON_THINGS) * self.reach[-1])
        pairs = self.pairs[at.clamp(max=len(self.pairs) - 1)]
        _, _, _, x, y, side = world.things[pairs[:, 0], pairs[:, 1]].T
        jitter = torch.randint(-CROP // 3, CROP // 3 + 1, (2, ON_THINGS))
        anywhere = torch.randint(free + 1, (2, ANYWHERE))
        scenes = torch.cat([pairs[:, 0], torch.randint(len(world), (ANYWHERE,))]).tolist()
        left = torch.cat([(x + side // 2 + jitter[0] - CROP // 2).clamp(0, free), anywhere[0]]).tolist()
        top = torch.cat([(y + side // 2 + jitter[1] - CROP // 2).clamp(0, free), anywhere[1]]).tolist()
        windows = [
            (i, slice(t, t + CROP), slice(u, u + CROP)) for i, t, u in zip(scenes, top, left, strict=True)
        ]
        pixels = torch.stack([world.images[w] for w in windows]).permute(0, 3, 1, 2).float() / 127.5 - 1
        things = torch.stack([world.owners[w] for w in windows])[:, None] > 0
        if torch.rand(()) < 0.5:
            pixels, things = pixels.flip(-1), things.flip(-1)
        return pixels.to(device(), memory_format=torch.channels_last), things.to(device())


def objective(error: Tensor, things: Tensor) -> Tensor:
    """Logarithms, as decibels are: squared error [B,3,S,S] pooled over the ground, and over things bool [B,1,S,S]."""
    on, off = (3 * part.sum().clamp(min=1) for part in (things, ~things))
    thing, ground = (error * things).sum() / on, (error * ~things).sum() / off
    return ground.clamp(min=1e-8).log() + OBJECT_WEIGHT * thing.clamp(min=1e-8).log()


def main() -> None:
    from diffusers import AutoencoderTiny

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=80)
    parser.add_argument("--scenes", type=int, default=16000)
    args = parser.parse_args()
    torch.manual_seed(2)
    world, tune = archive("train", args.scenes), archive("tune", 250)
    model: Any = AutoencoderTiny.from_pretrained(EMBEDDED / "vae")
    model.float().to(device(), memory_format=torch.channels_last)
    outer = ("encoder.layers.0.", "encoder.layers.14.", "decoder.layers.0.", "decoder.layers.18.")
    optimiser, crops = Muon(model.named_parameters(), plain=outer), Crops(world)

    def step(progress: float) -> Tensor:
        pixels, things = crops()
        with autocast():
            latents = model.encode(pixels).latents.float()
            restored = model.decode(latents + LATENT_NOISE * torch.randn_like(latents)).sample.float()
        return objective((restored - pixels).square(), things)

    def report() -> dict[str, float]:
        return restoration(model, tune)

    average = train("polish", model, optimiser, step, minutes=args.minutes, report=report, rate=RATE)
    model.load_state_dict(average.values)
    model.eval()
    model.register_to_config(scaling_factor=round(1 / spread(model, world), 4))
    save_half(model, EMBEDDED / "vae")


if __name__ == "__main__":
    main()
