"""What the pack costs a host that only loads it: little time, no heavy module, no thread and no file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"diffusers", "transformers", "open_clip", "lpips", "kornia", "skimage", "torchmetrics", "pandas"}
LIMIT_S = 0.5

CHILD = """
import asyncio, importlib.util, json, sys, threading, time
sys.path.insert(0, {root!r})
from training.host_pack import import_host
import_host()
import comfy.samplers, comfy.model_management, comfy.utils, comfy_api.latest
if {whole!r}:
    import nodes, execution
sys.path.remove({root!r})
before, threads = set(sys.modules), threading.active_count()
opened = []
def note(event, args):
    if event == "open" and isinstance(args[0], str) and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        opened.append(args[0])
    elif event in ("socket.connect", "subprocess.Popen", "os.system"):
        opened.append(event)
sys.addaudithook(note)
begun = time.perf_counter()
spec = importlib.util.spec_from_file_location("{root}".replace(".", "_x_"), {root!r} + "/__init__.py")
pack = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = pack
spec.loader.exec_module(pack)
nodes = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
infos = [node.GET_NODE_INFO_V1() for node in nodes]
seconds = time.perf_counter() - begun
new = sorted({{name.split(".")[0] for name in set(sys.modules) - before}})
print(json.dumps(dict(seconds=seconds, new=new, nodes=len(infos), opened=opened, v1=hasattr(pack, "NODE_CLASS_MAPPINGS"),
                      threads=threading.active_count() - threads)))
"""


@pytest.fixture(scope="module", params=[False, True], ids=["little", "whole"])
def cost(comfy: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Measured in a fresh interpreter, after `little` of the host or the `whole` of it was imported."""
    code = CHILD.format(root=str(ROOT), whole=request.param)
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.host
def test_no_heavy_module_is_imported(cost: dict[str, Any]) -> None:
    assert cost["nodes"] >= 13
    assert not HEAVY & set(cost["new"])


@pytest.mark.host
def test_importing_writes_no_file_and_starts_nothing(cost: dict[str, Any]) -> None:
    assert cost["opened"] == []
    assert cost["threads"] == 0


@pytest.mark.host
def test_import_is_quick(cost: dict[str, Any]) -> None:
    assert cost["seconds"] < LIMIT_S


@pytest.mark.host
def test_schema_is_v3_only(cost: dict[str, Any]) -> None:
    # A pack that exports both gets its V1 table loaded and its entry point never called.
    assert not cost["v1"]
