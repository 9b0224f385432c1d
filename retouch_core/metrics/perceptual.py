"""LPIPS (Zhang et al. 2018), and only where its own weights are on disk: nothing is ever downloaded for it."""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..tensors.convert import to_bchw

BACKBONES = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}
"""Files of torchvision's ImageNet weights that the networks were fitted on (AlexNet, VGG16 and SqueezeNet1_1, V1)."""
LINEAR_VERSION = "v0.1"


def backbone_file(net: str) -> Path:
    """Where torch hub keeps the backbone `net`; the file need not exist."""
    if net not in BACKBONES:
        raise ValueError(
            f"net must be one of {', '.join(BACKBONES)}, got {net!r}; each gives numbers of its own"
        )
    return Path(torch.hub.get_dir()) / "checkpoints" / BACKBONES[net]


def load_lpips(net: str = "vgg", file: Path | None = None) -> Any:
    """The network `lpips.LPIPS(net=net)` with its backbone and linear weights, read with `weights_only`.

    Args:
        file: the backbone's weights; None takes them from where torch hub keeps them.

    Raises:
        ValueError: an unknown net, or a file of another network.
        FileNotFoundError: the backbone's weights are not on disk.
    """
    backbone = backbone_file(net) if file is None else file
    if not backbone.is_file():
        raise FileNotFoundError(
            f"LPIPS ({net}) needs {backbone}, which is not there; put torchvision's {BACKBONES[net]} there"
        )
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips calls torchvision by its old names
        network = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
    linear = Path(lpips.__file__).parent / "weights" / LINEAR_VERSION / f"{net}.pth"
    network.load_state_dict(torch.load(linear, map_location="cpu", weights_only=True), strict=False)
    trunk = {re.sub(r"^slice\d+", "features", name): name for name in network.net.state_dict()}
    try:
        stored = torch.load(backbone, map_location="cpu", weights_only=True)
        network.net.load_state_dict({name: stored[source] for source, name in trunk.items()})
    except (KeyError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{backbone} does not hold the backbone of LPIPS ({net}), which is torchvision's {BACKBONES[net]}; "
            "copy or download that file again"
        ) from error
    return network.eval().requires_grad_(False)


@torch.no_grad()
def lpips_distance(a: Tensor, b: Tensor, net: str = "vgg", *, network: Any = None) -> Tensor:
    """LPIPS [B] of IMAGE batches in 0..1; 0 for equal pictures, lower is better.

    Args:
        a, b: [B,H,W,3], or one of them [1,H,W,3].
        net: backbone, `vgg`, `alex` or `squeeze`; state which one with the number.
        network: what `load_lpips` gave, to load it once for many calls.

    Raises:
        ValueError: an unknown net, or shapes that do not fit together.
        FileNotFoundError: the backbone's weights are not on disk; they are never downloaded.
    """
    if a.shape[1:] != b.shape[1:] or (len(a) != len(b) and 1 not in (len(a), len(b))):
        raise ValueError(f"a is {list(a.shape)} but b is {list(b.shape)}; compare pictures of one size")
    network = network or load_lpips(net)
    count = max(len(a), len(b))
    first, second = (to_bchw(image).float().expand(count, *to_bchw(image).shape[1:]) for image in (a, b))
    return network(first, second, normalize=True).flatten()
