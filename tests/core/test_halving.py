"""Successive halving of candidates: the same pictures for fewer calls of the denoiser."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retouch_core.editing.halving import Cut, cuts_of, rows_of, survivors
from retouch_core.editing.sampler import retouch_candidates, retouch_latent

SIGMAS = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5, 0.0])


class Network:
    """A denoiser whose result depends on the noise, and which counts the rows that it saw."""

    def __init__(self) -> None:
        self.rows = 0
        self.sizes: list[int] = []

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        self.rows += len(x)
        self.sizes.append(len(x))
        return torch.tanh(x / (1 + sigma.reshape(-1, 1, 1, 1))) + 0.1 * x.roll(1, -1).sin()


@pytest.fixture
def place() -> tuple[torch.Tensor, torch.Tensor]:
    z0 = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(1, 1, 6, 6)
    mask[..., 1:4, 2:6] = 1
    return z0, mask


def liked(wanted: list[int]):
    """A judge that likes `wanted`, the first most."""

    def judge(estimates: torch.Tensor, indices) -> torch.Tensor:
        assert len(estimates) == len(indices)
        return torch.tensor([-wanted.index(k) if k in wanted else -99.0 for k in indices])

    return judge


@pytest.mark.parametrize("noise_mode", ["fixed", "fresh"])
@pytest.mark.parametrize("batch", [None, 3])
def test_who_lives_is_what_it_would_have_been(place, noise_mode: str, batch: int | None) -> None:
    z0, mask = place
    every = retouch_latent(Network(), z0, mask, SIGMAS, seed=5, candidates=8, noise_mode=noise_mode)
    network = Network()
    made = retouch_candidates(
        network,
        z0,
        mask,
        SIGMAS,
        seed=5,
        candidates=8,
        noise_mode=noise_mode,
        batch=batch,
        cuts=(Cut(1, 4), Cut(3, 2)),
        judge=liked([6, 1, 3, 0]),
    )
    assert made.indices == (1, 6)
    assert made.lived == (3, 5, 1, 3, 1, 1, 5, 1)
    torch.testing.assert_close(made.latents, every[[1, 6]], rtol=0, atol=1e-6)
    assert network.rows == sum(made.lived) == rows_of((Cut(1, 4), Cut(3, 2)), 5, 8)
    assert max(network.sizes) == (batch or 8)


def test_judge_sees_the_clean_estimates_of_those_who_live(place) -> None:
    z0, mask = place
    seen: list[tuple[torch.Tensor, list[int]]] = []
    told: list[tuple[int, list[int], torch.Tensor]] = []

    def judge(estimates: torch.Tensor, indices) -> torch.Tensor:
        seen.append((estimates, list(indices)))
        return torch.arange(len(indices)).float()

    retouch_candidates(
        Network(),
        z0,
        mask,
        SIGMAS,
        seed=0,
        candidates=4,
        cuts=(Cut(2, 2), Cut(4, 1)),
        judge=judge,
        callback=lambda step, steps, estimate, which: told.append((step, list(which), estimate)),
    )
    assert [indices for _, indices in seen] == [[0, 1, 2, 3], [2, 3]]
    assert [step for step, _, _ in told] == [1, 2, 3, 4, 5]
    assert [which for _, which, _ in told] == [[0, 1, 2, 3]] * 2 + [[2, 3]] * 2 + [[3]]
    assert torch.equal(seen[0][0], told[1][2])
    assert torch.equal(seen[1][0], told[3][2])
    outside = (mask == 0).expand_as(z0)
    assert all(torch.equal(e[outside.expand_as(e)], z0.expand_as(e)[outside.expand_as(e)]) for e, _ in seen)


def test_without_cuts_nobody_is_judged(place) -> None:
    z0, mask = place
    made = retouch_candidates(Network(), z0, mask, SIGMAS, seed=5, candidates=3)
    assert made.indices == (0, 1, 2)
    assert made.lived == (5, 5, 5)
    assert torch.equal(made.latents, retouch_latent(Network(), z0, mask, SIGMAS, seed=5, candidates=3))


def test_cuts_need_a_judge(place) -> None:
    with pytest.raises(ValueError, match="judge is None, but 1 cuts need one"):
        retouch_candidates(Network(), *place, SIGMAS, seed=0, candidates=4, cuts=(Cut(2, 1),))


def test_a_judge_that_forgets_somebody_is_told(place) -> None:
    with pytest.raises(ValueError, match=r"scores of shape \[1\] for 4 candidates"):
        retouch_candidates(
            Network(),
            *place,
            SIGMAS,
            seed=0,
            candidates=4,
            cuts=(Cut(2, 1),),
            judge=lambda estimates, indices: torch.zeros(1),
        )


def test_nothing_open_calls_nobody(place) -> None:
    z0, mask = place
    network = Network()
    with pytest.warns(UserWarning, match="mask_latent is empty"):
        made = retouch_candidates(
            network, z0, 0 * mask, SIGMAS, seed=0, candidates=4, cuts=(Cut(2, 2),), judge=liked([0, 1])
        )
    assert network.rows == 0
    assert made.lived == (0, 0, 0, 0)
    assert torch.equal(made.latents, z0.expand(2, -1, -1, -1))


def test_sixteen_candidates_in_twenty_steps_cost_what_is_promised() -> None:
    cuts = cuts_of(((0.25, 0.375), (0.5, 0.1875)), 20, 16)
    assert cuts == (Cut(5, 6), Cut(10, 3))
    assert rows_of(cuts, 20, 16) == 16 * 5 + 6 * 5 + 3 * 10


def test_points_that_cut_nobody_are_left_out() -> None:
    points = ((0.25, 0.5), (0.5, 0.25))
    assert cuts_of(points, 20, 1) == ()
    assert cuts_of(points, 1, 8) == ()
    assert cuts_of(points, 20, 2) == (Cut(5, 1),)
    assert cuts_of((), 20, 8) == ()


@pytest.mark.parametrize(
    "points",
    [
        ((0.0, 0.5),),
        ((0.5, 1.0),),
        ((0.5, 0.5), (0.4, 0.2)),
        ((0.25, 0.5), (0.5, 0.5)),
        ((0.5,),),
        (("a", 1),),
    ],
)
def test_points_that_mean_nothing(points) -> None:
    with pytest.raises(ValueError, match="prune must hold pairs"):
        cuts_of(points, 20, 8)


@given(
    st.lists(st.tuples(st.floats(0.01, 0.99), st.floats(0.01, 0.99)), max_size=4),
    st.integers(1, 60),
    st.integers(1, 64),
)
def test_a_cut_run_never_costs_more(points, steps: int, candidates: int) -> None:
    shares = sorted({a for a, _ in points})
    kept = sorted({b for _, b in points}, reverse=True)
    cuts = cuts_of(tuple(zip(shares, kept, strict=False)), steps, candidates)
    assert steps <= rows_of(cuts, steps, candidates) <= steps * candidates
    assert all(0 < cut.step < steps and 1 <= cut.keep < candidates for cut in cuts)


def test_nan_loses_and_ties_keep_the_earlier() -> None:
    nan = float("nan")
    assert survivors([2, 4, 7, 9], torch.tensor([nan, 1.0, 1.0, 1.0]), 2) == [4, 7]
    assert survivors([2, 4, 7], torch.tensor([nan, -torch.inf, nan]), 1) == [2]
