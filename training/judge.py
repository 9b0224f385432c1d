"""The judge: a classifier of class, colour and ground that ranking never sees, used only to measure.

python -m training.judge [--minutes 4] [--scenes 16000]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retouch_core.tensors.regions import mask_boxes

from .loop import autocast, device, train
from .scorer import restored_pictures
from .views import window
from .world.archive import Archive, archive
from .world.grounds import GROUND_NAMES
from .world.icons import CLASSES, COLOUR_NAMES

WEIGHTS = Path(__file__).resolve().parent / "weights" / "judge.safetensors"
SIZE, BATCH, EMPTY, GROUNDS = 64, 96, 8, 24
"""Crop side, crops in a batch, how many of them show no object, and how many whole pictures are read for their ground."""
NOTHING = len(CLASSES)
WIDTHS = (24, 48, 96, 128)


class Judge(nn.Module):
    """Crops [N,3,64,64] in 0..1 -> logits of class (and 'nothing') [N,17], of colour [N,8] and of ground [N,8]."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in WIDTHS:
            for stride, taken in ((2, before), (1, width)):
                layers += [
                    nn.Conv2d(taken, width, 3, stride, 1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                ]
            before = width
        self.features = nn.Sequential(*layers)
        self.name = nn.Linear(before, len(CLASSES) + 1)
        self.colour = nn.Linear(before, len(COLOUR_NAMES))
        self.ground = nn.Linear(before, len(GROUND_NAMES))

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seen = self.features(crops * 2 - 1).amax((2, 3))
        return self.name(seen), self.colour(seen), self.ground(seen)


def crops_of(pixels: Tensor, masks: Tensor) -> Tensor:
    """What the judge looks at: the square around the box of each mask bool [N,128,128], from pixels [N,3,128,128]."""
    boxes = mask_boxes(masks)
    half = (boxes[:, 2:] - boxes[:, :2]).amax(1) / 2
    return window(pixels, (boxes[:, :2] + boxes[:, 2:]) / 2, half, SIZE)


def grounds_of(pixels: Tensor, things: Tensor) -> Tensor:
    """What the judge reads a ground from: pictures [N,3,128,128] with grey instead of things bool [N,128,128]."""
    hidden = F.max_pool2d(things[:, None].float(), 5, 1, 2) > 0
    return F.interpolate(pixels.masked_fill(hidden, 0.5), size=(SIZE, SIZE), mode="area")


def load(path: Path = WEIGHTS) -> Judge:
    """The trained judge, in eval mode."""
    from safetensors.torch import load_file

    judge = Judge()
    judge.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()})
    return judge.eval()


def _pixels(world: Archive, restored: Tensor, scenes: Tensor) -> Tensor:
    """Pictures [B,3,128,128], some of them through the autoencoder."""
    pixels = world.pixels(scenes)
    swap = (torch.rand(len(scenes)) < 0.4) & (scenes < len(restored))
    pixels[swap] = restored[scenes[swap]].permute(0, 3, 1, 2).float() / 255
    return pixels


def _soiled(crops: Tensor) -> Tensor:
    """Crops with some blur, brightness and noise."""
    count = len(crops)
    soft = F.interpolate(F.avg_pool2d(crops, 2), scale_factor=2, mode="bilinear")
    crops = torch.lerp(crops, soft, torch.rand(count, 1, 1, 1) * (torch.rand(count, 1, 1, 1) < 0.4))
    crops = crops * (1 + 0.1 * (torch.rand(count, 1, 1, 1) - 0.5)) + 0.015 * torch.randn_like(crops)
    return crops.clamp(0, 1)


