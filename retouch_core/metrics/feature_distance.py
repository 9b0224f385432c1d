"""A perceptual distance for guidance: LPIPS where its weights are on disk, else the scorer's own features.

The stand-in is no LPIPS and never called so: wherever a number of it is shown, `name` says what it is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..models.differentiable import lent
from ..models.pretrained.lookup import Folders, candidates
from ..models.protocols import Scorer
from .perceptual import BACKBONES, backbone_file, load_lpips

FEATURES = "scorer features"
"""Name of the stand-in over the tokens of a scorer's image tower."""
DEPTH = 0.5
"""Share of the layers that the stand-in looks at: what comes later says what a thing is, not how it looks."""
EMBEDDING = "scorer embedding"
"""Name of the stand-in over a scorer that shows nothing but its embedding."""


LEAST_SIDE = 64
"""Pixels on the shorter side that LPIPS is taken at: the side of the patches that its weights were fitted on (Zhang et al.
2018, section 3.1). Smaller ones, which its backbones refuse or hardly see, are enlarged."""


class LpipsDistance:
    """LPIPS (Zhang et al. 2018) with the backbone `net`; `network` is what `load_lpips` gives.

    Pixels may lie anywhere: they are brought to where the network is, and distances come back to where the pixels are.
    """

    def __init__(self, net: str = "vgg", network: Any = None) -> None:
        self.name = f"LPIPS ({net})"
        if network is None:
            with torch.inference_mode(False):
                network = load_lpips(net)
        self.network = network

    def against(self, reference: Tensor) -> Callable[[Tensor], Tensor]:
        """Pixels [1,3,H,W] or [B,3,H,W] in -1..1 -> a differentiable function of pixels [B,3,H,W] that gives [B]."""
        fixed = self._seen(reference.detach())

        def distance(pixels: Tensor) -> Tensor:
            with lent(self.network):
                out: Tensor = self.network(self._seen(pixels), fixed.expand(len(pixels), -1, -1, -1))
            return out.flatten(1).mean(1).to(pixels.device)

        return distance

    def _seen(self, pixels: Tensor) -> Tensor:
        """Pixels [B,3,H,W] where the network is, in float32 and large enough for it."""
        weight = (
            next(iter(self.network.parameters()), pixels) if hasattr(self.network, "parameters") else pixels
        )
        pixels = pixels.to(weight.device, torch.float32)
        height, width = pixels.shape[-2:]
        scale = LEAST_SIDE / min(height, width)
        if scale <= 1:
            return pixels
        size = (round(height * scale), round(width * scale))
        return functional.interpolate(pixels, size, mode="bilinear", align_corners=False)


class ScorerDistance:
    """How far apart a scorer sees two pictures: the recipe of LPIPS over the patch tokens of its image tower.

    Tokens of the first half of the layers are brought to unit length, squared differences are summed over their channels
    and averaged over patches and layers; no weights are fitted, so its numbers compare with nobody's LPIPS. A scorer without
    `features` gives the squared distance of two embeddings instead.
    """

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.name = FEATURES if hasattr(scorer, "features") else EMBEDDING

    def against(self, reference: Tensor) -> Callable[[Tensor], Tensor]:
        """Pixels [1,3,H,W] or [B,3,H,W] in -1..1 -> a differentiable function of pixels [B,3,H,W] that gives [B]."""
        fixed = [tokens.detach() for tokens in self._tokens(reference)]

        def distance(pixels: Tensor) -> Tensor:
            layers = [
                (mine - other).square().sum(-1).mean(-1)
                for mine, other in zip(self._tokens(pixels), fixed, strict=True)
            ]
            return torch.stack(layers).mean(0)

        return distance

    def _tokens(self, pixels: Tensor) -> list[Tensor]:
        """Unit tokens [B,P,D] of each layer."""
        size = self.scorer.image_size
        views = (functional.interpolate(pixels, (size, size), mode="bilinear", antialias=True) + 1) / 2
        features = getattr(self.scorer, "features", None)
        layers = [self.scorer.encode_images(views)[:, None]] if features is None else features(views, DEPTH)
        return [functional.normalize(tokens, dim=-1) for tokens in layers]


def lpips_of(file: Path) -> LpipsDistance:
    """LPIPS with the backbone in a file, which is told by its name.

    Raises:
        ValueError: a file of another name, or one that does not hold what its name says.
        FileNotFoundError: no such file.
    """
    for net, name in BACKBONES.items():
        if file.name == name:
            with torch.inference_mode(False):
                return LpipsDistance(net, load_lpips(net, file))
    raise ValueError(f"{file} is no backbone of LPIPS; choose a file called {', '.join(BACKBONES.values())}")


def perceptual_distance(
    scorer: Scorer, net: str = "vgg", folders: Folders | None = None
) -> LpipsDistance | ScorerDistance:
    """LPIPS with `net` where its backbone's weights are on disk, else the scorer's; nothing is ever downloaded.

    Args:
        folders: a host's own folders of models; the library's where None (`lookup.model_folders`).

    Raises:
        ValueError: an unknown net.
    """
    if backbone_file(net).is_file():
        return LpipsDistance(net)
    for one in candidates("perceptual", "lpips", folders):
        if one.path.name == BACKBONES[net]:
            return lpips_of(one.path)
    return ScorerDistance(scorer)
