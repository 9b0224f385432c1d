"""Noise levels and schedules (methods.md 0.1, 8.4) against closed forms, diffusers and a brute-force table."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from retouch_core.editing.schedule import check_sigmas, sigmas_of, start_from_strength
from retouch_core.models.noise import (
    LEAST_ABAR,
    from_vp,
    nearest_timestep,
    sigma_at,
    sigma_of_abar,
    to_vp,
    training_sigmas,
)

diffusers = pytest.importorskip("diffusers")


def ddim(**changes):
    settings = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": "v_prediction",
        "set_alpha_to_one": True,
        "clip_sample": False,
        "timestep_spacing": "trailing",
    }
    return diffusers.DDIMScheduler(**{**settings, **changes})


def brute_force_sigmas() -> np.ndarray:
    """The scaled-linear training grid in float64, one factor at a time."""
    abar, levels = 1.0, []
    for i in range(1000):
        root = math.sqrt(0.00085) + (math.sqrt(0.012) - math.sqrt(0.00085)) * i / 999
        abar *= 1 - root**2
        levels.append(math.sqrt((1 - abar) / abar))
    return np.array(levels)


def test_check_0a_the_two_forms():
    abar, z0, n = (torch.tensor(v, dtype=torch.float64) for v in (0.64, 1.0, 0.5))
    x_vp = abar.sqrt() * z0 + (1 - abar).sqrt() * n
    assert x_vp.item() == pytest.approx(1.1)
    sigma = sigma_of_abar(abar)
    assert sigma.item() == pytest.approx(0.75)
    x = from_vp(x_vp, abar)
    assert x.item() == pytest.approx(1.375)
    assert (x - sigma * n).item() == pytest.approx(1.0)
    assert to_vp(x, sigma).item() == pytest.approx(1.1)


def test_training_sigmas_equal_the_brute_force_grid():
    np.testing.assert_allclose(training_sigmas(ddim()).numpy(), brute_force_sigmas(), rtol=2e-4)


def test_sd_schedule_ends_at_the_published_levels():
    levels = training_sigmas(ddim())
    assert levels[-1].item() == pytest.approx(14.6146, abs=1e-3)
    assert levels[0].item() == pytest.approx(0.0292, abs=1e-4)  # methods.md 8.2: std of the last noise level
    assert math.sqrt(1 - 1 / (1 + levels[1].item() ** 2)) == pytest.approx(0.0413, abs=1e-4)


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
@pytest.mark.parametrize("steps", [1, 7, 20, 50])
def test_sigmas_follow_the_schedulers_timesteps(spacing: str, steps: int):
    scheduler = ddim(timestep_spacing=spacing)
    sigmas = sigmas_of(scheduler, steps)
    scheduler.set_timesteps(steps)
    expected = [brute_force_sigmas()[t] for t in scheduler.timesteps.tolist()] + [0.0]
    np.testing.assert_allclose(sigmas.numpy(), expected, rtol=2e-4)
    assert sigmas.dtype == torch.float32
    check_sigmas(sigmas)


def test_sigmas_equal_diffusers_own_euler_sigmas():
    euler = diffusers.EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="trailing"
    )
    sigmas = sigmas_of(euler, 10)
    euler.set_timesteps(10)
    torch.testing.assert_close(sigmas, euler.sigmas, rtol=1e-5, atol=1e-6)


def test_fractional_timesteps_are_read_between_two_levels():
    euler = diffusers.EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="linspace"
    )
    sigmas = sigmas_of(euler, 7)
    euler.set_timesteps(7)
    torch.testing.assert_close(sigmas, euler.sigmas, rtol=1e-3, atol=1e-5)


def test_a_schedule_that_repeats_a_timestep_counts_it_once():
    pndm = diffusers.PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True
    )
    sigmas = sigmas_of(pndm, 10)
    check_sigmas(sigmas)
    assert len(sigmas) == 11


def test_the_scheduler_is_left_alone():
    scheduler = ddim()
    scheduler.set_timesteps(4)
    before = scheduler.timesteps.clone()
    sigmas_of(scheduler, 20)
    assert torch.equal(scheduler.timesteps, before)
    assert scheduler.num_inference_steps == 4


def test_zero_terminal_snr_starts_at_the_hosts_level_instead_of_infinity():
    sigmas = sigmas_of(ddim(rescale_betas_zero_snr=True), 5)
    assert torch.isfinite(sigmas).all()
    assert sigmas[0].item() == pytest.approx(math.sqrt((1 - LEAST_ABAR) / LEAST_ABAR), rel=1e-5)


@pytest.mark.parametrize(
    ("steps", "strength", "start"), [(50, 0.75, 13), (50, 1.0, 0), (100, 0.75, 25), (20, 0.05, 19)]
)
def test_strength_has_diffusers_meaning(steps: int, strength: float, start: int):
    assert start_from_strength(steps, strength) == start
    assert len(sigmas_of(ddim(), steps, strength)) == steps - start + 1


@pytest.mark.parametrize("steps", [1, 4, 20, 33])
def test_strength_agrees_with_the_inpaint_pipeline(steps: int):
    get_timesteps = diffusers.StableDiffusionInpaintPipeline.get_timesteps
    scheduler = ddim()
    scheduler.set_timesteps(steps)
    for hundredths in range(1, 101):
        strength = hundredths / 100
        timesteps, left = get_timesteps(SimpleNamespace(scheduler=scheduler), steps, strength, "cpu")
        if left < 1:
            with pytest.raises(ValueError, match="leaves no step"):
                start_from_strength(steps, strength)
        else:
            assert steps - start_from_strength(steps, strength) == left == len(timesteps)


def test_a_strength_keeps_the_schedule():
    torch.testing.assert_close(sigmas_of(ddim(), 20, 0.5), sigmas_of(ddim(), 20)[10:], rtol=0, atol=0)


def test_start_t_cuts_the_schedule():
    sigmas = sigmas_of(ddim(), 50, start_t=200)
    scheduler = ddim()
    scheduler.set_timesteps(50)
    assert len(sigmas) - 1 == sum(t <= 200 for t in scheduler.timesteps.tolist())
    with pytest.raises(ValueError, match="start_t 3"):
        sigmas_of(ddim(), 50, start_t=3)


@pytest.mark.parametrize("strength", [0, -0.1, 1.01, math.nan])
def test_bad_strength(strength: float):
    with pytest.raises(ValueError, match=r"strength must be in \(0, 1\]"):
        start_from_strength(20, strength)


def test_strength_that_leaves_no_step():
    with pytest.raises(ValueError, match=r"strength 0\.04 of 20 steps"):
        start_from_strength(20, 0.04)


@pytest.mark.parametrize("steps", [0, -3, 2.5])
def test_bad_steps(steps):
    with pytest.raises(ValueError, match="steps must be a whole number"):
        sigmas_of(ddim(), steps)


def test_a_flow_matching_scheduler_is_refused():
    with pytest.raises(TypeError, match="FlowMatchEulerDiscreteScheduler has no alphas_cumprod"):
        sigmas_of(diffusers.FlowMatchEulerDiscreteScheduler(), 10)


@pytest.mark.parametrize(
    "sigmas", [[1.0], [1.0, 1.0, 0.0], [1.0, 2.0, 0.0], [2.0, math.nan, 0.0], [1.0, -1.0]]
)
def test_levels_that_do_not_fall(sigmas: list[float]):
    with pytest.raises(ValueError, match="sigmas must"):
        check_sigmas(torch.tensor(sigmas))


def test_nearest_timestep_is_nearest_in_the_logarithm():
    grid = torch.tensor([1.0, 2.0, 8.0], dtype=torch.float64)
    asked = torch.tensor([0.1, 1.4, 1.5, 3.9, 4.1, 100.0])
    assert nearest_timestep(asked, grid).tolist() == [0, 0, 1, 1, 2, 2]


def test_every_training_level_finds_its_own_timestep():
    levels = training_sigmas(ddim())
    assert torch.equal(nearest_timestep(levels.float(), levels), torch.arange(1000))
    torch.testing.assert_close(sigma_at(torch.arange(1000), levels), levels, rtol=0, atol=0)
