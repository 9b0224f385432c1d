"""Half and double size of [C,H,W], each the other's transpose up to a factor; pixels are squares, nothing shifts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TAPS = (1.0, 3.0, 3.0, 1.0)
"""What linear interpolation to double size spreads a cell over, in quarters."""


def halved(x: Tensor) -> Tensor:
    """[C,H,W] -> [C,ceil(H/2),ceil(W/2)]: weighted means; at the frame the outermost pixels are repeated."""
    height, width = x.shape[-2:]
    taps = torch.tensor(TAPS, dtype=x.dtype, device=x.device) / sum(TAPS)
    padded = F.pad(x[:, None], (1, 1 + width % 2, 1, 1 + height % 2), mode="replicate")
    across = F.conv2d(padded, taps.view(1, 1, 1, -1), stride=(1, 2))
    return F.conv2d(across, taps.view(1, 1, -1, 1), stride=(2, 1))[:, 0]


def doubled(x: Tensor) -> Tensor:
    """[C,H,W] -> [C,2H,2W] by linear interpolation."""
    return F.interpolate(x[None], scale_factor=2, mode="bilinear", align_corners=False)[0]
