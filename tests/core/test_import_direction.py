"""Imports go one way, the host is never imported, and importing the library stays cheap (architecture.md 1, 4.5)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "retouch_core"
MODULES = sorted(PACKAGE.rglob("*.py"))

HOST = {
    "comfy",
    "comfy_api",
    "comfy_extras",
    "comfy_execution",
    "folder_paths",
    "server",
    "execution",
    "nodes",
}
HEAVY = {"diffusers", "transformers", "open_clip", "lpips", "kornia", "skimage", "torchvision"}
MAX_BYTES = 25_000

STAGES = ("ranking", "editing", "regions", "metrics")
ALLOWED = {
    "tensors": {"tensors"},
    "models": {"models", "tensors"},
    **{stage: {stage, "models", "tensors"} for stage in STAGES},
    "recipes": {"recipes", *STAGES, "models", "tensors"},
    "pictures": {"pictures", "tensors"},
    "report": {"report", "pictures", "tensors"},
    "sheet": {"sheet", "pictures", "tensors"},
    "result": {"result", "report", "sheet", *STAGES, "models", "tensors"},
    "finding": {"finding", "recipes", *STAGES, "models", "tensors"},
    "painting": {"painting", "recipes", *STAGES, "models", "tensors"},
    "learning": {"learning", "recipes", *STAGES, "models", "tensors"},
    "pipeline": {
        "pipeline",
        "finding",
        "painting",
        "learning",
        "recipes",
        "result",
        "report",
        "pictures",
        *STAGES,
        "models",
        "tensors",
    },
}
"""What each part of the library may import; parts that are not listed stand at the top and may import everything."""
BELOW_THE_TOP = set(ALLOWED)
TOP = {"cli", "command_line", "demo", "download", "evaluation", "model_names", "models_cli", "__main__"}


def part_of(module: str) -> str:
    """`retouch_core.regions.grid` -> `regions`; the package itself -> ``."""
    return module.split(".")[1] if "." in module else ""


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, module: str, is_package: bool, *, top_level_only: bool = False) -> Iterator[str]:
    """Absolute dotted names that `source` imports; relative imports are resolved against `module`."""
    package = module if is_package else module.rpartition(".")[0]

    def visit(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                anchor = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*anchor, *([base] if base else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        inside_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        only_for_types = isinstance(node, ast.If) and ast.unparse(node.test) in (
            "TYPE_CHECKING",
            "typing.TYPE_CHECKING",
        )
        if top_level_only and (inside_function or only_for_types):
            return
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    yield from visit(ast.parse(source))


def backward(module: str, imported: str) -> bool:
    """Whether `imported` is a part of the library that `module` must not know."""
    if imported.split(".")[0] != "retouch_core":
        return False
    part, target = part_of(module), part_of(imported)
    if part == "":
        return target in BELOW_THE_TOP | TOP
    return part in BELOW_THE_TOP and target in (BELOW_THE_TOP | TOP) - ALLOWED[part]


@pytest.mark.parametrize(
    ("module", "source", "is_package"),
    [
        ("retouch_core.tensors.convert", "from retouch_core.models import protocols", False),
        ("retouch_core.tensors.convert", "from ..models.protocols import Scorer", False),
        ("retouch_core.models", "from ..regions import grid", True),
        ("retouch_core.regions.grid", "def f():\n    from ..editing.blend import latent_masks", False),
        ("retouch_core.metrics.fidelity", "import retouch_core.ranking.rank", False),
        ("retouch_core.ranking.rank", "from retouch_core import pipeline", False),
        ("retouch_core.pipeline", "from . import cli", False),
        ("retouch_core", "from .pipeline import Retoucher", True),
    ],
)
def test_the_rule_sees_a_backward_arrow(module: str, source: str, is_package: bool):
    assert any(backward(module, name) for name in imports(source, module, is_package))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_one_way(path: Path):
    module = name_of(path)
    found = imports(path.read_text(), module, path.name == "__init__.py")
    wrong = sorted({name for name in found if backward(module, name)})
    assert not wrong, f"{module} must not import {wrong}"


def test_every_part_has_its_place():
    """A new module at the root of the library must be put into ALLOWED or TOP, so that the rule covers it."""
    parts = {part_of(name_of(path)) for path in MODULES} - {""}
    assert parts <= BELOW_THE_TOP | TOP, f"give {sorted(parts - BELOW_THE_TOP - TOP)} a place in the layers"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_host_and_nothing_heavy(path: Path):
    module, is_package, source = name_of(path), path.name == "__init__.py", path.read_text()
    host = {name for name in imports(source, module, is_package) if name.split(".")[0] in HOST}
    assert not host, f"{module} must run without the host, but imports {sorted(host)}"
    at_top = imports(source, module, is_package, top_level_only=True)
    heavy = {name for name in at_top if name.split(".")[0] in HEAVY}
    assert not heavy, f"{module} must import {sorted(heavy)} inside the function that needs it"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_files_stay_readable(path: Path):
    assert path.stat().st_size <= MAX_BYTES, f"{path.name} has {path.stat().st_size} bytes; split its subject"


def test_importing_every_module_loads_nothing_heavy():
    """In a fresh interpreter, because this one may hold anything by now."""
    modules = [name_of(path) for path in MODULES if path.stem != "__main__"]
    script = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        f"print(*sorted({HEAVY | HOST!r} & sys.modules.keys()))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=PACKAGE.parent, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "", f"importing retouch_core loads {run.stdout.strip()}"


def test_the_library_works_under_any_name(tmp_path: Path):
    """ComfyUI loads the pack under a name of its own, so the library must import itself relatively."""
    pack = tmp_path / "some_pack"
    pack.mkdir()
    (pack / "__init__.py").touch()
    (pack / PACKAGE.name).symlink_to(PACKAGE, target_is_directory=True)
    modules = [f"some_pack.{name_of(path)}" for path in MODULES if path.stem != "__main__"]
    script = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        "    assert 'retouch_core' not in sys.modules, f'{name} imports retouch_core absolutely; use from ..x import y'\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    last = (run.stderr.strip().splitlines() or [""])[-1]
    assert run.returncode == 0, f"a module imports retouch_core absolutely, use `from ..x import y` ({last})"
