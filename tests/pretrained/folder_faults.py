"""Ways in which a model folder can be wrong, each with what the sentence about it must say."""

from __future__ import annotations

import json
from pathlib import Path

import torch


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
