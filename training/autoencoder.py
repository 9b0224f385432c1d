"""Train the embedded autoencoder: diffusers' `AutoencoderTiny` in its default layout (the one the host can hold).

python -m training.autoencoder [--minutes 38] [--scenes 16000]
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .bundle import EMBEDDED, save_half
from .loop import autocast, device, train
from .optim import Muon
from .world.archive import Archive, archive

CROP = 64
CROPS, FULL = 12, 4
"""Pictures per step while training on crops, and on whole scenes for the last fifth."""
FULL_FROM = 0.8
OBJECT_WEIGHT = 4.0
"""How much more a pixel of an object (grown by 2 px) counts than one of the ground: shapes were soft without it."""
SQUARE = 40.0
"""Weight of the squared error: the few large errors at the edges of objects are what the eye sees."""
LATENT_NOISE = 0.03
"""Standard deviation of the noise added to latents while training, so that a denoiser's small errors stay small."""


def batch(world: Archive, progress: float) -> tuple[Tensor, Tensor]:
    """Pictures [B,3,S,S] in -1..1 and pixel weights [B,1,S,S]."""
    if progress >= FULL_FROM:
        pick = torch.randint(len(world), (FULL,))
        pixels, objects = world.pixels(pick), world.owners[pick] > 0
    else:
        pairs = world.objects()
        pairs = pairs[torch.randint(len(pairs), (CROPS,))]
        _, _, _, x, y, side = world.things[pairs[:, 0], pairs[:, 1]].T
        jitter = torch.randint(-24, 25, (2, CROPS))
        left = (x + side // 2 + jitter[0] - CROP // 2).clamp(0, 128 - CROP).tolist()
        top = (y + side // 2 + jitter[1] - CROP // 2).clamp(0, 128 - CROP).tolist()
        places = list(zip(pairs[:, 0].tolist(), top, left, strict=True))
        crops = [world.images[i, t : t + CROP, u : u + CROP] for i, t, u in places]
        pixels = torch.stack(crops).permute(0, 3, 1, 2).float() / 255
        objects = torch.stack([world.owners[i, t : t + CROP, u : u + CROP] for i, t, u in places]) > 0
    if torch.rand(()) < 0.5:
        pixels, objects = pixels.flip(-1), objects.flip(-1)
    grown = F.max_pool2d(objects[:, None].float(), 5, 1, 2)
    weight = 1 + (OBJECT_WEIGHT - 1) * grown
    pixels = (pixels * 2 - 1).to(device(), memory_format=torch.channels_last)
    return pixels, (weight / weight.mean()).to(device())


def objective(restored: Tensor, pixels: Tensor, weight: Tensor) -> Tensor:
    """Weighted L1 + L2 + gradient L1 of [B,3,S,S]."""
    error = restored - pixels
    across = (error[..., 1:] - error[..., :-1]).abs() * weight[..., 1:]
    down = (error[..., 1:, :] - error[..., :-1, :]).abs() * weight[..., 1:, :]
    edges = across.mean() + down.mean()
    return (error.abs() * weight).mean() + SQUARE * (error.square() * weight).mean() + 0.25 * edges


def decibels(error: Tensor) -> float:
    return -10 * math.log10(float(error))


@torch.no_grad()
def restoration(model: Any, tune: Archive, count: int = 64) -> dict[str, float]:
    """PSNR of tune scenes: mean over pictures, and pooled over the pixels of objects."""
    pixels = (tune.pixels(torch.arange(count)) * 2 - 1).to(device(), memory_format=torch.channels_last)
    with autocast():
        latents = torch.cat([model.encode(part).latents for part in pixels.split(16)])
        restored = torch.cat([model.decode(part).sample for part in latents.split(16)])
    error = ((restored.float().clamp(-1, 1) - pixels) / 2).square()
    objects = (tune.owners[:count] > 0)[:, None].to(device()).expand_as(error)
    mean = sum(decibels(e) for e in error.mean((1, 2, 3))) / len(error)
    numbers = {
        "picture_db": mean,
        "object_db": decibels(error[objects].mean()),
        "latent_std": float(latents.std()),
    }
    return {k: round(v, 3) for k, v in numbers.items()}


@torch.no_grad()
def spread(model: torch.nn.Module, world: Archive, count: int = 200) -> float:
    """Standard deviation of the latents of scenes; its inverse brings them to the variance the denoiser expects."""
    parts = []
    for start in range(0, count, 20):
        pixels = (world.pixels(torch.arange(start, start + 20)) * 2 - 1).to(
            device(), memory_format=torch.channels_last
        )
        parts.append(model.encode(pixels).latents.cpu())  # type: ignore[operator]
    return float(torch.cat(parts).std())


def main() -> None:
    from diffusers import AutoencoderTiny

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=38)
    parser.add_argument("--scenes", type=int, default=16000)
    args = parser.parse_args()
    torch.manual_seed(0)
    world, tune = archive("train", args.scenes), archive("tune", 250)
    model: Any = AutoencoderTiny()
    model.to(device(), memory_format=torch.channels_last)
    outer = ("encoder.layers.0.", "encoder.layers.14.", "decoder.layers.0.", "decoder.layers.18.")
    optimiser = Muon(model.named_parameters(), plain=outer)

    def step(progress: float) -> Tensor:
        pixels, weight = batch(world, progress)
        with autocast():
            latents = model.encode(pixels).latents.float()
            restored = model.decode(latents + LATENT_NOISE * torch.randn_like(latents)).sample.float()
        moments = latents.mean((0, 2, 3)).square().mean() + (latents.std((0, 2, 3)) - 1).square().mean()
        return objective(restored, pixels, weight) + 0.02 * moments

    def report() -> dict[str, float]:
        return restoration(model, tune)

    average = train(
        "autoencoder", model, optimiser, step, minutes=args.minutes, report=report, rate=0.02, every=60
    )
    model.load_state_dict(average.values)
    model.eval()
    model.register_to_config(scaling_factor=round(1 / spread(model, world), 4))
    save_half(model, EMBEDDED / "vae")


if __name__ == "__main__":
    main()
