"""What image-text models of all libraries share: chunks, tokenizers, and whether two towers belong together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import ModelError
from ..states import SAFE_ENDING

CPU_TOKENS = 256
"""Tokens that go through an image tower at once on a CPU: about one view of a ViT-B/16."""
GPU_VIEWS = 32
"""Views at once elsewhere."""


def chunk_for(device: torch.device | str, tokens: int = 197) -> int:
    """Views that go through an image tower of `tokens` tokens a view at once.

    On a CPU one view of a ViT-B/16 makes matrices large enough to keep a core busy, and what its widest layer puts out
    (197 tokens x 3072 numbers, 2.4 MB) stays near the core; of a batch, each layer's output goes to main memory and back.
    On one core a view took 368 ms alone, 382 of 4 and 442 of 64; on two, 64 at once took half as long again as one by
    one. Smaller towers gain from company: ViT-B/32 took 120 ms a view alone and 91 of 5. A GPU wants many.
    """
    if torch.device(device).type == "cpu":
        return max(1, CPU_TOKENS // max(tokens, 1))
    return GPU_VIEWS


def check_view_size(config: dict[str, Any], size: int, folder: Path) -> None:
    """Raise ModelError where a folder's preprocessing makes views of another size than its image tower takes."""
    named = config.get("crop_size") if config.get("do_center_crop") else None
    named = named or config.get("crop_size") or config.get("size")
    sides = [named] if isinstance(named, int) else [v for v in (named or {}).values() if isinstance(v, int)]
    if sides and any(side != size for side in sides):
        raise ModelError(
            f"{folder} has preprocessing for views of {max(sides)} px but an image tower for {size} px: these are "
            "files of two models; copy all files of one model's repository there"
        )


def check_vocabulary(tokenizer: Any, rows: int, where: object) -> None:
    """Raise ModelError where a tokenizer has more tokens than the text tower has rows for.

    Those that a library adds to the vocabulary of the files do not count: texts hold none of them.
    """
    count = int(tokenizer.vocab_size)
    if count > rows:
        raise ModelError(
            f"{where} has a tokenizer of {count} tokens but a text tower for {rows}: these are files of two models; "
            "copy all files of one model's repository there"
        )


def check_widths(text: int, image: int, where: object) -> None:
    """Raise ModelError unless both towers end in vectors of one length."""
    if text != image:
        raise ModelError(
            f"{where} has a text tower that gives vectors of {text} numbers but an image tower that gives {image}: they "
            "are not of one training; copy all files of one model's repository there"
        )


def stored_shapes(paths: Sequence[Path]) -> dict[str, list[int]]:
    """Shapes of the tensors in safetensors files by name, out of their headers; other files are passed over."""
    from safetensors import safe_open

    shapes: dict[str, list[int]] = {}
    for path in paths:
        if path.suffix == SAFE_ENDING:
            with safe_open(path, framework="pt") as file:
                shapes.update({name: list(file.get_slice(name).get_shape()) for name in file.keys()})  # noqa: SIM118
    return shapes


class _Enough(Exception):
    """The last wanted layer has run."""


def outputs_of(layers: Sequence[torch.nn.Module], run: Callable[[], Any]) -> list[Tensor]:
    """What each of `layers` puts out while `run` runs; it is stopped after the last of them.

    Nobody's own forward is written again this way: libraries change theirs from version to version.
    """
    found: list[Tensor] = []

    def keep(_: Any, __: Any, out: Any) -> None:
        found.append(out[0] if isinstance(out, tuple) else out)
        if len(found) == len(layers):
            raise _Enough

    hooks = [layer.register_forward_hook(keep) for layer in layers]
    try:
        run()
    except _Enough:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return found
