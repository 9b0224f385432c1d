"""Our workflows in the real editor: loaded, queued with its button, saved, bypassed, in subgraphs, in both renderers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytestmark = pytest.mark.browser

WORKFLOWS = Path(__file__).resolve().parents[2] / "example_workflows"
NAMES = sorted(file.stem for file in WORKFLOWS.glob("*.json"))
NEEDS_DOWNLOAD = {"retouch_with_sam3_masks", *(name for name in NAMES if name.startswith("photo_"))}
RUNNABLE = [name for name in NAMES if name not in NEEDS_DOWNLOAD]
RENDERERS = ("classic", "nodes2")
STEPS = "retouch_by_text_step_by_step"
OWN = "retouch_in_your_own_sampler"
SYSTEMS = [name for name in RUNNABLE if re.match(r"s\d\d_", name)]
"""Workflows of published systems, whose own numbers of steps and boxes take up to a minute."""
SEEDS = {"seed", "noise_seed"}


def api(name: str) -> dict[str, Any]:
    """The same workflow in API format, without titles."""
    nodes = json.loads((WORKFLOWS / "api" / f"{name}.json").read_text("utf-8"))
    return {key: {"class_type": node["class_type"], "inputs": node["inputs"]} for key, node in nodes.items()}


def kinds(prompt: dict[str, Any], kind: str) -> list[str]:
    """Ids of the nodes of one class."""
    return [key for key, node in prompt.items() if node["class_type"] == kind]


def picture_of(server: Any, outcome: Any) -> Image.Image:
    """What SaveImage wrote in this run."""
    assert outcome.status == "success", outcome.detail
    (save,) = kinds(outcome.prompt, "SaveImage")
    return Image.open(server.picture(outcome.detail[save]["images"][0]))


def values(workflow: dict[str, Any]) -> dict[Any, Any]:
    """Widget values of every node, also of those in subgraphs."""
    graphs = [workflow, *workflow.get("definitions", {}).get("subgraphs", [])]
    return {
        (graph.get("name", ""), node["id"]): (node["type"], node.get("widgets_values") or [], node["mode"])
        for graph in graphs
        for node in graph["nodes"]
    }


def wrong_links(prompt: dict[str, Any], schemas: dict[str, Any]) -> list[str]:
    """Links whose two ends have different types."""
    found = []
    for key, node in prompt.items():
        inputs = schemas[node["class_type"]]["input"]
        wanted = {**inputs.get("required", {}), **inputs.get("optional", {})}
        for name, value in node["inputs"].items():
            if not isinstance(value, list) or name not in wanted:
                continue
            given = schemas[prompt[value[0]]["class_type"]]["output"][value[1]]
            if wanted[name][0] not in ("*", given) and given != "*":
                found.append(f"{given} of {value} on {key}.{name}, which takes {wanted[name][0]}")
    return found


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("name", NAMES)
def test_template_is_the_api_workflow(name: str, renderer: str, frontend: Callable[[str], Any]) -> None:
    page = frontend(renderer)
    workflow = page.template(name)
    assert page.prompt() == api(name)
    assert values(page.workflow()) == values(workflow)


@pytest.mark.parametrize("renderer", RENDERERS)
def test_template_blueprint_and_help_are_found_by_mouse(
    renderer: str, frontend: Callable[[str], Any]
) -> None:
    page = frontend(renderer)
    page.from_template_dialog(STEPS)
    assert page.prompt() == api(STEPS)

    blueprint = page.from_node_library("Retouch by text")
    added = page.page.evaluate("id => app.graph.getNodeById(id).inputs.map(input => input.name)", blueprint)
    assert {"image", "query", "prompt", "model", "clip", "vae"} <= set(added)

    (ranker,) = kinds(api(STEPS), "RetouchRankCandidates")
    shown = page.help_page(int(ranker))
    shown.get_by_role("heading", name="Inputs", exact=True).wait_for()
    shown.locator("img").first.wait_for()
    page.page.wait_for_function("() => document.querySelector('.node-help-content img')?.naturalWidth > 0")


@pytest.mark.parametrize("name", NAMES)
def test_layout_is_readable(name: str) -> None:
    workflow = json.loads((WORKFLOWS / f"{name}.json").read_text("utf-8"))
    notes = [node for node in workflow["nodes"] if node["type"] == "MarkdownNote"]
    assert notes and "“" in notes[0]["widgets_values"][0]
    boxes = [(*node["pos"], *node["size"]) for node in workflow["nodes"]]
    title = 30
    for k, (x, y, w, h) in enumerate(boxes):
        for x2, y2, w2, h2 in boxes[:k]:
            apart = x + w <= x2 or x2 + w2 <= x or y + h <= y2 - title or y2 + h2 <= y - title
            assert apart, f"{name}: nodes overlap at {(x, y)} and {(x2, y2)}"
    thumbnail = WORKFLOWS / f"{name}.jpg"
    assert thumbnail.stat().st_size < 200_000
    assert Image.open(thumbnail).format == "JPEG"


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("name", RUNNABLE)
def test_template_runs_is_saved_and_runs_again(
    name: str, renderer: str, frontend: Callable[[str], Any], host_server: Any
) -> None:
    page = frontend(renderer)
    page.template(name)
    if name in SYSTEMS:
        page.hasten()
    first = picture_of(host_server, page.queue())
    source = Image.open(WORKFLOWS / api(name)[kinds(api(name), "LoadImage")[0]]["inputs"]["image"])
    assert first.size == source.size
    assert first.convert("RGB").tobytes() != source.convert("RGB").tobytes()

    before = page.workflow()
    file = page.saved(f"{name} {renderer}")
    assert file.is_file()
    page.open()
    page.load(json.loads(file.read_text("utf-8")), f"{name} again")
    assert values(page.workflow()) == values(before)
    assert picture_of(host_server, page.queue()).size == source.size


@pytest.mark.slow
@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("name", [STEPS, OWN])
def test_every_node_can_be_bypassed(
    name: str, renderer: str, frontend: Callable[[str], Any], host_server: Any
) -> None:
    page = frontend(renderer)
    workflow = page.template(name)
    page.hasten()
    schemas = host_server.object_info()
    statuses = {}
    for node in workflow["nodes"]:
        if node["type"] == "MarkdownNote":
            continue
        page.bypass(node["id"])
        page.may_refuse = True
        outcome = page.queue()
        page.may_refuse = False
        statuses[node["type"]] = outcome.status
        assert wrong_links(outcome.prompt, schemas) == [], f"with {node['type']} bypassed"
        assert str(node["id"]) not in outcome.prompt
        page.bypass(node["id"], on=False)
    # Where the first input is what the next node takes, the graph goes on. The mask of a filter of regions has no such
    # input: there the host refuses, and says which input is open.
    passing = {"RetouchAdaptiveThreshold", "RetouchDilateMask", "RetouchComposite"}
    assert set(statuses.values()) <= {"success", "refused", "error"}
    assert {kind: statuses[kind] for kind in passing & statuses.keys()} == dict.fromkeys(
        passing & statuses.keys(), "success"
    )
    assert picture_of(host_server, page.queue())


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize(
    ("name", "kind", "passed"),
    [(STEPS, "RetouchRankCandidates", "candidates"), (OWN, "RetouchComposite", "edited")],
)
def test_bypass_passes_the_first_picture(
    name: str, kind: str, passed: str, renderer: str, frontend: Callable[[str], Any], host_server: Any
) -> None:
    page = frontend(renderer)
    page.template(name)
    prompt = page.prompt()
    (node,), (save,) = kinds(prompt, kind), kinds(prompt, "SaveImage")
    page.bypass(int(node))
    outcome = page.queue()
    assert outcome.prompt[save]["inputs"]["images"] == prompt[node]["inputs"][passed]
    assert picture_of(host_server, outcome)


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("name", [STEPS, OWN])
def test_every_node_runs_inside_a_subgraph(
    name: str, renderer: str, frontend: Callable[[str], Any], host_server: Any
) -> None:
    page = frontend(renderer)
    workflow = page.template(name)
    plain = page.prompt()
    for node in workflow["nodes"]:
        if node["type"].startswith("Retouch"):
            outer = page.into_subgraph(node["id"])
            inner = [key for key in page.prompt() if re.fullmatch(rf"{outer}:\d+", key)]
            assert len(inner) == 1, node["type"]
    prompt = page.prompt()
    assert sorted(n["class_type"] for n in prompt.values()) == sorted(n["class_type"] for n in plain.values())
    outcome = page.queue()
    assert picture_of(host_server, outcome)
    for kind in ("RetouchEntitySegment", "RetouchRegionScores", "RetouchLocationFilter"):
        (key,) = kinds(prompt, kind)
        assert outcome.detail[key]["images"], f"{kind} shows no preview inside a subgraph"
