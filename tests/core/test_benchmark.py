"""The benchmark runs both sides on the same networks; what it measures is not a test's business."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models
import torch
from stubs import ColourScorer, ColourSegmenter

from benchmarks import retouch_time
from retouch_core.demo import Case
from retouch_core.models.diffusers_editor import DiffusersEditor
from retouch_core.pictures import write_picture
from retouch_core.pipeline import Retoucher


@pytest.fixture
def retoucher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Retoucher:
    """Tiny random networks, and as the shipped case a red square."""
    image = torch.full((1, 64, 64, 3), 0.5)
    image[:, 8:32, 8:32] = torch.tensor([1.0, 0.0, 0.0])
    write_picture(tmp_path / "scene.png", image)
    monkeypatch.setattr(retouch_time, "PICTURES", tmp_path)
    monkeypatch.setattr(retouch_time, "CANDIDATES", 2)
    monkeypatch.setattr(retouch_time, "STEPS", 2)
    editor = DiffusersEditor(
        tiny_models.vae_tiny(),
        tiny_models.text_encoder(),
        tiny_models.tokenizer(),
        tiny_models.unet(in_channels=9),
        tiny_models.scheduler(),
    )
    return Retoucher(ColourSegmenter(), ColourScorer(), editor)


def ask(monkeypatch: pytest.MonkeyPatch, query: str) -> None:
    monkeypatch.setattr(retouch_time, "read_cases", lambda: [Case("scene.png", query, "a green car", 3)])


def test_both_sides_run(retoucher: Retoucher, monkeypatch: pytest.MonkeyPatch):
    ask(monkeypatch, "the red thing")
    times = retouch_time.measure(retoucher, pairs=2)
    assert {"retouch", "pipeline"} < times.keys()
    assert all(len(values) == 2 and min(values) > 0 for values in times.values())
    stages = sum(values[0] for name, values in times.items() if name.startswith(" "))
    assert 0 < stages <= times["retouch"][0]


def test_a_lost_case_is_not_timed(retoucher: Retoucher, monkeypatch: pytest.MonkeyPatch):
    ask(monkeypatch, "the blue thing")
    with pytest.raises(RuntimeError, match="not found"):
        retouch_time.measure(retoucher, pairs=1)
