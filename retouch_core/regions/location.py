"""Words of place in an English query: what they mean, and the query without them (methods.md 4.2).

The rules, in this order; the first that applies wins, and within a rule the longest match:

1. ordinal: "second car from the left", "last chair on the right";
2. relation to another object: "to the left of the house", left to the image-text model;
3. superlative: "leftmost", "on the far right", "the lowest";
4. a cell or a half of the frame after a preposition: "in the top left corner", "in the upper half";
5. a vertical and a horizontal word together, anywhere: "bottom-left";
6. the whole query is a place, or ends in one after a comma: "the bottom";
7. an adjective right after "the": "the left dog", unless its noun has a left of its own ("the left hand").
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ..tensors.checks import check_text

Cell = tuple[int, int]


@dataclass(frozen=True)
class Location:
    """Where a query says its object is.

    Attributes:
        kind: `none`, `cells` (of a 3x3 grid), `half` (of the frame), `superlative` and `ordinal` (a rank from one
            side), or `relative` (to another object: nothing the grid could use).
        cells: (row, column) pairs, both 0..2 from the top left; for kind `cells`.
        side: "left", "right", "top" or "bottom": from where ranks count; for `relative` the side of the anchor,
            if it is a single one.
        rank: 1 for the outermost; 0 where no rank was asked for.
        half: "left", "right", "top" or "bottom"; for kind `half`.
        text: the query without its words of place; unchanged for `none` and `relative`; may be empty.
        phrase: the words of place.
        anchor: the other object of a relation, as written.
    """

    kind: str
    cells: frozenset[Cell] = frozenset()
    side: str | None = None
    rank: int = 0
    half: str | None = None
    text: str = ""
    phrase: str = ""
    anchor: str = ""


VERTICAL = {"top": 0, "upper": 0, "bottom": 2, "lower": 2, "middle": 1, "center": 1, "centre": 1}
HORIZONTAL = {"left": 0, "right": 2, "middle": 1, "center": 1, "centre": 1}
SIDES = {
    "left": "left",
    "right": "right",
    "top": "top",
    "upper": "top",
    "bottom": "bottom",
    "lower": "bottom",
}
OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")

CELL_PHRASES: dict[Cell, str] = {
    (0, 0): "at the top left",
    (0, 1): "at the top",
    (0, 2): "at the top right",
    (1, 0): "on the left",
    (1, 1): "in the center",
    (1, 2): "on the right",
    (2, 0): "at the bottom left",
    (2, 1): "at the bottom",
    (2, 2): "at the bottom right",
}
"""How each cell of the 3x3 grid is said; `parse_location` finds the cell among those it reads from it."""

_OWN_SIDES = (
    # The body and what it wears; ROM's demo query is "left hand on girl".
    "hand arm leg foot feet eye ear wing paw cheek shoulder knee elbow glove shoe sock sleeve finger thumb toe ankle "
    "wrist hip thigh palm fist forearm eyebrow hoof claw horn tooth teeth lip jaw body back earring "
    # Vehicles and directions.
    "wheel headlight taillight blinker pedal click turn "
    # Things that have a top or a bottom as part of their name.
    "hat coat floor shelf bun knot layer deck case bar lid "
    "aged age school class ground name"
)
OWN_SIDES = frozenset(_OWN_SIDES.split())
"""Nouns before which left, top, middle and so on belong to the noun and are no place in the picture."""

_FRAME_NOUN = (
    r"(?:(?:the|this|that|my|our|your)\s+)?(?:(?:whole|entire)\s+)?"
    r"(?:image|picture|photo|photograph|pic|frame|scene|screen|view|shot)\b"
)
_FRAME = rf"(?:\s+(?:of|in)\s+{_FRAME_NOUN})"
_PREPOSITION = r"(?:on|at|in|to|towards?|near|from|along|by)"
_JOIN = r"(?:\s*-\s*|\s+|)"
_PAIR = (
    rf"(?:(?:top|upper|bottom|lower|middle|cent(?:er|re)){_JOIN}(?:left|right)"
    rf"|(?:left|right){_JOIN}(?:top|upper|bottom|lower|middle|cent(?:er|re))"
    rf"|(?:top|upper|bottom|lower){_JOIN}(?:middle|cent(?:er|re)))"
)
_ONE = r"(?:left|right|top|upper|bottom|lower|middle|cent(?:er|re))"
_PLACE = rf"(?:{_PAIR}|{_ONE})"
_PART = r"(?:(?:[\s-]+hand)?[\s-]+(?:sides?|parts?|areas?|corners?|edges?|thirds?|portion|end|region))"
_HAND_SIDE = rf"(?:{_PART})?"

# What may follow a place without being the noun that it describes.
_STOP_WORDS = (
    "and or but that who which whose is are was with without of on at in to toward towards near from along by behind "
    "above below under beside between over before after into against the a an this these those his her its their my "
    "as has have wears looks sits stands holds lies next where while for off up down"
)
_STOP_WORD = rf"(?:{_STOP_WORDS.replace(' ', '|')})\b"
_ING_NOUNS = (
    "building ring king wing thing painting string ceiling railing swing spring wedding duckling earring clothing "
    "awning drawing sling sibling dumpling crossing siding opening landing carving parking swimming dining living "
    "washing pudding icing sting viking"
)
_STOP = rf"(?:{_STOP_WORD}|(?!(?:{_ING_NOUNS.replace(' ', '|')})s?\b)[a-z]+ing\b)"
_PHRASE_END = rf"(?=\s*(?:$|[,.;:!?)(]|(?:{_STOP})))"

# In "looking to the left" the words of place belong to the verb.
_DIRECTION_VERB = re.compile(
    r"\b(?:(?:look|fac|turn|point|lean|walk|runn|head|mov|gaz|star|driv|swimm|fly|travell?|gallop|tilt)ing"
    r"|(?:turn|point|head|tilt)ed|looks?)\s*$",
    re.IGNORECASE,
)


def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


_NUMERAL = rf"(?:{'|'.join(ORDINALS)}|[1-9]\d*(?:st|nd|rd|th)|last)\b(?!\s+(?:aid|class|floor|hand)\b)"
_ORDINAL_WORD = rf"(?P<ordinal>{_NUMERAL})"
_SIDE = r"(?P<side>left|right|top|bottom)"
_NOUN = rf"(?P<noun>(?:\s+(?!from\b|{_NUMERAL})[\w'-]+){{0,6}}?)"
_ORDINAL = _compile(
    rf"\b{_ORDINAL_WORD}{_NOUN}\s+"
    rf"(?:from\s+(?:the\s+)?(?:far\s+)?{_SIDE}|on\s+(?:the\s+)?(?P<on>left|right))\b{_HAND_SIDE}{_FRAME}?{_PHRASE_END}"
)
_ORDINAL_MOST = _compile(rf"\b{_ORDINAL_WORD}\s+(?P<side>left|right|top|bottom)[\s-]?most\b{_FRAME}?")
_RELATIVE = _compile(
    rf"(?:\b{_PREPOSITION}\s+)?(?:\bthe\s+)?(?:\b(?:far|very)\s+)?\b(?P<place>{_PLACE})\b(?:{_PART}|\s+half)?"
    rf"\s+of\b(?!\s+{_FRAME_NOUN}{_PHRASE_END})"
    rf"\s+(?P<anchor>[^,.;:!?]+)"
)
_SUPERLATIVE = _compile(
    r"(?:\b(?P<most>left|right|top|upper|bottom|lower)[\s-]?most\b"
    r"|\b(?P<high>highest|upmost)\b|\b(?P<low>lowest)\b"
    rf"|(?:\b{_PREPOSITION}\s+)?(?:\bthe\s+)?\b(?:far|furthest|farthest)\s+(?:to\s+(?:the\s+)?)?(?P<far>left|right)\b"
    rf"(?!{_JOIN}(?:top|upper|bottom|lower|middle|cent(?:er|re))\b))"
    rf"{_HAND_SIDE}(?:{_FRAME}|\s+of(?=\s+(?:the|these|those)\b))?"
)
_HALF = _compile(
    rf"(?:\b{_PREPOSITION}\s+)?(?:\bthe\s+)?\b(?P<half>left|right|top|upper|bottom|lower)[\s-]+half"
    rf"\b{_FRAME}?{_PHRASE_END}"
)
_CELL = _compile(
    rf"\b{_PREPOSITION}\s+(?:the\s+)?(?:(?:far|very)\s+)?(?P<places>{_PLACE}\b"
    rf"(?:{_PART})?(?:\s+(?:and|or)\s+(?:{_PREPOSITION}\s+)?(?:the\s+)?{_PLACE}\b)*){_HAND_SIDE}{_FRAME}?{_PHRASE_END}"
)
_FRAMED = _compile(rf"(?:\bthe\s+)?\b(?P<places>{_PLACE})\b{_HAND_SIDE}{_FRAME}{_PHRASE_END}")
_COMPOUND = _compile(rf"\b(?P<places>{_PAIR})\b{_HAND_SIDE}{_FRAME}?")
_WHOLE = _compile(rf"^\W*(?:the\s+)?(?:(?:far|very)\s+)?(?P<places>{_PLACE})\b{_HAND_SIDE}{_FRAME}?\W*$")
_TRAILING = _compile(rf"[,;(]\s*(?:the\s+)?(?P<places>{_PLACE})\b{_HAND_SIDE}{_FRAME}?\W*$")
_ADJECTIVE = _compile(rf"(?<=\bthe)\s+(?P<places>{_ONE})(?=\s+[a-z])(?!\s+{_STOP_WORD})")
_WORD = re.compile(r"[a-z]+(?:[-'][a-z]+)*", re.IGNORECASE)


def parse_location(query: str, *, adjective: bool = True) -> Location:
    """Read the words of place out of an English query.

    Args:
        query: what to look for, such as "the red car on the left".
        adjective: whether "the left dog" means a place (rule 7).

    Raises:
        TypeError, ValueError: the query is not text, or blank.
    """
    unchanged = check_text(query)
    query = re.sub(r"\s+", " ", unchanged)
    for rule in (_ordinal, _relative, _superlative, _half, _cells):
        found = rule(query)
        if found is not None:
            return replace(found, text=unchanged) if found.kind == "relative" else found
    if adjective:
        for match in _ADJECTIVE.finditer(query):
            if not _belongs_to_noun(query, match.end()):
                return _in_cells(query, match)
    return Location("none", text=unchanged)


def _ordinal(query: str) -> Location | None:
    for pattern in (_ORDINAL, _ORDINAL_MOST):
        for match in pattern.finditer(query):
            parts = match.groupdict()
            if re.match(r"\s+of\b", query[match.end() :]):
                continue
            side, rank = (parts.get("side") or parts.get("on") or "").lower(), _rank(match["ordinal"])
            if rank == 0:
                # "the last on the right" is the outermost there, "the last from the left" the one farthest from it.
                side, rank = (side if parts.get("on") else OPPOSITE[side]), 1
            noun = parts.get("noun") or ""
            text = query[: match.start()] + noun + query[match.end() :]
            return Location("ordinal", side=side, rank=rank, text=_tidy(text), phrase=_words(match, noun))
    return None


def _relative(query: str) -> Location | None:
    match = _RELATIVE.search(query)
    if match is None:
        return None
    phrase = query[match.start() : match.start("anchor")].strip()
    side = SIDES.get(match["place"].lower())
    return Location("relative", side=side, text=query, phrase=phrase, anchor=match["anchor"].strip())


def _superlative(query: str) -> Location | None:
    for match in _SUPERLATIVE.finditer(query):
        if match["far"] and _belongs_to_noun(query, match.end("far")):
            continue
        side = SIDES[(match["most"] or match["far"] or ("top" if match["high"] else "bottom")).lower()]
        return Location(
            "superlative", side=side, rank=1, text=_without(query, match), phrase=match[0].strip(" ,;()")
        )
    return None


def _half(query: str) -> Location | None:
    match = _HALF.search(query)
    if match is None:
        return None
    half = SIDES[match["half"].lower()]
    return Location("half", half=half, text=_without(query, match), phrase=match[0].strip(" ,;()"))


def _cells(query: str) -> Location | None:
    for pattern in (_CELL, _FRAMED, _COMPOUND, _WHOLE, _TRAILING):
        for match in pattern.finditer(query):
            if _belongs_to_noun(query, match.end()) or _belongs_to_verb(query, match):
                continue
            return _narrowed(_in_cells(query, match))
    return None


def _narrowed(found: Location) -> Location:
    """Take in a second place that crosses the first, as in "at the top, on the right"."""
    second = _cells(found.text) if found.text else None
    if second is None or not found.cells & second.cells:
        return found
    return replace(second, cells=found.cells & second.cells, phrase=f"{found.phrase}, {second.phrase}")


def _in_cells(query: str, match: re.Match[str]) -> Location:
    cells: frozenset[Cell] = frozenset()
    for place in re.findall(rf"\b{_PLACE}\b", match["places"], re.IGNORECASE):
        cells |= _cells_of(place)
    return Location("cells", cells=cells, text=_without(query, match), phrase=match[0].strip(" ,;()"))


def _cells_of(place: str) -> frozenset[Cell]:
    names = re.findall(_ONE, place.lower())
    if len(names) == 2:
        first, second = names
        if first in ("left", "right"):
            first, second = second, first
        return frozenset({(VERTICAL[first], HORIZONTAL[second])})
    (name,) = names
    if name in ("left", "right"):
        return frozenset((row, HORIZONTAL[name]) for row in range(3))
    if VERTICAL[name] == 1:
        return frozenset({(1, 1)})
    return frozenset((VERTICAL[name], column) for column in range(3))


def _belongs_to_noun(query: str, end: int) -> bool:
    """Whether the words that follow a place at `end` make it part of a name: "left hand", "top brown shelf"."""
    rest = query[end:]
    if re.match(r"-\w", rest) and not re.match(r"-hand\b", rest):
        return True
    nouns = []
    while found := re.match(rf"\s+(?!(?:{_STOP}))({_WORD.pattern})", rest, re.IGNORECASE):
        nouns.append(found[1].lower())
        rest = rest[found.end() :]
    return any(noun in OWN_SIDES or _singular(noun) in OWN_SIDES for noun in (nouns[:1] + nouns[-1:]))


def _belongs_to_verb(query: str, match: re.Match[str]) -> bool:
    toward = re.match(r"(?:to|towards?|from)\b", match[0], re.IGNORECASE)
    return toward is not None and _DIRECTION_VERB.search(query[: match.start()]) is not None


def _singular(noun: str) -> str:
    return "shelf" if noun == "shelves" else "body" if noun == "bodies" else noun.removesuffix("s")


def _rank(ordinal: str) -> int:
    """1 for "first" or "1st"; 0 for "last"."""
    word = ordinal.lower()
    if word == "last":
        return 0
    return ORDINALS.index(word) + 1 if word in ORDINALS else int(re.sub(r"\D", "", word))


def _words(match: re.Match[str], noun: str) -> str:
    if not noun:
        return match[0].strip()
    return re.sub(r"\s+", " ", match[0].replace(noun, " ", 1)).strip()


def _without(query: str, match: re.Match[str]) -> str:
    return _tidy(f"{query[: match.start()]} {query[match.end() :]}")


def _tidy(text: str) -> str:
    """Mend what is left after words were cut out; nothing but articles and stand-ins counts as empty."""
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"(?:\s*,)+", ",", text).strip(" ,;:.-")
    text = re.sub(r"\b(?:the|an?)\s+(the|these|those)\b", r"\1", text, flags=re.IGNORECASE)
    text = re.sub(
        r"\s+(?:(?:that|which|who)\s+(?:is|are)|(?:that|which|who)'s|is|are|and|located|situated|placed|positioned)$",
        "",
        text,
        flags=re.IGNORECASE,
    )
    if re.fullmatch(r"(?:the|a|an)?\s*(?:ones?|things?|objects?)?", text, re.IGNORECASE):
        return ""
    return text
