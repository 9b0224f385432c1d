"""The tokenizer made of open_clip's vocabulary: the published tokens, by two other implementations of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("transformers")
pytest.importorskip("open_clip")

import tiny_stable_diffusion as tiny

from retouch_core.models.pretrained.editors import clip_words
from retouch_core.models.pretrained.editors.clip_words import clip_tokenizer
from retouch_core.models.pretrained.files import ModelError

TEXTS = [
    "a photo of a cat",
    "",
    "Two RED cars, on the left!",
    "it's 1234 über-cool, don't",
    "日本 😀 naïve café",
    "tabs\tand\n\nlines   and spaces",
    "<3 #tag a_b (weighted:1.2) [x]",
    "antidisestablishmentarianism " * 3,
]


@pytest.fixture(scope="module")
def tokenizer():
    return clip_tokenizer()


def test_known_tokens(tokenizer) -> None:
    """Token numbers as OpenAI's own tokenizer gives them."""
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert len(tokenizer) == 49408
    assert tokenizer.model_max_length == 77


def test_equal_to_open_clips(tokenizer) -> None:
    from open_clip.tokenizer import SimpleTokenizer

    other = SimpleTokenizer()
    for text in TEXTS:
        assert tokenizer(text).input_ids[1:-1] == other.encode(text), text


def test_equal_to_the_published_folder(tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tiny.save_tokenizer(tmp_path / "tokenizer")
    other = AutoTokenizer.from_pretrained(tmp_path / "tokenizer", local_files_only=True)
    for text in TEXTS:
        options = {"padding": "max_length", "max_length": 12, "truncation": True}
        assert tokenizer(text, **options).input_ids == other(text, **options).input_ids, text


def test_what_fills_a_prompt() -> None:
    for pad, token in (("<|endoftext|>", 49407), ("!", 0)):
        ids = clip_tokenizer(pad)("a cat", padding="max_length", max_length=6).input_ids
        assert ids == [49406, 320, 2368, 49407, token, token]


def test_without_the_vocabulary_it_says_what_to_install(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(clip_words, "PACKAGE", "a_package_that_nobody_has")
    with pytest.raises(ModelError, match="run pip install open_clip_torch"):
        clip_tokenizer()


def test_another_vocabulary_is_refused(monkeypatch, tmp_path: Path) -> None:
    import gzip

    package = tmp_path / "short_clip"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / clip_words.FILE).write_bytes(gzip.compress(b"#version\na b\nc d\n"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(clip_words, "PACKAGE", "short_clip")
    assert importlib.util.find_spec("short_clip") is not None
    with pytest.raises(ModelError, match="is damaged: it makes 516 tokens and not 49408"):
        clip_tokenizer()
