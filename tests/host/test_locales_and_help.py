"""Every node explains itself: help page and names in each language, with pictures that are there."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.host

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = ("en", "zh")


@pytest.fixture(scope="module")
def schemas(pack: Callable[[str], ModuleType]) -> list[Any]:
    nodes = asyncio.run(pack("nodes").TextRetouch().get_node_list())
    return [node.define_schema() for node in nodes]


def nested(schema: Any) -> set[str]:
    """Ids of inputs inside dynamic combos, as the frontend looks up their names."""
    return {
        f"{combo.id}_{one.id}"
        for combo in schema.inputs
        for option in getattr(combo, "options", None) or ()
        for one in getattr(option, "inputs", ())
    }


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_socket_has_a_name_and_a_tooltip(schemas: list[Any], language: str) -> None:
    told = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    assert set(told) == {schema.node_id for schema in schemas}
    for schema in schemas:
        entry = told[schema.node_id]
        assert entry["display_name"] and entry["description"]
        inside = nested(schema)
        assert set(entry["inputs"]) - inside == {i.id for i in schema.inputs}, schema.node_id
        # What is left out here is as the schema says it, in English.
        assert language == "en" or inside <= set(entry["inputs"]), schema.node_id
        assert set(entry["outputs"]) == {str(k) for k in range(len(schema.outputs))}, schema.node_id
        for socket in [*entry["inputs"].values(), *entry["outputs"].values()]:
            assert socket["name"] and socket["tooltip"], schema.node_id


def test_english_is_what_the_schemas_say(schemas: list[Any]) -> None:
    told = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
    for schema in schemas:
        entry = told[schema.node_id]
        assert (entry["display_name"], entry["description"]) == (schema.display_name, schema.description)
        for i in schema.inputs:
            assert entry["inputs"][i.id]["tooltip"] == i.tooltip, (schema.node_id, i.id)
        for k, output in enumerate(schema.outputs):
            assert entry["outputs"][str(k)]["tooltip"] == output.tooltip, (schema.node_id, k)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_node_has_a_help_page_that_names_each_socket(schemas: list[Any], language: str) -> None:
    told = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    for schema in schemas:
        page = (ROOT / "web" / "docs" / schema.node_id / f"{language}.md").read_text(encoding="utf-8")
        entry = told[schema.node_id]
        assert page.startswith(f"# {entry['display_name']}\n")
        for socket in [*entry["inputs"].values(), *entry["outputs"].values()]:
            assert f"| {socket['name']}" in page and socket["tooltip"].replace("|", "/") in page
        for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page):
            # The frontend resolves pictures of help pages against web/docs.
            assert (ROOT / "web" / "docs" / picture).is_file(), picture


@pytest.mark.parametrize("language", LANGUAGES)
def test_help_pages_name_the_defaults_of_the_widgets(schemas: list[Any], language: str) -> None:
    told = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    checked = 0
    for schema in schemas:
        page = (ROOT / "web" / "docs" / schema.node_id / f"{language}.md").read_text(encoding="utf-8")
        for one in schema.inputs:
            default = one.as_dict().get("default")
            if default in (None, "") or "`" in str(default):
                continue
            name = told[schema.node_id]["inputs"][one.id]["name"]
            rows = [row for row in page.splitlines() if re.match(rf"\| {re.escape(name)}( \(|（| \|)", row)]
            assert rows and f"| `{default}` |".lower() in rows[0].lower(), (
                schema.node_id,
                one.id,
                default,
                rows,
            )
            checked += 1
    assert checked > 80
