"""The pack in a running ComfyUI: what it serves, every workflow that needs no download, cancelling, unloading, the log.

The tests of this file share one server and run in this order; the last ones read what all of them left behind.
"""

from __future__ import annotations

import copy
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.host

ROOT = Path(__file__).resolve().parents[2]
PACK = "text-retouch"
WORKFLOWS = ROOT / "example_workflows"
IDS = sorted(
    set(re.findall(r"\bimport (Retouch\w+)", (ROOT / "nodes" / "__init__.py").read_text(encoding="utf-8")))
)
LANGUAGES = ("en", "zh")

# Inputs through which a node of the core loads a file that we do not ship.
FILES = ("ckpt_name", "unet_name", "clip_name", "vae_name", "lora_name", "control_net_name")


def runnable(prompt: dict[str, Any]) -> bool:
    """Whether a workflow names only what ships with the pack."""
    return not any(name.startswith(FILES) for node in prompt.values() for name in node["inputs"])


AT_MOST = {"steps": 8, "candidates": 2, "batch_size": 2, "anchors": 3}
"""Inputs of samplers -> the most that is queued here of the published systems. They ask for up to 100 steps, 24 candidates
and 63 boxes, a minute each time; whether a graph runs is seen with less. Every other value is the template's."""


def lightened(prompt: dict[str, Any]) -> dict[str, Any]:
    """A copy of a system's workflow with no more work than `AT_MOST`."""
    prompt = copy.deepcopy(prompt)
    for node in prompt.values():
        for name, most in AT_MOST.items():
            value = node["inputs"].get(name)
            if isinstance(value, int):
                node["inputs"][name] = min(value, most)
    return prompt


def prompt_of(file: Path) -> dict[str, Any]:
    """What is queued of a workflow."""
    prompt = json.loads(file.read_text("utf-8"))
    return lightened(prompt) if re.match(r"s\d\d_", file.stem) else dict(prompt)


PROMPTS = {file.stem: prompt_of(file) for file in sorted((WORKFLOWS / "api").glob("*.json"))}
RUNNABLE = [name for name, prompt in PROMPTS.items() if runnable(prompt)]
SEEDS = ("seed", "noise_seed")


def nodes_of(prompt: dict[str, Any], kind: str) -> list[str]:
    """Ids of the nodes of one class."""
    return [name for name, node in prompt.items() if node["class_type"] == kind]


def with_seed(prompt: dict[str, Any], seed: int) -> tuple[dict[str, Any], str]:
    """A copy with another seed, and the node that has it."""
    prompt = copy.deepcopy(prompt)
    for name, node in prompt.items():
        for key in SEEDS:
            if key in node["inputs"] and not isinstance(node["inputs"][key], list):
                node["inputs"][key] = seed
                return prompt, name
    raise AssertionError("no node has a seed")


def loads_of(server: Any) -> int:
    """How often weights were brought to their device; a clone of a loaded model is asked for without that."""
    return len(re.findall(r"loaded (?:completely|partially);", server.log()))


@pytest.fixture(scope="module")
def server(start_server: Callable[..., Any]) -> Iterator[Any]:
    with start_server() as running:
        yield running


# -------- what is served
def test_every_node_is_registered(server: Any) -> None:
    info = server.object_info()
    assert len(IDS) >= 13
    assert [name for name in IDS if name not in info] == []
    for name in IDS:
        node = info[name]
        assert node["python_module"] == f"custom_nodes.{PACK}"
        assert node["display_name"] and node["description"] and node["category"].startswith("Text Retouch")
        assert node.get("search_aliases"), name
        for kind in ("required", "optional"):
            for key, (_, *options) in node["input"].get(kind, {}).items():
                assert options and options[0].get("tooltip"), f"{name}.{key} has no tooltip"


def test_pack_loads_within_half_a_second(server: Any) -> None:
    (seconds, rest) = re.findall(rf"([\d.]+) seconds(.*): \S*{PACK}\b", server.log())[0]
    assert float(seconds) < 0.5
    assert rest == ""


def test_templates_are_served(server: Any) -> None:
    files = sorted(WORKFLOWS.glob("*.json"))
    assert files
    assert sorted(server.json("/workflow_templates")[PACK]) == [file.stem for file in files]
    for file in files:
        base = f"/api/workflow_templates/{PACK}/{file.stem}"
        assert server.request(base + ".json") == file.read_bytes()
        assert server.request(base + ".jpg")[:3] == b"\xff\xd8\xff"


