"""What a candidate really changed: the rest of the edited area goes back to the source, bit for bit.

An area to repaint is larger than what is drawn in it, and no network repaints bare ground exactly: without this the
area shows as a faint box. The idea is DiffEdit's (Couairon et al. 2022, section 3.2: the mask is where two predictions
differ), applied after sampling. What an autoencoder loses of the source is known as well, so it is given back where the
candidate still shows the source.
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
DETAIL_SHARE = 0.2
"""Share of the threshold from which on nothing of the source's detail is given back: near an old outline the autoencoder's
error is of that outline, and a candidate without it differs by a few levels there (chosen on tune scenes)."""
GROW = 2 / 128
"""Share of the longer side by which what changed is grown, so that soft edges and shadows come along."""


def difference(edited: Tensor, before: Tensor) -> Tensor:
    """Root mean square over the channels of how much IMAGEs [m,H,W,3] and [1|m,H,W,3] differ, smoothed 3x3: [m,H,W]."""
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


def detailed(edited: Tensor, before: Tensor, source: Tensor, least: float) -> Tensor:
    """Candidates with the autoencoder's own error taken back where they show what the source shows.

    edited + w (source - before), where w falls from 1 at no difference to `before` to 0 at `DETAIL_SHARE * least`: a
    candidate that changed nothing becomes the source, and what is new stays as it was painted. Nothing leaves 0..1 that
    was in it before.

    Args:
        edited: IMAGE [m,H,W,3], as decoded; what is not finite in it stays.
        before: IMAGE [1,H,W,3] or [m,H,W,3], the source through the same autoencoder.
        source: IMAGE of the shape of `before`, the source itself.
        least: difference of colour in 0..1, as for `changed`; 0 takes nothing back.
    """
    if not least:
        return edited
    weight = (1 - difference(edited, before) / (DETAIL_SHARE * least)).clamp(0, 1)[..., None]
    most, fewest = torch.maximum(edited, source).clamp(min=1), torch.minimum(edited, source).clamp(max=0)
    given_back = (edited + weight * (source - before)).minimum(most).maximum(fewest)
    return torch.where(weight > 0, given_back, edited)


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
