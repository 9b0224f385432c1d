"""Fréchet distances against closed forms and scipy's matrix square root."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from stub_scorer import StubScorer

from retouch_core.metrics.distribution import fid, frechet, moments, named, scorer_features, sfid
from retouch_core.tensors.checks import InputWarning


def draws(seed: int, count: int, width: int) -> torch.Tensor:
    generator = np.random.default_rng(seed)
    mix = generator.normal(size=(width, width))
    return torch.from_numpy(generator.normal(size=(count, width)) @ mix + generator.normal(size=width))


def test_the_check_of_the_specification():
    means = torch.tensor([0.0, 1.0]), torch.tensor([3.0, 1.0])
    variances = torch.tensor([1.0, 4.0]), torch.tensor([4.0, 4.0])
    assert float(frechet(means[0], variances[0], means[1], variances[1])) == 10
    full = frechet(means[0], variances[0].diag(), means[1], variances[1].diag())
    assert float(full) == pytest.approx(10, abs=1e-12)


def test_sets_with_exactly_these_moments_give_10():
    def with_moments(mean: list[float], spread: list[float]) -> torch.Tensor:
        # Four corners of a rectangle: no correlation, and unbiased variance 4/3 of the squared half side.
        corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
        return corners * torch.tensor(spread) * math.sqrt(3 / 4) + torch.tensor(mean)

    a, b = with_moments([0, 1], [1, 2]), with_moments([3, 1], [2, 2])
    assert float(sfid(a, b)) == pytest.approx(10, abs=1e-12)
    assert float(fid(a, b)) == pytest.approx(10, abs=1e-12)


@pytest.mark.parametrize("width", [1, 3, 8])
def test_fid_against_scipys_square_root(width: int):
    a, b = draws(1, 60, width), draws(2, 45, width)
    first, second = (np.atleast_2d(np.cov(x.numpy(), rowvar=False)) for x in (a, b))
    apart = a.numpy().mean(0) - b.numpy().mean(0)
    expected = apart @ apart + np.trace(first + second - 2 * np.atleast_2d(sqrtm(first @ second)).real)
    assert float(fid(a, b)) == pytest.approx(expected, rel=1e-9)


def test_sfid_against_numpy():
    a, b = draws(3, 30, 5), draws(4, 50, 5)
    means = [x.numpy().mean(0) for x in (a, b)]
    spreads = [x.numpy().std(0, ddof=1) for x in (a, b)]
    expected = ((means[0] - means[1]) ** 2).sum() + ((spreads[0] - spreads[1]) ** 2).sum()
    assert float(sfid(a, b)) == pytest.approx(expected, rel=1e-12)


def test_commuting_covariances_have_a_closed_form():
    turn, _ = torch.linalg.qr(draws(5, 6, 6))
    first, second = (
        torch.rand(6, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in (6, 7)
    )
    nought = torch.zeros(6, dtype=torch.float64)
    found = frechet(nought, turn * first @ turn.T, nought, turn * second @ turn.T)
    assert float(found) == pytest.approx(float((first.sqrt() - second.sqrt()).square().sum()), rel=1e-9)


@pytest.mark.parametrize("distance", [fid, sfid])
def test_zero_for_itself_symmetric_and_blind_to_order(distance):
    a, b = draws(8, 40, 4), draws(9, 40, 4)
    assert float(distance(a, a)) == pytest.approx(0, abs=1e-9)
    assert float(distance(a, b)) == pytest.approx(float(distance(b, a)), rel=1e-9)
    assert float(distance(a.flip(0), b)) == pytest.approx(float(distance(a, b)), rel=1e-9)
    assert float(distance(a.float(), b.float())) == pytest.approx(float(distance(a, b)), rel=1e-5)


def test_a_shift_alone_costs_its_squared_length():
    a = draws(10, 40, 3)
    shift = torch.tensor([1.0, -2.0, 2.0])
    assert float(fid(a, a + shift)) == pytest.approx(9, rel=1e-9)
    assert float(sfid(a, a + shift)) == pytest.approx(9, rel=1e-9)


def test_few_pictures_are_warned_of_and_still_give_a_number():
    a, b = draws(11, 5, 8), draws(12, 40, 8)
    with pytest.warns(InputWarning, match="a holds 5 pictures for 8 features"):
        assert math.isfinite(fid(a, b))


def test_features_of_a_scorer_are_its_embeddings():
    images = torch.rand(3, 20, 30, 3, generator=torch.Generator().manual_seed(0))
    found = scorer_features(images, StubScorer())
    assert found.shape[0] == 3
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3), rtol=0, atol=1e-5)
    assert named("FID") == "FID (scorer features)"


@pytest.mark.parametrize(
    ("a", "message"),
    [
        (torch.zeros(1, 4), r"features must have shape \[N,D\] with N of at least 2, got \[1, 4\]"),
        (torch.zeros(4), r"got \[4\]"),
        (torch.full((4, 4), math.nan), "features hold NaN"),
        (torch.zeros(6, 3), "both sets must have the same features"),
    ],
)
def test_bad_features(a: torch.Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        sfid(a, draws(1, 6, 4))


def test_bad_moments():
    two = torch.zeros(2)
    with pytest.raises(ValueError, match="a variance is below 0"):
        frechet(two, torch.tensor([1.0, -1.0]), two, two)
    with pytest.raises(ValueError, match=r"covariances are \[3, 3\] for 2 features"):
        frechet(two, torch.zeros(3, 3), two, torch.zeros(3, 3))
    assert moments(draws(1, 3, 2))[1].shape == (2, 2)
