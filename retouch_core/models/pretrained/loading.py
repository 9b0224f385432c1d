"""Reading a model folder as Hugging Face lays it out: checked first, from disk only, never code out of the folder."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..quiet import quiet_loading

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


def needs(package: str, least: str, what: str) -> None:
    """Raise ModelError unless `package` is installed in version `least` or later.

    Args:
        package: as pip names it; least: such as "4.57"; what: what needs it, for the sentence.
    """
    try:
        there = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise ModelError(
            f"{what} needs {package}, which is not installed; run pip install '{package}>={least}'"
        ) from None
    if _numbers(there) < _numbers(least):
        raise ModelError(
            f"{what} needs {package} {least} or later, but {there} is installed; run pip install -U {package}"
        )


def _numbers(version: str) -> tuple[int, ...]:
    parts = []
    for part in version.split(".")[:3]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        parts.append(int(digits))
    return tuple(parts)


def config_of(folder: Path) -> dict[str, Any]:
    """`config.json` of a model folder.

    Raises:
        ModelError: no such folder or file, or one that is no JSON object.
    """
    path = folder / CONFIG
    if not folder.is_dir():
        what = "is a file" if folder.is_file() else "does not exist"
        raise ModelError(f"{folder} {what}, but a model folder with {CONFIG} is needed; give that folder")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{folder} has no {CONFIG}; copy all files of the model's repository there"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({_said(error)}); copy the file there again") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds a {type(config).__name__}; copy the file there again")
    return config


def check_kind(folder: Path, kinds: Sequence[str], what: str) -> str:
    """The folder's `model_type`, one of `kinds`.

    Args:
        what: the backend, for the sentence ("SAM 2").

    Raises:
        ModelError: another kind of model, or a folder without one.
    """
    kind = config_of(folder).get("model_type")
    if kind not in kinds:
        raise ModelError(
            f"{folder} holds a model of type {kind!r}, but {what} needs {' or '.join(map(repr, kinds))}; "
            "choose that model's folder"
        )
    return str(kind)


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
                    f"{folder / index} cannot be read ({_said(error)}); copy the file there again"
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


def load_model(cls: Any, folder: Path, kinds: Sequence[str], what: str, **options: Any) -> Any:
    """A transformers model of class `cls` out of a folder, on the CPU in float32, in eval mode and without gradients.

    Args:
        cls: a class with `from_pretrained`.
        kinds: `model_type`s that the folder may have.
        what: the backend, for sentences.
        options: further arguments of `from_pretrained`.

    Raises:
        ModelError: a folder that is missing, damaged, or of another kind, or weights that do not cover the network.
    """
    check_kind(folder, kinds, what)
    check_weights(folder)
    with quiet_loading():
        model, info = _reading(
            folder,
            lambda: cls.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, output_loading_info=True, **options
            ),
        )
    absent = sorted(info.get("missing_keys") or ())
    if absent:
        raise ModelError(
            f"{folder} lacks {len(absent)} weights of {what}, such as {absent[0]}; copy the model's own files there"
        )
    return model.float().eval().requires_grad_(False)


def load_part(cls: Any, folder: Path, what: str, **options: Any) -> Any:
    """A processor or tokenizer of class `cls` out of a folder.

    Raises:
        ModelError: its files are missing or damaged.
    """
    with quiet_loading():
        return _reading(
            folder,
            lambda: cls.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options),
            f"the {cls.__name__} of {what}",
        )


def _reading(folder: Path, read: Callable[[], Any], part: str = "the model") -> Any:
    """What `read` gives; whatever a library makes of broken files becomes one sentence."""
    try:
        with torch.inference_mode(False):
            return read()
    except (MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:
        raise ModelError(
            f"{part} in {folder} cannot be read ({_said(error)}); copy all files of the model's repository there"
        ) from error


def _said(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:REASON]
