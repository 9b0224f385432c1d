"""PIE-Bench's layout (Ju et al., Direct Inversion, ICLR 2024): mapping_file.json beside annotation_images/."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .masks import StartRuns
from .pairs import Pair, PairList, filled, json_of, text_of

PICTURES = "annotation_images"
TYPES = (
    "random",
    "change object",
    "add object",
    "delete object",
    "change content",
    "change pose",
    "change color",
    "change material",
    "change background",
    "change style",
)
"""Kinds of edits by `editing_type_id`."""
BACKGROUND = TYPES.index("change background")
MARKED = re.compile(r"\[([^\]]*)\]")
"""What differs between the two prompts stands in square brackets, which are no part of the prompt."""


def read_pie_bench(path: Path, folder: Path) -> PairList:
    """`mapping_file.json`: id -> entry; pictures lie in `annotation_images/` under their `image_path`.

    Raises:
        ValueError: with the id of the entry.
    """
    pairs = []
    for key, entry in json_of(path).items():
        where = f"{path.name} entry {key}"
        if not isinstance(entry, dict):
            raise ValueError(
                f"{where} holds a {type(entry).__name__} where an object is expected; get the file again"
            )
        prompt = unmarked(filled(entry, "editing_prompt", where))
        mask = entry.get("mask")
        pairs.append(
            Pair(
                id=key,
                image=folder / PICTURES / filled(entry, "image_path", where),
                query=query_of(entry, where),
                prompt=prompt,
                mask=StartRuns.of(mask, where) if mask is not None else None,
                framed=True,
                group=_group_of(entry, where),
                where=where,
            )
        )
    return PairList("PIE-Bench", tuple(pairs))


def query_of(entry: dict[str, Any], where: str) -> str:
    """What to change, which the benchmark does not say in one place.

    "background" for its kind 8; else the first blended word, which names the thing in the old picture; else what is marked
    in the old prompt; else all of the old prompt.

    Raises:
        ValueError: all of them are empty.
    """
    if _type_of(entry, where) == BACKGROUND:
        return "background"
    blended = text_of(entry, "blended_word", where, default="").split()
    original = text_of(entry, "original_prompt", where, default="")
    marked = " ".join(" ".join(MARKED.findall(original)).split())
    query = (blended[0] if blended else "") or marked or unmarked(original)
    if not query:
        raise ValueError(
            f"{where}: query is empty, because blended_word and original_prompt are; write what to change"
        )
    return query


def unmarked(prompt: str) -> str:
    """`a [rusty] bicycle` -> `a rusty bicycle`."""
    return " ".join(prompt.replace("[", "").replace("]", "").split())


def _type_of(entry: dict[str, Any], where: str) -> int | None:
    value = entry.get("editing_type_id")
    if value is None:
        return None
    if str(value) not in map(str, range(len(TYPES))):
        raise ValueError(
            f"{where}: editing_type_id must lie in 0..{len(TYPES) - 1}, got {value!r}; correct it"
        )
    return int(value)


def _group_of(entry: dict[str, Any], where: str) -> str:
    kind = _type_of(entry, where)
    return "" if kind is None else f"{kind} {TYPES[kind]}"
