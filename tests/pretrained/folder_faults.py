"""Ways in which a model folder can be wrong, each with what the sentence about it must say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from retouch_core.models.pretrained.loading import ModelError


def other_kind(folder: Path) -> str:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "resnet"}))
    return "resnet"


def cut_off(folder: Path) -> str:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return "damaged"


def without_weights(folder: Path) -> str:
    (folder / "model.safetensors").unlink()
    return "has no model.safetensors"


def pickled(folder: Path) -> str:
    torch.save({"weight": torch.zeros(2)}, folder / "model.safetensors")
    return "pickle"


def without_settings(folder: Path) -> str:
    for name in ("preprocessor_config.json", "processor_config.json"):
        (folder / name).unlink(missing_ok=True)
    return "preprocessor_config.json"


FAULTS = [other_kind, cut_off, without_weights, pickled, without_settings]


def check_refused(
    folder: Path, copy: Path, fault: Callable[[Path], str], load: Callable[[Path], object]
) -> None:
    """Raise unless a copy of the folder with this fault is refused in one sentence that says what to do."""
    shutil.copytree(folder, copy)
    said = fault(copy)
    with pytest.raises(ModelError, match=said) as raised:
        load(copy)
    assert "; " in str(raised.value) and "\n" not in str(raised.value)
