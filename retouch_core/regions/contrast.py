"""Where two prompts would change a picture: the noise-contrast mask (methods.md 13; DiffEdit, Couairon et al. 2023, step 1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tensors.checks import check_image
from .heat import HeatFound, parts
from .morphology import gaussian_blur
from .search import spans_frame

RATIO = 3.0
"""The map is cut at this multiple of its mean (diffusers: mask_thresholding_ratio)."""

CUT = 0.5
"""Share of that multiple above which a cell belongs to the mask; the value itself is off."""

SAME = 1e-5
"""Predictions that differ by less than this share of themselves differ by rounding only (float32 through a network)."""

BLUR = 1.0
"""Sigma in cells of the blur before the cut: one draw's speckles are smaller than that (our choice; DiffEdit has none)."""


@dataclass(frozen=True)
class Contrast:
    """A noise-contrast mask in cells of the latent.

    Attributes:
        heat: MASK [1,h,w] in 0..1.
        mask: bool [1,h,w]; empty where both prompts say the same.
        mean: mean difference before anything was normalised, in units of the prediction.
    """

    heat: Tensor
    mask: Tensor
    mean: float


def difference(referring: Tensor, target: Tensor) -> Tensor:
    """Mean over draws and channels of |target - referring|: predictions [n,C,(T,)h,w] of one picture -> float64 [h,w].

    Noise, velocity and denoised estimate at one level give the same map up to a factor, which `contrast` does not see;
    so does guidance of both against one empty prompt, which multiplies the difference by its scale. Predictions that
    are alike but for rounding (`SAME`) give exactly 0.

    Raises:
        ValueError: shapes that differ or mean nothing, no draw, NaN or Inf.
    """
    if referring.shape != target.shape or referring.ndim < 4 or not referring.numel():
        raise ValueError(
            f"referring {list(referring.shape)} and target {list(target.shape)} must both be [n,C,h,w] with n of at least 1; "
            "make them from the same draws"
        )
    gap = (target.detach().double() - referring.detach().double()).abs().cpu()
    if not torch.isfinite(gap).all():
        raise ValueError("referring or target holds NaN or infinite values; run the model in float32")
    if float(gap.mean()) <= SAME * float(target.detach().double().abs().mean()):
        gap = torch.zeros_like(gap)
    return gap.flatten(0, -3).mean(0)


def contrast(gap: Tensor, *, ratio: float = RATIO, blur: float = BLUR) -> Contrast:
    """The mask of a map of differences [h,w] of at least 0, of one picture.

    The map is cut at `ratio` times its own mean, divided by that, blurred, and kept above 1/2: without blur, cells with
    more than ratio/2 times the mean. A map of one value keeps nothing at the usual ratio, and neither does a map of 0.

    Args:
        ratio: above 0; below 2 the mask may be everything.
        blur: sigma in cells, 0 for none.

    Raises:
        ValueError: a ratio of 0 or less, a negative blur, or a map that is none.
    """
    check_contrast(ratio, blur)
    if gap.ndim != 2 or not gap.numel() or not torch.isfinite(gap).all() or float(gap.min()) < 0:
        raise ValueError(
            f"gap must be a map [h,w] of finite values of at least 0, got {list(gap.shape)}; use difference"
        )
    values = gap.double()
    mean = float(values.mean())
    if mean == 0:
        nothing = torch.zeros_like(values, dtype=torch.float32)[None]
        return Contrast(nothing, nothing > 0, 0.0)
    cut = mean * ratio
    heat = values.clamp(max=cut)[None] / cut
    if blur:
        heat = gaussian_blur(heat, blur, max(1, math.ceil(3 * blur)))
    # Where every cell has the same value the division leaves rounding; float32 hides it.
    heat = heat.float()
    return Contrast(heat, heat > CUT, mean)


def check_contrast(ratio: float, blur: float) -> None:
    """Raise ValueError for numbers that mean nothing."""
    if not (math.isfinite(ratio) and ratio > 0):
        raise ValueError(
            f"ratio must be a number above 0, got {ratio!r}; {RATIO:g} is usual, more keeps less"
        )
    if not (math.isfinite(blur) and blur >= 0):
        raise ValueError(f"blur must be a number of at least 0, got {blur!r}; {BLUR:g} cell is usual")


def in_pixels(made: Contrast, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Heat MASK [1,H,W], bilinear, and mask bool [1,H,W], every cell a block, at `size` = (H, W) in pixels."""
    heat = F.interpolate(made.heat[None], size=size, mode="bilinear")[0].clamp(0, 1)
    mask = F.interpolate(made.mask[None].float(), size=size, mode="nearest")[0] > CUT
    return heat, mask


def find_contrast(
    image: Tensor,
    query: str,
    referring: Tensor,
    target: Tensor,
    *,
    ratio: float = RATIO,
    blur: float = BLUR,
    canvas: tuple[int, int] | None = None,
    back: Callable[[Tensor], Tensor] | None = None,
    grow: Callable[[Tensor], Tensor] | None = None,
) -> HeatFound:
    """What of IMAGE [1,H,W,3] two prompts would change, as a search result.

    Args:
        query: the words for what is there now, for messages.
        referring, target: predictions [n,C,h,w] of the same draws.
        canvas: (h, w) in pixels that the latents cover, where that is not the picture itself.
        back: MASK [1,h,w] of that canvas -> [1,H,W] of the picture; None cuts off what lies beyond it.
        grow: what happens to the mask bool [1,H,W] before it becomes regions, such as a dilation.
    """
    image = check_image(image, batch=1)
    height, width = image.shape[1:3]
    made = contrast(difference(referring, target), ratio=ratio, blur=blur)
    heat, mask = in_pixels(made, canvas or (height, width))
    if back is not None:
        heat, mask = back(heat), back(mask.float()) > CUT
    heat, mask = heat[:, :height, :width], mask[:, :height, :width]
    if grow is not None:
        mask = grow(mask) > 0
    regions = parts(mask[0], heat[0], image)
    regions = regions.traced(
        "contrast",
        query=query,
        ratio=ratio,
        blur=blur,
        draws=len(referring),
        mean=made.mean,
        area=int(mask.sum()),
    )
    present = bool(mask.any())
    return HeatFound(
        regions,
        torch.ones(len(regions), dtype=torch.bool),
        present,
        query,
        None,
        "" if present else nothing(made.mean),
        is_ground=bool(spans_frame(mask).any()),
        heat=heat,
    )


def nothing(mean: float) -> str:
    """Why a noise-contrast mask is empty, in a sentence."""
    if mean == 0:
        return "Both prompts predict the same, so nothing would change; describe what is there and what shall be there."
    return (
        f"The two prompts differ by {mean:.3g} everywhere alike, so no part of the picture stands out; lower ratio, "
        "or name the thing more plainly."
    )
