"""What is measured: a picture, what to change in it, and what it becomes; read from a folder in one of four layouts."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from .masks import CocoRuns, ListedMask, PictureMask

OWN = "pairs.jsonl"
PIE = "mapping_file.json"
COCO = "captions*.json"
FLICKR = ("results_20130124.token", "results.csv")
ANNOTATIONS = "annotations"
"""Where COCO's lists lie in its folder."""

ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)
"""The EXIF tag that turns pictures, and those of its values that swap the sides."""

SAFE = re.compile(r"[^A-Za-z0-9_-]+")
"""What a file name does not take over from an id."""


@dataclass(frozen=True)
class Pair:
    """One line of a list.

    Attributes:
        id: unique in the list; also the stem of the files that belong to the pair.
        image: the picture's file.
        query: what to change; prompt: what it becomes, "" to remove it.
        mask: where the list wants the change, or None.
        framed: whether the mask is measured with the picture's outermost pixels added (PIE-Bench).
        group: kind of edit, "" where the list has none.
        where: the place in the list, for sentences.
    """

    id: str
    image: Path
    query: str
    prompt: str
    mask: ListedMask | None = None
    framed: bool = False
    group: str = ""
    where: str = ""


@dataclass(frozen=True)
class PairList:
    """All pairs of a folder in the order in which they are measured, with notes on what was left out."""

    layout: str
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...] = ()

    def digest(self) -> str:
        """Changes with the words, the names and sizes of the pictures, and the masks."""
        told = [
            [
                pair.id,
                pair.image.name,
                pair.image.stat().st_size if pair.image.is_file() else None,
                pair.query,
                pair.prompt,
                pair.group,
                pair.mask.digest() if pair.mask is not None else None,
            ]
            for pair in self.pairs
        ]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def read_pairs(path: str | Path) -> PairList:
    """The pairs of a folder, whatever its layout; which one is told by the files in it.

    Of several lists in one folder give the file itself.

    Pairs come in the order of a hash of their ids, so that the first ones of any list are a sample of all of it, the same
    on every machine, and more of them go on where fewer ended.

    Raises:
        ValueError: no list, more than one to choose from, or one that cannot be used; the sentence names file and line.
    """
    path = Path(path)
    folder = path.parent if path.is_file() else path
    folder = folder.parent if folder != path and folder.name == ANNOTATIONS else folder
    if not folder.is_dir():
        raise ValueError(f"--pairs {path} does not exist; give the folder that holds the list")
    readers = _readers(folder)
    if path.is_file():
        readers = [(listed, read) for listed, read in readers if listed == path]
        if not readers:
            raise ValueError(
                f"--pairs {path} is no list; give {OWN}, {PIE}, {COCO}, {FLICKR[0]} or their folder"
            )
    if not readers:
        raise ValueError(
            f"{folder} holds no list; put {OWN}, PIE-Bench's {PIE}, COCO's captions_*.json or Flickr30K's {FLICKR[0]} there"
        )
    if len(readers) > 1:
        raise ValueError(
            f"{folder} holds {len(readers)} lists ({', '.join(p.name for p, _ in readers)}); give one of these files"
        )
    ((listed, read),) = readers
    found = read(listed, folder)
    if not found.pairs:
        left = f" ({' '.join(found.notes)})" if found.notes else ""
        raise ValueError(f"{listed} holds no pair{left}; write one at least")
    seen: dict[str, str] = {}
    for pair in found.pairs:
        if pair.id in seen:
            raise ValueError(f"{pair.where}: id {pair.id!r} is also that of {seen[pair.id]}; make it another")
        seen[pair.id] = pair.where
    ordered = sorted(found.pairs, key=lambda pair: hashlib.sha256(pair.id.encode()).hexdigest())
    return PairList(found.layout, tuple(ordered), found.notes)


def check_pictures(pairs: Sequence[Pair]) -> None:
    """Raise ValueError for the first pair whose picture is missing or no picture, or whose mask does not fit it."""
    for pair in pairs:
        size = picture_size(pair)
        if pair.mask is not None:
            pair.mask.check(size, pair.where)


