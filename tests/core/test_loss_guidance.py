"""Guided sampling (methods.md 10.3, 10.5, 10.6): its numbers, its gradients by finite differences, and what it leaves."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from retouch_core.editing.loss_guidance import GuidedDenoise, bounded, guided_steps, moved, with_losses
from retouch_core.editing.loss_terms import CUTOUTS, Guidance, LossTerms
from retouch_core.editing.picture_losses import PictureLosses, window_around
from retouch_core.editing.sampler import retouch_latent, sample
from retouch_core.metrics.feature_distance import ScorerDistance
from retouch_core.models.differentiable import gradients, lent, normal
from retouch_core.tensors.checks import InputWarning

SIGMAS = torch.tensor([4.0, 2.0, 1.0, 0.5, 0.0])
CELLS, CELL = 6, 4
SIDE = CELLS * CELL


class Projections:
    """A differentiable scorer in the dtype of what it sees: random projections of pooled views."""

    image_size = 8
    logit_scale = 20.0
    gate: float | None = None
    rivals: tuple[str, ...] = ()

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor
        self.matrix = torch.randn(48, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def encode_images(self, views: Tensor) -> Tensor:
        pooled = functional.avg_pool2d(views, 2).flatten(1) - 0.4
        return functional.normalize(pooled @ self.matrix.to(views), dim=-1) * self.factor

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        generator = torch.Generator().manual_seed(len(texts[0]))
        return functional.normalize(torch.randn(len(texts), 7, generator=generator), dim=-1)

    def unknown_words(self, text: str) -> tuple[str, ...]:
        return ()


def decode(latents: Tensor) -> Tensor:
    """A linear decoder whose cells do not mix, so that a part of a frame decodes as in the whole."""
    generator = torch.Generator().manual_seed(8)
    matrix = torch.randn(3 * CELL**2, 4, 1, 1, generator=generator, dtype=torch.float64) / 4
    return functional.pixel_shuffle(functional.conv2d(latents, matrix.to(latents)), CELL)


def latents(rows: int = 1, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    drawn = torch.randn(
        rows, 4, CELLS, CELLS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return drawn.to(dtype)


def region() -> Tensor:
    """MASK of whole cells, away from the border."""
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, 2 * CELL : 4 * CELL, CELL : 4 * CELL] = 1
    return mask


def source_of(z0: Tensor) -> Tensor:
    """IMAGE that decodes from z0, within the range of pictures."""
    return (decode(z0).movedim(1, -1) + 1) / 2


def terms(**values: Any) -> LossTerms:
    scorer = values.pop("scorer", Projections())
    given = {
        "prompt": "a star",
        "scorer": scorer,
        "perceptual_distance": ScorerDistance(scorer),
        "scale": 5.0,
    }
    return LossTerms(**given | values)


def small(z: Tensor) -> Tensor:
    """Latents whose pictures stay inside -1..1."""
    return 0.1 * z


def guided(guidance: Guidance, denoise: Any = None, **values: Any) -> Any:
    z0 = small(latents())
    given = {"decode": decode, "source": source_of(z0), "mask": region(), "sigmas": SIGMAS} | values
    return with_losses(denoise or (lambda x, sigma: small(latents(len(x), 2))), guidance, **given)


class Toy:
    """A perceptual distance of a made-up kind: (D - 1)^2."""

    name = "toy"

    def against(self, reference: Tensor) -> Any:
        return lambda pixels: (pixels - 1).square().mean((1, 2, 3))


def test_toy_of_10_6():
    one = LossTerms(scale=0.05, clip=0, perceptual=1, l2=0, perceptual_distance=Toy())
    guidance = Guidance((one,), bound=None, update="everywhere", until=1.0)
    wrapped = with_losses(
        lambda x, sigma: torch.full_like(x, 0.2),
        guidance,
        decode=lambda z: z.expand(-1, 3, -1, -1),
        source=torch.zeros(1, 16, 16, 3),
        mask=torch.zeros(1, 16, 16),
        sigmas=torch.tensor([2.0, 0.0]),
    )
    # The loss is a mean over pixels, so a picture of one pixel's worth of gradient is 16 * 16 times as steep.
    found = wrapped(torch.zeros(1, 1, 16, 16), torch.tensor([2.0]))
    assert ((found - 0.2) * 256).flatten()[0].item() == pytest.approx(0.32, abs=1e-4)
    value, gradient = torch.full((1, 1, 1, 1), 0.2), torch.full((1, 1, 1, 1), -1.6 * 0.05)
    assert moved(value, gradient, torch.tensor([2.0])).item() == pytest.approx(0.52)


def test_sigma_rule_is_the_rule_for_the_noise():
    """eps <- eps + sqrt(1 - abar) g with g with respect to the variance-preserving latent (the published code)."""
    generator = torch.Generator().manual_seed(4)
    x, denoised, gradient = (
        torch.randn(3, 4, 5, 5, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    abar = torch.tensor([0.9, 0.3, 0.01], dtype=torch.float64).view(-1, 1, 1, 1)
    sigma = ((1 - abar) / abar).sqrt()
    eps = (x - denoised) / sigma + (1 - abar).sqrt() * (gradient / abar.sqrt())
    expected = (x * abar.sqrt() - (1 - abar).sqrt() * eps) / abar.sqrt()
    torch.testing.assert_close(moved(denoised, gradient, sigma.flatten()), expected, rtol=0, atol=1e-6 * 100)
    close = (moved(denoised, gradient, sigma.flatten()) - expected)[:2].abs().max()
    assert close < 1e-6


def numeric_gradient(loss: Any, at: Tensor, step: float = 1e-5) -> Tensor:
    out = torch.zeros_like(at).flatten()
    for k in range(at.numel()):
        moved_by = torch.zeros_like(out)
        moved_by[k] = step
        high, low = (loss(at + sign * moved_by.view_as(at)) for sign in (1, -1))
        out[k] = (high - low) / (2 * step)
    return out.view_as(at)


@pytest.mark.parametrize("cutting", ["augment", "crops"])
@pytest.mark.parametrize(("distance", "held"), [("cosine", False), ("spherical", False), ("cosine", True)])
def test_gradient_is_that_of_finite_differences(distance: str, held: bool, cutting: str):
    z0 = small(latents(dtype=torch.float64))
    guidance = Guidance((terms(distance=distance, value_range=2.0, cutouts=3, cutting=cutting),))
    losses = PictureLosses(guidance, decode, source_of(z0), region().double(), held=z0 if held else None)
    at = latents(seed=5, dtype=torch.float64)
    at.requires_grad_()
    (found,) = torch.autograd.grad(sum(losses(at, 1)).sum(), at)
    expected = numeric_gradient(lambda z: float(sum(losses(z, 1)).sum().detach()), at.detach())
    assert expected.abs().max() > 1e-3
    assert (found - expected).norm() <= 1e-3 * expected.norm()
    if held:
        closed = (losses.cells(at) == 0).expand_as(found)
        assert not found[closed].any()


@pytest.mark.parametrize("estimate", ["x0", "blended"])
def test_path_full_is_the_gradient_through_the_denoiser(estimate: str):
    weight = torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64) / 6

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.tanh(functional.conv2d(x, weight.to(x), padding=1))

    z0 = small(latents(dtype=torch.float64))
    guidance = Guidance((terms(),), path="full", bound=None, update="everywhere", estimate=estimate)
    given = {"source": source_of(z0), "mask": region().double(), "sigmas": SIGMAS}
    wrapped = guided(guidance, denoise, **given)
    x, sigma = latents(seed=6, dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64)
    losses = PictureLosses(guidance, decode, given["source"], given["mask"])
    fac = 2 / math.sqrt(5) if estimate == "blended" else 1.0

    def loss(at: Tensor) -> float:
        return float(sum(losses(fac * denoise(at, sigma) + (1 - fac) * at / math.sqrt(5), 1)).sum())

    expected = denoise(x, sigma) - 4 * numeric_gradient(loss, x)
    found = wrapped(x, sigma)
    assert not found.requires_grad
    assert (found - expected).norm() <= 1e-3 * (expected - denoise(x, sigma)).norm()


def test_path_full_over_a_denoiser_without_gradients_says_so_and_goes_on():
    @torch.no_grad()
    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return 0.3 * x

    x, sigma = latents(2), torch.full((2,), 2.0)
    wrapped = guided(Guidance((terms(),), path="full"), denoise)
    with pytest.warns(InputWarning, match="path full needs gradients through the model") as told:
        found = wrapped(x, sigma)
        wrapped(x, sigma)
    assert len(told) == 1 and "\n" not in str(told[0].message)
    assert torch.equal(found, guided(Guidance((terms(),)), denoise)(x, sigma))


def run(guidance: Guidance | None, candidates: int = 2, *, held: bool = True, **values: Any) -> Tensor:
    z0 = small(latents())
    denoise: Any = lambda x, sigma: 0.5 * x / (1 + sigma.view(-1, 1, 1, 1))  # noqa: E731
    if guidance is not None:
        denoise = guided(guidance, denoise, held=z0 if held else None)
    cells = functional.max_pool2d(region()[None], CELL)
    return retouch_latent(denoise, z0, cells, SIGMAS, seed=3, candidates=candidates, **values)


@pytest.mark.parametrize("off", [{"scale": 0.0}, {"clip": 0.0, "perceptual": 0.0, "l2": 0.0}])
def test_weights_of_0_change_nothing_bit_for_bit(off: dict[str, float]):
    assert torch.equal(run(Guidance((terms(**off),))), run(None))
    assert torch.equal(run(Guidance((terms(),), until=0.0)), run(None))


@pytest.mark.parametrize("update", ["own", "everywhere"])
def test_guidance_lowers_what_it_weighs_and_candidates_do_not_see_each_other(update: str):
    guidance = Guidance((terms(scale=1.0),), until=1.0, update=update, bound=0.3)
    z0 = small(latents())
    losses = PictureLosses(guidance, decode, source_of(z0), region(), held=z0)
    plain, made = run(None), run(guidance)
    # The loss after a run is lower with guidance than without, for each candidate.
    with torch.no_grad():
        before, after = (sum(losses(z, 0)) for z in (plain, made))
    assert (after < before).all()
    alone = torch.cat([run(guidance, 1), run(guidance, 2, batch=1)[1:]])
    assert (made - alone).abs().max() <= 1e-4
    cells = functional.max_pool2d(region()[None], CELL)
    assert torch.equal(made[(cells == 0).expand_as(made)], z0.expand_as(made)[(cells == 0).expand_as(made)])


@pytest.mark.parametrize("window", ["region", "frame"])
def test_estimate_that_is_the_source_has_no_gradient_on_the_background(window: str):
    z0 = small(latents())
    guidance = Guidance((terms(),), bound=None, window=window)
    losses = PictureLosses(guidance, decode, source_of(z0), region())
    at = z0.clone().requires_grad_()
    _, background, _ = losses(at, 0)
    assert background.item() == pytest.approx(0, abs=1e-9)
    assert torch.autograd.grad(background.sum(), at)[0].abs().max() < 1e-5
    wrapped = guided(guidance, lambda x, sigma: z0.expand_as(x))
    closed = (functional.max_pool2d(region()[None], CELL) == 0).expand_as(z0)
    found = wrapped(latents(seed=9), torch.tensor([2.0]))
    assert (found - z0)[closed].abs().max() < 1e-4
    assert (found - z0)[~closed].abs().max() > 1e-4


def test_each_term_acts_in_its_own_place_or_everywhere():
    z0, cells = small(latents()), functional.max_pool2d(region()[None], CELL)
    closed = (cells == 0).expand_as(z0)
    sigma, x = torch.tensor([2.0]), latents(seed=9)
    plain = small(latents(1, 2))
    for one, where in (({"perceptual": 0.0, "l2": 0.0}, ~closed), ({"clip": 0.0}, closed)):
        change = guided(Guidance((terms(**one),), window="frame"))(x, sigma) - plain
        assert change[where].abs().max() > 1e-6 and not change[~where].any()
    ranged = guided(
        Guidance((terms(clip=0, perceptual=0, l2=0, value_range=1.0),), window="frame"), lambda x, s: 9 * x
    )
    change = ranged(x, sigma) - 9 * x
    assert change[closed].any() and change[~closed].any()


def test_change_is_bounded_in_its_area():
    generator = torch.Generator().manual_seed(1)
    change, denoised = torch.randn(2, 2, 4, 5, 5, generator=generator)
    area = torch.zeros(1, 1, 5, 5)
    area[..., 1:3, 2:4] = 1
    change[1] *= 1e-3
    out = bounded(change, denoised, [area], 0.1)
    inside = (area > 0).expand(1, 4, 5, 5)[0]
    for row in range(2):
        rms = [float(v[row][inside].square().mean().sqrt()) for v in (out, denoised)]
        assert rms[0] <= 0.1 * rms[1] * (1 + 1e-5)
    assert torch.equal(out[1], change[1])
    assert torch.allclose(out[0] / change[0], (out[0] / change[0]).flatten()[0], rtol=1e-4)
    assert bounded(change, denoised, [area], None) is change
    assert not bounded(change, torch.zeros_like(denoised), [area], 0.1)[0].any()


@pytest.mark.parametrize(
    ("every", "until", "steps", "expected"),
    [
        (1, 0.7, 10, range(7)),
        (1, 1.0, 3, range(3)),
        (3, 0.7, 10, [0, 3, 6]),
        (2, 0.05, 10, [0]),
        (1, 0.0, 4, []),
    ],
)
def test_steps_that_are_guided(every: int, until: float, steps: int, expected: Any):
    guidance = Guidance((), every=every, until=until)
    assert guided_steps(guidance, steps) == list(expected)
    wrapped = guided(Guidance((terms(),), every=every, until=until), sigmas=torch.linspace(5, 0, steps + 1))
    if expected:
        sample(wrapped, latents(), torch.linspace(5, 0, steps + 1))
        assert wrapped.guided == len(list(expected))


def test_runs_inside_inference_mode_with_weights_that_were_made_there():
    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = torch.nn.Conv2d(4, 4, 3, padding=1)
            self.register_buffer("gain", torch.tensor(0.5))

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.layer(x) * self.gain)

    def results(path: str) -> Tensor:
        network = Network()

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            with lent(network):
                return network(x * 1.0)

        def decoded(z: Tensor) -> Tensor:
            with lent(network):
                return decode(network(z))

        wrapped = guided(Guidance((terms(),), path=path), denoise, decode=decoded)
        before = [p for p in (*network.parameters(), *network.buffers())]
        out = sample(wrapped, latents(2) * 4, SIGMAS)
        after = [p for p in (*network.parameters(), *network.buffers())]
        assert all(a is b for a, b in zip(before, after, strict=True))
        return out

    for path in ("detach_unet", "full"):
        expected = results(path)
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("error", InputWarning)
            found = results(path)
        assert torch.equal(found, expected.detach())


def test_tensors_of_inference_mode_are_shared_not_copied():
    with torch.inference_mode():
        made = torch.randn(3, 4)[:, 1:]
    shared = normal(made)
    assert not shared.is_inference() and shared.data_ptr() == made.data_ptr() and torch.equal(shared, made)
    with torch.inference_mode(), gradients():
        x = torch.ones(3, 3, requires_grad=True)
        assert torch.equal(torch.autograd.grad((x * shared).sum(), x)[0], shared)


def test_losses_that_are_nan_leave_the_step_and_stop_the_run_at_the_third():
    class Broken(Projections):
        bad: Sequence[int] = ()

        def encode_images(self, views: Tensor) -> Tensor:
            out = super().encode_images(views).clone()
            return (
                out
                * torch.tensor([math.nan if k // CUTOUTS in self.bad else 1.0 for k in range(len(views))])[
                    :, None
                ]
            )

    scorer = Broken()
    guidance = Guidance((terms(scorer=scorer, perceptual=0.0),), until=1.0)
    wrapped = guided(guidance)
    assert isinstance(wrapped, GuidedDenoise)
    x = latents(2)
    fine = wrapped(x, torch.full((2,), 4.0))
    scorer.bad = [1]
    found = wrapped(x, torch.full((2,), 4.0))
    assert torch.allclose(found[0], fine[0]) and torch.equal(found[1], small(latents(2, 2))[1])
    assert wrapped.skipped == 1
    wrapped(x, torch.full((2,), 2.0))
    with pytest.raises(
        FloatingPointError, match="NaN or infinite losses in 3 steps of one run; lower its scale"
    ):
        wrapped(x, torch.full((2,), 1.0))
    again = guided(guidance)
    for _ in range(4):  # a run of its own each time
        scorer.bad = [0]
        again(x, torch.full((2,), 4.0))
        again(x, torch.full((2,), 2.0))
        scorer.bad = []
        again(x, torch.full((2,), 0.5))
    assert again.skipped == 8


def test_bad_input_is_named():
    good = Guidance((terms(),))
    with pytest.raises(ValueError, match="mask is empty, so guidance has no region"):
        guided(good, mask=torch.zeros(1, SIDE, SIDE))
    with pytest.raises(ValueError, match=r"mask is \[1, 5, 5\] but source is"):
        guided(good, mask=torch.ones(1, 5, 5))
    with pytest.raises(ValueError, match="latents of 5x6 cells do not cover it in whole cells"):
        guided(good, lambda x, s: x)(torch.randn(1, 4, 6, 5), torch.tensor([2.0]))
    with pytest.raises(ValueError, match="guidance works on picture latents"):
        guided(good)(torch.randn(1, 4, 2, 6, 6), torch.tensor([2.0]))
    background = guided(Guidance((terms(clip=0),)), mask=torch.zeros(1, SIDE, SIDE))
    assert torch.isfinite(background(latents(), torch.tensor([2.0]))).all()


def test_window_is_the_region_with_a_ring_of_which_half_is_cut_off():
    cells = torch.zeros(1, 1, 6, 6)
    cells[..., 2:4, 4:5] = 1
    window = window_around(cells)
    assert window.sides == (1, 5, 3, 6) and window.cut == (True, True, True, False)
    plane = torch.arange(48.0 * 48).view(1, 1, 48, 48)
    found = window.trimmed(plane[..., 8:40, 24:48], 8)
    assert torch.equal(found, plane[..., 12:36, 28:48]) and torch.equal(
        plane[(..., *window.pixels(8))], found
    )
    assert window.trimmed(torch.zeros(1, 1, 4, 3), 1).shape == (1, 1, 4, 3)
    assert (
        window_around(torch.zeros(1, 1, 4, 5)).sides
        == window_around(cells[..., :4, :5], True).sides
        == (0, 4, 0, 5)
    )


def test_smaller_pictures_are_compared_with_the_source_made_smaller():
    z0 = small(latents())
    coarse = lambda z: functional.avg_pool2d(decode(z), 2)  # noqa: E731
    losses = PictureLosses(Guidance((terms(),)), coarse, source_of(z0), region())
    at = z0.clone().requires_grad_()
    region_loss, background, _ = losses(at, 0)
    assert background.item() == pytest.approx(0, abs=1e-9) and region_loss.item() > 0
    with pytest.raises(ValueError, match="use a decoder that makes whole pixels"):
        PictureLosses(Guidance((terms(),)), lambda z: decode(z)[..., 1:], source_of(z0), region())(at, 0)
