"""The library's warnings as sentences for reports."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .checks import InputWarning


@contextmanager
def noted(*, quiet: bool = False) -> Iterator[list[str]]:
    """Collect `InputWarning`s as sentences.

    Args:
        quiet: shows other warnings alone, where the report is what people read; else all are shown as well.
    """
    notes: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always", InputWarning)
        show = warnings.showwarning

        def note(message: Any, category: Any, *rest: Any, **named: Any) -> None:
            if isinstance(message, InputWarning):
                notes.append(str(message))
                if quiet:
                    return
            show(message, category, *rest, **named)

        warnings.showwarning = note
        yield notes