def _grounds(world: Archive, restored: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures without their things, and the kinds of their grounds [B]."""
    scenes = torch.randint(len(world), (GROUNDS,))
    crops = grounds_of(_pixels(world, restored, scenes), world.owners[scenes] > 0)
    return _soiled(crops), world.grounds[scenes]


def _batch(world: Archive, restored: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Crops with jitter, noise and blur; classes [B] with NOTHING for empty ground; colours [B]."""
    pairs = world.objects()
    pairs = pairs[torch.randint(len(pairs), (BATCH,))]
    pixels = _pixels(world, restored, pairs[:, 0])
    boxes = mask_boxes(world.masks(pairs))
    longer = (boxes[:, 2:] - boxes[:, :2]).amax(1)
    half = longer / 2 * (1.05 + 0.55 * torch.rand(BATCH)) + 2
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 + (torch.rand(BATCH, 2) - 0.5) * 1.6 * (half - longer / 2)[
        :, None
    ]
    names, colours = world.things[pairs[:, 0], pairs[:, 1], :2].T.clone()
    for i in range(EMPTY):
        for _ in range(20):
            reach = float(torch.empty(()).uniform_(14, 30))
            x, y = (torch.rand(2) * (128 - 2 * reach) + reach).tolist()
            seen = (
                world.owners[pairs[i, 0], int(y - reach) : int(y + reach), int(x - reach) : int(x + reach)]
                > 0
            )
            if seen.float().mean() < 0.02:
                centre[i], half[i], names[i] = torch.tensor([x, y]), reach, NOTHING
                break
    return _soiled(window(pixels, centre, half, SIZE)), names, colours


@torch.no_grad()
def ceiling(judge: Judge, world: Archive, count: int = 250) -> dict[str, float]:
    """How often the judge is right on real objects of the first `count` scenes."""
    pairs = world.objects()
    pairs = pairs[pairs[:, 0] < count]
    masks = F.max_pool2d(world.masks(pairs)[:, None].float(), 9, 1, 4)[:, 0] > 0
    parts = zip(world.pixels(pairs[:, 0]).split(128), masks.split(128), strict=True)
    out = [judge(crops_of(p, m).to(next(judge.parameters()).device)) for p, m in parts]
    names, colours, _ = (torch.cat(column).argmax(1).cpu() for column in zip(*out, strict=True))
    truth = world.things[pairs[:, 0], pairs[:, 1], :2]
    right = torch.stack([names == truth[:, 0], colours == truth[:, 1]], 1)
    whole = grounds_of(world.pixels(torch.arange(count)), world.owners[:count] > 0)
    kinds = judge(whole.to(next(judge.parameters()).device))[2].argmax(1).cpu()
    return {
        "class": float(right[:, 0].float().mean()),
        "both": float(right.all(1).float().mean()),
        "ground": float((kinds == world.grounds[:count]).float().mean()),
    }


def main() -> None:
    from safetensors.torch import save_file

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--scenes", type=int, default=16000)
    parser.add_argument("--restored", type=int, default=3000)
    args = parser.parse_args()
    torch.manual_seed(7)
    world, tune = archive("train", args.scenes), archive("tune", 250)
    restored = restored_pictures(world, args.restored)
    judge: Any = Judge().to(device())
    optimiser = torch.optim.AdamW(judge.parameters(), lr=3e-3, weight_decay=0.01)

    def step(progress: float) -> Tensor:
        crops, names, colours = (t.to(device()) for t in _batch(world, restored))
        whole, kinds = (t.to(device()) for t in _grounds(world, restored))
        with autocast():
            said, painted, stood = judge(torch.cat([crops, whole]))
        shown = names < NOTHING
        losses = (
            F.cross_entropy(said[:BATCH].float(), names),
            F.cross_entropy(painted[:BATCH].float()[shown], colours[shown]),
            F.cross_entropy(stood[BATCH:].float(), kinds),
        )
        return torch.stack(losses).sum()

    average = train(
        "judge", judge, optimiser, step, minutes=args.minutes, report=lambda: ceiling(judge, tune), rate=3e-3
    )
    judge.load_state_dict(average.values)
    WEIGHTS.parent.mkdir(exist_ok=True)
    state = {
        k: v.half().cpu().contiguous() if v.is_floating_point() else v.cpu()
        for k, v in judge.state_dict().items()
    }
    save_file(state, WEIGHTS)


if __name__ == "__main__":
    main()
