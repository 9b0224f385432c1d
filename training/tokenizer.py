"""Build the embedded word-level tokenizer; padding is left to the caller because the host pads on its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .world.phrases import BOS, EOS, PAD, SPECIALS, vocabulary

LENGTH = 16
"""Positions of the text tower: begin, up to 14 words, end."""


def build() -> Any:
    """A `PreTrainedTokenizerFast` of LENGTH positions: lower-cased words between begin and end."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: i for i, word in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=SPECIALS[2]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(SPECIALS[BOS], BOS), (SPECIALS[EOS], EOS)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SPECIALS[BOS]} $A {SPECIALS[EOS]}", special_tokens=ends
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=SPECIALS[PAD],
        bos_token=SPECIALS[BOS],
        unk_token=SPECIALS[2],
        eos_token=SPECIALS[EOS],
        model_max_length=LENGTH,
        padding_side="right",
    )


def save(folder: Path) -> None:
    """Save it under the class name that transformers 4 and 5 both know; version 5 writes one of its own."""
    build().save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(settings, indent=2) + "\n")