def picture_size(pair: Pair) -> tuple[int, int]:
    """(height, width) of the picture as it is shown, by its header."""
    if not pair.image.is_file():
        raise ValueError(f"{pair.where}: picture {pair.image} does not exist; correct the path")
    try:
        with Image.open(pair.image) as picture:
            width, height = picture.size
            # Asking a PNG without EXIF for it decodes all of it.
            told = picture.format != "PNG" or "exif" in picture.info
            turned = told and picture.getexif().get(ORIENTATION) in SIDEWAYS
    except Exception as error:
        raise ValueError(
            f"{pair.where}: picture {pair.image} cannot be read; export or download it again"
        ) from error
    return (width, height) if turned else (height, width)


def file_stem(pair: Pair) -> str:
    """A file name for the pair: its id where that is one, else what can be kept of it and a hash."""
    kept = SAFE.sub("_", pair.id).strip("_")[:80]
    return kept if kept == pair.id else f"{kept}-{hashlib.sha256(pair.id.encode()).hexdigest()[:8]}"


def _readers(folder: Path) -> list[tuple[Path, Callable[[Path, Path], PairList]]]:
    from .captions import read_coco, read_flickr
    from .pie_bench import read_pie_bench

    known: list[tuple[Path, Callable[[Path, Path], PairList]]] = []
    if (folder / OWN).is_file():
        known.append((folder / OWN, read_own))
    if (folder / PIE).is_file():
        known.append((folder / PIE, read_pie_bench))
    for place in (folder, folder / ANNOTATIONS):
        known += [(path, read_coco) for path in sorted(place.glob(COCO))]
    known += [(folder / name, read_flickr) for name in FLICKR if (folder / name).is_file()]
    return known


# --------------------------------------------------------------------------------------- a list of one's own


def read_own(path: Path, folder: Path) -> PairList:
    """`pairs.jsonl`: one JSON object a line, as in docs/evaluation.md.

    Raises:
        ValueError: with the number of the line.
    """
    pairs = []
    for number, line in enumerate(lines_of(path), 1):
        if not line.strip():
            continue
        where = f"{path.name} line {number}"
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise ValueError(
                f"{where} is not JSON ({error}); write one object a line, strings in double quotes"
            ) from error
        pairs.append(_own_pair(entry, folder, str(number), where))
    return PairList("pairs.jsonl", tuple(pairs))


KEYS = ("id", "image", "query", "prompt", "mask", "group")


def _own_pair(entry: Any, folder: Path, number: str, where: str) -> Pair:
    if not isinstance(entry, dict):
        raise ValueError(
            f"{where} holds a {type(entry).__name__}; write an object with image, query and prompt"
        )
    unknown = sorted(set(entry) - set(KEYS))
    if unknown:
        raise ValueError(f"{where} has the key {unknown[0]!r}; known are {', '.join(KEYS)}")
    mask = entry.get("mask")
    listed: ListedMask | None = None
    if isinstance(mask, str):
        listed = PictureMask(folder / mask)
    elif mask is not None:
        listed = CocoRuns.of(mask, where)
    prompt = text_of(entry, "prompt", where)
    return Pair(
        id=text_of(entry, "id", where, default=number),
        image=folder / filled(entry, "image", where),
        query=filled(entry, "query", where),
        prompt=prompt.strip(),
        mask=listed,
        group=text_of(entry, "group", where, default=""),
        where=where,
    )


# ----------------------------------------------------------------------------------------- reading carefully


def lines_of(path: Path) -> list[str]:
    """The lines of a UTF-8 text file, of which a byte order mark is no part.

    Raises:
        ValueError: it is not UTF-8 or may not be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); save it as UTF-8 text") from error


def json_of(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object.

    Raises:
        ValueError: it does not.
    """
    try:
        value = json.loads("\n".join(lines_of(path)))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} line {error.lineno} is not JSON ({error.msg}); get the file again"
        ) from error
    if not isinstance(value, dict):
        raise ValueError(
            f"{path} holds a {type(value).__name__} where an object is expected; get the file again"
        )
    return value


def text_of(entry: dict[str, Any], key: str, where: str, *, default: str | None = None) -> str:
    """A text of an entry, or the default where there is none; raises ValueError where neither is there."""
    value = entry.get(key, default)
    if value is None:
        raise ValueError(f"{where} has no {key}; add it")
    if not isinstance(value, str):
        raise ValueError(f"{where}: {key} must be text, got {value!r}; put it in double quotes")
    return value


def filled(entry: dict[str, Any], key: str, where: str) -> str:
    """A text of an entry that is not blank, stripped."""
    value = text_of(entry, key, where).strip()
    if not value:
        raise ValueError(f"{where}: {key} is empty; write what it should be")
    return value
