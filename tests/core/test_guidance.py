"""Conditional classifier-free guidance (methods.md 9): its closed forms, its limits, and what it must not compute."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from retouch_core.editing.guidance import conditional_cfg, guided_denoiser, needed_passes, rescale
from retouch_core.tensors.checks import InputWarning

EMPTY, REFERRING, TARGET = (torch.tensor(v, dtype=torch.float64) for v in (0.9, 1.0, 1.2))


@pytest.mark.parametrize(
    ("scale", "lam", "expected"),
    [
        (1, 0, 1.2),
        (1, 0.5, 1.2),
        (1, 1, 1.2),
        (5, 1, 2.0),
        (5, 0, 2.4),
        (15, 1, 4.0),
        (15, 0, 5.4),
        (15, 0.5, 4.7),
    ],
)
def test_closed_forms_of_9_4(scale: float, lam: float, expected: float):
    assert conditional_cfg(TARGET, REFERRING, EMPTY, scale, lam).item() == pytest.approx(expected, abs=1e-12)


def dual_cfg_regular(scale: float, scale2: float) -> float:
    """ComfyUI's DualCFGGuider, regular: conds by scale, cond2 against the negative by scale2."""
    e, r, t = EMPTY.item(), REFERRING.item(), TARGET.item()
    return e + scale2 * (r - e) + scale * (t - r)


def dual_cfg_nested(scale: float, scale2: float) -> float:
    e, r, t = EMPTY.item(), REFERRING.item(), TARGET.item()
    inner = r + scale * (t - r)
    return e + scale2 * (inner - e)


@pytest.mark.parametrize(("scale", "lam"), [(15, 0.5), (7.5, 0.3), (2, 0.9), (1, 0.4), (15, 1), (15, 0)])
def test_9_2_equals_the_hosts_dual_cfg(scale: float, lam: float):
    c2 = scale + (1 - scale) * lam
    ours = conditional_cfg(TARGET, REFERRING, EMPTY, scale, lam).item()
    assert ours == pytest.approx(dual_cfg_regular(scale, c2), abs=1e-12)
    assert ours == pytest.approx(dual_cfg_nested(scale / c2, c2), abs=1e-12)


def test_9_2_numbers():
    scale, lam = 15, 0.5
    assert scale + (1 - scale) * lam == 8
    assert dual_cfg_regular(15, 8) == pytest.approx(4.7)
    assert dual_cfg_nested(1.875, 8) == pytest.approx(4.7)


@pytest.fixture
def random_triple() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(2, 4, 5, 6, generator=generator) for _ in range(3)]


@pytest.mark.parametrize("lam", [0, 0.3, 0.5, 1])
def test_scale_1_gives_the_target_itself(random_triple, lam: float):
    target, referring, empty = random_triple
    assert torch.equal(conditional_cfg(target, referring, empty, 1, lam), target)
    assert torch.equal(conditional_cfg(target, None, None, 1, lam), target)
    assert needed_passes(1, lam) == {"target"}


@pytest.mark.parametrize("scale", [1, 3, 7.5, 15])
def test_referring_equal_to_target_gives_the_target(random_triple, scale: float):
    target = random_triple[0]
    torch.testing.assert_close(
        conditional_cfg(target, target.clone(), None, scale, 1), target, rtol=0, atol=0
    )


@pytest.mark.parametrize("lam", [0.2, 0.7, 1])
@pytest.mark.parametrize("scale", [2, 7.5, 15])
def test_no_referring_prompt_is_plain_guidance_bit_for_bit(random_triple, scale: float, lam: float):
    target, _, empty = random_triple
    plain = empty + scale * (target - empty)
    with pytest.warns(InputWarning, match="no referring prompt"):
        assert torch.equal(conditional_cfg(target, None, empty, scale, lam), plain)
    assert torch.equal(conditional_cfg(target, empty.clone(), empty, scale, lam), plain)


def test_the_scheme_is_affine_in_the_scale(random_triple):
    target, referring, empty = (t.double() for t in random_triple)
    base = conditional_cfg(target, referring, empty, 2, 0.4)
    slope = conditional_cfg(target, referring, empty, 3, 0.4) - base
    for scale in (4.5, 9.0, 15.0):
        torch.testing.assert_close(
            conditional_cfg(target, referring, empty, scale, 0.4),
            base + (scale - 2) * slope,
            rtol=1e-12,
            atol=1e-12,
        )


def test_linear_so_noise_and_denoised_estimate_give_the_same(random_triple):
    noises = [t.double() for t in random_triple]
    x, sigma = torch.full_like(noises[0], 0.3), 2.5
    guided_noise = conditional_cfg(*noises, 7.5, 0.5)
    guided = conditional_cfg(*(x - sigma * n for n in noises), 7.5, 0.5)
    torch.testing.assert_close(guided, x - sigma * guided_noise, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 5.0])
@pytest.mark.parametrize("lam", [0.0, 0.25, 1.0])
def test_needed_passes_are_those_that_change_the_result(scale: float, lam: float):
    """Found by moving one prediction at a time."""
    changed = set()
    values = {"target": 1.2, "referring": 1.0, "empty": 0.9}

    def result(**v: float) -> float:
        tensors = [torch.tensor(v[name], dtype=torch.float64) for name in ("target", "referring", "empty")]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InputWarning)
            return conditional_cfg(*tensors, scale, lam).item()

    for name in values:
        if abs(result(**{**values, name: 100.0}) - result(**values)) > 1e-9:
            changed.add(name)
    assert needed_passes(scale, lam) == changed


