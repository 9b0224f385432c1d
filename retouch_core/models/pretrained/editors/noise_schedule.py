"""The noise levels that a model was trained with, whichever solver its folder names.

A scheduler's configuration says two things: the table of noise levels, which belongs to the model, and how a solver of
that name steps through them. Only the first matters here, since `editing.sampler` does the stepping, so the table is held
by a DDIMScheduler, whose timesteps are whole and one a step. Solvers that visit their own few timesteps, for which models
are distilled, are kept.
"""

from __future__ import annotations

import inspect
from typing import Any

from ..files import ModelError

KEPT = ("DDIMScheduler", "LCMScheduler", "TCDScheduler")
"""Solvers whose own timesteps are used."""
TABLE = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
    "prediction_type",
    "timestep_spacing",
    "steps_offset",
)
"""What is taken over from another solver: the table, what the network predicts, and which timesteps its steps visit."""
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
IN_COMFYUI = "use it in ComfyUI"


def scheduler_of(config: dict[str, Any], where: str) -> Any:
    """A scheduler with the table of noise levels that `config` describes.

    Args:
        config: what a `scheduler_config.json` holds; settings that are not in it have the defaults of its class.
        where: the file, for sentences.

    Raises:
        ModelError: a solver without such a table (flow matching, EDM), or one that diffusers does not have.
    """
    import diffusers

    name = str(config.get("_class_name"))
    flow = "Flow" in name or config.get("use_flow_sigmas") or "flow" in str(config.get("prediction_type"))
    edm = "EDM" in name or config.get("timestep_type") == "continuous" or config.get("sigma_max") is not None
    if flow or edm:
        kind = "flow matching" if flow else "continuous noise levels (EDM)"
        raise ModelError(
            f"{where} names {name} with {kind}, but this editor steps through a table of noise levels; {IN_COMFYUI}"
        )
    if not (name.endswith("Scheduler") and inspect.isclass(getattr(diffusers, name, None))):
        raise ModelError(
            f"{where} names {name}, which diffusers {diffusers.__version__} does not have; update diffusers, or name "
            "DDIMScheduler there"
        )
    made = getattr(diffusers, name)
    if name in KEPT:
        return made.from_config({**config})
    settings = {
        setting: parameter.default for setting, parameter in inspect.signature(made).parameters.items()
    }
    settings = {setting: config.get(setting, settings.get(setting)) for setting in TABLE}
    if settings["trained_betas"] is None and settings["beta_schedule"] not in BETA_SCHEDULES:
        raise ModelError(
            f"{where} asks for beta_schedule {settings['beta_schedule']!r}, but only {', '.join(BETA_SCHEDULES)} are known; "
            f"{IN_COMFYUI}"
        )
    table = {setting: value for setting, value in settings.items() if value is not None}
    return diffusers.DDIMScheduler(**table, clip_sample=False, set_alpha_to_one=False)
