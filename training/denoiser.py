"""Train the embedded denoisers on latents, with the frozen text tower of the scorer.

python -m training.denoiser --kind inpaint|blended [--minutes 45] [--scenes 50000] [--start inpaint|blended]

`inpaint` sees the mask and the masked picture (9 channels). `blended` sees neither (4 channels), as the papers' blended
latent diffusion has it, so that its phrases say where the thing is.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from retouch_core.models.embedded import DENOISERS

from . import tokenizer
from .bundle import EMBEDDED, save_half
from .edits import GROUND, NOTHING, Material, prepare
from .loop import autocast, device, train
from .optim import Muon
from .scorer import ids_of
from .world.grounds import GROUND_NAMES
from .world.icons import CLASSES, COLOUR_NAMES
from .world.phrases import cell_phrase, ground_phrase, thing_phrase

BATCH, SCENES = 64, 50_000
COLOURLESS, CLASSLESS, DROPPED = 0.08, 0.04, 0.03
"""Shares of phrases without a colour, without a class, and dropped altogether."""
NAMED, UNNAMED = 0.3, 0.4
"""Shares of empty patches whose phrase names the kind of ground, and says only "background"; the others have the empty
phrase, which so means 'nothing there'."""


@dataclass(frozen=True)
class Kind:
    """What sets the two denoisers apart.

    Attributes:
        channels: of the input.
        placed: share of phrases that say where the thing is.
        outside: weight of latent cells that are not edited. The sampler overwrites them, yet at 4 channels they are all
            that tells the network where there is room.
    """

    channels: int
    placed: float
    outside: float


KINDS = {"inpaint": Kind(9, 0.15, 0.1), "blended": Kind(4, 0.85, 0.1)}


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


def network(channels: int) -> Any:
    """The configuration that diffusers and the host both hold (training.host_parity)."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16,
        in_channels=channels,
        out_channels=4,
        block_out_channels=(64, 128),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=32,
    )


def borrowed(state: dict[str, Tensor], channels: int) -> dict[str, Tensor]:
    """Weights of a denoiser for one with another number of input channels: what it lacks starts at 0.

    The noisy latents are the first four channels of both kinds; all layers but the first are the same.
    """
    name = "conv_in.weight"
    taken = state[name][:, :channels].float()
    missing = channels - taken.shape[1]
    wide = torch.cat([taken, taken.new_zeros(len(taken), missing, *taken.shape[2:])], 1)
    return {key: value.float() for key, value in state.items()} | {name: wide}


def phrase_for(about: list[int], placed: float, rng: random.Random) -> str:
    """The prompt of one sample of `Samples.about`; `placed` is the share that says where."""
    name, colour, ground, place = about
    share = rng.random()
    if name == GROUND:
        return ground_phrase(GROUND_NAMES[ground], rng) if share >= DROPPED else ""
    if name == NOTHING:
        if share < NAMED:
            return ground_phrase(GROUND_NAMES[ground], rng)
        return ground_phrase(None, rng) if share < NAMED + UNNAMED else ""
    if share < DROPPED:
        return ""
    share = rng.random()
    phrase = thing_phrase(
        CLASSES[name] if share >= CLASSLESS else None,
        COLOUR_NAMES[colour] if not CLASSLESS <= share < CLASSLESS + COLOURLESS else None,
        None,
        rng,
    )
    return f"{phrase} {cell_phrase(place, rng)}" if rng.random() < placed else phrase


class Shuffled:
    """Shuffled passes over the numbers first..last."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.count, self.at = first, last - first, 0
        self.order = torch.randperm(self.count)

    def __call__(self) -> Tensor:
        if self.at + BATCH > self.count:
            self.order, self.at = torch.randperm(self.count), 0
        self.at += BATCH
        return self.order[self.at - BATCH : self.at] + self.first


class Loss:
    """Weighted error of the velocity on samples of the material."""

    def __init__(self, kind: Kind, material: Material) -> None:
        from transformers import CLIPTextModel

        self.kind, self.material = kind, material
        self.schedule, self.words = scheduler(), tokenizer.build()
        self.tower = CLIPTextModel.from_pretrained(EMBEDDED / "clip").float().eval().to(device())

    def __call__(self, model: Any, pick: Tensor, rng: random.Random) -> tuple[Tensor, Tensor]:
        """The loss, and the mean squared error inside the edited cells, of the samples `pick` long [B]."""
        material, edits = self.material, self.material.edits
        latents = material.scenes[edits.source[pick]].float().to(device())
        cells = edits.cells[pick][:, None].float().to(device())
        phrases = [phrase_for(about, self.kind.placed, rng) for about in edits.about[pick].tolist()]
        with torch.no_grad():
            told = self.tower(ids_of(self.words, phrases).to(device())).last_hidden_state
        steps = torch.randint(1000, (len(pick),), device=device())
        noise = torch.randn_like(latents)
        seen = self.schedule.add_noise(latents, noise, steps)
        target = self.schedule.get_velocity(latents, noise, steps)
        if self.kind.channels > latents.shape[1]:
            seen = torch.cat([seen, cells, material.masked[pick].float().to(device())], 1)
        with autocast():
            guess = model(seen, steps, told).sample
        error = (guess.float() - target).square()
        weight = self.kind.outside + (1 - self.kind.outside) * cells
        inside = (error * cells).sum() / (cells.sum() * 4)
        return (error * weight).sum() / (weight.sum() * 4), inside


def main() -> None:
    from safetensors.torch import load_file

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kind", choices=list(KINDS), required=True)
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument(
        "--start", choices=list(KINDS), help="begin with the weights of this kind, not from nothing"
    )
    args = parser.parse_args()
    torch.manual_seed(0)
    kind = KINDS[args.kind]
    material = prepare(args.scenes, masked=args.kind == "inpaint")
    held = len(material) // 100
    spread = float(material.scenes[:500].float().std())
    print(
        f"{args.kind}: {len(material)} samples of {args.scenes} scenes, latent std {spread:.3f}", flush=True
    )
    model, loss, rng = network(kind.channels).to(device()), Loss(kind, material), random.Random(0)
    if args.start:
        (file,) = (EMBEDDED / DENOISERS[args.start]).glob("*.safetensors")
        model.load_state_dict(borrowed(load_file(file), kind.channels))
    optimiser = Muon(model.named_parameters(), plain=("conv_in", "conv_out", "time_embedding"))
    batches = Shuffled(held, len(material))

    @torch.no_grad()
    def report() -> dict[str, float]:
        state = torch.random.get_rng_state()
        torch.manual_seed(1)
        parts = torch.arange(min(held, 512)).split(BATCH)
        inside = sum(float(loss(model, part, random.Random(1))[1]) for part in parts) / len(parts)
        torch.random.set_rng_state(state)
        return {"held_out_inside": round(inside, 5)}

    average = train(
        args.kind,
        model,
        optimiser,
        lambda progress: loss(model, batches(), rng)[0],
        minutes=args.minutes,
        report=report,
        rate=0.015,
        every=120,
    )
    model.load_state_dict(average.values)
    loss.schedule.save_pretrained(EMBEDDED / "scheduler")
    save_half(model, EMBEDDED / DENOISERS[args.kind])


if __name__ == "__main__":
    main()
