"""What is measured of one pair, and of all of them together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..metrics.background import background_max_error, edited_area, mask_iou
from ..metrics.clip_score import clip_score
from ..metrics.distribution import SCORER_FEATURES, scorer_features
from ..metrics.feature_distance import LpipsDistance, ScorerDistance, perceptual_distance
from ..metrics.fidelity import mse, psnr, ssim
from ..metrics.inception import inception_file, load_inception
from ..models.protocols import Scorer
from ..ranking.rank import rank
from ..result import Result
from ..tensors.convert import to_diffusion
from .masks import framed

EQUAL_PSNR = 100.0
"""What stands for the infinite PSNR of equal pictures, in dB, so that a mean can be taken (methods.md 12)."""

CHOICES = ("recipe", "first", "cma", "iqa", "cma+iqa")
"""Ways to choose among the candidates: as the recipe ranks them, the first one, and S00's Table 1 (its eq. 5 to 7)."""
MODES = {"cma": "cma", "iqa": "iqa", "cma+iqa": "s00"}
"""Choices of S00's Table 1 -> modes of `ranking.rank`."""


@dataclass(frozen=True)
class Gauges:
    """The networks that measure.

    Attributes:
        judge: gives the CLIP score.
        perceptual: LPIPS, or what stands in for it; its `name` says which.
        features: IMAGE [N,H,W,3] -> features [N,D] for FID and SFID; features_name: what they are called.
        device: where the perceptual distance is taken.
    """

    judge: Scorer
    perceptual: LpipsDistance | ScorerDistance
    features: Callable[[Tensor], Tensor]
    features_name: str
    device: str = "cpu"

    @property
    def is_lpips(self) -> bool:
        return isinstance(self.perceptual, LpipsDistance)

    @classmethod
    def of(cls, judge: Scorer, net: str = "vgg", device: str | None = None) -> Gauges:
        """LPIPS with the backbone `net`, and FID over Inception features, each where its weights are on disk; else the
        judge's own features.

        Raises:
            ValueError: an unknown net.
        """
        perceptual = perceptual_distance(judge, net)
        if isinstance(perceptual, LpipsDistance):
            perceptual.network.to(device or "cpu")
        place = device or "cpu"
        if inception_file().is_file():
            inception = load_inception()
            inception.network.to(place)
            return cls(judge, perceptual, inception, inception.name, place)

        def features(images: Tensor) -> Tensor:
            return scorer_features(images, judge)

        return cls(judge, perceptual, features, SCORER_FEATURES, place)


@dataclass(frozen=True)
class Measured:
    """One pair: plain values by choice, and the features of the source [D] and of the results [choices,D]."""

    values: dict[str, Any]
    source_features: Tensor
    result_features: Tensor


def chosen(result: Result, choice: str, scorer: Scorer, prompt: str, alpha: float) -> int:
    """Index of the candidate that a choice of `CHOICES` takes; 0 where there is none.

    `cma`, `iqa` and `cma+iqa` are S00's over the whole picture, whatever the recipe ranks by.
    """
    if choice == "recipe" or not len(result):
        return result.best
    if choice == "first":
        return 0
    return rank(
        result.source.clamp(0, 1),
        result.candidates.clamp(0, 1),
        None,
        scorer,
        prompt,
        mode=MODES[choice],
        alpha=alpha,
        region="full",
    ).best


@torch.no_grad()
def measure(
    result: Result,
    prompt: str,
    wanted: Tensor | None,
    choices: tuple[str, ...],
    gauges: Gauges,
    scorer: Scorer,
    alpha: float,
    searched: bool = True,
    frame: bool = False,
) -> Measured:
    """Everything that is measured of one retouch.

    Args:
        result: of the library.
        prompt: what was asked for, "" for a removal, which has no CLIP score.
        wanted: the list's mask, bool [H,W], or None.
        choices: of `CHOICES`.
        gauges: what measures; scorer: what the choices rank with; alpha: weight of S00's distance.
        searched: whether the region was looked for, so that its overlap with `wanted` says something.
        frame: whether the picture's outermost pixels are no background (`masks.framed`).
    """
    source = result.source
    taken = {choice: chosen(result, choice, scorer, prompt, alpha) for choice in choices}
    inside = framed(wanted) if wanted is not None and frame else wanted
    pictures = {k: result.candidate(k)[None] if len(result) else result.image for k in set(taken.values())}
    once = {k: _of_picture(source, made, prompt, result.mask, inside, gauges) for k, made in pictures.items()}
    iou = None
    if wanted is not None and searched:
        iou = float(mask_iou(result.regions.select(result.selected).union(), wanted[None]))
    values: dict[str, Any] = {
        "found": result.report.found,
        "area": float(edited_area(result.mask)),
        "region_iou": iou,
        "choices": {choice: {"candidate": k, **once[k]} for choice, k in taken.items()},
    }
    features = gauges.features(torch.cat([source, *(pictures[taken[choice]] for choice in choices)]))
    return Measured(values, features[0], features[1:])


def _of_picture(
    source: Tensor, made: Tensor, prompt: str, own: Tensor, wanted: Tensor | None, gauges: Gauges
) -> dict[str, Any]:
    values: dict[str, float | None] = {
        "ssim": float(ssim(source, made)),
        "psnr": min(float(psnr(source, made)), EQUAL_PSNR),
        "mse": float(mse(source, made)),
        "perceptual": apart(source, made, gauges),
        "clip": float(clip_score(made, prompt, gauges.judge)) if prompt else None,
        "background_own": background_distance(source, made, own[0] > 0, gauges),
        "background_listed": None if wanted is None else background_distance(source, made, wanted, gauges),
    }
    # A broken candidate that another choice passes over has no numbers, rather than ones that spoil every mean.
    finite = {
        name: value if value is None or math.isfinite(value) else None for name, value in values.items()
    }
    return {**finite, "kept": bool(background_max_error(source, made, own) == 0)}


def apart(a: Tensor, b: Tensor, gauges: Gauges) -> float:
    """The perceptual distance of two pictures [1,H,W,3]."""
    if torch.equal(a, b):
        return 0.0
    first, second = (to_diffusion(image.clamp(0, 1)).to(gauges.device) for image in (a, b))
    return float(gauges.perceptual.against(first)(second))


def background_distance(source: Tensor, made: Tensor, mask: Tensor, gauges: Gauges) -> float | None:
    """The perceptual distance of two pictures that are black where `mask` bool [H,W] is True, as PIE-Bench takes it and
    S02's Table 2 may; None where nothing lies outside."""
    if mask.all():
        return None
    outside = (~mask).to(source)[..., None]
    return apart(source * outside, made * outside, gauges)
