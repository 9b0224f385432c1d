"""Noise Contrast Mask: the host's predictions, asked by hand, make the same mask."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

pytestmark = pytest.mark.host

Pack = Callable[[str], ModuleType]
SHAPES = {"plain": (1, 4, 8, 12), "flow": (1, 4, 8, 6), "video": (1, 4, 2, 8, 6), "inpaint": (1, 4, 8, 8)}


@pytest.fixture
def node(pack: Pack) -> Any:
    return pack("nodes.noise_contrast_mask").RetouchNoiseContrastMask


def latent_of(kind: str, batch: int = 1) -> dict[str, Tensor]:
    shape = SHAPES[kind]
    return {"samples": torch.randn(batch, *shape[1:], generator=torch.Generator().manual_seed(7))}


def by_hand(model: Any, latent: Tensor, conds: list[Any], strength: float, seed: int, draws: int) -> Tensor:
    """|eps(target) - eps(referring)| averaged in float64: one sampler call of the host for each prompt and draw."""
    import comfy.sample
    import comfy.samplers

    sigma = float(model.get_model_object("model_sampling").percent_to_sigma(1 - strength))
    total = torch.zeros(latent.shape[-2:], dtype=torch.float64)
    for k in range(draws):
        noise = comfy.sample.prepare_noise(latent, seed + k)
        found = []
        for cond in conds:
            guider = comfy.samplers.CFGGuider(model)
            guider.set_conds(cond, cond)
            guider.set_cfg(1.0)
            # One Euler step to 0 is the denoised estimate itself.
            sigmas = torch.tensor([sigma, 0.0])
            euler = comfy.samplers.sampler_object("euler")
            made = guider.sample(noise, latent, euler, sigmas, disable_pbar=True, seed=0)
            found.append(made.double() / sigma)
        total += (found[0] - found[1]).abs().flatten(0, -3).mean(0) / draws
    return total


@pytest.mark.parametrize("kind", sorted(SHAPES))
def test_the_mask_is_that_of_single_predictions(node: Any, tiny: ModuleType, kind: str) -> None:
    model, latent = tiny.model(kind), latent_of(kind)
    conds = [tiny.conditioning(1), tiny.conditioning(2)]
    mask, heat, report = node.execute(
        model, latent, conds[1], conds[0], seed=5, draws=3, strength=0.4, ratio=1.9, blur=0.0
    ).args
    gap = by_hand(model, latent["samples"], conds, 0.4, 5, 3)
    level = gap / (1.9 * gap.mean())
    # Cells within rounding of the cut may fall on either side.
    sure = (level - 0.5).abs() > 1e-3
    height, width = gap.shape
    assert mask.shape == heat.shape == (1, 8 * height, 8 * width)
    assert torch.equal((mask[0, 4::8, 4::8] > 0)[sure], (level > 0.5)[sure])
    assert 0 < mask.mean() < 1 and f"{100 * float(mask.mean()):.1f} %" in report


def test_the_same_prompt_gives_an_empty_mask(node: Any, tiny: ModuleType) -> None:
    mask, heat, report = node.execute(
        tiny.model("plain"), latent_of("plain"), tiny.conditioning(1), tiny.conditioning(1), draws=2
    ).args
    assert not mask.any() and not heat.any() and mask.shape == (1, 64, 96)
    assert "predict the same" in report


def test_each_picture_has_its_own_mean(node: Any, tiny: ModuleType) -> None:
    model, conds = tiny.model("plain"), (tiny.conditioning(1), tiny.conditioning(2))
    latent = latent_of("plain", 2)
    both = node.execute(model, latent, *conds, draws=2).args
    second = node.execute(model, {"samples": latent["samples"][1:]}, *conds, draws=2).args
    assert torch.equal(both[0][1:], second[0]) and torch.allclose(both[1][1:], second[1], atol=1e-5)
    assert both[2].splitlines()[1] == f"Picture 2: {second[2]}"


def test_seeds_decide(node: Any, tiny: ModuleType) -> None:
    model, conds = tiny.model("plain"), (tiny.conditioning(1), tiny.conditioning(2))
    one, again, other = (
        node.execute(model, latent_of("plain"), *conds, draws=1, seed=seed).args[1] for seed in (1, 1, 2)
    )
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_a_cancel_stops_between_draws(pack: Pack, node: Any, tiny: ModuleType) -> None:
    import comfy.model_management

    model = tiny.model("plain")
    calls: list[int] = []

    def wrapper(apply: Any, args: dict[str, Any]) -> Tensor:
        calls.append(len(args["input"]))
        comfy.model_management.interrupt_current_processing(True)
        return apply(args["input"], args["timestep"], **args["c"])

    model.set_model_unet_function_wrapper(wrapper)
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            node.execute(model, latent_of("plain"), tiny.conditioning(1), tiny.conditioning(2), draws=5)
    finally:
        comfy.model_management.interrupt_current_processing(False)
    assert len(calls) <= 2  # both prompts of the first draw


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"strength": 0.0}, "strength must be in"),
        ({"strength": 1.0}, "strength must be below 1"),
        ({"draws": 0}, "draws must be a whole number of at least 1, got 0"),
        ({"draws": 101}, "draws must be a whole number from 1 to 100"),
        ({"ratio": 0.0}, "ratio must be a number above 0, got 0.0"),
        ({"blur": -1.0}, "blur must be"),
        ({"latent": {}}, "latent must be a LATENT"),
        ({"latent": {"samples": torch.ones(1, 16, 8, 8)}}, r"latent has shape \[1, 16, 8, 8\]"),
        ({"latent": {"samples": torch.zeros(0, 4, 8, 8)}}, "latent is a batch of no pictures"),
        ({"model": None}, "model must be a MODEL"),
        ({"target": []}, "target is an empty list"),
        ({"referring": None}, "referring must be a CONDITIONING"),
        ({"target": [[torch.randn(1, 8, 96), {}]]}, "do not fit the model's width"),
    ],
)
def test_bad_input_is_refused(node: Any, tiny: ModuleType, changes: dict[str, Any], sentence: str) -> None:
    good = {"model": tiny.model("plain"), "latent": latent_of("plain")}
    good |= {"referring": tiny.conditioning(1), "target": tiny.conditioning(2), "draws": 1}
    with pytest.raises((ValueError, TypeError), match=sentence):
        node.execute(**{**good, **changes})