def test_blueprints_are_served(server: Any) -> None:
    ours = {
        key: entry
        for key, entry in server.json("/global_subgraphs").items()
        if entry["info"]["node_pack"] == f"custom_nodes.{PACK}"
    }
    assert {entry["name"] for entry in ours.values()} == {
        file.stem for file in (ROOT / "subgraphs").glob("*.json")
    }
    assert ours
    for key in ours:
        data = json.loads(server.json(f"/global_subgraphs/{key}")["data"])
        assert data["definitions"]["subgraphs"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_locales_are_served(server: Any, language: str) -> None:
    told = server.json("/i18n")[language]["nodeDefs"]
    assert [name for name in IDS if not told.get(name, {}).get("display_name")] == []


@pytest.mark.parametrize("name", IDS)
def test_help_page_and_its_pictures_are_served(server: Any, name: str) -> None:
    base = f"/extensions/{PACK}/docs/"
    page = server.request(f"{base}{name}/en.md").decode()
    assert page.startswith("#")
    pictures = re.findall(r"!\[[^\]]*\]\(([^)\s]+)", page) + re.findall(r'<img[^>]+src="([^"]+)"', page)
    assert pictures
    for picture in pictures:
        # The frontend resolves what is relative against the docs folder, not against the page.
        assert not picture.startswith("http")
        assert len(server.request(picture if picture.startswith("/") else base + picture)) > 100


# -------- workflows
def test_two_workflows_at_least_need_no_download() -> None:
    assert len(RUNNABLE) >= 2


@pytest.mark.parametrize("name", RUNNABLE)
def test_workflow_runs_and_keeps_every_other_pixel(server: Any, name: str) -> None:
    prompt = copy.deepcopy(PROMPTS[name])
    (picture,) = nodes_of(prompt, "LoadImage")
    (save,) = nodes_of(prompt, "SaveImage")
    wired = next(node["inputs"] for node in prompt.values() if {"source", "mask"} <= node["inputs"].keys())
    result = prompt[save]["inputs"]["images"]
    measured = {"source": wired["source"], "result": result, "mask": wired["mask"]}
    # All that may have changed, as a picture of 0 and 255: a faint edge must not be rounded away.
    prompt |= {
        "h1": {"class_type": "ThresholdMask", "inputs": {"mask": wired["mask"], "value": 0.0}},
        "h2": {"class_type": "MaskToImage", "inputs": {"mask": ["h1", 0]}},
        "h3": {"class_type": "SaveImage", "inputs": {"images": ["h2", 0], "filename_prefix": "mask"}},
        "h4": {"class_type": "RetouchMeasure", "inputs": measured},
        "h5": {"class_type": "PreviewAny", "inputs": {"source": ["h4", 1]}},
    }

    run = server.queue(prompt)

    assert run.status == "success", run.error
    source = server.folder / "input" / prompt[picture]["inputs"]["image"]
    before, after, mask = (
        np.asarray(Image.open(file).convert("RGB"))
        for file in (source, *(server.picture(run.outputs[node]["images"][0]) for node in (save, "h3")))
    )
    outside = mask == 0
    assert 0.3 < outside.mean() < 1.0
    assert np.array_equal(before[outside], after[outside])
    assert np.abs(before[~outside].astype(int) - after[~outside]).mean() > 5
    assert run.text("h5") == "0.0"
    words = [
        node["inputs"].get("value", "") for node in prompt.values() if node["class_type"] == "PrimitiveString"
    ]
    if any("on the left" in text for text in words):
        assert np.nonzero(~outside)[1].mean() < mask.shape[1] / 2
    for node in nodes_of(prompt, "PreviewAny"):
        assert run.text(node).strip()


@pytest.mark.parametrize("name", RUNNABLE)
def test_second_queue_runs_nothing_again(server: Any, name: str) -> None:
    server.queue(PROMPTS[name])

    again = server.queue(PROMPTS[name])

    assert again.status == "success"
    assert sorted(again.cached) == sorted(PROMPTS[name])
    assert again.executed == []


@pytest.mark.parametrize("name", RUNNABLE)
def test_another_seed_loads_nothing_again(server: Any, name: str) -> None:
    server.queue(PROMPTS[name])
    loads = loads_of(server)
    prompt, seeded = with_seed(PROMPTS[name], 7)

    run = server.queue(prompt)

    assert run.status == "success", run.error
    assert seeded in run.executed
    assert set(nodes_of(prompt, "RetouchLoadEmbedded")) <= set(run.cached)
    assert loads_of(server) == loads


@pytest.mark.parametrize("name", RUNNABLE)
def test_same_seed_gives_the_same_picture_after_a_restart_of_the_cache(server: Any, name: str) -> None:
    (save,) = nodes_of(PROMPTS[name], "SaveImage")
    first = server.queue(PROMPTS[name])
    server.free()

    second = server.queue(PROMPTS[name])

    assert second.cached == []
    pictures = [
        np.asarray(Image.open(server.picture(run.outputs[save]["images"][0]))) for run in (first, second)
    ]
    assert np.array_equal(*pictures)


@pytest.mark.parametrize("name", RUNNABLE)
def test_cancelling_stops_within_a_step_and_the_next_queue_works(server: Any, name: str) -> None:
    prompt, _ = with_seed(PROMPTS[name], 11)
    steps = next(node for node in prompt.values() if "steps" in node["inputs"])
    steps["inputs"]["steps"] = 1000
    sampler = next(
        key
        for key, node in prompt.items()
        if node["class_type"] in ("RetouchRegionSampler", "SamplerCustomAdvanced", "RetouchLearnRegion")
    )

    def steps_done(run: Any) -> list[int]:
        return [
            message["data"]["value"]
            for message in list(server.messages)
            if message["type"] == "progress"
            and message["data"].get("prompt_id") == run.id
            and message["data"].get("node") == sampler
        ]

    run = server.post(prompt)
    server.wait_for(lambda message: len(steps_done(run)) >= 5, 120)
    server.interrupt()
    cancelled = time.monotonic()
    done = steps_done(run)[-1]
    server.wait(run, 60)

    assert run.status == "interrupted"
    assert time.monotonic() - cancelled < 5
    assert done < 500
    # One step is under way when the cancel arrives, and one message may be.
    assert steps_done(run)[-1] <= done + 2
    assert server.queue(with_seed(PROMPTS[name], 12)[0]).status == "success"


@pytest.mark.parametrize("name", RUNNABLE)
def test_unloading_makes_every_network_load_anew(server: Any, name: str) -> None:
    server.queue(with_seed(PROMPTS[name], 13)[0])
    server.free(unload_models=True, free_memory=False)
    loads = loads_of(server)

    run = server.queue(with_seed(PROMPTS[name], 14)[0])

    assert run.status == "success"
    # The loader's objects are still cached; what the host had unloaded, it loads again, so it knew of it.
    assert set(nodes_of(PROMPTS[name], "RetouchLoadEmbedded")) <= set(run.cached)
    assert loads_of(server) > loads


# -------- what all of it left behind
def test_no_connection_to_anywhere_else_was_attempted(server: Any) -> None:
    assert server.refused() == []


def test_nothing_was_written_but_to_the_hosts_folders(server: Any) -> None:
    written = {
        file.relative_to(server.folder).parts[0] for file in server.folder.rglob("*") if file.is_file()
    }
    assert written <= {
        "input",
        "output",
        "temp",
        "user",
        "guard",
        "server.log",
        "refused.log",
        "models",
        "custom_nodes",
    }


def test_log_has_no_traceback_and_no_warning_of_ours(server: Any) -> None:
    log = re.sub(r"\x1b\[[0-9;]*m", "", server.log())
    # An older host whose own extra nodes want newer packages says so before it has loaded us.
    _, mark, running = log.partition("Import times for custom nodes")
    assert mark
    assert "Traceback" not in running
    ours = re.compile(rf"{PACK}|retouch", re.IGNORECASE)
    bad = re.compile(r"warning|error|traceback|deprecat", re.IGNORECASE)
    assert [line for line in log.splitlines() if ours.search(line) and bad.search(line)] == []


# -------- bad input over the wire, last because the host logs a traceback for whatever a node raises
def test_a_wrong_value_is_told_in_one_sentence_and_the_queue_lives(server: Any) -> None:
    prompt = copy.deepcopy(PROMPTS["retouch_by_text_step_by_step"])
    (scores,) = nodes_of(prompt, "RetouchRegionScores")
    query = prompt[scores]["inputs"]["query"]
    for node in prompt.values():
        for key, value in node["inputs"].items():
            if value == query:
                node["inputs"][key] = "the left"  # nothing but a place
    prompt[query[0]]["inputs"]["value"] = "  "
    prompt[scores]["inputs"]["query"] = query

    run = server.queue(prompt)

    assert run.status == "error"
    assert run.error["node_id"] == scores
    assert run.error["exception_type"] in ("ValueError", "TypeError")
    assert "query" in run.error["exception_message"]
    assert len(run.error["exception_message"].strip().splitlines()) == 1
    assert server.queue(PROMPTS["retouch_by_text_step_by_step"]).status == "success"
