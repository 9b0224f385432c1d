"""The Inception features that FID is printed for, and only where their weights are on disk: nothing is ever downloaded.

Heusel et al. 2017 took them from a TensorFlow graph of 2015; its weights were carried over to PyTorch by pytorch-fid, whose
file this reads. It is torchvision's Inception v3 with 1008 classes whose pooling branches differ in two ways.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Identity, functional

from ..tensors.convert import to_bchw

WEIGHTS = "pt_inception-2015-12-05-6726825d.pth"
"""File of pytorch-fid's release fid_weights, in torch hub's checkpoints."""
CLASSES = 1008
SIDE = 299
"""Side in px that pictures are brought to, bilinearly and without antialiasing, as pytorch-fid does."""
NAME = "Inception features"
"""What these features are called beside a number."""
EVEN = ("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7b")
"""Blocks whose averages leave the padding out; the last block, Mixed_7c, takes the maximum instead."""
CHUNK = 16
"""Pictures that go through at once."""


def inception_file() -> Path:
    """Where the weights are looked for; the file need not exist."""
    return Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS


class InceptionFeatures:
    """IMAGE [N,H,W,3] in 0..1 -> pooled features float32 [N,2048] on the CPU."""

    name = NAME

    def __init__(self, network: Any) -> None:
        """`network` is what `load_inception` gives."""
        self.network = network

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        weight = next(self.network.parameters())
        found = []
        for chunk in images.split(CHUNK):
            pixels = to_bchw(chunk).clamp(0, 1).to(weight)
            views = functional.interpolate(pixels, (SIDE, SIDE), mode="bilinear", align_corners=False)
            found.append(self.network(2 * views - 1).float().cpu())
        return torch.cat(found)


def load_inception(path: Path | None = None) -> InceptionFeatures:
    """The network with its weights, read with `weights_only`.

    Raises:
        FileNotFoundError: they are not on disk.
        ValueError: the file holds something else.
    """
    path = path or inception_file()
    if not path.is_file():
        raise FileNotFoundError(
            f"FID over Inception features needs {path}, which is not there; put pytorch-fid's file of that name there"
        )
    from torchvision.models.inception import Inception3

    network = Inception3(num_classes=CLASSES, aux_logits=False, transform_input=False, init_weights=False)
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} does not hold pytorch-fid's Inception ({reason}); get it again") from error
    for name in EVEN:
        _pool_by(getattr(network, name), _even_mean)
    _pool_by(network.Mixed_7c, _maximum)
    network.fc = Identity()
    return InceptionFeatures(network.eval().requires_grad_(False))


def _pool_by(block: Any, pool: Callable[[Tensor], Tensor]) -> None:
    """Let the pooling branch of a block, the last of its outputs, pool by `pool`."""
    branches = block._forward

    def forward(x: Tensor) -> list[Tensor]:
        return [*branches(x)[:-1], block.branch_pool(pool(x))]

    block._forward = forward


def _even_mean(x: Tensor) -> Tensor:
    return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _maximum(x: Tensor) -> Tensor:
    return functional.max_pool2d(x, 3, stride=1, padding=1)
