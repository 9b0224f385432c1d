"""Ids, sockets, order, types and defaults of our nodes only ever grow: workflows that people saved keep their meaning.

A workflow file stores links by slot and widget values by position, in the order of the frontend: required inputs first,
then optional ones. So what golden/nodes.json lists must stay, where it is; new inputs come last (optional ones, once a
node has any), new outputs last. After appending: `pytest tests/host/test_nodes_golden.py --update-golden`, which only
ever adds. Taking something back is a breaking release: edit golden/nodes.json by hand and say so.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

GOLDEN = Path(__file__).parent / "golden" / "nodes.json"
HOSTS_OWN = {"sampler_name", "scheduler"}
"""Combos that list what the host has, which differs from host to host."""

ON_DISK = {"model", "masks"}
"""Combos of files, after a first option that is always there."""

Node = dict[str, Any]


def socket(entry: Any) -> Node:
    """What a workflow file relies on, of an input."""
    told = {"id": entry.id, "type": entry.get_io_type(), "optional": bool(entry.optional)}
    extra = entry.as_dict()
    if "default" in extra:
        told["default"] = extra["default"]
    if extra.get("control_after_generate"):
        told["control_after_generate"] = True  # takes a place among the saved values
    chosen = getattr(entry, "options", None) or []
    if chosen and hasattr(chosen[0], "inputs"):
        told["options"] = [option.key for option in chosen]
        told["of"] = {option.key: [socket(inner) for inner in option.inputs] for option in chosen}
    elif extra.get("options") and entry.id not in HOSTS_OWN:
        told["options"] = list(extra["options"])[:1] if entry.id in ON_DISK else list(extra["options"])
    if told.get("options"):
        told.setdefault("default", told["options"][0])  # what the frontend takes
    return told


def described(node: Any) -> Node:
    """What a workflow file relies on, of a node class."""
    schema = node.GET_SCHEMA()
    inputs = [
        socket(entry) for entry in sorted(schema.inputs, key=lambda entry: bool(entry.optional))
    ]  # stable
    outputs = [
        {"id": entry.id, "type": entry.get_io_type(), "list": bool(entry.is_output_list)}
        for entry in schema.outputs
    ]
    return {"inputs": inputs, "outputs": outputs}


def broken(golden: dict[str, Node], now: dict[str, Node]) -> list[str]:
    """Every way in which `now` would change the meaning of a workflow saved with `golden`, as sentences."""
    found = []
    for name, old in golden.items():
        if name not in now:
            found.append(f"{name} is gone")
            continue
        for kind in ("inputs", "outputs"):
            there = now[name][kind]
            for place, entry in enumerate(old[kind]):
                at = f"{name}.{kind}[{place}]"
                if place >= len(there) or there[place]["id"] != entry["id"]:
                    instead = there[place]["id"] if place < len(there) else "nothing"
                    found.append(f"{at} was {entry['id']}, now {instead}")
                    continue
                found += [f"{at} {entry['id']}: {text}" for text in _changed(entry, there[place])]
        for entry in now[name]["inputs"][len(old["inputs"]) :]:
            if not entry["optional"] and "default" not in entry:
                found.append(f"{name}.{entry['id']} is new, required and without a default")
    return found


def _changed(old: Node, new: Node) -> list[str]:
    found = []
    for key in ("type", "default", "control_after_generate", "list"):
        if old.get(key) != new.get(key):
            found.append(f"{key} was {old.get(key)!r}, now {new.get(key)!r}")
    if old.get("optional") and not new["optional"]:
        found.append("was optional, now required")
    gone = [option for option in old.get("options", []) if option not in new.get("options", [])]
    if gone:
        found.append(f"options {gone} are gone")
    for key, inputs in old.get("of", {}).items():
        there = new.get("of", {}).get(key, [])
        for place, entry in enumerate(inputs):
            if place >= len(there) or there[place]["id"] != entry["id"]:
                found.append(f"{key}[{place}] was {entry['id']}")
            else:
                found += [f"{key}.{entry['id']}: {text}" for text in _changed(entry, there[place])]
    return found


@pytest.fixture(scope="module")
def nodes(pack: Callable[[str], ModuleType]) -> dict[str, Node]:
    """Our nodes, as the host has them now."""
    listed = asyncio.run(pack("nodes").TextRetouch().get_node_list())
    return {node.GET_SCHEMA().node_id: described(node) for node in listed}


@pytest.mark.host
def test_nodes_are_append_only(nodes: dict[str, Node], request: pytest.FixtureRequest) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.is_file() else {}
    assert broken(golden, nodes) == []
    if request.config.getoption("--update-golden"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(nodes, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        golden = nodes
    assert golden == nodes, "something was appended: run this file once with --update-golden"


@pytest.mark.host
def test_ids_are_ours_and_unique(nodes: dict[str, Node]) -> None:
    for name, node in nodes.items():
        assert name.startswith("Retouch")
        for kind in ("inputs", "outputs"):
            ids = [entry["id"] for entry in node[kind]]
            assert len(set(ids)) == len(ids), f"{name}.{kind}: {ids}"
            assert all(i == i.lower() and i.replace("_", "").isalnum() for i in ids), f"{name}: {ids}"


SAMPLE: dict[str, Node] = {
    "A": {
        "inputs": [
            {"id": "image", "type": "IMAGE", "optional": False},
            {"id": "u", "type": "FLOAT", "optional": False, "default": 0.8},
            {"id": "mode", "type": "COMBO", "optional": True, "default": "x", "options": ["x", "y"]},
        ],
        "outputs": [
            {"id": "image", "type": "IMAGE", "list": False},
            {"id": "mask", "type": "MASK", "list": False},
        ],
    }
}


def _swap(entries: list[Node]) -> None:
    entries[0], entries[1] = entries[1], entries[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a["inputs"].pop(1),
        lambda a: _swap(a["inputs"]),
        lambda a: _swap(a["outputs"]),
        lambda a: a["outputs"].pop(),
        lambda a: a["inputs"][0].update(id="picture"),
        lambda a: a["inputs"][0].update(type="MASK"),
        lambda a: a["inputs"][1].update(default=0.7),
        lambda a: a["inputs"][1].update(control_after_generate=True),
        lambda a: a["inputs"][2].update(optional=False),
        lambda a: a["inputs"][2].update(options=["x"]),
        lambda a: a["outputs"][0].update(list=True),
        lambda a: a["inputs"].insert(0, {"id": "new", "type": "MASK", "optional": True}),
        lambda a: a["inputs"].append({"id": "new", "type": "MASK", "optional": False}),
    ],
)
def test_a_change_that_is_not_append_only_is_seen(change: Callable[[Node], Any]) -> None:
    now = copy.deepcopy(SAMPLE)
    change(now["A"])
    assert broken(SAMPLE, now)
    assert broken(SAMPLE, {})


def test_appending_is_allowed() -> None:
    now = copy.deepcopy(SAMPLE)
    now["A"]["inputs"].append({"id": "new", "type": "MASK", "optional": True})
    now["A"]["inputs"][2]["options"].append("z")
    now["A"]["outputs"].append({"id": "report", "type": "STRING", "list": False})
    now["B"] = copy.deepcopy(SAMPLE["A"])
    assert broken(SAMPLE, now) == []
