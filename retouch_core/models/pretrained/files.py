"""The files of a model folder as Hugging Face lays it out, checked without reading weights and without loading torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CONFIG = "config.json"
SAFE, SAFE_INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
PICKLE_STARTS = (b"PK", b"\x80")
"""First bytes of what torch.save writes: a zip archive, or a bare pickle in older files."""
MAX_HEADER = 100_000_000
"""Bytes of a safetensors header; the format allows no more."""
REASON = 200
"""Characters of a library's own error that are passed on."""


class ModelError(ValueError):
    """A model's files are missing, damaged, or of another kind than its role needs."""


def config_of(folder: Path, name: str = CONFIG) -> dict[str, Any]:
    """`config.json` of a model folder, or the file of another name that is its description.

    Raises:
        ModelError: no such folder or file, or one that is no JSON object.
    """
    path = folder / name
    if not folder.is_dir():
        what = "is a file" if folder.is_file() else "does not exist"
        raise ModelError(f"{folder} {what}, but a model folder with {name} is needed; give that folder")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{folder} has no {name}; copy all files of the model's repository there") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({said(error)}); copy the file there again") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds a {type(config).__name__}; copy the file there again")
    return config


def check_weights(folder: Path) -> list[Path]:
    """The weight files of a folder, safetensors where there are any, each of them whole.

    Raises:
        ModelError: none, a missing part of several, or a damaged one.
    """
    for single, index, check in (
        (SAFE, SAFE_INDEX, check_safetensors),
        (PICKLED, PICKLED_INDEX, check_pickle),
    ):
        if (folder / single).is_file():
            check(folder / single)
            return [folder / single]
        if (folder / index).is_file():
            try:
                names = sorted(
                    set(json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values())
                )
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise ModelError(
                    f"{folder / index} cannot be read ({said(error)}); copy the file there again"
                ) from error
            for name in names:
                if not (folder / name).is_file():
                    raise ModelError(f"{folder} lacks {name}, one of {len(names)} parts; copy it there too")
                check(folder / name)
            return [folder / name for name in names]
    raise ModelError(f"{folder} has no {SAFE}; copy the weights of the model's repository there")


def check_safetensors(path: Path) -> None:
    """Raise ModelError unless a safetensors file is as long as its header says; weights are not read."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little") if len(start) == 8 else -1
        if start[:2] == PICKLE_STARTS[0] or (start[:1] == PICKLE_STARTS[1] and not 0 <= length <= MAX_HEADER):
            raise ModelError(
                f"{path} is a pickle under the name of a safetensors file; get the real one, or rename it to {PICKLED}"
            )
        if not 0 < length <= min(MAX_HEADER, size - 8):
            raise ModelError(f"{path} is damaged: {size} bytes without a header; copy or download it again")
        try:
            header = json.loads(file.read(length))
            end = max(
                (tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"),
                default=0,
            )
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise ModelError(
                f"{path} is damaged: its header cannot be read; copy or download it again"
            ) from error
    if size != 8 + length + end:
        raise ModelError(
            f"{path} is damaged: it has {size} bytes where its header asks for {8 + length + end}; "
            "copy or download it again"
        )


def check_pickle(path: Path) -> None:
    """Raise ModelError for a file that torch.save cannot have written; it is read with `weights_only` later."""
    with path.open("rb") as file:
        start = file.read(2)
    if not start.startswith(PICKLE_STARTS):
        raise ModelError(
            f"{path} is damaged: it does not begin as torch's files do; copy or download it again"
        )


def said(error: BaseException) -> str:
    """A library's own error, shortened to one line."""
    return (" ".join(str(error).split()) or type(error).__name__)[:REASON]
