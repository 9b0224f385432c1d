"""CLIP's tokenizer out of the vocabulary that open_clip ships, for checkpoints that bring no tokenizer files."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path
from typing import Any

from ..files import ModelError

PACKAGE, FILE = "open_clip", "bpe_simple_vocab_16e6.txt.gz"
"""Where the merges lie; the file is OpenAI's own (openai/CLIP, clip/bpe_simple_vocab_16e6.txt.gz)."""
START, END = "<|startoftext|>", "<|endoftext|>"
SIZE = 49408
"""Tokens: 256 bytes, the same at the end of a word, the merges, and the two marks."""
MERGES = SIZE - 2 * 256 - 2
WORD_END = "</w>"
LENGTH = 77
SPLIT = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
"""What counts as a piece of text before merging (openai/CLIP, clip/simple_tokenizer.py)."""


def vocabulary_file() -> Path:
    """Where the vocabulary lies; the package is not imported for that.

    Raises:
        ModelError: it is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for place in (spec.submodule_search_locations if spec is not None else None) or ():
        path = Path(place) / FILE
        if path.is_file():
            return path
    raise ModelError(
        "a single-file checkpoint needs CLIP's vocabulary, which open_clip_torch brings; run pip install open_clip_torch"
    )


def byte_letters() -> list[str]:
    """The letter that stands for each byte, in the order of the vocabulary: printable bytes first, as themselves."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [*map(chr, shown), *(chr(256 + k) for k in range(len(hidden)))]


def clip_tokenizer(pad: str = END) -> Any:
    """The tokenizer of CLIP's text towers, as a fast tokenizer of transformers.

    Args:
        pad: what fills prompts up to 77 tokens: the end mark for OpenAI's towers, "!" (token 0) for open_clip's.

    Raises:
        ModelError: the vocabulary is not installed, or is not the known one.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    path = vocabulary_file()
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[1 : MERGES + 1]
    merges = [(pair[0], pair[1]) for pair in (line.split() for line in lines) if len(pair) == 2]
    letters = byte_letters()
    tokens = [*letters, *(letter + WORD_END for letter in letters), *map("".join, merges), START, END]
    if len(tokens) != SIZE:
        raise ModelError(f"{path} is damaged: it makes {len(tokens)} tokens and not {SIZE}; install it again")
    ids = {token: k for k, token in enumerate(tokens)}
    fast = Tokenizer(
        models.BPE(
            ids,
            merges,
            continuing_subword_prefix="",
            end_of_word_suffix=WORD_END,
            fuse_unk=False,
            unk_token=END,
        )
    )
    fast.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    fast.decoder = decoders.ByteLevel()
    fast.post_processor = processors.RobertaProcessing(
        (END, ids[END]), (START, ids[START]), trim_offsets=False, add_prefix_space=False
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=fast,
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=pad,
        model_max_length=LENGTH,
    )
