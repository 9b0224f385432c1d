"""The guider against the host's own guiders, and the hooks of other packs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

pytestmark = pytest.mark.host

SCALE = 7.5
SHAPES = {"plain": (2, 4, 8, 8), "flow": (2, 4, 8, 6), "video": (2, 4, 3, 8, 6)}


@pytest.fixture(params=sorted(SHAPES))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def count_calls(model: Any) -> list[int]:
    """Rows with which the network is called from now on, appended as it happens."""
    seen: list[int] = []

    def wrapper(apply: Any, args: dict[str, Any]) -> Tensor:
        seen.append(len(args["input"]))
        return apply(args["input"], args["timestep"], **args["c"])

    model.set_model_unet_function_wrapper(wrapper)
    return seen


def close(a: Tensor, b: Tensor) -> bool:
    """To 1e-5 of the larger value: what a random network makes of noise grows far beyond 1."""
    return torch.allclose(a / b.abs().max(), b / b.abs().max(), atol=1e-5, rtol=0)


def run(guider: Any, shape: tuple[int, ...], seed: int = 3) -> Tensor:
    """Four Euler steps from a source latent, as SamplerCustomAdvanced runs them."""
    import comfy.sample
    import comfy.samplers

    generator = torch.Generator().manual_seed(11)
    latent = torch.randn(shape, generator=generator)
    model = guider.model_patcher
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 4)
    noise = comfy.sample.prepare_noise(latent, seed)
    return guider.sample(
        noise, latent, comfy.samplers.sampler_object("euler"), sigmas, disable_pbar=True, seed=seed
    )


def ours(pack: Callable[[str], ModuleType], tiny: ModuleType, model: Any, cfg: float, lam: float) -> Any:
    node = pack("nodes.conditional_cfg").RetouchConditionalCFG
    (guider,) = node.execute(
        model, tiny.conditioning(1), cfg, lam, referring=tiny.conditioning(2), empty=tiny.conditioning(3)
    ).args
    return guider


def core(tiny: ModuleType, model: Any, negative: int, cfg: float) -> Any:
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(tiny.conditioning(1), tiny.conditioning(negative))
    guider.set_cfg(cfg)
    return guider


@pytest.mark.parametrize(("lam", "negative"), [(0.0, 3), (1.0, 2)])
def test_two_terms_are_the_hosts_own_guidance(pack, tiny, kind, lam, negative) -> None:
    model = tiny.model(kind)
    expected = run(core(tiny, model, negative, SCALE), SHAPES[kind])
    found = run(ours(pack, tiny, model, SCALE, lam), SHAPES[kind])
    assert close(found, expected)
    assert not close(found, run(ours(pack, tiny, model, 1.0, lam), SHAPES[kind]))


def test_referring_alone_is_ksampler_with_it_as_negative(pack, tiny) -> None:
    import comfy.sample

    model = tiny.model("plain")
    latent = torch.randn(SHAPES["plain"], generator=torch.Generator().manual_seed(11))
    expected = comfy.sample.sample(
        model,
        comfy.sample.prepare_noise(latent, 3),
        4,
        SCALE,
        "euler",
        "simple",
        tiny.conditioning(1),
        tiny.conditioning(2),
        latent,
        disable_pbar=True,
        seed=3,
    )
    assert close(run(ours(pack, tiny, model, SCALE, 1.0), SHAPES["plain"]), expected)


def test_a_half_is_dual_cfg_of_the_regular_style(pack, tiny, kind) -> None:
    dual = importlib.import_module("comfy_extras.nodes_custom_sampler").Guider_DualCFG
    model, lam = tiny.model(kind), 0.5
    expected = dual(model)
    expected.set_conds(tiny.conditioning(1), tiny.conditioning(2), tiny.conditioning(3))
    expected.set_cfg(SCALE, SCALE + (1 - SCALE) * lam)
    found = run(ours(pack, tiny, model, SCALE, lam), SHAPES[kind])
    assert close(found, run(expected, SHAPES[kind]))


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_scale_one_is_the_target_alone_in_one_pass(pack, tiny, kind, lam) -> None:
    model = tiny.model(kind)
    seen = count_calls(model)
    found = run(ours(pack, tiny, model, 1.0, lam), SHAPES[kind])
    assert sum(seen) == 4 * SHAPES[kind][0]
    assert torch.equal(found, run(core(tiny, model, 3, 1.0), SHAPES[kind]))


@pytest.mark.parametrize(("lam", "passes"), [(0.0, 2), (0.5, 3), (1.0, 2)])
def test_each_step_calls_the_network_for_what_matters_and_no_more(pack, tiny, kind, lam, passes) -> None:
    model = tiny.model(kind)
    seen = count_calls(model)
    run(ours(pack, tiny, model, SCALE, lam), SHAPES[kind])
    assert sum(seen) == 4 * SHAPES[kind][0] * passes


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_hooks_of_other_packs_still_fire(pack, tiny, kind, lam) -> None:
    import comfy.samplers

    model = tiny.model(kind)
    plain = run(ours(pack, tiny, model, SCALE, lam), SHAPES[kind])
    fired: list[str] = []

    def before(args: dict[str, Any]) -> Any:
        fired.append("pre")
        return args["conds_out"]

    def after(args: dict[str, Any]) -> Any:
        fired.append("post")
        assert args["denoised"].shape == SHAPES[kind]
        return args["denoised"]

    def cfg(args: dict[str, Any]) -> Any:
        fired.append("cfg")
        return args["uncond"] + args["cond_scale"] * (args["cond"] - args["uncond"])

    def batch(args: dict[str, Any]) -> Any:
        fired.append("batch")
        options = {k: v for k, v in args["model_options"].items() if k != "sampler_calc_cond_batch_function"}
        return comfy.samplers.calc_cond_batch(
            args["model"], args["conds"], args["input"], args["sigma"], options
        )

    hooked = model.clone()
    hooked.set_model_sampler_pre_cfg_function(before)
    hooked.set_model_sampler_post_cfg_function(after)
    hooked.set_model_sampler_cfg_function(cfg)
    hooked.set_model_sampler_calc_cond_batch_function(batch)
    found = run(ours(pack, tiny, hooked, SCALE, lam), SHAPES[kind])
    assert {name: fired.count(name) for name in set(fired)} == {"pre": 4, "post": 4, "cfg": 4, "batch": 4}
    assert close(found, plain)


def test_a_batch_hook_that_knows_two_conditionings_is_asked_twice(pack, tiny) -> None:
    import comfy.samplers

    model = tiny.model("plain")
    plain = run(ours(pack, tiny, model, SCALE, 0.5), SHAPES["plain"])
    asked: list[int] = []

    def batch(args: dict[str, Any]) -> Any:
        asked.append(len(args["conds"]))
        two = args["conds"][:2]
        return comfy.samplers.calc_cond_batch(args["model"], two, args["input"], args["sigma"], {})

    hooked = model.clone()
    hooked.set_model_sampler_calc_cond_batch_function(batch)
    found = run(ours(pack, tiny, hooked, SCALE, 0.5), SHAPES["plain"])
    assert asked == [3, 2] * 4
    assert close(found, plain)


def test_a_guider_is_used_again_with_the_same_result(pack, tiny) -> None:
    guider = ours(pack, tiny, tiny.model("plain"), SCALE, 0.5)
    options = dict(guider.model_options)
    first = run(guider, SHAPES["plain"])
    assert torch.equal(run(guider, SHAPES["plain"]), first)
    assert guider.model_options.keys() == options.keys()


@pytest.mark.parametrize(
    ("given", "named"), [({}, "empty"), ({"referring": 2}, "empty"), ({"referring": 2, "lam": 0.5}, "empty")]
)
def test_a_conditioning_that_is_needed_and_missing_is_named(pack, tiny, given, named) -> None:
    node = pack("nodes.conditional_cfg").RetouchConditionalCFG
    referring = tiny.conditioning(2) if "referring" in given else None
    with pytest.raises(ValueError, match=f"^{named} is not connected"):
        node.execute(
            tiny.model("plain"), tiny.conditioning(1), 7.0, given.get("lam", 0.0), referring=referring
        )


def test_what_is_not_needed_need_not_be_connected(pack, tiny) -> None:
    node = pack("nodes.conditional_cfg").RetouchConditionalCFG
    model = tiny.model("plain")
    (alone,) = node.execute(model, tiny.conditioning(1), 1.0, 0.0).args
    assert run(alone, SHAPES["plain"]).shape == SHAPES["plain"]
    (against,) = node.execute(model, tiny.conditioning(1), SCALE, 1.0, referring=tiny.conditioning(2)).args
    assert close(run(against, SHAPES["plain"]), run(core(tiny, model, 2, SCALE), SHAPES["plain"]))
