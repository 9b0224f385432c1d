"""What a tokenizer makes of phrases: words that it does not know and phrases that are too long."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

from ..tensors.checks import InputWarning

WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
"""A word of a query as a person would count it."""


def unknown_words(tokenizer: Any, text: str) -> tuple[str, ...]:
    """Words that turn into the tokenizer's unknown token; none where it has no such token or spells words out."""
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is None:
        return ()
    return tuple(
        word
        for word in dict.fromkeys(WORD.findall(text))
        if unknown in tokenizer(word, add_special_tokens=False).input_ids
    )


def warn_of_cuts(tokenizer: Any, texts: Sequence[str], length: int) -> None:
    """Warn of each text that has more tokens than a network holds."""
    for text in texts:
        count = len(tokenizer(text).input_ids)
        if count > length:
            warnings.warn(
                f"{text!r} has {count} tokens and was cut to {length}; say it in fewer words",
                InputWarning,
                stacklevel=3,
            )
