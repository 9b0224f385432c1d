"""Where the embedded models are written, and how."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

EMBEDDED = Path(__file__).resolve().parent.parent / "retouch_core" / "models" / "embedded"
MANIFEST = "manifest.json"


def save_half(model: Any, folder: Path) -> None:
    """Save a diffusers or transformers model as contiguous fp16 safetensors with its config."""
    folder.mkdir(parents=True, exist_ok=True)
    model = model.cpu().to(memory_format=torch.contiguous_format)
    model.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    config = folder / "config.json"
    # Where it was loaded from is nobody's business and differs by machine.
    told = {k: v for k, v in json.loads(config.read_text()).items() if k != "_name_or_path"}
    config.write_text(json.dumps(told, indent=2) + "\n")
    write_manifest()


def fingerprint(part: str) -> str:
    """A few hex digits that change with the weights of a part, for the names of what is cached from them."""
    files = [*sorted((EMBEDDED / part).glob("*.safetensors")), EMBEDDED / part / "config.json"]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:8]


def write_manifest(root: Path = EMBEDDED) -> None:
    """Note size and SHA-256 of every file of the bundle, by which the library recognises a damaged one."""
    files = sorted(p for p in root.rglob("*") if p.is_file() and p.name not in (MANIFEST, "README.md"))
    lines = {
        str(p.relative_to(root).as_posix()): {
            "bytes": p.stat().st_size,
            "sha256": hashlib.sha256(p.read_bytes()).hexdigest(),
        }
        for p in files
    }
    (root / MANIFEST).write_text(json.dumps(lines, indent=1) + "\n")
