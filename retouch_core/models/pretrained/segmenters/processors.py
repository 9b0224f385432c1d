"""Image processors of segmenters, whose classes know what a folder's file leaves out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..loading import ModelError, load_part
from ..pictures import Look, look_of, needed_settings


def image_processor(folder: Path, name: str, what: str) -> Any:
    """The image processor of a folder: class `name`, or its quick form where an older transformers has that alone.

    Raises:
        ModelError: neither class is there, or the folder's file is missing or damaged.
    """
    import transformers

    cls = getattr(transformers, name, None) or getattr(transformers, f"{name}Fast", None)
    if cls is None:
        raise ModelError(
            f"{what} needs {name}, which transformers {transformers.__version__} lacks; run pip install -U transformers"
        )
    needed_settings(folder, what)
    return load_part(cls, folder, what)


def processor_look(processor: Any) -> Look:
    """The look of a transformers image processor.

    Raises:
        ModelError: a step left out that every published checkpoint has, or values that make no sense.
    """
    kind = type(processor).__name__
    for step in ("do_resize", "do_rescale", "do_normalize"):
        if not getattr(processor, step, True):
            raise ModelError(
                f"{kind} has {step} off, which no published checkpoint has; copy the model's own files again"
            )
    return look_of(
        {name: getattr(processor, name, None) for name in ("image_mean", "image_std", "resample")}, kind
    )


def edge_of(size: Any, *names: str) -> int | None:
    """The first of the entries `names` that a processor's size has."""
    for name in names:
        value = size.get(name) if isinstance(size, dict) else getattr(size, name, None)
        if value:
            return int(value)
    return None
