"""A real ComfyUI and a real Chromium with its own frontend. Skips with a reason where one of them is missing."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


def _frontend() -> ModuleType:
    """frontend.py beside this file; the host has packages whose names a plain import could meet."""
    name = "text_retouch_test_frontend"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / "frontend.py")
        assert spec is not None and spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The browser, of the system or the one that playwright downloads.

    Not for the whole session: while playwright lives, an event loop runs in this thread, and asyncio.run of a later
    test is refused.
    """
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        pytest.skip("playwright is not installed; pip install playwright.")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        except Error as reason:
            pytest.skip(f"no Chromium starts here ({str(reason).splitlines()[0]}); install chromium.")
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def host_server(start_server: Callable[..., Any]) -> Iterator[Any]:
    """One ComfyUI for all tests of a file."""
    with start_server() as running:
        yield running


@pytest.fixture
def frontend(host_server: Any, chromium: Any) -> Iterator[Callable[[str], Any]]:
    """`frontend("classic")` or `frontend("nodes2")` opens the editor in a fresh profile.

    At the end of the test every console error that is not named in frontend.NOT_OURS fails it.
    """
    module, opened = _frontend(), []

    @contextmanager
    def cleaned() -> Iterator[None]:
        yield
        for page in opened:
            page.close()

    def open_page(renderer: str) -> Any:
        page = module.Frontend(host_server, chromium, renderer)
        opened.append(page)
        return page

    with cleaned():
        yield open_page
        told = [error for page in opened for error in page.errors]
    assert told == []
