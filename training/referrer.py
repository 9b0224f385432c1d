"""Train the embedded referrer: maps of what a phrase means, on the frozen tower of the embedded scorer.

python -m training.referrer [--minutes 10] [--scenes 16000]
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from retouch_core.models.embedded import load_scorer
from retouch_core.models.referrer import save_network
from retouch_core.models.referring_network import ReferringNetwork, Shape, make_network
from retouch_core.regions.referring import binarised

from .bundle import EMBEDDED, write_manifest
from .loop import autocast, device, train
from .optim import Muon
from .world.archive import PLACES, Archive, archive
from .world.grounds import GROUND_NAMES
from .world.icons import CLASSES, COLOUR_NAMES
from .world.phrases import ground_phrase, thing_phrase

IMAGES, PHRASES = 12, 5
"""Pictures in a batch, and phrases about each: looking costs once, so phrases are cheap."""
TOLD = {"both": 0.5, "class": 0.28, "colour": 0.22}
"""What a phrase says of a thing; the scorer learnt with the same shares."""
TRUE, GROUND, STRANGER = 0.66, 0.08, 0.03
"""Shares of phrases about a thing of the picture, about a ground, and with a word that nobody knows; in the others class,
colour and place come from different things or from nowhere, so that most are true of nothing."""
PLACED = 0.25
"""Share of phrases about things with a word of place."""
STRANGERS = ("dragon", "guitar", "pizza", "robot")
DICE_WEIGHT, SMOOTH = 1.0, 16.0
"""Weight of the dice loss (Milletari et al. 2016) beside cross entropy, and pixels added to both its sides."""


@dataclass(frozen=True)
class Said:
    """One phrase: class, colour and place of what it names (None: not said), or a ground (its index, -1 for any)."""

    name: int | None = None
    colour: int | None = None
    place: int | None = None
    ground: int | None = None
    stranger: bool = False

    def phrase(self, rng: random.Random) -> str:
        """Words for it."""
        if self.ground is not None:
            return ground_phrase(GROUND_NAMES[self.ground] if self.ground >= 0 else None, rng)
        place = None if self.place is None else PLACES[self.place]
        colour = None if self.colour is None else COLOUR_NAMES[self.colour]
        if self.stranger:
            return thing_phrase(rng.choice(STRANGERS), colour, place, rng)
        return thing_phrase(None if self.name is None else CLASSES[self.name], colour, place, rng)

    def mask(self, world: Archive, scene: int) -> Tensor:
        """bool [128,128] of what it means in a scene."""
        owners = world.owners[scene]
        if self.ground is not None:
            right = self.ground < 0 or self.ground == int(world.grounds[scene])
            return (owners == 0) & right
        told = (self.name, self.colour, self.place)
        meant = [
            k + 1
            for k, thing in enumerate(world.things[scene].tolist())
            if thing[0] >= 0
            and not self.stranger
            and all(t is None or t == has for t, has in zip(told, thing[:3], strict=True))
        ]
        return torch.isin(owners, torch.tensor(meant, dtype=owners.dtype))


def _about(thing: Sequence[int], told: str, placed: bool) -> Said:
    return Said(
        thing[0] if told != "colour" else None,
        thing[1] if told != "class" else None,
        thing[2] if placed else None,
    )


def say(world: Archive, scene: int, rng: random.Random) -> Said:
    """A random phrase for a scene, true or false of it."""
    things = [t for t in world.things[scene].tolist() if t[0] >= 0]
    told = rng.choices(list(TOLD), list(TOLD.values()))[0]
    placed, chance = rng.random() < PLACED, rng.random()
    if chance < GROUND:
        kind = int(world.grounds[scene]) if rng.random() < 0.5 else rng.randrange(len(GROUND_NAMES))
        return Said(ground=kind if rng.random() < 0.7 else -1)
    if things and chance < GROUND + TRUE:
        return _about(rng.choice(things), told, placed)
    anything = [rng.randrange(len(CLASSES)), rng.randrange(len(COLOUR_NAMES)), rng.randrange(len(PLACES))]
    mixed = [rng.choice([*(t[i] for t in things), anything[i]]) for i in range(3)]
    said = _about(mixed, told, placed)
    return Said(None, said.colour, said.place, stranger=True) if chance > 1 - STRANGER else said


class Phrases:
    """Unit embeddings of phrases by the frozen scorer, each computed once."""

    def __init__(self) -> None:
        self.scorer = load_scorer()
        self.known: dict[str, Tensor] = {}

    def __call__(self, phrases: Sequence[str]) -> Tensor:
        """T phrases -> [T,D]."""
        fresh = [p for p in dict.fromkeys(phrases) if p not in self.known]
        if fresh:
            self.known.update(zip(fresh, self.scorer.encode_texts(fresh), strict=True))
        return torch.stack([self.known[p] for p in phrases])


def batch(
    world: Archive, scenes: Sequence[int], words: Phrases, rng: random.Random, phrases: int = PHRASES
) -> tuple[Tensor, Tensor, Tensor, Tensor, list[str]]:
    """pixels [B,3,128,128] in 0..1, embeddings [P,D], owner [P], targets bool [P,128,128], and the phrases."""
    said = [(i, say(world, scene, rng)) for i, scene in enumerate(scenes) for _ in range(phrases)]
    texts = [one.phrase(rng) for _, one in said]
    targets = torch.stack([one.mask(world, scenes[i]) for i, one in said])
    owner = torch.tensor([i for i, _ in said])
    return world.pixels(torch.tensor(scenes)), words(texts), owner, targets, texts


def soiled(pixels: Tensor) -> Tensor:
    """Pictures [B,3,H,W] with some change of brightness and noise, as the scorer's views have it."""
    gain = 1 + 0.16 * (torch.rand(len(pixels), 1, 1, 1) - 0.5)
    return (pixels * gain + 0.012 * torch.randn_like(pixels)).clamp(0, 1)


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross entropy plus dice of logits [P,H,W] and targets bool [P,H,W]."""
    wanted = targets.float()
    entropy = F.binary_cross_entropy_with_logits(logits, wanted)
    p = torch.sigmoid(logits)
    shared, both = (p * wanted).sum((1, 2)), p.sum((1, 2)) + wanted.sum((1, 2))
    return entropy + DICE_WEIGHT * (1 - (2 * shared + SMOOTH) / (both + SMOOTH)).mean()


@torch.no_grad()
def measure(network: ReferringNetwork, world: Archive, words: Phrases, scenes: int = 40) -> dict[str, float]:
    """Mean IoU of phrases that are true, by what they say, and how often a phrase true of nothing finds nothing."""
    rng = random.Random(1)
    rows: dict[str, list[float]] = {k: [] for k in (*TOLD, "placed", "ground", "nothing")}
    home = next(network.parameters()).device
    for scene in range(min(scenes, len(world))):
        said = [say(world, scene, rng) for _ in range(8)]
        texts = words([one.phrase(rng) for one in said])
        maps = torch.sigmoid(network(world.pixels(torch.tensor([scene])).to(home), texts.to(home)).float())
        for one, found in zip(said, binarised(maps.cpu()), strict=True):
            wanted = one.mask(world, scene)
            if not wanted.any():
                rows["nothing"].append(float(not found.any()))
                continue
            both = one.name is not None and one.colour is not None
            kind = "both" if both else "class" if one.name is not None else "colour"
            kind = "ground" if one.ground is not None else "placed" if one.place is not None else kind
            rows[kind].append(float((found & wanted).sum() / (found | wanted).sum()))
    return {k: round(sum(v) / len(v), 4) if v else float("nan") for k, v in rows.items()}


def contact_sheet(
    network: ReferringNetwork, world: Archive, words: Phrases, path: Path, scenes: int = 8
) -> None:
    """Save pictures with the maps of a few phrases beside them: map, and what the usual threshold keeps of it."""
    from PIL import Image, ImageDraw

    rng = random.Random(3)
    home = next(network.parameters()).device
    rows = []
    for scene in range(scenes):
        pixels, told, _, targets, texts = batch(world, [scene], words, rng, 4)
        with torch.no_grad():
            maps = torch.sigmoid(network(pixels.to(home), told.to(home)).float()).cpu()
        tiles = [pixels[0].permute(1, 2, 0)]
        for heat, wanted in zip(maps, targets, strict=True):
            kept = binarised(heat[None])[0]
            tiles += [heat[..., None].expand(-1, -1, 3)]
            tiles += [torch.stack([kept.float(), wanted.float(), torch.zeros_like(heat)], -1)]
        drawn = Image.fromarray((torch.cat(tiles, 1).numpy() * 255).astype("uint8"))
        pen = ImageDraw.Draw(drawn)
        for k, text in enumerate(texts):
            pen.text((130 + 256 * k, 1), text, fill=(255, 255, 0))
        rows.append(drawn)
    sheet = Image.new("RGB", (rows[0].width, sum(r.height for r in rows)))
    for k, row in enumerate(rows):
        sheet.paste(row, (0, k * row.height))
    sheet.save(path)


def main() -> None:
    from safetensors.torch import load_file

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--scenes", type=int, default=16000)
    parser.add_argument("--split", default="train", choices=("train", "tune"))
    parser.add_argument("--sheet", type=Path, help="write a contact sheet there")
    parser.add_argument("--keep", action="store_true", help="train and measure, but leave the bundle alone")
    args = parser.parse_args()
    torch.manual_seed(0)
    world, tune = archive(args.split, args.scenes), archive("tune", 250)
    words, rng = Phrases(), random.Random(0)
    network: Any = make_network(Shape(), load_file(EMBEDDED / "clip" / "model.safetensors")).to(device())
    optimiser = Muon(network.decoder.named_parameters(), plain=("weights", "norm"))

    def step(progress: float) -> Tensor:
        pixels, told, owner, targets, _ = batch(
            world, torch.randint(len(world), (IMAGES,)).tolist(), words, rng
        )
        inputs = (t.to(device()) for t in (soiled(pixels), told, owner))
        with autocast():
            logits = network(*inputs)
        return loss_of(logits.float(), targets.to(device()))

    average = train(
        "referrer",
        network,
        optimiser,
        step,
        minutes=args.minutes,
        report=lambda: measure(network, tune, words),
        rate=0.01,
        every=60,
    )
    network.load_state_dict(average.values)
    if args.sheet:
        contact_sheet(network.eval(), tune, words, args.sheet)
    if not args.keep:
        save_network(network, EMBEDDED)
        write_manifest()


if __name__ == "__main__":
    main()
