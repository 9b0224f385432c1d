"""The judge: a classifier of class and colour that ranking never sees, used only to measure.

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
from .world.icons import CLASSES, COLOUR_NAMES

WEIGHTS = Path(__file__).resolve().parent / "weights" / "judge.safetensors"
SIZE, BATCH, EMPTY = 64, 96, 8
"""Crop side, crops in a batch, and how many of them show no object."""
NOTHING = len(CLASSES)
WIDTHS = (24, 48, 96, 128)


class Judge(nn.Module):
    """Crops [N,3,64,64] in 0..1 -> logits of class (and 'nothing') [N,17] and of colour [N,8]."""

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

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.features(crops * 2 - 1).amax((2, 3))
        return self.name(seen), self.colour(seen)


def crops_of(pixels: Tensor, masks: Tensor) -> Tensor:
    """What the judge looks at: the square around the box of each mask bool [N,128,128], from pixels [N,3,128,128]."""
    boxes = mask_boxes(masks)
    half = (boxes[:, 2:] - boxes[:, :2]).amax(1) / 2
    return window(pixels, (boxes[:, :2] + boxes[:, 2:]) / 2, half, SIZE)


def load(path: Path = WEIGHTS) -> Judge:
    """The trained judge, in eval mode."""
    from safetensors.torch import load_file

    judge = Judge()
    judge.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()})
    return judge.eval()


def _batch(world: Archive, restored: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Crops with jitter, noise and blur; classes [B] with NOTHING for empty ground; colours [B]."""
    pairs = world.objects()
    pairs = pairs[torch.randint(len(pairs), (BATCH,))]
    pixels = world.pixels(pairs[:, 0])
    swap = (torch.rand(BATCH) < 0.4) & (pairs[:, 0] < len(restored))
    pixels[swap] = restored[pairs[swap, 0]].permute(0, 3, 1, 2).float() / 255
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
    crops = window(pixels, centre, half, SIZE)
    soft = F.interpolate(F.avg_pool2d(crops, 2), scale_factor=2, mode="bilinear")
    crops = torch.lerp(crops, soft, torch.rand(BATCH, 1, 1, 1) * (torch.rand(BATCH, 1, 1, 1) < 0.4))
    crops = crops * (1 + 0.1 * (torch.rand(BATCH, 1, 1, 1) - 0.5)) + 0.015 * torch.randn_like(crops)
    return crops.clamp(0, 1), names, colours


@torch.no_grad()
def ceiling(judge: Judge, world: Archive, count: int = 250) -> dict[str, float]:
    """How often the judge is right on real objects of the first `count` scenes."""
    pairs = world.objects()
    pairs = pairs[pairs[:, 0] < count]
    masks = F.max_pool2d(world.masks(pairs)[:, None].float(), 9, 1, 4)[:, 0] > 0
    parts = zip(world.pixels(pairs[:, 0]).split(128), masks.split(128), strict=True)
    out = [judge(crops_of(p, m).to(next(judge.parameters()).device)) for p, m in parts]
    names, colours = (torch.cat(column).argmax(1).cpu() for column in zip(*out, strict=True))
    truth = world.things[pairs[:, 0], pairs[:, 1], :2]
    right = torch.stack([names == truth[:, 0], colours == truth[:, 1]], 1)
    return {"class": float(right[:, 0].float().mean()), "both": float(right.all(1).float().mean())}


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
        with autocast():
            said, painted = judge(crops)
        shown = names < NOTHING
        return F.cross_entropy(said.float(), names) + F.cross_entropy(painted.float()[shown], colours[shown])

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
