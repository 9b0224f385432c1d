"""Where ComfyUI is, and how it and our pack are imported into a process that is not its own."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
PACK = "text_retouch_pack"


class HostMissing(RuntimeError):
    """No ComfyUI work tree was found; the message says where it was looked for."""


def find_host() -> Path:
    """The ComfyUI work tree: ``$COMFYUI_PATH`` where set, else ``~/comfy/ComfyUI`` (where comfy-cli puts it).

    Raises HostMissing where neither holds ComfyUI.
    """
    named = os.environ.get("COMFYUI_PATH")
    place = Path(named) if named else Path.home() / "comfy" / "ComfyUI"
    if not (place / "comfy" / "sd.py").is_file():
        source = "COMFYUI_PATH" if named else "the default place"
        raise HostMissing(
            f"no ComfyUI at {place} ({source}); set COMFYUI_PATH to a folder with ComfyUI's main.py."
        )
    return place.resolve()


def import_host(place: Path | None = None) -> Path:
    """Make ``import comfy`` work in this process, on the CPU, and return the host's folder.

    The host reads ``sys.argv`` once, when it is first imported; it is given ``--cpu``, nothing of ours. The
    folder goes first on the path: the host has top-level modules with common names (``nodes``, ``utils``).

    Raises HostMissing where there is none, or where what it requires is not installed here.
    """
    place = place or find_host()
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))
    import comfy.options

    ours = sys.argv
    try:
        sys.argv = [ours[0], "--cpu"]
        comfy.options.enable_args_parsing()
        import comfy.cli_args

        # The host tells its devices at INFO and warns of optional packages; neither is ours to repeat.
        logging.getLogger().setLevel(logging.ERROR)
        import comfy.sd
    except (ImportError, OSError, RuntimeError) as reason:
        raise HostMissing(
            f"ComfyUI at {place} does not start in this environment: {reason}; install its requirements.txt."
        ) from reason
    finally:
        sys.argv = ours
        comfy.options.enable_args_parsing(False)

    return place


def pack_module(name: str) -> ModuleType:
    """`nodes.composite` or `retouch_core.tensors.regions` of the pack, loaded under a name of its own as the host does.

    Never ``import nodes``: the host has a module of that name.
    """
    if PACK not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[PACK] = module
        spec.loader.exec_module(module)
    return importlib.import_module(f"{PACK}.{name}")
