"""The presence gate against methods.md 3.5."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stub_scorer import StubScorer, picture, some_regions

from retouch_core.regions.presence import presence, rival_shares
from retouch_core.regions.scores import embed_regions
from retouch_core.tensors.regions import Regions

COSINES = torch.tensor([[0.30, 0.25, 0.10], [0.20, 0.28, 0.22]])


def test_shares_are_a_softmax_over_phrases() -> None:
    shares = rival_shares(COSINES[:, 0], COSINES[:, 1:], 100.0)
    logits = 100 * COSINES.double().numpy()
    expected = np.exp(logits[:, 0]) / np.exp(logits).sum(1)
    assert shares.tolist() == pytest.approx(expected.tolist(), rel=1e-9)


@settings(max_examples=50, deadline=None)
@given(shift=st.floats(0.01, 0.5), phrase=st.integers(0, 2))
def test_raising_one_phrase_changes_the_share(shift: float, phrase: int) -> None:
    raised = COSINES.clone()
    raised[:, phrase] += shift
    before = rival_shares(COSINES[:, 0], COSINES[:, 1:], 20.0)
    after = rival_shares(raised[:, 0], raised[:, 1:], 20.0)
    assert bool((after > before).all() if phrase == 0 else (after < before).all())


def test_raising_all_phrases_changes_nothing() -> None:
    shares = rival_shares(COSINES[:, 0], COSINES[:, 1:], 20.0)
    assert torch.allclose(rival_shares(COSINES[:, 0] + 0.1, COSINES[:, 1:] + 0.1, 20.0), shares, atol=1e-6)


def test_a_bank_of_the_query_alone_gives_one_half() -> None:
    scorer = StubScorer(rivals=["a dog"])
    answer = presence(picture(), some_regions(), "a dog", scorer, drop="none", gate=0.5)
    assert answer.per_region.tolist() == [0.5] * 5 and answer.best == 0.5 and answer.present


def test_permuting_regions_permutes_shares() -> None:
    regions, mix = some_regions(), torch.tensor([3, 0, 4, 2, 1])
    straight = presence(picture(), regions, "a dog", StubScorer())
    mixed = presence(picture(), regions.select(mix), "a dog", StubScorer())
    assert torch.allclose(straight.per_region[mix], mixed.per_region, atol=1e-6)
    assert straight.best == pytest.approx(mixed.best) == pytest.approx(float(straight.per_region.max()))


def test_shares_from_the_encoders_themselves() -> None:
    scorer, regions = StubScorer(), some_regions()
    seen = embed_regions(picture(), regions, scorer).double().numpy()
    said = scorer.encode_texts(["a dog", "cat", "tree", "something else", "wolf"]).double().numpy()
    logits = scorer.logit_scale * seen @ said.T
    expected = np.exp(logits[:, 0]) / np.exp(logits).sum(1)
    answer = presence(picture(), regions, "a dog", scorer, negatives=["wolf"])
    assert answer.per_region.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert answer.rivals == ("cat", "tree", "something else", "wolf")


def test_the_gate_decides() -> None:
    best = presence(picture(), some_regions(), "a dog", StubScorer()).best
    assert 0 < best < 1
    assert presence(picture(), some_regions(), "a dog", StubScorer(gate=best)).present
    assert not presence(picture(), some_regions(), "a dog", StubScorer(gate=best + 1e-9)).present
    assert presence(picture(), some_regions(), "a dog", StubScorer(gate=1.0), gate=0.0).gate == 0.0


def test_what_is_there_wins_and_what_is_not_loses() -> None:
    regions = some_regions(3)
    vectors = embed_regions(picture(), regions, StubScorer())
    scorer = StubScorer(
        {"dog": vectors[1], "cat": vectors[0], "tree": vectors[2], "boat": -vectors.sum(0)}, gate=0.5
    )
    there = presence(picture(), regions, "dog", scorer)
    assert there.present and int(there.per_region.argmax()) == 1
    assert not presence(picture(), regions, "boat", scorer).present


def test_without_a_gate_everything_is_present_with_a_note() -> None:
    answer = presence(picture(), some_regions(), "a dog", StubScorer(gate=None))
    assert answer.present and answer.gate is None and "no calibrated gate" in str(answer.note)


@pytest.mark.parametrize(
    ("query", "drop", "kept"),
    [
        ("the Red Car", "equal", ("car", "blue car", "dog")),
        ("the Red Car", "related", ("blue car", "dog")),
        ("a car", "related", ("dog",)),
        ("a car", "equal", ("red car", "blue car", "dog")),
        ("red car", "none", ("red car", "car", "blue car", "dog")),
    ],
)
def test_rivals_that_say_the_same_are_dropped(query: str, drop: str, kept: tuple[str, ...]) -> None:
    scorer = StubScorer(rivals=["a red car", "red car", "car", "the car", "blue car", "dog", "Dog", " "])
    rivals = presence(picture(), some_regions(), query, scorer, drop=drop).rivals
    assert tuple(dict.fromkeys(r.removeprefix("a ").removeprefix("the ") for r in rivals)) == kept


def test_negatives_of_the_user() -> None:
    scorer = StubScorer(rivals=["cat"])
    answer = presence(
        picture(), some_regions(), "car", scorer, negatives=["toy car", "The car"], drop="related"
    )
    assert answer.rivals == ("cat", "toy car") and "'The car'" in str(answer.note)


def test_no_rivals_left() -> None:
    answer = presence(picture(), some_regions(), "cat", StubScorer(rivals=["cat"]))
    assert answer.per_region.tolist() == [1.0] * 5 and "no rival" in str(answer.note)


def test_unknown_words_are_named() -> None:
    assert presence(picture(), some_regions(), "xyz dog", StubScorer()).unknown_words == ("xyz",)


def test_nothing_is_in_a_picture_without_regions() -> None:
    empty = Regions(torch.zeros(0, 40, 56, dtype=torch.bool), None, (40, 56))
    answer = presence(picture(), empty, "a dog", StubScorer(gate=None))
    assert not answer.present and answer.best == 0 and answer.per_region.shape == (0,)


def test_known_embeddings_are_not_made_again() -> None:
    scorer, regions = StubScorer(), some_regions()
    embeddings = embed_regions(picture(), regions, scorer)
    scorer.seen.clear()
    presence(picture(), regions, "a dog", scorer, embeddings=embeddings)
    assert not scorer.seen


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query": ""}, "query is empty"),
        ({"gate": 2.0}, r"gate must be in \[0, 1\], got 2.0"),
        ({"drop": "all"}, "drop must be one of"),
    ],
)
def test_bad_input_is_one_sentence(options, message) -> None:  # type: ignore[no-untyped-def]
    arguments = {"query": "a dog", **options}
    with pytest.raises(ValueError, match=message):
        presence(picture(), some_regions(), scorer=StubScorer(), **arguments)
