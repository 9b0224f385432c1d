"""Pretrained models on a running ComfyUI, from its own folders of models: loaded once, and unloaded by its button."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.host

LOADERS = {
    "segmenter": (
        "RetouchLoadSegmenter",
        {
            "backend": "sam2",
            "backend.model": "tiny-sam2",
            "backend.points_per_side": 4,
            "backend.pred_iou_min": 0.0,
            "backend.stability_min": 0.0,
        },
    ),
    "scorer": ("RetouchLoadScorer", {"backend": "clip", "backend.model": "auto"}),
    "referrer": (
        "RetouchLoadReferrer",
        {
            "backend": "grounding_dino",
            "backend.model": "auto",
            "backend.masks": "tiny-sam2",
            "backend.threshold": 0.0,
            "backend.text_threshold": 0.0,
        },
    ),
    "attention": ("RetouchLoadAttention", {"backend": "dinov2", "backend.model": "auto"}),
    "perceptual": ("RetouchLoadPerceptual", {"model": "auto"}),
    "embedded": ("RetouchLoadEmbedded", {"denoiser": "inpaint"}),
}
REPORTS = ("scores", "refer", "sample", "learn")


def graph(info: dict[str, Any], query: str) -> dict[str, Any]:
    """A prompt in which every loader is used; `query` is what all that search look for, other inputs are as by default.

    Args:
        info: of the server, for the defaults.
    """
    nodes: dict[str, tuple[str, dict[str, Any]]] = {
        **LOADERS,
        "image": ("LoadImage", {"image": "retouch_night.png"}),
        "entities": (
            "RetouchEntitySegment",
            {"image": ["image", 0], "segmenter": ["segmenter", 0], "score_min": 0.0, "leftovers": "ignore"},
        ),
        "scores": (
            "RetouchRegionScores",
            {
                "image": ["entities", 0],
                "regions": ["entities", 1],
                "scorer": ["scorer", 0],
                "query": query,
                "view": "crop",
                "template": "raw",
                "gate": 0.0,
            },
        ),
        "refer": (
            "RetouchReferringSegment",
            {
                "image": ["image", 0],
                "referrer": ["referrer", 0],
                "query": query,
                "mode": "inverted",
                "k": 4.0,
                "pick": "all",
            },
        ),
        "words": ("CLIPTextEncode", {"clip": ["embedded", 1], "text": "a blue fish"}),
        "guidance": (
            "RetouchGuidance",
            {
                "scorer": ["embedded", 4],
                "prompt": query,
                "scale": 10.0,
                "clip": 1.0,
                "perceptual": 1.0,
                "l2": 0.0,
                "value_range": 0.0,
                "path": "tiny_half",
                "perceptual_distance": ["perceptual", 0],
            },
        ),
        "sample": (
            "RetouchRegionSampler",
            {
                "image": ["image", 0],
                "mask": ["entities", 2],
                "model": ["embedded", 0],
                "vae": ["embedded", 2],
                "target": ["words", 0],
                "seed": 0,
                "steps": 2,
                "cfg": 1.0,
                "sampler_name": "euler",
                "scheduler": "simple",
                "denoise": 1.0,
                "candidates": 1,
                "guidance": ["guidance", 0],
            },
        ),
        "learn": (
            "RetouchLearnRegion",
            {
                "image": ["image", 0],
                "model": ["embedded", 0],
                "vae": ["embedded", 2],
                "target": ["words", 0],
                "scorer": ["embedded", 4],
                "attention": ["attention", 0],
                "prompt": query,
                "caption": "",
                "seed": 0,
                "steps": 1,
                "cfg": 1.0,
                "sampler_name": "euler",
                "scheduler": "simple",
                "denoise": 1.0,
                "anchors": 1,
                "sizes": 1,
                "mode": "exhaustive",
                "epochs": 1,
                "template": "{}",
            },
        ),
    }
    outputs = {"scores": 2, "refer": 3, "sample": 3, "learn": 4}
    shown = {f"{name} said": ("PreviewAny", {"source": [name, outputs[name]]}) for name in REPORTS}
    prompt = {}
    for name, (kind, given) in {**nodes, **shown}.items():
        usual = {
            key: options[0]["default"]
            for key, (_, *options) in info[kind]["input"].get("required", {}).items()
            if options and "default" in options[0]
        }
        prompt[name] = {"class_type": kind, "inputs": usual | copy.deepcopy(given)}
    return prompt


def loads_of(server: Any) -> int:
    """How often the host brought weights to their device."""
    return len(re.findall(r"loaded (?:completely|partially);", server.log()))


@pytest.fixture(scope="module", params=[(), ("--disable-dynamic-vram",)], ids=["dynamic", "static"])
def server(
    request: pytest.FixtureRequest,
    start_server: Callable[..., Any],
    fill_shelf: Callable[[Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("comfy")
    fill_shelf(folder / "models")
    with start_server(folder, options=request.param) as running:
        yield running


def test_what_lies_in_the_hosts_folders_is_listed(server: Any) -> None:
    info = server.object_info()
    lists = {
        ("RetouchLoadSegmenter", "sam2"): "tiny-sam2",
        ("RetouchLoadScorer", "clip"): "tiny-clip",
        ("RetouchLoadReferrer", "clipseg"): "tiny-clipseg",
        ("RetouchLoadAttention", "dinov2"): "tiny-dinov2",
    }
    for (node, backend), name in lists.items():
        options = info[node]["input"]["required"]["backend"][1]["options"]
        inputs = next(one for one in options if one["key"] == backend)["inputs"]["required"]
        assert name in inputs["model"][1]["options"], (node, backend)
    named = info["RetouchLoadPerceptual"]["input"]["required"]["model"][1]["options"]
    assert "squeezenet1_1-b8a52dc0.pth" in named


def test_a_second_run_reads_no_file_and_moves_no_network(server: Any) -> None:
    info = server.object_info()
    first = server.queue(graph(info, "a red ball"))
    assert first.status == "success", first.error
    assert "LPIPS (squeeze)" in first.text("sample said")
    assert json.loads(first.text("learn said").split("\n", 1)[1])["edits"] == 1
    loads = loads_of(server)
    assert loads > 0
    spoiled = [*server.folder.glob("models/**/*.safetensors"), *server.folder.glob("models/**/*.pth")]
    assert len(spoiled) == 6
    for file in spoiled:
        file.rename(file.with_suffix(".kept"))
        file.write_bytes(b"no weights")
    try:
        second = server.queue(graph(info, "a fish"))
        assert second.status == "success", second.error
        assert set(second.cached) >= set(LOADERS) and not set(second.executed) & set(LOADERS)
        assert {"scores", "refer", "guidance", "learn"} <= set(second.executed)
        assert loads_of(server) == loads
        server.free(unload_models=True, free_memory=False)
        third = server.queue(graph(info, "a star"))
        assert third.status == "success", third.error
        assert not set(third.executed) & set(LOADERS) and loads_of(server) > loads
        # The proof that reading would have failed.
        server.free(unload_models=True, free_memory=True)
        assert server.queue(graph(info, "a star")).status == "error"
    finally:
        for file in spoiled:
            file.with_suffix(".kept").replace(file)


def test_a_model_that_is_gone_is_one_sentence_on_the_loader(server: Any) -> None:
    prompt = graph(server.object_info(), "a moon")
    prompt["segmenter"]["inputs"] = {
        "backend": "eomt",
        "backend.model": "auto",
        "backend.score_min": 0.8,
        "backend.overlap_min": 0.8,
    }
    run = server.queue(prompt)
    assert run.status == "error" and run.error["node_id"] == "segmenter"
    said = run.error["exception_message"].strip()
    assert "no EoMT model is in" in said and "models get" in said and "\n" not in said


def test_nothing_was_looked_for_outside_this_machine(server: Any) -> None:
    assert server.refused() == []
