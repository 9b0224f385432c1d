"""The region-blended sampler (methods.md 8): closed forms, float64 brute force, and the promises to the caller."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch

from retouch_core.editing.blend import latent_masks
from retouch_core.editing.sampler import (
    candidate_noise,
    region_denoiser,
    retouch_latent,
    sample,
    start_latent,
)
from retouch_core.tensors.checks import InputWarning

SIGMAS = torch.tensor([4.0, 2.0, 1.0, 0.0], dtype=torch.float64)
Z0 = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64)
NOISE = torch.ones_like(Z0)


def constant(value: float):
    return lambda x, sigma: torch.full_like(x, value)


def linear(x, sigma):
    return x / (1 + sigma.reshape(-1, *[1] * (x.ndim - 1)) ** 2)


@pytest.mark.parametrize(
    ("denoise", "mask", "expected"),
    [
        (constant(-1), 0.0, [4.5, 2.5, 1.5, 0.5]),
        (constant(-1), 0.5, [4.5, 2.125, 0.9375, -0.25]),
        (constant(-1), 1.0, [4.5, 1.75, 0.375, -1]),
        (linear, 0.0, [4.5, 2.5, 1.5, 0.5]),
        (linear, 0.5, [4.5, 2.441176, 1.469118, 0.621140]),
        (linear, 1.0, [4.5, 2.382353, 1.429412, 0.714706]),
    ],
)
def test_closed_forms_of_8_7(denoise, mask: float, expected: list[float]):
    held = region_denoiser(denoise, Z0, NOISE, torch.full_like(Z0, mask), SIGMAS)
    start = start_latent(Z0, NOISE, 4.0, "source")
    assert start.item() == expected[0]
    path = [start.item()]
    for i in range(3):
        path.append(sample(held, torch.full_like(Z0, path[-1]), SIGMAS[i : i + 2]).item())
    assert path == pytest.approx(expected, abs=1e-6)
    assert sample(held, start, SIGMAS).item() == pytest.approx(expected[-1], abs=1e-6)


@pytest.mark.parametrize("mask", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("value", [-1.0, 2.5])
def test_a_constant_denoiser_ends_at_the_mix(mask: float, value: float):
    held = region_denoiser(constant(value), Z0, NOISE, torch.full_like(Z0, mask), SIGMAS)
    result = sample(held, start_latent(Z0, NOISE, 4.0, "source"), SIGMAS).item()
    assert result == pytest.approx(mask * value + (1 - mask) * 0.5, abs=1e-12)


def test_8_2_the_two_forms_differ_for_soft_masks():
    """Step, then blend: 1.03125 after the second step where the sigma form gives 0.9375."""
    x, path = 4.5, []
    for level, following in ((4.0, 2.0), (2.0, 1.0)):
        x = -1 + following / level * (x + 1)
        x = 0.5 * x + 0.5 * (0.5 + following)
        path.append(x)
    assert path[-1] == 1.03125


def test_ddim_check_of_8_7():
    """z0 = 1, n = 0.5, abar .64 -> .81: the background moves from 1.1 to 1.11794."""
    from retouch_core.models.noise import from_vp, sigma_of_abar, to_vp

    abar = torch.tensor([0.64, 0.81], dtype=torch.float64)
    levels = sigma_of_abar(abar)
    z0, noise = torch.ones_like(Z0), torch.full_like(Z0, 0.5)
    held = region_denoiser(constant(77.0), z0, noise, torch.zeros_like(Z0), levels)
    x = from_vp(torch.full_like(Z0, 1.1), abar[0])
    x = sample(held, x, levels)
    assert to_vp(x, levels[1]).item() == pytest.approx(1.11794, abs=5e-6)


def network(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Neighbours and channels influence each other, rows do not."""
    level = sigma.reshape(-1, 1, 1, 1)
    mixed = torch.nn.functional.avg_pool2d(x, 3, 1, 1) + 0.3 * x.roll(1, 1)
    return torch.tanh(mixed / (1 + level**2) ** 0.5) * 1.5 + 0.1 * torch.sin(level)


