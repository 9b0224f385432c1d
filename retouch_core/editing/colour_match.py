"""Taking back a shift of colour that an edit gave to the whole picture, read from the ring around the region."""

from __future__ import annotations

import torch
from torch import Tensor

from ..tensors.checks import check_mask
from ..tensors.extrema import nonzero_box, window_max
from .pyramid import doubled, halved

COLOUR_MATCHES = ("none", "shift", "contrast", "local")
"""`shift`: one offset per channel. `contrast`: spread and offset per channel. `local`: an offset per channel that varies
slowly from place to place."""

RING_PX = 16
"""Width of the ring around the mask on which colours are compared."""
FEWEST_PX = 64
"""Pixels of the ring below which nothing is concluded from it."""
TRIMMED = 0.1
"""Share of the ring's pixels left out at either end of the differences: a thing that the edit added there does not count."""
LOCAL_LEVEL = 3
"""Halvings after which local offsets are read: cells of 8 px, so that no detail of the source gets into them."""
MOST_HALVINGS = 20
LOCAL_PULL = 0.05
"""Share of a cell that the ring must hold to count as much as what broader cells say."""
GAIN = (0.8, 1.25)
"""How far spreads may be brought together: more than that is another content, not another colour."""


def match_colours(
    source: Tensor, edited: Tensor, mask: Tensor, kind: str = "shift", *, ring_px: int = RING_PX
) -> tuple[Tensor, list[str]]:
    """Bring the colours of `edited` to the source's, by what both show on the ring just outside the mask.

    That is right for models that return the whole picture, and change all of it a little.

    Args:
        source: IMAGE [1,H,W,3] or [m,H,W,3].
        edited: IMAGE [m,H,W,3]; values that are not finite are left out of the comparison.
        mask: MASK [1,H,W] or [m,H,W], above 0 where the edit may show.
        kind: one of `COLOUR_MATCHES`.
        ring_px: width of the ring.

    Returns:
        The matched pictures, and a sentence for each picture about what was done.

    Raises:
        ValueError: another kind, or a ring below one pixel.
    """
    if kind not in COLOUR_MATCHES:
        raise ValueError(
            f"colour_match must be one of {', '.join(COLOUR_MATCHES)}, got {kind!r}; choose one of them"
        )
    if ring_px < 1:
        raise ValueError(f"ring_px must be at least 1, got {ring_px!r}; {RING_PX} is usual")
    if kind == "none":
        return edited, []
    mask = check_mask(mask)
    out, notes = edited.clone(), []
    for k, into in enumerate(out):
        before = source[k % len(source)].to(into)
        held = mask[k % len(mask)] > 0
        box = nonzero_box(held, ring_px)
        if box is None:
            continue
        top, left, bottom, right = box
        window = (slice(top, bottom), slice(left, right))
        inner = held[window]
        ring = window_max(inner[None], ring_px)[0] & ~inner
        ring = ring.to(into.device) & torch.isfinite(into[window]).all(-1)
        if int(ring.sum()) < FEWEST_PX:
            notes.append(
                f"colours were not matched: the mask leaves {int(ring.sum())} px around it to compare"
            )
            continue
        if kind == "local":
            apart = torch.where(ring[..., None], before[window] - into[window], 0).movedim(-1, 0)
            field = _local_offset(apart.float(), ring).movedim(0, -1).to(into)
            into[window] += field
            largest = float(field[inner].abs().max())
            notes.append(
                f"colours were moved from place to place, by {255 * largest:.1f} levels of 255 at most"
            )
            continue
        theirs, ours = (picture[window][ring].cpu().double() for picture in (into, before))
        gain = torch.ones_like(ours[0])
        if kind == "contrast":
            gain = (_spread(ours) / _spread(theirs).clamp(min=1e-6)).clamp(*GAIN)
        offset = _trimmed_mean(ours - theirs * gain)
        into.copy_(into * gain.to(into) + offset.to(into))
        told = ", ".join(f"{255 * value:+.1f}" for value in offset.tolist())
        said = f"colours were moved by {told} levels of 255 (red, green, blue)"
        if kind == "contrast":
            said += " and their spread by " + ", ".join(f"{value:.3f}" for value in gain.tolist())
        notes.append(said)
    return out, notes


def _local_offset(apart: Tensor, ring: Tensor) -> Tensor:
    """Means of `apart` [C,h,w] over cells of the ring, carried on smoothly to where there is no ring: [C,h,w]."""
    sums, counts = apart, ring[None].to(apart)
    levels = []
    for level in range(MOST_HALVINGS):
        if level >= LOCAL_LEVEL:
            levels.append((sums, counts))
        if max(sums.shape[1:]) == 1:
            break
        sums, counts = halved(sums), halved(counts)
    levels = levels or [(sums, counts)]
    sums, counts = levels[-1]
    field = sums / counts.clamp(min=1e-9)
    for sums, counts in reversed(levels[:-1]):
        height, width = sums.shape[1:]
        field = (sums + LOCAL_PULL * doubled(field)[:, :height, :width]) / (counts + LOCAL_PULL)
    while min(field.shape[1] - apart.shape[1], field.shape[2] - apart.shape[2]) < 0:
        field = doubled(field)
    return field[:, : apart.shape[1], : apart.shape[2]]


def _trimmed_mean(values: Tensor) -> Tensor:
    """Mean [3] of [N,3] without the lowest and highest."""
    cut = int(TRIMMED * len(values))
    return values.sort(0).values[cut : len(values) - cut].mean(0)


def _spread(values: Tensor) -> Tensor:
    """Median distance [3] from the median of [N,3]."""
    return (values - values.median(0).values).abs().median(0).values
