"""Reading a model folder as Hugging Face lays it out: checked first, from disk only, never code out of the folder."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..quiet import quiet_loading
from .files import CONFIG as CONFIG
from .files import PICKLED as PICKLED
from .files import PICKLED_INDEX as PICKLED_INDEX
from .files import SAFE as SAFE
from .files import SAFE_INDEX as SAFE_INDEX
from .files import ModelError as ModelError
from .files import check_pickle as check_pickle
from .files import check_safetensors as check_safetensors
from .files import check_weights as check_weights
from .files import config_of as config_of
from .files import said


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


UNUSED_OF_SWIN = r"(^|\.)swin\.layernorm\."
"""A norm behind the last stage, which no backbone uses: files of Mask2Former and OneFormer were published without it, and
transformers 5 makes one all the same."""

LIBRARY = re.compile(r"requires? the (\w+) library")
"""How transformers names a package that it lacks."""

OLD_TORCH = re.compile(r"torch\.load.*v?2\.6", re.DOTALL)
"""How transformers refuses pickled weights where torch is older."""


def load_model(
    cls: Any, folder: Path, kinds: Sequence[str], what: str, *, unused: str | None = None, **options: Any
) -> Any:
    """A transformers model of class `cls` out of a folder, on the CPU in float32, in eval mode and without gradients.

    Args:
        cls: a class with `from_pretrained`.
        kinds: `model_type`s that the folder may have.
        what: the backend, for sentences.
        unused: a pattern of weights that the folder may lack, since nothing is computed with them.
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
    absent = sorted(
        name for name in info.get("missing_keys") or () if not (unused and re.search(unused, name))
    )
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
    except ImportError as error:
        named = LIBRARY.search(str(error))
        todo = f"run pip install {named[1].lower()}" if named else "install what is missing"
        raise ModelError(
            f"{part} in {folder} needs a package that is not here ({said(error)}); {todo}"
        ) from error
    except Exception as error:
        if OLD_TORCH.search(str(error)):
            raise ModelError(
                f"{part} in {folder} is pickled, which transformers reads with torch 2.6 or later alone, but "
                f"{torch.__version__} is installed; run pip install -U torch, or put a safetensors file there"
            ) from error
        raise ModelError(
            f"{part} in {folder} cannot be read ({said(error)}); copy all files of the model's repository there"
        ) from error
