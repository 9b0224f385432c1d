"""The real ComfyUI in this process, and our pack loaded as it loads it. Skips with a reason where there is none."""

from __future__ import annotations

import functools
import importlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


@pytest.fixture(scope="session")
def comfy() -> Path:
    """The host's folder, with `import comfy` working on the CPU."""
    from training.host_pack import HostMissing, import_host

    level = logging.getLogger().level
    try:
        return import_host()
    except HostMissing as missing:
        pytest.skip(str(missing))
    finally:
        logging.getLogger().setLevel(level)


@pytest.fixture(scope="session")
def pack(comfy: Path) -> Callable[[str], ModuleType]:
    """`pack("nodes.composite")` imports that module of the pack; `pack("retouch_core.tensors.regions")` its library."""
    from training.host_pack import pack_module

    return pack_module


@pytest.fixture(scope="session")
def tiny(comfy: Path) -> ModuleType:
    """`small_models`: the host's own networks, small and with random weights, built anew by every call."""
    sys.path.insert(0, str(Path(__file__).parent))
    try:
        return importlib.import_module("small_models")
    finally:
        sys.path.pop(0)


@pytest.fixture(scope="session")
def small(tiny: ModuleType) -> Any:
    """The same with each model and VAE built once, for tests that leave them as they are."""
    return SimpleNamespace(
        **{name: value for name, value in vars(tiny).items() if not name.startswith("_")}
        | {
            "model": functools.cache(tiny.model),
            "vae": functools.cache(tiny.vae),
            "video_vae": tiny.VideoVAE(),
        }
    )


@pytest.fixture
def quiet_host(comfy: Path) -> Iterator[None]:
    """No progress bars, and none of the host's warnings: its Brownian noise warns of rounding."""
    import comfy.utils

    before = comfy.utils.PROGRESS_BAR_ENABLED
    comfy.utils.set_progress_bar_enabled(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    comfy.utils.set_progress_bar_enabled(before)
