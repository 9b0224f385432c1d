"""Referring phrases for things and grounds, with colour, class and place words dropped at random."""

from __future__ import annotations

import random

from .grounds import GROUND_NAMES
from .icons import CLASSES, COLOUR_NAMES

SYNONYMS: dict[str, tuple[str, ...]] = {
    "ball": ("sphere",),
    "box": ("crate",),
    "ring": ("donut",),
    "cross": ("plus",),
    "moon": ("crescent",),
    "house": ("home",),
    "cup": ("mug",),
    "purple": ("violet",),
}
SYNONYM_SHARE = 0.1

PLACE_PHRASES: dict[str, tuple[str, ...]] = {
    "left": ("on the left", "on the left side", "at left"),
    "right": ("on the right", "on the right side", "at right"),
    "top": ("at the top", "in the upper part"),
    "bottom": ("at the bottom", "in the lower part"),
    "center": ("in the center", "in the middle", "in the centre"),
}
CELL_PHRASES: tuple[tuple[str, ...], ...] = (
    ("at the top left", "in the top left corner", "in the upper left"),
    PLACE_PHRASES["top"],
    ("at the top right", "in the top right corner", "in the upper right"),
    PLACE_PHRASES["left"],
    PLACE_PHRASES["center"],
    PLACE_PHRASES["right"],
    ("at the bottom left", "in the bottom left corner", "in the lower left"),
    PLACE_PHRASES["bottom"],
    ("at the bottom right", "in the bottom right corner", "in the lower right"),
)
"""Ways to say each cell of the 3x3 grid, row by row."""
THING_FRAMES = (
    "{}",
    "{}",
    "a {}",
    "the {}",
    "a photo of a {}",
    "a picture of a {}",
    "{} icon",
    "a drawing of a {}",
)
GROUND_FRAMES = ("{}", "the {}", "{} background", "a {} background", "a photo of {}", "the {} ground")
NOUNS_FOR_ANYTHING = ("thing", "object")

FUNCTION_WORDS = [
    "a",
    "an",
    "the",
    "of",
    "photo",
    "picture",
    "image",
    "icon",
    "drawing",
    "on",
    "at",
    "in",
    "from",
    "with",
    "and",
    "to",
    "some",
    "something",
    "else",
    "nothing",
    "one",
    "two",
    "left",
    "right",
    "top",
    "bottom",
    "center",
    "centre",
    "middle",
    "upper",
    "lower",
    "corner",
    "side",
    "part",
    "object",
    "thing",
    "small",
    "large",
    "big",
    "little",
    "background",
    "ground",
    "scene",
]
SPECIALS = ("<pad>", "<bos>", "<unk>", "<eos>")
PAD, BOS, UNKNOWN, EOS = range(4)


def vocabulary() -> tuple[str, ...]:
    """Every token of the embedded tokenizer, in the order of its ids."""
    synonyms = [word for words in SYNONYMS.values() for word in words]
    words = [*SPECIALS, *CLASSES, *COLOUR_NAMES, *GROUND_NAMES, *synonyms, *FUNCTION_WORDS, ",", "."]
    return tuple(dict.fromkeys(words))


def _word(name: str, rng: random.Random) -> str:
    return rng.choice(SYNONYMS[name]) if name in SYNONYMS and rng.random() < SYNONYM_SHARE else name


def thing_phrase(name: str | None, colour: str | None, place: str | None, rng: random.Random) -> str:
    """A phrase for a thing; None drops the class, the colour or the place word."""
    noun = _word(name, rng) if name else rng.choice(NOUNS_FOR_ANYTHING)
    words = f"{_word(colour, rng)} {noun}" if colour else noun
    phrase = rng.choice(THING_FRAMES).format(words)
    return f"{phrase} {rng.choice(PLACE_PHRASES[place])}" if place else phrase


def ground_phrase(kind: str | None, rng: random.Random) -> str:
    """A phrase for the ground; None says only "background"."""
    if kind is None:
        return rng.choice(("background", "the background", "the ground"))
    return rng.choice(GROUND_FRAMES).format(kind)


def cell_phrase(cell: int, rng: random.Random) -> str:
    """A phrase for one of the nine parts of the picture, counted row by row."""
    return rng.choice(CELL_PHRASES[cell])
