"""What tests of different folders share: the real ComfyUI as a server."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import pytest

SERVER = "text_retouch_test_server"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The switch of tests/host/test_nodes_golden.py."""
    parser.addoption("--update-golden", action="store_true", help="append new sockets to golden/nodes.json")


def server_module() -> ModuleType:
    """tests/host/server.py under a name that nothing of the host's has."""
    if SERVER not in sys.modules:
        spec = importlib.util.spec_from_file_location(SERVER, Path(__file__).parent / "host" / "server.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[SERVER] = module
        spec.loader.exec_module(module)
    return sys.modules[SERVER]


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """`with start_server() as server:` runs a ComfyUI of its own; skips with a reason where there is none.

    Keywords go to `start_server` of tests/host/server.py (`options`, `pack`); `folder` is made where it is not given.
    """
    from training.host_pack import HostMissing, find_host

    try:
        host = find_host()
    except HostMissing as missing:
        pytest.skip(str(missing))
    for name in ("aiohttp", "comfyui_frontend_package", "sqlalchemy", "av"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"ComfyUI needs {name}, which is not installed here; install its requirements.txt.")

    @contextmanager
    def start(folder: Path | None = None, **keywords: Any) -> Iterator[Any]:
        place = folder or tmp_path_factory.mktemp("comfy")
        with server_module().start_server(host, place, **keywords) as server:
            yield server

    return start


# Machines are shared and noisy: how long an example takes says nothing.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")
