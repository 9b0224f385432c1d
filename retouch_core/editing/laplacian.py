"""Multi-band composite: fine detail changes over quickly, broad colour slowly (Burt and Adelson 1983).

Theirs lets the broad bands of the edit out over the outline. Ours blends band by band over ramps that all begin at the
outline and run inwards, the wider the broader the band, so that nothing outside changes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..tensors.extrema import chessboard_distance
from .pyramid import doubled, halved

FIRST_RAMP = 4
"""Pixels over which the second finest band changes over; each broader band takes twice as many."""
MOST_BANDS = 7
ROOM = 2
"""The widest ramp is at most this fraction (1/ROOM) of the way from the outline to the middle of the mask."""


def broad_correction(source: Tensor, edited: Tensor, mask: Tensor) -> Tensor:
    """What to add to `mask * edited + (1 - mask) * source` so that broad bands change over more slowly than fine ones.

    Args:
        source, edited: [C,H,W], finite where the mask is above 0.
        mask: [H,W] in 0..1.

    Returns:
        [C,H,W]; exactly 0 outside the mask, as deep inside as every ramp has ended, and where the pictures are equal.
    """
    held = mask > 0
    difference = torch.where(held, edited - source, torch.zeros_like(source))
    distance = torch.from_numpy(chessboard_distance(~held.cpu().numpy())).to(source)
    room = float(distance.max()) / ROOM
    height, width = mask.shape
    out = torch.zeros_like(source)
    finer, ramp = mask, FIRST_RAMP
    # Broad bands are means over the mask alone: with zeros from outside, the outline itself would count as detail.
    sums, counts = difference, held[None].to(source)
    for level in range(1, MOST_BANDS):
        if ramp > room or min(sums.shape[1:]) < 2:
            break
        sums, counts = halved(sums), halved(counts)
        broad, share = sums, counts
        for _ in range(level):
            broad, share = doubled(broad), doubled(share)
        way = (distance / (ramp + 1)).clamp(max=1)
        weight = finer.minimum(way * way * (3 - 2 * way))
        mean = (broad / share.clamp(min=1e-9))[:, :height, :width]
        out += torch.where(held, (weight - finer) * mean, 0)
        finer, ramp = weight, 2 * ramp
    return out
