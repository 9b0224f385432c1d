"""Load models without the bars and notes of the libraries below, about which an artist can do nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Within the block transformers and diffusers log errors only and draw no bars; afterwards all is as before."""
    from transformers.utils import logging as of_transformers

    libraries: list[Any] = [of_transformers]
    # A diffusers that does not go with the rest of the installation must not keep models of transformers from loading.
    with suppress(ImportError, RuntimeError):
        from diffusers.utils import logging as of_diffusers

        libraries.append(of_diffusers)
    before = [library.get_verbosity() for library in libraries]
    bars = of_transformers.is_progress_bar_enabled()
    for library in libraries:
        library.set_verbosity_error()
    of_transformers.disable_progress_bar()
    try:
        yield
    finally:
        for library, level in zip(libraries, before, strict=True):
            library.set_verbosity(level)
        if bars:
            of_transformers.enable_progress_bar()
