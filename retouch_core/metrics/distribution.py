"""How far apart two sets of pictures are: Fréchet distances between normal fits to their features (methods.md 12).

FID is printed for 2048 features of an Inception network. With other features the number is another number, so it is
always named by its features: "FID (scorer features)".
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ..models.protocols import Scorer
from ..tensors.checks import InputWarning
from ..tensors.frames import square_frames

SCORER_FEATURES = "scorer features"
"""What features of `scorer_features` are called beside a number."""
CHUNK = 32
"""Pictures that the scorer encodes at once."""


def scorer_features(images: Tensor, scorer: Scorer) -> Tensor:
    """Unit embeddings float32 [N,D] of IMAGE [N,H,W,3], padded to squares: features that need no download."""
    views = square_frames(images, scorer.image_size)
    return torch.cat([scorer.encode_images(chunk) for chunk in views.split(CHUNK)]).float()


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [D] and covariance [D,D] (unbiased) of features [N,D], float64.

    Raises:
        ValueError: not two rows of finite numbers.
    """
    if features.ndim != 2 or len(features) < 2 or not features.shape[1]:
        raise ValueError(
            f"features must have shape [N,D] with N of at least 2, got {list(features.shape)}; give more pictures"
        )
    if not torch.isfinite(features).all():
        raise ValueError("features hold NaN or infinite values; repair the pictures or the extractor")
    values = features.detach().cpu().double()
    mean = values.mean(0)
    centred = values - mean
    return mean, centred.T @ centred / (len(values) - 1)


def frechet(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> Tensor:
    """|ma - mb|^2 + trace(A + B - 2 (A B)^(1/2)), the distance of two normal distributions, float64 scalar.

    Args:
        mean_a, mean_b: [D]; cov_a, cov_b: [D,D], symmetric and positive semidefinite, or [D] for diagonal ones, given
            as variances.

    Raises:
        ValueError: shapes that do not fit together, or variances below 0.
    """
    mean_a, cov_a, mean_b, cov_b = (t.detach().cpu().double() for t in (mean_a, cov_a, mean_b, cov_b))
    if mean_a.ndim != 1 or mean_a.shape != mean_b.shape or cov_a.shape != cov_b.shape:
        raise ValueError(
            f"moments have shapes {[list(t.shape) for t in (mean_a, cov_a, mean_b, cov_b)]}; "
            "both sets must have the same features"
        )
    if cov_a.shape[0] != len(mean_a) or cov_a.ndim > 2 or cov_a.shape[-1] != len(mean_a):
        raise ValueError(
            f"covariances are {list(cov_a.shape)} for {len(mean_a)} features; give [D,D], or [D] for diagonal ones"
        )
    apart = (mean_a - mean_b).square().sum()
    if cov_a.ndim == 1:
        if bool((cov_a < 0).any()) or bool((cov_b < 0).any()):
            raise ValueError("a variance is below 0; give squares of standard deviations")
        return apart + (cov_a.sqrt() - cov_b.sqrt()).square().sum()
    # (A B)^(1/2) has the trace of the symmetric (A^(1/2) B A^(1/2))^(1/2), whose eigenvalues are real.
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    inner = root @ cov_b @ root
    shared = torch.linalg.eigvalsh((inner + inner.T) / 2).clamp(min=0).sqrt().sum()
    return (apart + cov_a.trace() + cov_b.trace() - 2 * shared).clamp(min=0)


def fid(a: Tensor, b: Tensor) -> Tensor:
    """Fréchet distance of two sets of features [N,D] and [M,D] with full covariances (Heusel et al. 2017, eq. 6).

    float64 scalar, lower is better. Fewer pictures than features leave directions without variance, which biases the
    number upwards: a warning says so, and `sfid` does not suffer from it as much.

    Raises:
        ValueError: as `moments` and `frechet`.
    """
    for name, features in (("a", a), ("b", b)):
        if features.ndim == 2 and len(features) <= features.shape[1]:
            warnings.warn(
                f"{name} holds {len(features)} pictures for {features.shape[1]} features, so its covariance is singular "
                "and FID is biased; give more pictures or use SFID",
                InputWarning,
                stacklevel=2,
            )
    return frechet(*moments(a), *moments(b))


def sfid(a: Tensor, b: Tensor) -> Tensor:
    """Simplified Fréchet distance of features [N,D] and [M,D]: diagonal covariances (methods.md 12), float64 scalar.

    |mean_a - mean_b|^2 + sum of (sd_a - sd_b)^2; lower is better.

    Raises:
        ValueError: as `moments` and `frechet`.
    """
    (mean_a, cov_a), (mean_b, cov_b) = moments(a), moments(b)
    return frechet(mean_a, cov_a.diagonal(), mean_b, cov_b.diagonal())


def named(metric: str, features: str = SCORER_FEATURES) -> str:
    """`FID` -> `FID (scorer features)`: a Fréchet distance means nothing without its features."""
    return f"{metric} ({features})"
