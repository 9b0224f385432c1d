"""Work that goes through a network chunk by chunk: it can be watched and stopped, and gets by with less memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from ...tensors.checks import InputWarning

Out = TypeVar("Out")
Tell = Callable[[int, int], None]
"""(done, of) after each chunk; whatever it raises stops the work."""

CPU_REFUSES = "not enough memory"
"""What torch's allocator says on the CPU, as a plain RuntimeError."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that there was not enough memory, on a GPU or on the CPU."""
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and CPU_REFUSES in str(error)


def in_chunks(
    run: Callable[[Any], Out],
    items: Tensor | Sequence[Any],
    size: int,
    *,
    name: str = "items",
    tell: Tell | None = None,
) -> list[Out]:
    """What `run` makes of consecutive chunks of `items`, in their order; nothing for no items.

    Where memory does not suffice, chunks are halved from there on, with a warning that says so.

    Args:
        run: takes a slice of `items`.
        size: items at once, at least 1.
        name: what they are, for the warning.
        tell: called with the items done and all items.

    Raises:
        ValueError: a size below 1.
        torch.OutOfMemoryError, RuntimeError, MemoryError: a single item is too much.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size!r}; that many {name} go through at once")
    found: list[Out] = []
    start, count = 0, len(items)
    while start < count:
        failed = ""
        try:
            found.append(run(items[start : start + size]))
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not out_of_memory(error):
                raise
            failed = type(error).__name__
        if failed:
            # Outside the handler, so that the traceback no longer holds the tensors of the failed call.
            size = min(size, count - start) // 2 or 1
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            warnings.warn(
                f"there was not enough memory, so {name} go through {size} at a time; that is slower",
                InputWarning,
                stacklevel=2,
            )
            continue
        start = min(count, start + size)
        if tell is not None:
            tell(start, count)
    return found