def setting(dtype=torch.float32, size: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    z0 = torch.randn(1, 4, size, size, generator=generator).to(dtype)
    mask = torch.zeros(1, 1, size, size, dtype=dtype)
    mask[..., 2:6, 3:7] = 1
    sigmas = torch.tensor([14.6, 7.0, 3.0, 1.2, 0.4, 0.0])
    return z0, mask, sigmas


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("start", ["noise", "source", "host", "diffusers"])
def test_against_the_equations_in_float64(start: str, soft: bool):
    z0, mask, sigmas = setting()
    if soft:
        mask[..., 1, 3:7] = 0.4
    ours = retouch_latent(network, z0, mask, sigmas, seed=5, candidates=2, start=start)
    for k in range(2):
        n = np.asarray(torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(5 + k)), np.float64)
        z, m = z0[0].double().numpy(), mask[0].double().numpy()
        levels = sigmas.tolist()
        full = math.sqrt(1 + levels[0] ** 2)
        x = {"noise": n * full, "diffusers": n * full, "source": z + levels[0] * n, "host": z + full * n}[
            start
        ]
        for i, level in enumerate(levels[:-1]):
            seen = x if start == "diffusers" and i == 0 else m * x + (1 - m) * (z + level * n)
            estimate = network(torch.from_numpy(seen)[None], torch.tensor([level]).double())[0].numpy()
            estimate = m * estimate + (1 - m) * z
            x = estimate + levels[i + 1] / level * (x - estimate)
        np.testing.assert_allclose(ours[k].numpy(), x, rtol=0, atol=2e-5)


def test_host_start_is_the_hosts_noise_scaling():
    """ComfyUI's EPS.noise_scaling with max_denoise: noise * sqrt(1 + sigma^2) + latent_image."""
    assert start_latent(Z0, 2 * NOISE, 3.0, "host").item() == pytest.approx(0.5 + 2 * math.sqrt(10))
    assert start_latent(Z0, 2 * NOISE, 3.0, "noise").item() == pytest.approx(2 * math.sqrt(10))
    assert start_latent(Z0, 2 * NOISE, 3.0, "source").item() == pytest.approx(6.5)


def test_a_full_mask_equals_the_unwrapped_sampler_bit_for_bit():
    z0, mask, sigmas = setting()
    full = torch.ones_like(mask)
    for start in ("noise", "source", "host", "diffusers"):
        noise = candidate_noise(z0.shape[1:], 3, 1)
        plain = sample(network, start_latent(z0, noise, float(sigmas[0]), start), sigmas)
        assert torch.equal(
            retouch_latent(network, z0, full, sigmas, seed=3, candidates=1, start=start), plain
        )


@pytest.mark.parametrize("start", ["noise", "source", "host", "diffusers"])
@pytest.mark.parametrize("noise_mode", ["fixed", "fresh"])
@pytest.mark.parametrize("progressive", [0, 2, "auto"])
def test_the_latent_outside_the_mask_is_the_sources_bit_for_bit(start: str, noise_mode: str, progressive):
    z0, mask, sigmas = setting()
    mask[..., 2, :] *= 0.3
    out = retouch_latent(
        network,
        z0,
        mask,
        sigmas,
        seed=1,
        candidates=3,
        start=start,
        noise_mode=noise_mode,
        progressive=progressive,
    )
    closed = (mask == 0).expand_as(out)
    assert torch.equal(out[closed], z0.expand_as(out)[closed])
    assert (out != z0)[~closed].any()


def test_an_empty_mask_returns_the_source_with_a_flag_and_without_work():
    z0, mask, sigmas = setting()

    def never(x, sigma):
        raise AssertionError("the denoiser was called")

    with pytest.warns(InputWarning, match="mask_latent is empty"):
        out = retouch_latent(never, z0, torch.zeros_like(mask), sigmas, seed=0, candidates=3)
    assert torch.equal(out, z0.repeat(3, 1, 1, 1))


