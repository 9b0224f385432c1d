"""The real ComfyUI in this process, and our pack loaded as it loads it. Skips with a reason where there is none."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACK = "text_retouch_pack"


def load_pack() -> ModuleType:
    """The pack under a name of its own, as the host's `load_custom_node` does it."""
    if PACK not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[PACK] = module
        spec.loader.exec_module(module)
    return sys.modules[PACK]


@pytest.fixture(scope="session")
def comfy() -> Path:
    """The host's folder, with `import comfy` working on the CPU."""
    from training.host_networks import HostMissing, import_host

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
    load_pack()
    return lambda name: importlib.import_module(f"{PACK}.{name}")
