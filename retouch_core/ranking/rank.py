"""Which candidate is the best: the modes of methods.md 11 and the rules of 11.5."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..models.protocols import Scorer
from ..tensors.checks import check_mask
from ..tensors.regions import mask_boxes
from .scores import (
    QUALITY_WEIGHTS,
    cma,
    iqa,
    localised,
    masked_alignment,
    quality_order,
    quality_score,
    source_cosines,
    zero_shot,
)

MODES = ("s00", "localised", "cma", "iqa", "masked", "zero_shot", "quality")
TEXT_MODES = ("s00", "localised", "cma", "masked", "zero_shot", "quality")
MASK_MODES = ("localised", "masked", "zero_shot")
NORMALISATIONS = ("minmax", "softmax", "affine")
REGIONS = ("full", "background")
GROUND = "the background"
"""What a picture shows where something was removed."""
ALPHA = 5.0
"""Weight of the distance from the source against the alignment with the text (methods.md 11.1, its eq. 7)."""


@dataclass(frozen=True)
class Ranking:
    """An order of candidates.

    Attributes:
        order: long [m], best first; ties keep the lower index first.
        scores: [m] by candidate, higher is better (in `quality` among the three best by text, which come first);
            -inf where a score was NaN.
        parts: what the scores are made of, each [m]: `cosine`, `alignment`, `distance`, `localised`, `masked`, `source`,
            `zero_shot`.
        fallback: what was done instead of what was asked for, or None.
    """

    order: Tensor
    scores: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
    fallback: str | None = None

    @property
    def best(self) -> int:
        """Index of the best candidate."""
        return int(self.order[0])


def normalise(cosines: Tensor, how: str = "minmax", beta: float = 100.0) -> Tensor:
    """Cosines [m] -> alignments [m] in 0..1; NaN stays NaN and takes no part in the others' values.

    Args:
        cosines: one per candidate.
        how: `minmax` over the candidates (all equal gives 0), `softmax` over them with multiplier `beta`,
            or `affine`, (cos + 1) / 2.
        beta: the scorer's logit scale.

    Raises:
        ValueError: an unknown way.
    """
    if how == "affine":
        return (cosines + 1) / 2
    known = ~cosines.isnan()
    if how == "softmax":
        weights = torch.softmax((beta * cosines).masked_fill(~known, -torch.inf), 0)
        return torch.where(known, weights, cosines)
    if how == "minmax":
        if not known.any():
            return cosines
        low, high = cosines[known].min(), cosines[known].max()
        return (cosines - low) / (high - low) if high > low else cosines - cosines
    raise ValueError(f"normalise must be one of {', '.join(NORMALISATIONS)}, got {how!r}; minmax is usual")


def rank(
    source: Tensor,
    candidates: Tensor,
    mask: Tensor | None,
    scorer: Scorer | None,
    text: str,
    *,
    mode: str = "s00",
    alpha: float = ALPHA,
    normalise: str = "minmax",
    region: str = "full",
    quality_weights: tuple[float, float] = QUALITY_WEIGHTS,
) -> Ranking:
    """Order candidates, best first.

    Args:
        source: IMAGE [1,H,W,3] in 0..1; candidates: [m,H,W,3].
        mask: MASK [1,H,W], 1 = edited; may be None for `cma`, `iqa`, `quality` and `s00` over the full picture.
        scorer: may be None for `iqa`.
        text: what the edit should show; "" falls back to `iqa`.
        mode: `s00` alignment minus alpha times distance; `localised` the enlarged box of the mask against the text;
            `zero_shot` what each candidate changed, the text against the scorer's rivals;
            `masked` the masked picture against the text; `cma` the whole picture against the text; `iqa` closeness;
            `quality` whole pictures against the text and the source, the winner among the three best by text.
        alpha: weight of the distance in `s00`.
        normalise: how `s00` brings cosines to 0..1: `minmax`, `softmax` or `affine`.
        region: where the distance of `s00` and `iqa` is taken: `full`, or `background` (mask 0).
        quality_weights: alpha and beta of `quality`, of the text and of the source.

    Raises:
        ValueError: unknown options, no candidates, another size than the source, a mask or scorer that is missing,
            or NaN for every candidate.
    """
    for name, value, known in (
        ("mode", mode, MODES),
        ("normalise", normalise, NORMALISATIONS),
        ("region", region, REGIONS),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}; choose one of them")
    if not len(candidates):
        raise ValueError("candidates is empty; make at least one")
    if candidates.shape[1:] != source.shape[1:]:
        raise ValueError(
            f"candidates are {list(candidates.shape[1:])} but source is {list(source.shape[1:])}; make their sizes equal"
        )
    if mask is not None:
        mask = check_mask(mask)
        if mask.shape[1:] != source.shape[1:3] or len(mask) != 1:
            raise ValueError(
                f"mask must have shape {[1, *source.shape[1:3]]}, got {list(mask.shape)}; resize it to the picture"
            )
    notes: list[str] = []
    if mode in TEXT_MODES and not text.strip():
        notes.append(f"there is no text to rank by, so {mode} became iqa")
        mode = "iqa"
    needs_mask = mode in MASK_MODES or (region == "background" and mode in ("s00", "iqa"))
    if needs_mask and mask is None:
        raise ValueError(
            f"mask is None, but mode {mode!r} with region {region!r} needs one; pass the edit's mask"
        )
    if mask is not None and mode in MASK_MODES and not torch.any(mask > 0):
        notes.append(f"the mask is empty, so {mode} became cma")
        mode = "cma"
    if mode != "iqa" and scorer is None:
        raise ValueError(f"scorer is None, but mode {mode!r} needs one; pass a scorer or use mode='iqa'")

    parts = _parts(source, candidates, mask, scorer, text, mode, normalise, region)
    if mode == "s00":
        scores = parts["alignment"] - alpha * parts["distance"]
    elif mode == "iqa":
        scores = -parts["distance"]
    elif mode == "quality":
        scores = quality_score(parts["cosine"], parts["source"], *quality_weights)
    else:
        scores = parts["cosine" if mode == "cma" else mode]

    unknown = scores.isnan()
    if unknown.all():
        raise ValueError(
            f"all {len(scores)} candidates scored NaN in mode {mode!r}; repair the step that made them"
        )
    if unknown.any():
        notes.append(f"candidates {unknown.nonzero()[:, 0].tolist()} scored NaN and rank last")
        scores = scores.masked_fill(unknown, -torch.inf)
    order = torch.sort(scores, descending=True, stable=True).indices
    if mode == "quality":
        order = quality_order(parts["cosine"], scores)
    return Ranking(order=order, scores=scores, parts=parts, fallback="; ".join(notes) or None)


def rank_removal(source: Tensor, candidates: Tensor, mask: Tensor, scorer: Scorer, text: str) -> Ranking:
    """Order candidates of a removal: first those whose enlarged box looks like ground, and not like what was there.

    The score is the localised score of `GROUND` less that of `text`. Ours: the published rankings all want a target
    text, closeness to the source would reward leaving the thing in, and unlikeness alone another thing in its place.

    Args:
        source, candidates, mask, scorer: as in `rank`.
        text: what was removed.

    Raises:
        ValueError: as `rank`.
    """
    ground = rank(source, candidates, mask, scorer, GROUND, mode="localised")
    likeness = rank(source, candidates, mask, scorer, text, mode="localised")
    scores = torch.where(likeness.scores.isneginf(), likeness.scores, ground.scores - likeness.scores)
    order = torch.sort(scores, descending=True, stable=True).indices
    return Ranking(order, scores, likeness.parts, likeness.fallback)


def _parts(
    source: Tensor,
    candidates: Tensor,
    mask: Tensor | None,
    scorer: Scorer | None,
    text: str,
    mode: str,
    how: str,
    region: str,
) -> dict[str, Tensor]:
    """What a mode needs to know, each [m]."""
    parts: dict[str, Tensor] = {}
    if mode in ("s00", "iqa"):
        parts["distance"] = iqa(source, candidates, mask if region == "background" else None)
    if scorer is not None and mode in ("s00", "cma", "quality"):
        parts["cosine"] = cma(scorer, candidates, text)
    if scorer is not None and mode == "quality":
        parts["source"] = source_cosines(scorer, candidates, source)
    if scorer is not None and mode == "s00":
        parts["alignment"] = normalise(parts["cosine"], how, scorer.logit_scale)
    if scorer is not None and mask is not None and mode == "localised":
        parts["localised"] = localised(scorer, candidates, mask_boxes(mask > 0)[0], text)
    if scorer is not None and mask is not None and mode == "masked":
        parts["masked"] = masked_alignment(scorer, candidates, mask, text)
    if scorer is not None and mask is not None and mode == "zero_shot":
        parts["zero_shot"] = zero_shot(scorer, source, candidates, mask, text)
    return parts
