"""Small open_clip models with random weights, in folders as the Hub lays them out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_towers import write

from retouch_core.models.pretrained.scorers import open_clip_scorer as module

PREPROCESS = {
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.25, 0.3],
    "interpolation": "bicubic",
    "resize_mode": "squash",
}
VISION = {"image_size": 32, "layers": 3, "width": 64, "head_width": 32, "patch_size": 8}
TEXT = {"context_length": 10, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
PLAIN = {"embed_dim": 16, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT}


def network(config: dict[str, Any]) -> Any:
    from open_clip.model import CLIP, CustomTextCLIP

    config = json.loads(json.dumps(config))
    torch.manual_seed(0)
    model = (CustomTextCLIP if config.pop("custom_text", False) else CLIP)(**config)
    for block in model.modules():  # as drawn, the towers hardly look at what they see
        if isinstance(block, torch.nn.Linear):
            torch.nn.init.normal_(block.weight, std=0.1)
    return model.eval()


def published(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(
        {k: v.contiguous() for k, v in network(config).state_dict().items()}, folder / module.WEIGHTS[0]
    )
    write(folder / module.CONFIG, {"model_cfg": config, "preprocess_cfg": PREPROCESS})
    return folder
