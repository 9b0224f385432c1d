"""The example workflows of the published systems carry the values of their recipes, and say what stands in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from retouch_core.recipes import PUBLISHED

WORKFLOWS = Path(__file__).resolve().parents[2] / "example_workflows"
DENOISERS = {"any": "inpaint", "plain": "blended"}
"""Kind of denoiser in a recipe -> what Load Embedded Models calls it."""
SAME = "the decoded picture as it comes"
"""What every note says in its own words."""

FIELDS = {
    "RetouchEntitySegment": {"score_min": "score_min", "leftovers": "leftovers"},
    "RetouchRegionScores": {"view": "view", "template": "template"},
    "RetouchAdaptiveThreshold": {"mode": "threshold", "u": "u", "norm": "norm", "beta": "beta"},
    "RetouchLocationFilter": {"place_rule": "place_rule"},
    "RetouchReferringSegment": {"mode": "refer_rule", "k": "refer_k", "pick": "refer_pick"},
    "RetouchLearnRegion": {
        "steps": "steps",
        "cfg": "scale",
        "denoise": "strength",
        "anchors": "candidates",
        "sizes": "sizes",
        "mode": "learn_mode",
        "template": "learn_template",
    },
    "RetouchDilateMask": {"shape": "shape", "dilate": "dilate", "feather": "feather"},
    "RetouchGuidance": {
        "scale": "loss_scale",
        "clip": "loss_clip",
        "perceptual": "loss_perceptual",
        "l2": "loss_l2",
        "value_range": "loss_range",
        "path": "loss_path",
        "distance": "loss_distance",
        "cutouts": "loss_cutouts",
        "cutting": "loss_cutting",
        "estimate": "loss_estimate",
        "bound": "loss_bound",
        "every": "loss_every",
        "until": "loss_until",
        "update": "loss_update",
        "window": "loss_window",
    },
    "RetouchRegionSampler": {
        "steps": "steps",
        "cfg": "scale",
        "lam": "lam",
        "denoise": "strength",
        "candidates": "candidates",
        "inpaint_input": "inpaint_input",
        "change_min": "change_min",
        "work_size": "work_size",
    },
    "RetouchConditionalCFG": {"cfg": "scale", "lam": "lam"},
    "BasicScheduler": {"steps": "steps", "denoise": "strength"},
    "EmptyLatentImage": {"batch_size": "candidates"},
    "RetouchComposite": {"change_min": "change_min"},
    "RetouchRankCandidates": {"mode": "rank_mode", "alpha": "alpha"},
}
"""Node -> its inputs -> the recipe's field that each of them is."""
STAGES = {
    "entities": {"RetouchEntitySegment", "RetouchRegionScores", "RetouchAdaptiveThreshold"},
    "refer": {"RetouchReferringSegment"},
    "learn": {"RetouchLearnRegion"},
}


def prompt_of(name: str) -> dict[str, Any]:
    """The workflow in API format."""
    return dict(json.loads((WORKFLOWS / "api" / f"{name}.json").read_text("utf-8")))


@pytest.mark.parametrize("name", PUBLISHED)
def test_nodes_carry_the_values_of_the_recipe(name: str) -> None:
    settings = PUBLISHED[name].settings()
    seen = set()
    for node in prompt_of(name).values():
        kind, inputs = node["class_type"], node["inputs"]
        for key, entry in FIELDS.get(kind, {}).items():
            wanted = settings[entry]
            assert inputs[key] == (0 if wanted is None else wanted), f"{kind}.{key}"
            seen.add(kind)
        if kind == "RetouchLoadEmbedded":
            assert inputs["denoiser"] == DENOISERS[settings["denoiser"]]
    assert STAGES[settings["find"]] <= seen
    assert ("RetouchGuidance" in seen) == bool(settings["loss_scale"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_prompt_and_a_hold_only_where_the_recipe_has_them(name: str) -> None:
    settings, prompt = PUBLISHED[name], prompt_of(name)
    (painter,) = (
        node["inputs"]
        for node in prompt.values()
        if node["class_type"] in ("RetouchRegionSampler", "RetouchLearnRegion", "RetouchConditionalCFG")
    )
    words = prompt[painter["target"][0]]["inputs"]["text"]
    assert isinstance(words, list) == settings.prompted
    assert ("referring" in painter) == (settings.lam > 0)
    held = [node for node in prompt.values() if node["class_type"] == "EmptyLatentImage"]
    assert bool(held) != settings.hold


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_note_names_every_part_that_something_stands_in_for(name: str) -> None:
    workflow = json.loads((WORKFLOWS / f"{name}.json").read_text("utf-8"))
    (note,) = (node["widgets_values"][0] for node in workflow["nodes"] if node["type"] == "MarkdownNote")
    assert [part for part in PUBLISHED[name].substitutes if part != SAME and part not in note] == []
    assert len(note) < 2500
