"""Tables of noise levels under the names of other solvers: equal to those solvers' own, and refused where there is none."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("diffusers")

import diffusers
import numpy as np

from retouch_core.editing.schedule import sigmas_of
from retouch_core.models.noise import LEAST_ABAR, training_sigmas
from retouch_core.models.pretrained.editors.noise_schedule import scheduler_of
from retouch_core.models.pretrained.files import ModelError

PUBLISHED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SOLVERS = ("PNDMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "DDPMScheduler")


def told(solver: str, **changes: object) -> dict[str, object]:
    return {"_class_name": solver, **PUBLISHED, **changes}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_the_table_is_the_solvers_own(solver: str, schedule: str) -> None:
    made = scheduler_of(told(solver, beta_schedule=schedule), "there")
    own = getattr(diffusers, solver)(**{**PUBLISHED, "beta_schedule": schedule})
    assert torch.equal(made.alphas_cumprod, own.alphas_cumprod)


@pytest.mark.parametrize("solver", SOLVERS)
def test_settings_that_are_not_there_have_the_solvers_own_defaults(solver: str) -> None:
    """Euler spaces its steps from end to end and PNDM leads, unless they are told; DDIM would lead in both cases."""
    made = scheduler_of({"_class_name": solver}, "there")
    own = getattr(diffusers, solver)()
    assert torch.equal(made.alphas_cumprod, own.alphas_cumprod)
    assert made.config.timestep_spacing == own.config.timestep_spacing
    assert made.config.steps_offset == own.config.steps_offset


def test_trained_betas() -> None:
    betas = np.linspace(0.001, 0.02, 40).tolist()
    made = scheduler_of(told("EulerDiscreteScheduler", trained_betas=betas, num_train_timesteps=40), "there")
    expected = torch.cumprod(1 - torch.tensor(betas), 0)
    torch.testing.assert_close(made.alphas_cumprod, expected)


def test_zero_terminal_snr_ends_at_the_hosts_level() -> None:
    made = scheduler_of(
        told("EulerDiscreteScheduler", rescale_betas_zero_snr=True, prediction_type="v_prediction"), "there"
    )
    sigmas = training_sigmas(made)
    assert float(made.alphas_cumprod[-1]) == 0
    assert float(sigmas[-1]) == pytest.approx((1 / LEAST_ABAR - 1) ** 0.5)
    # Lin et al. 2024, algorithm 1: the square roots are shifted and scaled, so that the first stays and the last is 0.
    plain = scheduler_of(told("EulerDiscreteScheduler"), "there").alphas_cumprod.double().sqrt()
    expected = ((plain - plain[-1]) * plain[0] / (plain[0] - plain[-1])) ** 2
    torch.testing.assert_close(made.alphas_cumprod.double(), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("solver", ["PNDMScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler"])
def test_one_step_is_one_timestep(solver: str) -> None:
    """Heun, KDPM2 and PNDM visit more timesteps than they have steps."""
    made = scheduler_of(told(solver, timestep_spacing="leading", steps_offset=1), "there")
    assert len(sigmas_of(made, 10)) == 11
    assert made.config.prediction_type == "epsilon"


def test_solvers_of_distilled_models_keep_their_timesteps() -> None:
    made = scheduler_of(told("LCMScheduler", original_inference_steps=50), "there")
    assert type(made).__name__ == "LCMScheduler"
    assert len(sigmas_of(made, 4)) == 5


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "flow matching.*use it in ComfyUI"),
        (told("DPMSolverMultistepScheduler", use_flow_sigmas=True), "flow matching"),
        (told("EulerDiscreteScheduler", prediction_type="flow_prediction"), "flow matching"),
        ({"_class_name": "EDMEulerScheduler"}, r"\(EDM\)"),
        (told("EulerDiscreteScheduler", timestep_type="continuous"), r"\(EDM\)"),
        (told("NewestScheduler"), "names NewestScheduler, which diffusers .* does not have"),
        ({}, "names None, which diffusers"),
        (told("DDPMScheduler", beta_schedule="sigmoid"), "beta_schedule 'sigmoid'"),
    ],
)
def test_what_has_no_table_is_refused(config: dict[str, object], said: str) -> None:
    with pytest.raises(ModelError, match=said) as error:
        scheduler_of(config, "there")
    assert "\n" not in str(error.value)