@pytest.mark.parametrize("scale", [-1, -1e-9, math.nan, math.inf])
def test_bad_scale(scale: float):
    with pytest.raises(ValueError, match="scale must be a number of at least 0"):
        conditional_cfg(TARGET, REFERRING, EMPTY, scale, 1)
    with pytest.raises(ValueError, match="scale must be a number of at least 0"):
        guided_denoiser(lambda x, s, c: x, *[torch.zeros(1, 2, 3)] * 3, scale, 1)


@pytest.mark.parametrize("scale", [0, 0.5, 0.999])
def test_a_scale_below_1_warns(scale: float):
    with pytest.warns(InputWarning, match="below 1"):
        conditional_cfg(TARGET, REFERRING, EMPTY, scale, 1)


def test_ordinary_numbers_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conditional_cfg(TARGET, REFERRING, EMPTY, 7.5, 0.5)


@pytest.mark.parametrize("lam", [-0.1, 1.1, math.nan])
def test_bad_mix(lam: float):
    with pytest.raises(ValueError, match=r"lam must be in \[0, 1\]"):
        conditional_cfg(TARGET, REFERRING, EMPTY, 5, lam)


def test_a_missing_prediction_is_named():
    with pytest.raises(ValueError, match="empty is None"):
        conditional_cfg(TARGET, REFERRING, None, 5, 0.5)
    with pytest.raises(ValueError, match="cond_empty is None"):
        guided_denoiser(lambda x, s, c: x, torch.zeros(1, 2, 3), torch.ones(1, 2, 3), None, 5, 0.5)


# --- the denoiser over three conditionings ---


class Network:
    """D depends on x, sigma and conditioning in a way that mixes none of the rows; counts its calls."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, x, sigma, conditioning):
        self.calls.append(len(x))
        assert len(sigma) == len(conditioning) == len(x)
        weight = conditioning.mean((1, 2))[:, None, None, None]
        return torch.tanh(x * weight) / (1 + sigma[:, None, None, None])


def conditionings(rows: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.rand(rows, 3, 4, generator=generator) + 0.1 * k for k in range(3)]


@pytest.mark.parametrize(("scale", "lam", "count"), [(1, 1, 1), (5, 1, 2), (5, 0, 2), (5, 0.5, 3)])
def test_one_call_for_the_conditionings_that_matter(random_triple, scale: float, lam: float, count: int):
    x, sigma = random_triple[0], torch.tensor([2.0, 2.0])
    target, referring, empty = conditionings()
    network = Network()
    result = guided_denoiser(network, target, referring, empty, scale, lam)(x, sigma)
    assert network.calls == [count * len(x)]
    separate = [Network()(x, sigma, c.expand(2, -1, -1)) for c in (target, referring, empty)]
    torch.testing.assert_close(result, conditional_cfg(*separate, scale, lam), rtol=1e-6, atol=1e-6)


def test_rows_keep_their_own_conditioning(random_triple):
    x, sigma = random_triple[0], torch.tensor([2.0, 1.0])
    rows = conditionings(2)
    together = guided_denoiser(Network(), *rows, 5, 0.5)(x, sigma)
    for k in range(2):
        alone = guided_denoiser(Network(), *[c[k : k + 1] for c in rows], 5, 0.5)(
            x[k : k + 1], sigma[k : k + 1]
        )
        torch.testing.assert_close(together[k : k + 1], alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["none", "same as empty"])
def test_guided_denoiser_without_referring_prompt_is_plain_bit_for_bit(random_triple, kind: str):
    x, sigma = random_triple[0], torch.tensor([2.0, 2.0])
    target, _, empty = conditionings()
    with pytest.warns(InputWarning, match="no referring prompt"):
        denoise = guided_denoiser(
            Network(), target, None if kind == "none" else empty.clone(), empty, 7.5, 0.6
        )
    plain = guided_denoiser(Network(), target, None, empty, 7.5, 0.0)
    assert torch.equal(denoise(x, sigma), plain(x, sigma))


@pytest.mark.parametrize("amount", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("sigma", [0.3, 4.0])
def test_rescale_equals_diffusers_on_the_velocity(random_triple, amount: float, sigma: float):
    pipelines = pytest.importorskip("diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion")
    x, guided_v, target_v = (t.double() for t in random_triple)
    level = torch.full((2,), sigma, dtype=torch.float64)

    def denoised(v: torch.Tensor) -> torch.Tensor:
        return x / (sigma**2 + 1) - v * sigma / math.sqrt(sigma**2 + 1)

    expected = denoised(pipelines.rescale_noise_cfg(guided_v, target_v, amount))
    ours = rescale(denoised(guided_v), denoised(target_v), x, level, amount)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def test_guided_denoiser_rescales_on_request(random_triple):
    x, sigma = random_triple[0], torch.tensor([2.0, 2.0])
    rows = conditionings()
    plain = guided_denoiser(Network(), *rows, 15, 0.5)(x, sigma)
    target = Network()(x, sigma, rows[0].expand(2, -1, -1))
    softened = guided_denoiser(Network(), *rows, 15, 0.5, rescaled=0.7)(x, sigma)
    torch.testing.assert_close(softened, rescale(plain, target, x, sigma, 0.7), rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="rescaled must be in"):
        guided_denoiser(Network(), *rows, 15, 0.5, rescaled=1.5)
