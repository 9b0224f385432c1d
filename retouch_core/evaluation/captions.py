"""Lists of captioned pictures, COCO's and Flickr30K's, made into pairs as S00's experiments need them.

S00 (4.1) takes 5000 text-image pairs from each, "following" Luo et al. 2018 (a picture and a caption that another, similar
picture has), and publishes neither the pairs nor the queries. Here a picture is paired with a caption of the next picture
that shows the same kind of thing, and the query names that thing. What is ambiguous is left out and counted.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from .masks import CocoRuns, ListedMask, Outlines
from .pairs import Pair, PairList, json_of, lines_of

MIN_AREA = 0.02
"""Share of the picture under which a thing is left alone: at 512 px its 64x64 latents hold it in under 80 cells."""

PHRASE = re.compile(r"\[/EN#(\d+)((?:/[a-z]+)+)\s+([^\]]*)\]")
"""`[/EN#28/people A man]` in the sentences of Flickr30k Entities (Plummer et al. 2017)."""
NOT_A_THING = frozenset({"notvisual", "scene", "other"})
"""Kinds of phrases that name no thing of one kind."""

ENDS = re.compile(
    "in|on|at|with|of|by|near|behind|under|over|above|below|beside|between|through|across|around|along|inside|outside|into|"
    "onto|from|to|for|while|as|who|that|which|wearing|holding|is|are|was|were|has|have|and|or",
    re.IGNORECASE,
)
"""Words before which the subject of a caption ends."""
ARTICLES = frozenset({"a", "an", "the", "one", "some"})


@dataclass(frozen=True)
class Captioned:
    """A picture with its captions, and the thing in it that can be changed: its kind, its words, and where it is."""

    id: str
    image: Path
    caption: str
    kind: str
    query: str
    mask: ListedMask | None = None
    group: str = ""
    where: str = ""


def paired(pictures: Iterable[Captioned]) -> tuple[tuple[Pair, ...], int]:
    """Every picture with the caption of the next one of its kind, in the order of a hash of their ids; the last of a kind
    takes the first's. Also how many were left out, because no other shows that kind of thing."""
    kinds: dict[str, list[Captioned]] = defaultdict(list)
    for picture in pictures:
        kinds[picture.kind].append(picture)
    pairs, alone = [], 0
    for same in kinds.values():
        same.sort(key=lambda picture: sha256(picture.id.encode()).hexdigest())
        for number, picture in enumerate(same):
            other = same[(number + 1) % len(same)]
            if other.caption == picture.caption:
                alone += 1
                continue
            pairs.append(
                Pair(
                    id=picture.id,
                    image=picture.image,
                    query=picture.query,
                    prompt=other.caption,
                    mask=picture.mask,
                    group=picture.group,
                    where=picture.where,
                )
            )
    return tuple(pairs), alone


# -------------------------------------------------------------------------------------------------- COCO


def read_coco(path: Path, folder: Path) -> PairList:
    """`captions_X.json` with the `instances_X.json` beside it.

    The thing is the largest one of a class that is there once; its outline is the pair's mask.

    Raises:
        ValueError: a file that is missing or not as COCO has it.
    """
    instances = path.with_name(path.name.replace("captions", "instances", 1))
    if not instances.is_file():
        raise ValueError(
            f"{path} needs {instances.name} beside it, which says what things are where; put it there, or write pairs.jsonl"
        )
    listed, things = json_of(path), json_of(instances)
    try:
        captions: dict[Any, tuple[int, str]] = {}
        for entry in listed["annotations"]:
            first = captions.get(entry["image_id"])
            if first is None or entry["id"] < first[0]:
                captions[entry["image_id"]] = (entry["id"], _sentence(str(entry["caption"])))
        names = {entry["id"]: str(entry["name"]) for entry in things["categories"]}
        of_picture = defaultdict(list)
        for entry in things["annotations"]:
            of_picture[entry["image_id"]].append(entry)
        finder = _Finder(folder, path.stem.removeprefix("captions").strip("_"))
        pictures, unclear = [], 0
        for entry in listed["images"]:
            thing = _only_one(of_picture[entry["id"]], entry["height"] * entry["width"])
            if thing is None or not captions.get(entry["id"], (0, ""))[1]:
                unclear += 1
                continue
            name = names[thing["category_id"]]
            pictures.append(
                Captioned(
                    id=str(entry["id"]),
                    image=finder.path(str(entry["file_name"])),
                    caption=captions[entry["id"]][1],
                    kind=name,
                    query=name,
                    mask=_mask(thing, (entry["height"], entry["width"]), instances.name),
                    where=f"{path.name} image {entry['id']}",
                )
            )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} or {instances.name} is not laid out as COCO has it ({type(error).__name__}: {error}); get them again"
        ) from error
    pairs, alone = paired(pictures)
    return PairList("COCO", pairs, _left_out(unclear, alone, "no class is there just once and large enough"))


def _only_one(entries: Sequence[dict[str, Any]], area: float) -> dict[str, Any] | None:
    """The largest annotation whose class has no other in the picture."""
    count = Counter(entry["category_id"] for entry in entries)
    single = [
        entry
        for entry in entries
        if count[entry["category_id"]] == 1
        and not entry.get("iscrowd")
        and entry["area"] >= MIN_AREA * area
        and isinstance(entry["segmentation"], (list, dict))
    ]
    return max(single, key=lambda entry: (entry["area"], -entry["category_id"]), default=None)


