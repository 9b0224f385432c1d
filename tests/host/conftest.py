"""The real ComfyUI in this process, and our pack loaded as it loads it. Skips with a reason where there is none."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

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
