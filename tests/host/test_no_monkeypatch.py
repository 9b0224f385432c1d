"""Nothing of the host's is replaced: every function, class and class attribute is the same object before and after."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.host

ROOT = Path(__file__).resolve().parents[2]

CHILD = """
import asyncio, inspect, json, sys, types
sys.path.insert(0, {root!r})
from training.host_pack import import_host, pack_module
import_host()
import comfy.samplers, comfy.sample, comfy.model_base, comfy.utils, comfy_api.latest, comfy_extras.nodes_custom_sampler
import latent_preview, node_helpers, folder_paths

CODE = (types.FunctionType, types.BuiltinFunctionType, type, classmethod, staticmethod, property)

def of_host(name):
    return name.split(".")[0] in ("comfy", "comfy_api", "comfy_extras", "latent_preview", "node_helpers", "folder_paths")

def seen():
    found = {{}}
    for name, module in sorted(sys.modules.items()):
        if module is None or not of_host(name):
            continue
        for key, value in list(vars(module).items()):
            if isinstance(value, CODE):
                found[name + ":" + key] = value
            if isinstance(value, type) and of_host(value.__module__ or ""):
                for inner, attribute in list(vars(value).items()):
                    if isinstance(attribute, CODE):
                        found[name + ":" + key + "." + inner] = attribute
    return found

before = seen()
pack = pack_module("nodes")
asyncio.run(pack.TextRetouch().get_node_list())
import torch
load = pack_module("nodes.load_embedded").RetouchLoadEmbedded
model, clip, vae, segmenter, scorer, _ = load.execute("inpaint").args
cond = clip.encode_from_tokens_scheduled(clip.tokenize("a red ball"))
empty = clip.encode_from_tokens_scheduled(clip.tokenize(""))
image, mask = torch.rand(1, 64, 64, 3), torch.zeros(1, 64, 64)
mask[:, 16:40, 16:40] = 1
sampler = pack_module("nodes.region_sampler").RetouchRegionSampler
made = sampler.execute(image, mask, model, vae, cond, referring=empty, empty=empty, steps=2, lam=0.5, candidates=2)
scorer.encode_texts(["a red ball"])
after = seen()
changed = [name for name, value in before.items() if name in after and after[name] is not value]
gone = [name for name in before if name not in after]
print(json.dumps(dict(watched=len(before), changed=changed, gone=gone, made=list(made.args[0].shape))))
"""


def test_the_hosts_functions_and_classes_stay_the_same_objects(comfy: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD.format(root=str(ROOT))],
        capture_output=True,
        text=True,
        env={**os.environ},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["watched"] > 5000
    assert found["made"] == [2, 64, 64, 3]
    assert found["changed"] == [] and found["gone"] == []
