"""Load models without the bars and notes of the libraries below, about which an artist can do nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Within the block diffusers and transformers log errors only and draw no bars; afterwards all is as before."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    before = [library.get_verbosity() for library in (of_diffusers, of_transformers)]
    bars = of_transformers.is_progress_bar_enabled()
    for library in (of_diffusers, of_transformers):
        library.set_verbosity_error()
    of_transformers.disable_progress_bar()
    try:
        yield
    finally:
        for library, level in zip((of_diffusers, of_transformers), before, strict=True):
            library.set_verbosity(level)
        if bars:
            of_transformers.enable_progress_bar()
