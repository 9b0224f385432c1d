"""The graphs for photographs on a running ComfyUI, with small random models in the places of those that they name.

A checkpoint is the embedded models' MODEL, CLIP and VAE; a flow model is the host's Flux with two blocks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.host

WORKFLOWS = Path(__file__).resolve().parents[2] / "example_workflows" / "api"
NAMES = sorted(file.stem for file in WORKFLOWS.glob("photo_*.json"))
WIDTH = 128
"""Of the embedded text encoder."""
FOUND = {
    "backend.score_min": 0.0,
    "backend.overlap_min": 0.0,
    "backend.threshold": 0.0,
    "backend.text_threshold": 0.0,
}
"""Random networks are sure of nothing."""


def graph(name: str) -> dict[str, Any]:
    """What is queued: the workflow with loaders that need no download, little to do, and nothing too unsure."""
    prompt: dict[str, Any] = json.loads((WORKFLOWS / f"{name}.json").read_text("utf-8"))
    prompt["embedded"] = {"class_type": "RetouchLoadEmbedded", "inputs": {"denoiser": "inpaint"}}
    # What it gave -> what the embedded models give.
    instead = {"CheckpointLoaderSimple": {0: 0, 1: 1, 2: 2}, "DualCLIPLoader": {0: 1}}
    gone = {key: instead[node["class_type"]] for key, node in prompt.items() if node["class_type"] in instead}
    for node in prompt.values():
        inputs = node["inputs"]
        for key, value in inputs.items():
            if isinstance(value, list) and value[0] in gone:
                inputs[key] = ["embedded", gone[value[0]][value[1]]]
            elif key in FOUND:
                inputs[key] = FOUND[key]
        inputs |= {"steps": 2} if "steps" in inputs else {}
        inputs |= {"candidates": 2} if isinstance(inputs.get("candidates"), int) else {}
        inputs |= {"gate": 0.0} if "gate" in inputs else {}
        if node["class_type"] == "LoadImage":
            inputs["image"] = "retouch_night.png"
    return {key: node for key, node in prompt.items() if key not in gone}


@pytest.fixture(scope="module")
def server(
    start_server: Callable[..., Any],
    fill_shelf: Callable[[Path], Path],
    builders: Any,
    tiny: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("comfy")
    fill_shelf(folder / "models")
    segment, open_clip = builders("tiny_segmenters"), builders("tiny_open_clip")
    segment.saved(
        folder / "models" / "retouch_segmenters" / "tiny-eomt", segment.tiny_eomt(), segment.eomt_processor()
    )
    open_clip.published(folder / "models" / "retouch_scorers" / "tiny-open-clip", open_clip.PLAIN)
    tiny.save_flux(folder / "models", WIDTH)
    with start_server(folder) as running:
        yield running


@pytest.mark.parametrize("name", NAMES)
def test_the_graph_runs_and_keeps_what_is_outside_its_mask(name: str, server: Any) -> None:
    prompt = graph(name)
    loaded = {node["class_type"] for node in prompt.values() if "Load" in node["class_type"]}
    assert loaded & {"RetouchLoadSegmenter", "RetouchLoadReferrer"}
    (save,) = (key for key, node in prompt.items() if node["class_type"] == "SaveImage")
    (measure,) = (key for key, node in prompt.items() if node["class_type"] == "RetouchMeasure")
    (said,) = (key for key, node in prompt.items() if node["inputs"].get("source") == [measure, 0])
    prompt["mask"] = {"class_type": "MaskToImage", "inputs": {"mask": prompt[measure]["inputs"]["mask"]}}
    prompt["mask shown"] = {"class_type": "PreviewImage", "inputs": {"images": ["mask", 0]}}
    run = server.queue(prompt)
    assert run.status == "success", run.error
    assert "largest change outside the mask: 0" in run.text(said)
    result, source, mask = (
        np.asarray(Image.open(path).convert("RGB"))
        for path in (
            server.picture(run.outputs[save]["images"][0]),
            server.folder / "input" / "retouch_night.png",
            server.picture(run.outputs["mask shown"]["images"][0]),
        )
    )
    assert result.shape == source.shape == mask.shape
    assert (result[mask == 0] == source[mask == 0]).all() and (mask > 0).any()


def test_the_hosts_log_is_quiet_and_nothing_was_looked_for_elsewhere(server: Any) -> None:
    assert server.refused() == []
    assert "Please fix your code" not in server.log()
