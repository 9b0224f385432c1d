"""The last word on the pixels: outside the mask the picture is the source's, bit for bit (methods.md 8.5)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..tensors.checks import check_mask
from ..tensors.extrema import nonzero_box
from .blend import blend
from .laplacian import broad_correction
from .poisson import membrane

MODES = ("feather", "laplacian", "poisson")
"""How the edit changes over into the source, all of it inside the mask."""


def composite(source: Tensor, edited: Tensor, mask_soft: Tensor, *, mode: str = "feather") -> Tensor:
    """source * (1 - mask) + edited * mask, by selection where the mask is 0 or 1.

    `feather`: as the formula says. `laplacian`: broad bands of colour change over more slowly than fine ones, over ramps
    inside the mask. `poisson`: the edit keeps its gradients and takes the source's colour from the mask's rim, the
    outermost pixels above 0, which stay the source's; a mask that covers the whole picture has no rim and takes the edit
    as it is. Only the box around the mask is computed.

    Args:
        source: IMAGE [1,H,W,3], the original tensor (not a clamped copy).
        edited: IMAGE [m,H,W,3]; NaN in it cannot leave the mask.
        mask_soft: MASK [1,H,W] or [m,H,W]; values beyond 0..1 count as 0 and 1.
        mode: one of `MODES`.

    Returns:
        [m,H,W,3] in the dtype of `source`, equal to `source` where the mask is 0 and, with `feather`, to `edited` where
        it is 1.

    Raises:
        ValueError: shapes that do not fit together, a mask with NaN, another mode, or NaN inside the mask where
            `laplacian` or `poisson` would spread it.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}; feather is the plain one")
    for name, image in (("source", source), ("edited", edited)):
        if image.ndim != 4 or image.shape[-1] != 3:
            raise ValueError(f"{name} must have shape [B,H,W,3], got {list(image.shape)}; add the batch axis")
    mask = check_mask(mask_soft, "mask_soft")
    count = len(edited)
    if source.shape[1:] != edited.shape[1:] or mask.shape[1:] != source.shape[1:3]:
        raise ValueError(
            f"source {list(source.shape)}, edited {list(edited.shape)} and mask_soft {list(mask.shape)} "
            "must share one height and width; resize the edited picture and its mask first"
        )
    if len(source) not in (1, count) or len(mask) not in (1, count):
        raise ValueError(
            f"edited holds {count} pictures but source {len(source)} and mask_soft {len(mask)}; "
            "give one, or one for each"
        )
    out = source.expand_as(edited).clone()
    boxes = [nonzero_box(one > 0, 1) for one in mask]
    for k, into in enumerate(out):
        box = boxes[k % len(boxes)]
        if box is None:
            continue
        top, left, bottom, right = box
        window = (slice(top, bottom), slice(left, right))
        into[window] = _joined(
            source[k % len(source)][window],
            edited[k].to(source)[window],
            mask[k % len(mask)].to(source)[window],
            mode,
        )
    return out


def _joined(source: Tensor, edited: Tensor, mask: Tensor, mode: str) -> Tensor:
    """One window [h,w,3] of one picture; its border is outside the mask, or the picture's frame."""
    weight = mask[..., None]
    if mode == "feather":
        return blend(edited, source, weight)
    held = mask > 0
    if not torch.isfinite(edited[held]).all():
        raise ValueError(
            f"edited holds NaN or infinite values inside the mask, which mode {mode!r} would spread; "
            "repair the step that made it, or use feather"
        )
    # What rounding and ringing add stays within what a picture may hold.
    low = min(0.0, float(source.min()), float(edited[held].min()))
    high = max(1.0, float(source.max()), float(edited[held].max()))
    wide = torch.promote_types(source.dtype, torch.float32)
    before, after = (picture.movedim(-1, 0).to(wide) for picture in (source, edited))
    soft = mask.to(wide).clamp(0, 1)
    if mode == "laplacian":
        more = broad_correction(before, after, soft)
    else:
        rim = _rim(held)
        apart = torch.where(rim, before - after, torch.zeros_like(before))
        more = soft * membrane(apart, rim, held & ~rim)
    changed = (blend(edited.to(wide), source.to(wide), weight.to(wide)) + more.movedim(0, -1)).clamp(
        low, high
    )
    if mode == "poisson":
        held = held & ~rim
    return torch.where(held[..., None], changed.to(source), source)


def _rim(held: Tensor) -> Tensor:
    """Pixels of a bool mask [h,w] with a 4-neighbour outside it; beyond the frame nothing counts as outside."""
    rim = torch.zeros_like(held)
    rim[:, 1:] |= ~held[:, :-1]
    rim[:, :-1] |= ~held[:, 1:]
    rim[1:] |= ~held[:-1]
    rim[:-1] |= ~held[1:]
    return rim & held
