"""The project's own files agree with each other."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENT = re.compile(r"^(?P<spec>\S+)\s+# (?P<reason>\S.*)$")


def requirements() -> list[tuple[str, str]]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    matches = [REQUIREMENT.match(line) for line in lines if line and not line.startswith("#")]
    assert all(matches), "every requirement carries a reason on its line"
    return [(m["spec"], m["reason"]) for m in matches if m]


def project() -> dict:
    if sys.version_info < (3, 11):
        pytest.skip("reading pyproject.toml needs Python 3.11's tomllib")
    import tomllib

    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_requirements_are_mirrored_in_pyproject():
    assert [spec for spec, _ in requirements()] == project()["project"]["dependencies"]


def test_nothing_is_pinned():
    extras = project()["project"]["optional-dependencies"]
    specs = [spec for spec, _ in requirements()] + [spec for extra in extras.values() for spec in extra]
    for spec in specs:
        assert re.fullmatch(r"[A-Za-z0-9_-]+>=[0-9.]+", spec), spec


def test_version_is_the_packages():
    import retouch_core

    assert project()["project"]["version"] == retouch_core.__version__


def test_registry_metadata():
    settings = project()
    assert settings["project"]["name"] == "text-retouch"
    assert {"PublisherId", "DisplayName"} <= settings["tool"]["comfy"].keys()


def test_embedded_weights_travel_with_the_package():
    assert "models/embedded/**" in project()["tool"]["setuptools"]["package-data"]["retouch_core"]
