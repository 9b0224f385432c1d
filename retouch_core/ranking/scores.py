"""How good a candidate is: by text (whole frame or the edited spot) and by closeness to the source (methods.md 11)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..models.protocols import Scorer
from ..tensors.checks import check_mask, check_text
from ..tensors.frames import square_frames
from ..tensors.normalisation import CLIP_MEAN
from ..tensors.regions import mask_boxes

CHUNK = 32
"""Views that the scorer encodes at once."""
BOX_FACTOR = 1.3
"""How far a region's box is enlarged before it is judged (methods.md 11.2)."""
NORMS = ("l2", "l1_mean", "l1_sum")
SURROUNDS = (1.0, 1.15, 1.3, 1.5)
"""Sides of the squares of `zero_shot`, in longer sides of what changed: from tight past ROM's factor (chosen on tune
scenes)."""
BLACK = (0.0, 0.0, 0.0)
QUALITY_WEIGHTS = (2.0, 1.0)
"""alpha of likeness to the text and beta of likeness to the source in S01's quality score (official code)."""
QUALITY_TOP = 3
"""How many of the best by text the winner of the quality score is taken from (official code)."""


def quality_score(
    text: Tensor, image: Tensor, alpha: float = QUALITY_WEIGHTS[0], beta: float = QUALITY_WEIGHTS[1]
) -> Tensor:
    """S01's quality score [m] = alpha softmax(text) + beta softmax(image) over the candidates (methods.md 11.4).

    Args:
        text, image: plain cosines [m] of each candidate with the target text and with the source; the softmax has no
            temperature. A candidate with a NaN scores NaN and takes no part in the others' values.
    """
    known = ~(text.isnan() | image.isnan())
    if not known.any():
        return text + image
    parts = [torch.softmax(cosines.masked_fill(~known, -torch.inf), 0) for cosines in (text, image)]
    return torch.where(known, alpha * parts[0] + beta * parts[1], torch.nan)


def quality_order(text: Tensor, quality: Tensor, top: int = QUALITY_TOP) -> Tensor:
    """Order long [m], best first: the `top` candidates by text by their quality, then the rest by theirs.

    Ties keep the lower index first; a quality of -inf is last.
    """
    first = torch.zeros_like(text, dtype=torch.bool)
    told = text.masked_fill(quality.isneginf() | text.isnan(), -torch.inf)
    first[torch.sort(told, descending=True, stable=True).indices[:top]] = True
    by_quality = torch.sort(quality, descending=True, stable=True).indices
    front = first[by_quality] & ~quality[by_quality].isneginf()
    return torch.cat([by_quality[front], by_quality[~front]])


def source_cosines(scorer: Scorer, images: Tensor, source: Tensor) -> Tensor:
    """Cosine [m] of the whole pictures [m,H,W,3] with the source [1,H,W,3], both padded to squares."""
    frames = square_frames(images, scorer.image_size).split(CHUNK)
    embeddings = torch.cat([scorer.encode_images(chunk) for chunk in frames]).float()
    return embeddings @ scorer.encode_images(square_frames(source, scorer.image_size))[0].to(embeddings)


def text_cosines(scorer: Scorer, views: Tensor, text: str) -> Tensor:
    """Cosine [N] of every view [N,3,S,S] with `text`."""
    embeddings = torch.cat([scorer.encode_images(chunk) for chunk in views.split(CHUNK)]).float()
    return embeddings @ scorer.encode_texts([text])[0].to(embeddings)


def cma(scorer: Scorer, images: Tensor, text: str) -> Tensor:
    """Cross-modal alignment: cosine [m] of the whole pictures [m,H,W,3], padded to squares, with `text`.

    Raises:
        ValueError: empty text.
    """
    return text_cosines(scorer, square_frames(images, scorer.image_size), check_text(text, "text"))


def masked_alignment(scorer: Scorer, images: Tensor, mask: Tensor, text: str) -> Tensor:
    """Cosine [m] with everything outside `mask` [1,H,W] painted black, as blended diffusion ranks (methods.md 11.3)."""
    seen = torch.where(mask[..., None] > 0, images * mask[..., None], torch.zeros_like(images))
    return text_cosines(scorer, square_frames(seen, scorer.image_size, fill=BLACK), check_text(text, "text"))


def iqa(source: Tensor, candidates: Tensor, mask: Tensor | None = None, norm: str = "l2") -> Tensor:
    """Distance from the source: mean over pixels of |I - P|, [m], lower is better (methods.md 11.1).

    Args:
        source: IMAGE [1,H,W,3] in 0..1; candidates: [m,H,W,3].
        mask: where given, only pixels in which this MASK [1,H,W] is 0 count; 0 if there are none.
        norm: |.| over the channels: `l2`, `l1_mean` or `l1_sum`.

    Raises:
        ValueError: an unknown norm, or candidates of another size than the source.
    """
    if source.shape[1:] != candidates.shape[1:]:
        raise ValueError(
            f"candidates are {list(candidates.shape[1:])} but source is {list(source.shape[1:])}; make their sizes equal"
        )
    difference = candidates - source
    if norm == "l2":
        distance = difference.square().sum(-1).sqrt()
    elif norm == "l1_mean":
        distance = difference.abs().mean(-1)
    elif norm == "l1_sum":
        distance = difference.abs().sum(-1)
    else:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}; l2 is usual")
    if mask is None:
        return distance.mean((1, 2))
    counted = (check_mask(mask) == 0).expand_as(distance)
    zero = torch.zeros((), dtype=distance.dtype, device=distance.device)
    return torch.where(counted, distance, zero).sum((1, 2)) / counted.sum((1, 2)).clamp(min=1)


