"""The grammar of place words: the whole table of methods.md 4.2, its rules, and what artists may type besides."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retouch_core.regions.location import CELL_PHRASES, OWN_SIDES, Location, parse_location


def column(number: int) -> frozenset[tuple[int, int]]:
    return frozenset((row, number) for row in range(3))


def row(number: int) -> frozenset[tuple[int, int]]:
    return frozenset((number, col) for col in range(3))


def cell(*place: int) -> frozenset[tuple[int, int]]:
    return frozenset({(place[0], place[1])})


@pytest.mark.parametrize(
    ("query", "cells", "text"),
    [
        ("the dog on the left", column(0), "the dog"),
        ("dog in the top left corner", cell(0, 0), "dog"),
        ("the upper left window", cell(0, 0), "the window"),
        ("bottom-left cat", cell(2, 0), "cat"),
        ("red car, lower right", cell(2, 2), "red car"),
        ("a cup in the middle", cell(1, 1), "a cup"),
        ("in the centre", cell(1, 1), ""),
        ("the sky at the top of the image", row(0), "the sky"),
        ("flowers in the lower left corner of the photo", cell(2, 0), "flowers"),
        ("two dogs at the bottom centre", cell(2, 1), "two dogs"),
        ("the chair on the right side of the picture", column(2), "the chair"),
        ("boat at left", column(0), "boat"),
        ("the girl to the right", column(2), "the girl"),
        ("the bottom", row(2), ""),
    ],
)
def test_table_of_cells(query: str, cells: frozenset[tuple[int, int]], text: str) -> None:
    found = parse_location(query)
    assert (found.kind, found.cells, found.text) == ("cells", cells, text)


@pytest.mark.parametrize(
    ("query", "side", "text"),
    [
        ("the leftmost person", "left", "the person"),
        ("topmost shelf", "top", "shelf"),
        ("the lowest branch", "bottom", "the branch"),
        ("person on the far right", "right", "person"),
    ],
)
def test_table_of_superlatives(query: str, side: str, text: str) -> None:
    found = parse_location(query)
    assert (found.kind, found.side, found.rank, found.text) == ("superlative", side, 1, text)


@pytest.mark.parametrize(
    ("query", "side", "rank", "text"),
    [
        ("second car from the left", "left", 2, "car"),
        ("the 3rd apple from right", "right", 3, "the apple"),
        ("the man second from right", "right", 2, "the man"),
        ("third from the top", "top", 3, ""),
    ],
)
def test_table_of_ordinals(query: str, side: str, rank: int, text: str) -> None:
    found = parse_location(query)
    assert (found.kind, found.side, found.rank, found.text) == ("ordinal", side, rank, text)


@pytest.mark.parametrize(
    "query",
    [
        "left hand on girl",
        "the left hand on the girl",
        "upper left arm",
        "right shoe",
        "the man in a top hat",
        "lady in the tank top",
        "a laptop",
        "the middle-aged man",
        "the top shelf",
    ],
)
def test_table_of_no_location(query: str) -> None:
    assert parse_location(query) == Location("none", text=query)


@pytest.mark.parametrize(
    ("query", "side", "anchor"),
    [
        ("the tree to the left of the house", "left", "the house"),
        ("dog on the left of the sofa", "left", "the sofa"),
    ],
)
def test_table_of_relations(query: str, side: str, anchor: str) -> None:
    found = parse_location(query)
    assert (found.kind, found.text, found.side, found.anchor) == ("relative", query, side, anchor)
    assert not found.cells


@pytest.mark.parametrize("noun", sorted(OWN_SIDES))
@pytest.mark.parametrize("place", ["left", "right", "top", "bottom", "upper", "lower", "middle"])
def test_nouns_with_a_side_of_their_own(place: str, noun: str) -> None:
    for query in (f"the {place} {noun}", f"the man with the {place} {noun}", f"on the {place} {noun}"):
        assert parse_location(query).kind == "none", query


def test_nouns_of_the_specification_are_known() -> None:
    named = (
        "hand arm leg foot feet eye ear wing paw cheek shoulder knee elbow glove shoe sock sleeve wheel headlight turn "
        "click hat coat floor shelf bun knot layer lip body deck case bar lid finger"
    )
    assert set(named.split()) <= OWN_SIDES
    for query in (
        "the right eyes",
        "the top shelves",
        "the left front wheel",
        "the left brown shoe",
        "the right-handed man",
    ):
        assert parse_location(query).kind == "none", query


@pytest.mark.parametrize("noun", ["image", "picture", "photo", "frame", "scene", "screen", "view", "shot"])
def test_frame_nouns_are_no_anchor(noun: str) -> None:
    found = parse_location(f"the dog on the left of the {noun}")
    assert (found.kind, found.cells, found.text) == ("cells", column(0), "the dog")
    assert parse_location(f"the dog to the left of the {noun} door").kind == "relative"


@pytest.mark.parametrize(
    ("place", "cells"),
    [
        ("on the left", column(0)),
        ("on the right", column(2)),
        ("at the top", row(0)),
        ("at the bottom", row(2)),
        ("in the middle", cell(1, 1)),
        ("in the center", cell(1, 1)),
        ("in the top left", cell(0, 0)),
        ("in the upper-right corner", cell(0, 2)),
        ("at the top center", cell(0, 1)),
        ("in the middle left", cell(1, 0)),
        ("near the right edge", column(2)),
        ("on the left-hand side", column(0)),
        ("on the left hand side of the photo", column(0)),
        ("in the lower part", row(2)),
        ("in the top third", row(0)),
        ("along the bottom edge of the frame", row(2)),
        ("at the very top", row(0)),
        ("in the far bottom right corner", cell(2, 2)),
        ("on the left and right", column(0) | column(2)),
        ("at the top, on the right", cell(0, 2)),
        ("ON THE LEFT", column(0)),
    ],
)
@pytest.mark.parametrize("what", ["the dog", "red star", "a building", "the king"])
def test_place_after_a_preposition(what: str, place: str, cells: frozenset[tuple[int, int]]) -> None:
    for query in (f"{what} {place}", f"{place}, {what}", f"{what} that is {place}"):
        found = parse_location(query)
        assert (found.kind, found.cells, found.text) == ("cells", cells, what), query
    assert parse_location(f"{what} {place} wearing a hat").text.replace(",", "") == f"{what} wearing a hat"


@pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
def test_halves(side: str) -> None:
    for query in (f"the dog in the {side} half", f"the dog in the {side} half of the image"):
        found = parse_location(query)
        assert (found.kind, found.half, found.text) == ("half", side, "the dog")
    assert parse_location(f"{side} half").text == ""
    assert parse_location(f"the {side} half of the pizza").kind == "relative"


def test_upper_and_lower_halves() -> None:
    assert parse_location("clouds in the upper half").half == "top"
    assert parse_location("clouds in the lower half").half == "bottom"


@pytest.mark.parametrize(
    ("query", "side", "rank", "text"),
    [
        ("last chair on the right", "right", 1, "chair"),
        ("last car from the left", "right", 1, "car"),
        ("the second leftmost car", "left", 2, "the car"),
        ("the second red car from the left of the image", "left", 2, "the red car"),
        ("12th lamp from the left side", "left", 12, "lamp"),
        ("the second dog on the left", "left", 2, "the dog"),
    ],
)
def test_more_ordinals(query: str, side: str, rank: int, text: str) -> None:
    found = parse_location(query)
    assert (found.kind, found.side, found.rank, found.text) == ("ordinal", side, rank, text)


@pytest.mark.parametrize(
    ("query", "side", "text"),
    [
        ("the left-most dog", "left", "the dog"),
        ("uppermost window", "top", "window"),
        ("the highest kite", "top", "the kite"),
        ("bottommost step", "bottom", "step"),
        ("person on the far left side of the picture", "left", "person"),
        ("the leftmost of the two dogs", "left", "the two dogs"),
        ("leftmost", "left", ""),
    ],
)
def test_more_superlatives(query: str, side: str, text: str) -> None:
    found = parse_location(query)
    assert (found.kind, found.side, found.rank, found.text) == ("superlative", side, 1, text)


def test_the_adjective_form_can_be_switched_off() -> None:
    found = parse_location("the left dog")
    assert (found.kind, found.cells, found.text) == ("cells", column(0), "the dog")
    assert parse_location("the left dog", adjective=False) == Location("none", text="the left dog")
    assert parse_location("the cat on the left building").text == "the cat on the building"


@pytest.mark.parametrize(
    "query",
    [
        "the bottle left on the table",
        "copyright sign",
        "the man looking to the left",
        "leftover pizza",
        "the man on the left wing of the plane",
        "the middle finger",
        "the second dog",
        "a red car",
        "the   spaced  dog",
    ],
)
def test_words_that_are_no_place(query: str) -> None:
    assert parse_location(query) == Location("none", text=query)


def test_a_star_is_not_staring() -> None:
    assert parse_location("the star to the left").cells == column(0)


@pytest.mark.parametrize(
    "query", ["the one on the left", "the left one", "the thing on the left", "the left"]
)
def test_stand_ins_leave_no_text(query: str) -> None:
    found = parse_location(query)
    assert (found.cells, found.text) == (column(0), "")


def test_the_phrase_is_what_was_read_as_place() -> None:
    assert parse_location("the dog on the left").phrase == "on the left"
    assert parse_location("second car from the left").phrase == "second from the left"
    assert parse_location("the tree to the left of the house").phrase == "to the left of"
    assert parse_location("a red car").phrase == ""


WORDS = (
    "the a left right top bottom upper lower middle centre half most far of from on in at to second last dog hand red "
    "image house , - ( and leftmost corner side"
)


@settings(max_examples=300)
@given(words=st.lists(st.sampled_from(WORDS.split()), min_size=1, max_size=10))
def test_any_words_give_a_legal_location(words: list[str]) -> None:
    query = " ".join(words)
    found = parse_location(query)
    assert found.kind in ("none", "cells", "half", "superlative", "ordinal", "relative")
    assert (found.kind == "cells") == bool(found.cells) and found.cells <= {
        (r, c) for r in range(3) for c in range(3)
    }
    assert (found.kind == "half") == (found.half is not None)
    assert (found.kind in ("superlative", "ordinal")) == (found.rank >= 1)
    if found.kind in ("none", "relative"):
        assert found.text == query.strip()
    else:
        assert len(found.text) < len(query) and found.phrase


@settings(max_examples=100)
@given(query=st.text(min_size=1, max_size=60))
def test_any_text_at_all_is_survived(query: str) -> None:
    if query.strip():
        parse_location(query)
    else:
        with pytest.raises(ValueError, match="query is empty"):
            parse_location(query)


def test_bad_input_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="query is empty"):
        parse_location("   ")
    with pytest.raises(TypeError, match="query must be text"):
        parse_location(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("cell", sorted(CELL_PHRASES))
def test_a_cell_is_said_in_words_that_are_read_as_a_place_with_it(cell: tuple[int, int]) -> None:
    found = parse_location(f"a red car {CELL_PHRASES[cell]}")
    assert found.text == "a red car" and cell in found.cells
    # Corners and the middle are said exactly; a side is said as its whole row or column.
    assert len(found.cells) == (1 if (cell[0] != 1 and cell[1] != 1) or cell == (1, 1) else 3)