def _mask(entry: dict[str, Any], size: tuple[int, int], where: str) -> ListedMask:
    """Polygons, or runs as sets that took over the layout have them."""
    if isinstance(entry["segmentation"], dict):
        return CocoRuns.of(entry["segmentation"], f"{where} annotation {entry['id']}")
    if any(len(polygon) < 6 or len(polygon) % 2 for polygon in entry["segmentation"]):
        raise TypeError(f"annotation {entry['id']} has an outline of fewer than 3 corners")
    return Outlines(tuple(tuple(map(float, polygon)) for polygon in entry["segmentation"]), size)


# ------------------------------------------------------------------------------------------------ Flickr30K


def read_flickr(path: Path, folder: Path) -> PairList:
    """`results_20130124.token` (picture#number, tab, caption) or `results.csv` (picture| number| caption).

    Where the `Sentences` of Flickr30k Entities lie beside it, the thing is the first phrase of the first caption that names
    one, and its kind the phrase's; else it is the subject of the first caption, and its kind the subject's last word.

    Raises:
        ValueError: with the number of the line.
    """
    first = _token_captions(path) if path.suffix == ".token" else _table_captions(path)
    sentences = folder / "Sentences"
    finder = _Finder(folder, "flickr30k-images", "flickr30k_images")
    pictures, unclear = [], 0
    for name, (caption, where) in first.items():
        if sentences.is_dir():
            thing = phrase_of(sentences / f"{Path(name).stem}.txt")
        else:
            words = subject(caption)
            thing = (words.split()[-1].lower(), words) if words else None
        if thing is None:
            unclear += 1
            continue
        kind, query = thing
        pictures.append(
            Captioned(
                id=Path(name).stem,
                image=finder.path(name),
                caption=_sentence(caption),
                kind=kind,
                query=query,
                group=kind if sentences.is_dir() else "",
                where=where,
            )
        )
    pairs, alone = paired(pictures)
    return PairList("Flickr30K", pairs, _left_out(unclear, alone, "their first caption names no thing"))


def _token_captions(path: Path) -> dict[str, tuple[str, str]]:
    first: dict[str, tuple[str, str]] = {}
    for number, line in enumerate(lines_of(path), 1):
        if not line.strip():
            continue
        name, tab, caption = line.partition("\t")
        picture, mark, index = name.rpartition("#")
        if not (tab and mark and index.strip().isdigit() and caption.strip()):
            raise ValueError(
                f"{path.name} line {number} is not picture#number, tab, caption: {line[:60]!r}; correct it"
            )
        first.setdefault(picture.strip(), (caption.strip(), f"{path.name} line {number}"))
    return first


def _table_captions(path: Path) -> dict[str, tuple[str, str]]:
    first: dict[str, tuple[str, str]] = {}
    rows = csv.reader(io.StringIO("\n".join(lines_of(path))), delimiter="|", quoting=csv.QUOTE_NONE)
    for number, row in enumerate(rows, 1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or cells[0] == "image_name":
            continue
        # One line of the published table has no bar before its caption; that picture's other captions do.
        if len(cells) < 3 or not cells[2]:
            if len(cells) == 2 and cells[0] in first:
                continue
            raise ValueError(
                f"{path.name} line {number} is not picture| number| caption: {'|'.join(row)[:60]!r}; correct it"
            )
        first.setdefault(cells[0], (cells[2], f"{path.name} line {number}"))
    return first


def phrase_of(path: Path) -> tuple[str, str] | None:
    """(kind, words) of the first phrase of the first sentence that names a thing, or None.

    Raises:
        ValueError: the file is missing.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist; put all sentences of Flickr30k Entities there, or none")
    for _, kinds, words in PHRASE.findall(lines_of(path)[0]):
        kind = kinds.strip("/").split("/")[0]
        if kind not in NOT_A_THING and words.strip():
            return kind, words.strip()
    return None


def subject(caption: str) -> str:
    """`A man in a blue shirt is standing` -> `A man`: words up to the first that cannot belong to the subject; "" where it
    begins with one. Knows no grammar: `A very clean and empty room` gives `A very clean`."""
    kept: list[str] = []
    for word in re.findall(r"[\w'’-]+|[^\w\s]", caption):
        verb = word.lower().endswith("ing") and any(each.lower() not in ARTICLES for each in kept)
        if ENDS.fullmatch(word) or verb or not re.match(r"\w", word):
            break
        kept.append(word)
    return " ".join(kept) if any(word.lower() not in ARTICLES for word in kept) else ""


# -------------------------------------------------------------------------------------------------- shared


class _Finder:
    """Where a picture lies: in the folder itself, in `images/`, or in a folder that the list is usually kept with."""

    def __init__(self, folder: Path, *names: str) -> None:
        usual = [name for name in names if name]
        self.places = [folder, folder / "images"]
        self.places += [place for name in usual for place in (folder / name, folder / "images" / name)]

    def path(self, name: str) -> Path:
        found = next((place / name for place in self.places if (place / name).is_file()), None)
        return found or self.places[-1] / name


def _sentence(caption: str) -> str:
    return " ".join(caption.split()).removesuffix(".").strip()


def _left_out(unclear: int, alone: int, why: str) -> tuple[str, ...]:
    reasons = ((unclear, why), (alone, "no other picture has a caption for their kind of thing"))
    return tuple(f"Pictures left out, because {reason}: {count}." for count, reason in reasons if count)