def spherical_distance(cosine: Tensor) -> Tensor:
    """2 asin(|u - v| / 2)^2 of unit vectors with that cosine: half the square of the angle, any shape."""
    chord = (2 - 2 * cosine.clamp(-1, 1)).sqrt()
    return 2 * torch.asin((chord / 2).clamp(max=1)) ** 2


def local_box(
    box: Sequence[float] | Tensor, size: tuple[int, int], factor: float = BOX_FACTOR
) -> tuple[float, float, float, float]:
    """A box xyxy enlarged by `factor` about its centre and cut at the border of a picture of `size` = (H, W).

    Raises:
        ValueError: a box without area.
    """
    x0, y0, x1, y1 = (float(edge) for edge in box)
    if not (x1 > x0 and y1 > y0):
        raise ValueError(
            f"box must have area, got {(x0, y0, x1, y1)}; give xyxy pixels of a region that is not empty"
        )
    grow_x, grow_y = (factor - 1) / 2 * (x1 - x0), (factor - 1) / 2 * (y1 - y0)
    height, width = size
    return max(x0 - grow_x, 0.0), max(y0 - grow_y, 0.0), min(x1 + grow_x, width), min(y1 + grow_y, height)


def box_pixels(box: Sequence[float], size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of a box: truncated to whole pixels, the end pixel included (methods.md 11.2)."""
    x0, y0, x1, y1 = (math.floor(edge) for edge in box)
    height, width = size
    return slice(y0, min(y1 + 1, height)), slice(x0, min(x1 + 1, width))


def localised(scorer: Scorer, candidates: Tensor, box: Sequence[float] | Tensor, text: str) -> Tensor:
    """How well the surroundings of `box` show `text`: the negated spherical distance [m], higher is better.

    The box xyxy is enlarged by 1.3, cut from the unmasked candidates [m,H,W,3] and squashed to the scorer's size.

    Raises:
        ValueError: empty text or a box without area.
    """
    text = check_text(text, "text")
    size = (candidates.shape[1], candidates.shape[2])
    rows, columns = box_pixels(local_box(box, size), size)
    views = square_frames(candidates[:, rows, columns], scorer.image_size, fit="squash", fill=CLIP_MEAN)
    return -spherical_distance(text_cosines(scorer, views, text))


def zero_shot(scorer: Scorer, source: Tensor, candidates: Tensor, mask: Tensor, text: str) -> Tensor:
    """Mean logarithm of the share [m] of `text` among it and the scorer's rivals, in crops around what each changed.

    Zero-shot classification (Radford et al. 2021, section 3.1) of several crops as a product of experts: what looks wrong
    in one of them ranks low. A scorer without rivals gives the mean cosine instead. Ours: a box that all candidates share
    shows how well each fills it, not what each shows.

    Args:
        scorer: its `rivals` other than `text` compete.
        source: IMAGE [1,H,W,3] in 0..1; candidates: [m,H,W,3], equal to it outside the mask.
        mask: MASK [1,H,W]; its box stands in where a candidate changed nothing.

    Raises:
        ValueError: empty text or an empty mask.
    """
    text = check_text(text, "text")
    own = (candidates != source).any(-1) & (mask > 0)
    own = torch.where(own.flatten(1).any(1)[:, None, None], own, mask > 0)
    views = torch.cat(
        [
            _around(candidate, box, factor, scorer.image_size)
            for factor in SURROUNDS
            for candidate, box in zip(candidates, mask_boxes(own), strict=True)
        ]
    )
    seen = torch.cat([scorer.encode_images(chunk) for chunk in views.split(CHUNK)]).double()
    rivals = [rival for rival in scorer.rivals if rival != text]
    cosines = seen @ scorer.encode_texts([text, *rivals]).to(seen).T
    said = (scorer.logit_scale * cosines).log_softmax(1)[:, 0] if rivals else cosines[:, 0]
    return said.view(len(SURROUNDS), len(candidates)).mean(0).float()


def _around(picture: Tensor, box: Tensor, factor: float, size: int) -> Tensor:
    """The square view [1,3,size,size] around a box xyxy of a picture [H,W,3], cut at its border and padded."""
    x0, y0, x1, y1 = box.tolist()
    half = factor * max(x1 - x0, y1 - y0) / 2
    height, width = picture.shape[:2]
    top, left = (max(0, math.floor(at - half)) for at in ((y0 + y1) / 2, (x0 + x1) / 2))
    bottom, right = min(height, math.ceil((y0 + y1) / 2 + half)), min(width, math.ceil((x0 + x1) / 2 + half))
    return square_frames(picture[None, top:bottom, left:right], size, fill=CLIP_MEAN)