def test_mask_0_gives_z0_whatever_the_denoiser_says():
    z0, mask, sigmas = setting()
    noise = candidate_noise(z0.shape[1:], 0, 1)
    held = region_denoiser(lambda x, s: x * math.nan, z0, noise, torch.zeros_like(mask), sigmas)
    assert torch.equal(sample(held, start_latent(z0, noise, 14.6, "noise"), sigmas), z0)


# --- candidates ---


def test_one_seed_for_each_candidate():
    noise = candidate_noise((4, 5, 6), seed=40, count=3)
    assert noise.dtype == torch.float32
    assert noise.device.type == "cpu"
    for k in range(3):
        assert torch.equal(noise[k], torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(40 + k)))
    assert torch.equal(candidate_noise((4, 5, 6), 40, 1, first=2)[0], noise[2])


def test_the_largest_seed_has_a_successor():
    noise = candidate_noise((2,), 2**64 - 1, 2)
    assert torch.equal(noise[1], torch.randn(2, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("noise_mode", ["fixed", "fresh"])
@pytest.mark.parametrize("batch", [1, 2, 3, 5, 99])
def test_candidate_k_alone_equals_candidate_k_of_a_batch(noise_mode: str, batch: int):
    z0, mask, sigmas = setting()
    together = retouch_latent(network, z0, mask, sigmas, seed=7, candidates=5, noise_mode=noise_mode)
    in_parts = retouch_latent(
        network, z0, mask, sigmas, seed=7, candidates=5, noise_mode=noise_mode, batch=batch
    )
    torch.testing.assert_close(in_parts, together, rtol=0, atol=1e-4)
    alone = retouch_latent(network, z0, mask, sigmas, seed=7 + 3, candidates=1, noise_mode=noise_mode)
    torch.testing.assert_close(alone[0], together[3], rtol=0, atol=1e-4)
    assert not torch.allclose(together[0], together[1])


def test_same_seed_same_result_bitwise_and_the_global_generator_is_left_alone():
    z0, mask, sigmas = setting()
    torch.manual_seed(123)
    state = torch.get_rng_state()
    first = retouch_latent(network, z0, mask, sigmas, seed=7, candidates=2, noise_mode="fresh")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(321)
    assert torch.equal(
        first, retouch_latent(network, z0, mask, sigmas, seed=7, candidates=2, noise_mode="fresh")
    )


def test_fresh_noise_is_another_draw_at_every_step_and_the_source_survives():
    z0, mask, sigmas = setting()
    seen = []

    def spy(x, sigma):
        seen.append(((x - z0) / sigma[0])[(mask == 0).expand_as(x)])
        return network(x, sigma)

    retouch_latent(spy, z0, mask, sigmas, seed=2, candidates=1, noise_mode="fresh")
    generator = torch.Generator().manual_seed(2)
    for draw in seen:
        expected = torch.randn(4, 8, 8, generator=generator)[None][(mask == 0).expand(1, 4, 8, 8)]
        torch.testing.assert_close(draw, expected, rtol=0, atol=2e-5)
    seen.clear()
    retouch_latent(spy, z0, mask, sigmas, seed=2, candidates=1, noise_mode="fixed")
    for draw in seen[1:]:
        torch.testing.assert_close(draw, seen[0], rtol=0, atol=2e-5)


def test_each_step_uses_its_own_mask():
    z0, mask, sigmas = setting(size=12)
    mask = torch.zeros(1, 1, 12, 12)
    mask[..., 5, 5] = 1
    held = []

    def spy(x, sigma):
        noise = candidate_noise((4, 12, 12), 9, 1)
        held.append(~torch.isclose(x, z0 + sigma[0] * noise, atol=1e-5).all(1, keepdim=True))
        return network(x, sigma) + 0.5

    retouch_latent(spy, z0, mask, sigmas, seed=9, candidates=1, progressive=3)
    expected = latent_masks(mask, 5, 3)
    for step in range(1, 5):  # in the first step inside and outside still share their noise
        assert not (held[step] & (expected[step] == 0)).any()
    widths = [round(math.sqrt(m.sum().item())) for m in expected]
    assert widths == [7, 7, 5, 3, 1]
    assert held[1].sum() > 9


def test_a_sampler_that_asks_between_two_levels_gets_the_step_it_is_in():
    z0, _, sigmas = setting()
    masks = [torch.full((1, 1, 8, 8), k / 10) for k in range(5)]
    held = region_denoiser(constant(1.0), torch.zeros_like(z0), z0, masks, sigmas)

    def used(sigma: float) -> float:
        return round(held(z0, torch.tensor([sigma])).mean().item(), 3)

    assert [used(s) for s in sigmas[:-1].tolist()] == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert [used(s) for s in (20.0, 10.0, 6.9, 2.0, 0.41, 0.1)] == [0.0, 0.0, 0.1, 0.2, 0.3, 0.4]


# --- progress, interruption, trouble ---


def test_progress_names_step_and_candidates():
    z0, mask, sigmas = setting()
    seen = []
    retouch_latent(
        network,
        z0,
        mask,
        sigmas,
        seed=0,
        candidates=3,
        batch=2,
        callback=lambda step, total, estimate, chosen: seen.append(
            (step, total, tuple(estimate.shape), chosen)
        ),
    )
    first = [(k, 5, (2, 4, 8, 8), (0, 1)) for k in range(1, 6)]
    assert seen == first + [(k, 5, (1, 4, 8, 8), (2,)) for k in range(1, 6)]


def test_raising_in_the_callback_stops_within_a_step():
    class Cancelled(Exception):
        pass

    calls = []

    def counting(x, sigma):
        calls.append(1)
        return network(x, sigma)

    def cancel(step, total, estimate, chosen):
        if step == 2:
            raise Cancelled

    z0, mask, sigmas = setting()
    with pytest.raises(Cancelled):
        retouch_latent(counting, z0, mask, sigmas, seed=0, candidates=1, callback=cancel)
    assert len(calls) == 2


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_from_the_denoiser_is_one_sentence(value: float):
    z0, mask, sigmas = setting()

    def breaks(x, sigma):
        return network(x, sigma) if sigma[0] > 3 else torch.full_like(x, value)

    with pytest.raises(FloatingPointError, match=r"at step 3 of 5 \(sigma 3\)"):
        retouch_latent(breaks, z0, mask, sigmas, seed=0, candidates=1)


def test_a_gpu_without_room_gets_smaller_batches():
    z0, mask, sigmas = setting()
    rows = []

    def small(x, sigma):
        rows.append(len(x))
        if len(x) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return network(x, sigma)

    with pytest.warns(InputWarning, match="no room for 5 candidates"):
        out = retouch_latent(small, z0, mask, sigmas, seed=0, candidates=5)
    assert rows == [5] + [2] * 10 + [1] * 5
    torch.testing.assert_close(
        out, retouch_latent(network, z0, mask, sigmas, seed=0, candidates=5), rtol=0, atol=1e-4
    )

    def full(x, sigma):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        retouch_latent(full, z0, mask, sigmas, seed=0, candidates=1)


def test_a_mask_of_another_size_is_resized_with_a_warning():
    z0, mask, sigmas = setting()
    fine = mask.repeat_interleave(2, -1).repeat_interleave(2, -2)
    expected = retouch_latent(network, z0, mask, sigmas, seed=0, candidates=1)
    with pytest.warns(InputWarning, match=r"mask_latent is \[16, 16\] but z0 is \[8, 8\] cells"):
        assert torch.equal(retouch_latent(network, z0, fine, sigmas, seed=0, candidates=1), expected)


def test_video_latents_of_five_axes():
    z0 = torch.randn(1, 3, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(1, 1, 6, 6)
    mask[..., 2:4, 2:4] = 1
    sigmas = torch.tensor([4.0, 1.0, 0.0])

    def flat(x, sigma):
        return torch.tanh(x)

    out = retouch_latent(flat, z0, mask, sigmas, seed=0, candidates=2)
    closed = (mask == 0)[:, :, None].expand_as(out)
    assert torch.equal(out[closed], z0.expand_as(out)[closed])
    frame = retouch_latent(flat, z0, torch.ones_like(mask), sigmas, seed=0, candidates=1)
    torch.testing.assert_close(out[:1][~closed[:1]], frame[~closed[:1]], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z0": torch.zeros(2, 4, 8, 8)}, r"z0 must have shape \[1,C,h,w\]"),
        ({"z0": torch.zeros(4, 8, 8)}, r"z0 must have shape \[1,C,h,w\]"),
        ({"z0": torch.full((1, 4, 8, 8), math.nan)}, "z0 holds NaN"),
        ({"mask_latent": torch.zeros(1, 8, 8)}, r"mask_latent must have shape \[1,1,h,w\]"),
        ({"mask_latent": torch.full((1, 1, 8, 8), math.nan)}, "NaN"),
        ({"mask_latent": torch.full((1, 1, 8, 8), 2.0)}, r"must lie in 0\.\.1"),
        ({"sigmas": torch.tensor([1.0, 2.0, 0.0])}, "sigmas must fall"),
        ({"sigmas": torch.tensor([2.0, 1.0])}, "sigmas must end at 0"),
        ({"candidates": 0}, "candidates must be at least 1"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"start": "anywhere"}, "start must be one of"),
        ({"noise_mode": "wild"}, "noise_mode must be"),
        ({"progressive": -2}, "progressive must be"),
    ],
)
def test_bad_input(change: dict, message: str):
    z0, mask, sigmas = setting()
    given = {"z0": z0, "mask_latent": mask, "sigmas": sigmas, "seed": 0, "candidates": 1, **change}
    with pytest.raises(ValueError, match=message):
        retouch_latent(network, **given)


def test_masks_for_another_number_of_steps_are_refused():
    z0, mask, sigmas = setting()
    with pytest.raises(ValueError, match="one mask for each of 5 steps, got 4"):
        region_denoiser(network, z0, z0, [mask] * 4, sigmas)


def test_runs_inside_inference_mode():
    z0, mask, sigmas = setting()
    with torch.inference_mode():
        inside = retouch_latent(network, z0, mask, sigmas, seed=0, candidates=1)
    assert torch.equal(inside, retouch_latent(network, z0, mask, sigmas, seed=0, candidates=1))


def test_no_warnings_in_ordinary_runs():
    z0, mask, sigmas = setting()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        retouch_latent(network, z0, mask, sigmas, seed=0, candidates=1)


@pytest.mark.parametrize(("level", "expected"), [("t", 0.0292), ("t_prev", 0.0)])
def test_8_2_blending_at_the_wrong_level_leaves_noise(level: str, expected: float):
    """Step, then blend, in the variance-preserving form; published scripts blend at t and keep noise of std 0.0292."""
    abar = 1.0
    grid = []
    for i in range(1000):
        abar *= 1 - (math.sqrt(0.00085) + (math.sqrt(0.012) - math.sqrt(0.00085)) * i / 999) ** 2
        grid.append(abar)
    steps = list(range(980, -1, -20))
    assert len(steps) == 50
    assert grid[0] == pytest.approx(0.99915)
    noise = torch.randn(20000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z0 = torch.zeros_like(noise)
    for t, t_prev in zip(steps, [*steps[1:], -1], strict=True):
        at = t if level == "t" else t_prev
        share = grid[at] if at >= 0 else 1.0
        background = math.sqrt(share) * z0 + math.sqrt(1 - share) * noise
    error = (background - z0).std().item()
    assert error == pytest.approx(expected, abs=5e-4)
    ours = retouch_latent(
        lambda x, s: x,
        z0.reshape(1, 1, 100, 200),
        torch.nn.functional.pad(torch.ones(1, 1, 1, 1), (0, 199, 0, 99)),
        torch.tensor([math.sqrt((1 - grid[t]) / grid[t]) for t in steps] + [0.0]),
        seed=0,
        candidates=1,
        start="source",
    )
    assert ours.flatten()[1:].abs().max() == 0
