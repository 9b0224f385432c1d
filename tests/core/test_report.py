"""The report holds plain values only, reads as sentences, and survives saving."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retouch_core.report import Report, fallbacks_of, headline, not_found, plain

DONE = Report(
    query="the red car",
    prompt="a blue truck",
    recipe="default",
    seed=7,
    size=(96, 128),
    candidates=2,
    batch_size=2,
    found=True,
    region_scores=torch.tensor([0.25, 0.5, 0.125]),
    selected=torch.tensor([False, True, True]).nonzero()[:, 0],
    mask_share=np.float32(0.125),
    candidate_scores=torch.tensor([0.25, 0.75]),
    ranking=torch.tensor([1, 0]),
    stages=({"stage": "threshold", "tau": torch.tensor(0.5), "cells": frozenset({(1, 2), (0, 1)})},),
    timings={"edit": 1.5, "rank": 0.25},
    warnings=("the picture was 16-bit",),
)
LOST = replace(
    DONE,
    found=False,
    message=not_found("the giraffe", [0.1, 0.2], gate=0.25),
    selected=(),
    ranking=(),
    warnings=(),
)


def only_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and only_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(only_plain, value))
    return type(value) in (str, int, float, bool, type(None))


def test_everything_is_plain():
    assert only_plain({name: getattr(DONE, name) for name in DONE.__dataclass_fields__})
    assert DONE.selected == [1, 2] and DONE.ranking == [1, 0] and DONE.best == 1 and DONE.size == [96, 128]
    assert DONE.stages[0] == {"stage": "threshold", "tau": 0.5, "cells": [[0, 1], [1, 2]]}


def test_json_is_strict_and_round_trips():
    def refuse(word: str) -> None:
        raise AssertionError(word)

    report = replace(DONE, settings={"psnr": math.inf, "nan": math.nan})
    values = json.loads(report.to_json(), parse_constant=refuse)
    assert values["best"] == 1 and values["settings"] == {"psnr": "inf", "nan": "nan"}
    assert Report.from_json(report.to_json()) == report


def test_saving(tmp_path: Path):
    path = DONE.save(tmp_path / "report.json")
    assert Report.from_json(path.read_text(encoding="utf-8")) == DONE
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"query": 1}', "{"])
def test_not_a_report(text: str):
    with pytest.raises(ValueError, match="not a report"):
        Report.from_json(text)


def test_it_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        DONE.seed = 1  # type: ignore[misc]


def test_printed_report():
    assert str(DONE).splitlines() == [
        "“the red car” becomes “a blue truck” (recipe default, seed 7, 128x96 px)",
        "Edited regions 2 and 3 of 3 (score 0.500, 0.125); the mask covers 12.5 % of the picture.",
        "Candidates, best first: 2 (0.750), 1 (0.250).",
        "Took 1.75 s on cpu (edit 1.50, rank 0.25).",
        "Warning: the picture was 16-bit",
    ]


def test_printed_report_when_nothing_was_found():
    text = str(replace(LOST, timings={}))
    assert text.splitlines()[1] == LOST.message and len(text.splitlines()) == 2


def test_not_found_says_what_was_seen_and_what_to_try():
    sentence = not_found("the giraffe", [0.1, 0.2], gate=0.25)
    assert sentence == (
        "“the giraffe” was not found in the picture (its 2 regions scored 0.200, 0.100 where 0.250 is needed); "
        "describe it by its kind and colour, or check that it is in the picture."
    )
    assert "no regions were found" in not_found("x", torch.zeros(0))
    assert "1 region scored 0.500)" in not_found("x", torch.tensor([0.5]))
    assert "does not know “giraffe” and “okapi”" in not_found("x", [], unknown_words=("giraffe", "okapi"))
    assert not_found("x", torch.linspace(0, 1, 50)).count("0.") <= 6, "a long list is cut"


def test_removal_is_named():
    assert headline("the car", " ") == "“the car” is removed"


def test_fallbacks_come_out_of_the_trace():
    stages = [
        {"stage": "threshold", "fallback": None, "tau": 0.2},
        {"stage": "locate", "relocated": True, "relaxed": False, "fallback": "rank 5 of 3, took the last"},
        {"stage": "edit", "fallbacks": ["a", "b"]},
    ]
    expected = ["locate: rank 5 of 3, took the last", "locate: relocated", "edit: a, b"]
    assert fallbacks_of(stages) == expected
    report = replace(DONE, stages=stages, fallback=("ranking: minmax of equal scores",))
    assert report.fallback == ["ranking: minmax of equal scores", *expected]
    assert "Fallback: locate: relocated" in str(report)


def test_versions_are_recorded():
    import retouch_core

    assert (
        DONE.versions["torch"] == torch.__version__.split("+")[0]
        or DONE.versions["torch"] == torch.__version__
    )
    assert DONE.versions["text-retouch"] == retouch_core.__version__ and "python" in DONE.versions


def test_values_without_a_plain_form_are_refused():
    with pytest.raises(TypeError, match="cannot hold a object"):
        plain(object())


numbers = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
trees = st.recursive(numbers, lambda t: st.lists(t) | st.dictionaries(st.text(), t), max_leaves=10)


@given(trees)
def test_plain_values_are_strict_json_and_stay_as_they_are(value: Any):
    once = plain(value)
    assert only_plain(once) and plain(once) == once
    json.dumps(once, allow_nan=False)
