"""The last word on the pixels: outside the mask the picture is the source's, bit for bit (methods.md 8.5)."""

from __future__ import annotations

from torch import Tensor

from ..tensors.checks import check_mask
from .blend import blend


def composite(source: Tensor, edited: Tensor, mask_soft: Tensor) -> Tensor:
    """source * (1 - mask) + edited * mask, by selection where the mask is 0 or 1.

    Args:
        source: IMAGE [1,H,W,3], the original tensor (not a clamped copy).
        edited: IMAGE [m,H,W,3]; NaN in it cannot leave the mask.
        mask_soft: MASK [1,H,W] or [m,H,W]; values beyond 0..1 count as 0 and 1.

    Returns:
        [m,H,W,3] in the dtype of `source`, equal to `source` where the mask is 0 and to `edited` where it is 1.

    Raises:
        ValueError: shapes that do not fit together, or a mask with NaN.
    """
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
    target = source.expand_as(edited)
    return blend(edited.to(source), target, mask.to(source)[..., None])
