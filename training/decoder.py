"""Polish the embedded decoder on whole scenes with the encoder frozen, so that latents keep their meaning.

python -m training.decoder [--minutes 11.5] [--scenes 16000]
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor

from . import autoencoder
from .autoencoder import LATENT_NOISE, batch
from .bundle import EMBEDDED, save_half
from .loop import autocast, device, train
from .optim import Muon
from .world.archive import archive

RATE = 0.006
"""A third of the rate of the joint training: the decoder is nearly there."""


def objective(error: Tensor, weight: Tensor) -> Tensor:
    """The logarithms of what is measured: squared error of each picture, and that of all pixels of objects."""
    objects = (weight > weight.amin()).float()
    whole = error.mean((1, 2, 3)).log().mean()
    return whole + 2 * ((error * objects).sum() / (3 * objects.sum())).log()


def main() -> None:
    from diffusers import AutoencoderTiny

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=11.5)
    parser.add_argument("--scenes", type=int, default=16000)
    args = parser.parse_args()
    torch.manual_seed(1)
    world, tune = archive("train", args.scenes), archive("tune", 250)
    model: Any = AutoencoderTiny.from_pretrained(EMBEDDED / "vae")
    model.float().to(device(), memory_format=torch.channels_last)
    model.encoder.requires_grad_(False)
    optimiser = Muon(model.decoder.named_parameters(), plain=("layers.0.", "layers.18."))

    def step(progress: float) -> Tensor:
        pixels, weight = batch(world, autoencoder.FULL_FROM)
        with autocast():
            with torch.no_grad():
                latents = model.encode(pixels).latents.float()
            restored = model.decode(latents + LATENT_NOISE * torch.randn_like(latents)).sample.float()
        return objective((restored - pixels).square(), weight)

    def report() -> dict[str, float]:
        return autoencoder.restoration(model, tune)

    average = train("decoder", model.decoder, optimiser, step, minutes=args.minutes, report=report, rate=RATE)
    model.decoder.load_state_dict(average.values)
    save_half(model, EMBEDDED / "vae")


if __name__ == "__main__":
    main()
