"""Prune Candidates: fewer rows through the network, and who lives is what it would have been."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("quiet_host")]

Pack = Callable[[str], ModuleType]
HEIGHT, WIDE = 64, 72
POINTS = {"first_at": 0.34, "first_keep": 0.5, "second_at": 0.67, "second_keep": 0.34}
"""Of six steps and six candidates: three go on after two steps, two after four."""


@pytest.fixture
def pruning(pack: Pack) -> Any:
    """By closeness to the source, which asks no scorer."""
    return pack("nodes.prune_candidates").RetouchPruneCandidates.execute(None, mode="iqa", **POINTS).args[0]


@pytest.fixture
def run(pack: Pack, small: Any) -> Callable[..., Any]:
    node = pack("nodes.region_sampler").RetouchRegionSampler

    def call(kind: str = "plain", **given: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
        defaults = {
            "image": small.picture(HEIGHT, WIDE),
            "mask": hole(),
            "model": given.pop("model", None) or small.model(kind),
            "vae": small.vae(),
            "target": small.conditioning(1),
            "empty": small.conditioning(2),
            "steps": 6,
            "candidates": 6,
        }
        images, _, mask, report = node.execute(**defaults | given).result
        return images, mask, json.loads(report.split("\n", 1)[1])

    return call


def hole() -> Tensor:
    mask = torch.zeros(1, HEIGHT, WIDE)
    mask[:, 10:40, 20:60] = 1
    return mask


@pytest.mark.parametrize("kind", ["plain", "inpaint", "flow"])
def test_who_lives_is_what_it_would_have_been(run: Callable[..., Any], pruning: Any, kind: str) -> None:
    every, _, _ = run(kind)
    cut, mask, report = run(kind, pruning=pruning)
    lived = report["steps_lived"]
    assert sorted(lived) == [2, 2, 2, 4, 6, 6]
    kept = [k for k, steps in enumerate(lived) if steps == 6]
    assert cut.shape == (2, HEIGHT, WIDE, 3)
    torch.testing.assert_close(cut, every[kept], rtol=0, atol=2e-4)
    assert (every[0] - every[1]).abs().max() > 0.01, "candidates that are alike would pass in any case"
    assert torch.equal(cut[:, mask[0] == 0], every[:2, mask[0] == 0])


def test_the_best_live(run: Callable[..., Any], small: Any, pack: Pack) -> None:
    """By the last estimate before the cut the finished best is among them: with one step left it is as good as final."""
    late = {"first_at": 0.5, "first_keep": 0.9, "second_at": 0.84, "second_keep": 0.17}
    pruning = pack("nodes.prune_candidates").RetouchPruneCandidates.execute(None, mode="iqa", **late).args[0]
    every, _, _ = run()
    source = small.picture(HEIGHT, WIDE)
    best = int((every - source).abs().mean((1, 2, 3)).argmin())
    _, _, report = run(pruning=pruning)
    assert report["steps_lived"][best] == 6


def test_only_the_rows_that_live_are_asked(run: Callable[..., Any], small: Any, pruning: Any) -> None:
    model, rows = small.model().clone(), []

    def count(apply: Callable[..., Tensor], args: dict[str, Any]) -> Tensor:
        rows.append(len(args["input"]))
        return apply(args["input"], args["timestep"], **args["c"])

    model.set_model_unet_function_wrapper(count)
    run(model=model, cfg=1.0)
    whole = sum(rows)
    rows.clear()
    _, _, report = run(model=model, cfg=1.0, pruning=pruning)
    assert whole == 36
    assert sum(rows) == sum(report["steps_lived"]) == 6 * 2 + 3 * 2 + 2 * 2


def test_every_picture_of_a_batch_keeps_as_many(run: Callable[..., Any], small: Any, pruning: Any) -> None:
    images = small.picture(HEIGHT, WIDE, batch=2)
    cut, _, report = run(image=images, pruning=pruning)
    assert len(cut) == 4
    lived = report["steps_lived"]
    assert sorted(lived[:6]) == sorted(lived[6:]) == [2, 2, 2, 4, 6, 6]
    outside = hole()[0] == 0
    for k, made in enumerate(cut):
        assert torch.equal(made[outside], images[k // 2][outside])


def test_losses_lead_the_same_steps_with_and_without_cuts(
    run: Callable[..., Any], pack: Pack, pruning: Any
) -> None:
    """The losses of a guidance end after a share of all steps, not of a leg's."""
    terms = pack("retouch_core.editing.loss_terms")
    weighed = terms.LossTerms("", None, scale=200.0, clip=0.0, perceptual=0.0, l2=1.0)
    guidance = terms.Guidance((weighed,), path="linear", until=0.5)
    every, _, _ = run(guidance=guidance)
    cut, _, report = run(guidance=guidance, pruning=pruning)
    kept = [k for k, steps in enumerate(report["steps_lived"]) if steps == 6]
    torch.testing.assert_close(cut, every[kept], rtol=0, atol=1e-3)
    plain, _, _ = run()
    assert (plain[kept] - cut).abs().max() > 0.01, "losses that do nothing would pass in any case"


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler_ancestral", "ddim"])
def test_any_sampler_keeps_the_outside(
    run: Callable[..., Any], small: Any, pruning: Any, sampler: str
) -> None:
    cut, mask, report = run(sampler_name=sampler, pruning=pruning)
    assert len(cut) == 2 and report["steps_lived"].count(6) == 2
    outside = mask[0] == 0
    assert torch.equal(cut[:, outside], small.picture(HEIGHT, WIDE)[:, outside].expand(2, -1, -1))
    assert torch.isfinite(cut).all()


def test_crops_and_a_whole_mask_work_too(run: Callable[..., Any], small: Any, pruning: Any) -> None:
    big, mask = small.picture(160, 160), torch.zeros(1, 160, 160)
    mask[:, 70:90, 60:90] = 1
    cut, _, _ = run(image=big, mask=mask, work_size="64", pruning=pruning)
    assert cut.shape == (2, 160, 160, 3)
    assert torch.equal(cut[:, mask[0] == 0], big[:, mask[0] == 0].expand(2, -1, -1))
    cut, _, _ = run(mask=torch.ones(1, HEIGHT, WIDE), pruning=pruning)
    assert len(cut) == 2


def test_one_candidate_is_never_given_up(run: Callable[..., Any], pruning: Any) -> None:
    cut, _, report = run(candidates=1, pruning=pruning)
    assert len(cut) == 1
    assert "steps_lived" not in report


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"second_at": 0.2}, "second_at is 0.2, not after first_at 0.34; make it larger"),
        ({"second_keep": 0.5}, "second_keep is 0.5, not below first_keep 0.5; make it smaller"),
        ({"first_at": 1.5}, "first_at must be"),
        ({"mode": "localised"}, "prompt is empty, but mode 'localised' ranks by it"),
    ],
)
def test_bad_input_gets_one_sentence(pack: Pack, change: dict[str, Any], message: str) -> None:
    node = pack("nodes.prune_candidates").RetouchPruneCandidates
    with pytest.raises(ValueError, match=message) as caught:
        node.execute(**({"scorer": None, "mode": "iqa"} | POINTS | change))
    assert "\n" not in str(caught.value)


def test_another_wire_is_refused(run: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="pruning must come from Prune Candidates, got str"):
        run(pruning="yes")
