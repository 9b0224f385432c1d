"""What a candidate really changed: the rest of the edited area goes back to the source, bit for bit.

An area to repaint is larger than what is drawn in it, and no network repaints bare ground exactly: without this the
area shows as a faint box. The idea is DiffEdit's (Couairon et al. 2022, section 3.2: the mask is where two predictions
differ), applied after sampling.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..tensors.convert import to_bchw
from ..tensors.extrema import window_max

LOW_SHARE = 0.4
"""A pixel also counts as changed where it differs by this share of the threshold and touches one that counts."""
GROW = 2 / 128
"""Share of the longer side by which what changed is grown, so that soft edges and shadows come along."""


def difference(edited: Tensor, before: Tensor) -> Tensor:
    """Root mean square over the channels of how much IMAGEs [m,H,W,3] and [1,H,W,3] differ, smoothed 3x3: [m,H,W]."""
    apart = F.pad(to_bchw(edited - before), (1, 1, 1, 1), mode="replicate")
    return F.avg_pool2d(apart, 3, 1).square().mean(1).sqrt()


def changed(edited: Tensor, before: Tensor, least: float) -> Tensor:
    """Where a candidate differs from the source: bool [m,H,W].

    A place counts where the difference is above `least`, or above `LOW_SHARE * least` and connected to such a place.

    Args:
        edited: IMAGE [m,H,W,3] in 0..1, as decoded.
        before: IMAGE [1,H,W,3], the source through the same autoencoder, so that its own error cancels out.
        least: difference of colour in 0..1.

    Raises:
        ValueError: `least` outside 0..1.
    """
    if not 0 <= least <= 1:
        raise ValueError(
            f"least must lie in 0..1, got {least!r}; 0.2 suits most pictures, 0 keeps everything"
        )
    from skimage.filters import apply_hysteresis_threshold

    planes = difference(edited, before).cpu().numpy()
    found = [apply_hysteresis_threshold(plane, LOW_SHARE * least, least) for plane in planes]
    return torch.from_numpy(np.stack(found)).to(edited.device)


def tightened(mask: Tensor, what: Tensor, core: Tensor) -> Tensor:
    """A composite mask that covers only what changed: MASK [m,H,W], nowhere above `mask`.

    Args:
        mask: MASK [1,H,W], the composite mask of the whole edited area.
        what: bool [m,H,W] of `changed`.
        core: MASK [1,H,W], pixels that are taken from the candidate whatever it shows: the old object, which may
            have been as good as invisible.
    """
    reach = max(1, round(GROW * max(what.shape[-2:])))
    area = window_max(what | (core > 0), reach).float()
    soft = F.avg_pool2d(F.pad(area[:, None], (1, 1, 1, 1), mode="replicate"), 3, 1)[:, 0]
    return torch.minimum(mask.to(soft), soft)
