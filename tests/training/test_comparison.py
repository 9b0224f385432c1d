"""The table of recipes: what counts as right, paired differences, and who beats the default."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from training.ablations import comparison
from training.ablations.bench import cases_of


def scenes(values: list[float]) -> list[dict[str, Any]]:
    return [{"right": v, "found": 1.0, "background": 0.1} for v in values]


def stored(**columns: tuple[list[float], float]) -> dict[str, Any]:
    measured = {name: scenes(values) for name, (values, _) in columns.items()}
    rows = [
        comparison.row(name, found, measured["default"], columns[name][1]) for name, found in measured.items()
    ]
    return {"rows": rows, "scenes": 40, "full": False, "machine": {"threads": 2, "torch": "x"}}


def test_a_row_is_paired_with_the_default():
    base = [0.0, 1.0] * 20
    line = comparison.row("s02_rdm", scenes([1.0] * 40), scenes(base), 1.0)
    assert line["right"]["value"] == 1 and line["gain"]["value"] == pytest.approx(0.5)
    assert line["gain"]["low"] > 0.3 and line["seconds"] == 1.0
    same = comparison.row("blended", scenes(base), scenes([*base, 1.0]), 1.0)
    assert same["gain"]["low"] == same["gain"]["high"] == 0


def test_a_recipe_beats_the_default_only_where_it_is_no_slower():
    base, better = [0.0, 1.0] * 20, [1.0] * 40
    page = comparison.markdown(stored(default=(base, 1.0), blended=(better, 2.0)), "x.json")
    assert "None beats it" in page and "+50.0" in page
    page = comparison.markdown(stored(default=(base, 1.0), blended=(better, 0.9)), "x.json")
    assert "blended beat it" in page


def test_scenes_without_a_painting_have_no_background_error():
    found = [{"right": 1.0, "found": 1.0, "background": None}] * 3
    line = comparison.row("s01_learnable_regions", found, found, 1.0)
    assert line["background"]["value"] is None


def test_recipes_are_timed_in_turns_and_the_first_scene_is_not_counted(monkeypatch: pytest.MonkeyPatch):
    clock, asked = iter(range(1000)), []

    class Worker:
        def retouch(self, image: Any, query: str, prompt: str, recipe: Any, seed: int) -> None:
            asked.append(recipe.title)
            if len(asked) % 2 == 0:
                next(clock)  # the second recipe takes a second longer

    monkeypatch.setattr(comparison.time, "perf_counter", lambda: float(next(clock)))
    worker: Any = Worker()
    found = comparison.timed(["default", "blended"], cases_of("edit", 3), worker, full=False)
    assert len(asked) == 6 and asked[0] == asked[2] != asked[1] == asked[3]
    assert found == {"default": 1.0, "blended": 2.0}


@pytest.mark.parametrize(("left", "wanted"), [(0.2, 1.0), (0.8, 0.0)])
def test_what_still_shows_the_old_thing_is_not_right(
    monkeypatch: pytest.MonkeyPatch, left: float, wanted: float
):
    monkeypatch.setattr(comparison, "seen_in", lambda *_: {"strict": 1.0})
    monkeypatch.setattr(comparison, "remnants", lambda *_: torch.tensor([left]))
    case = cases_of("edit", 1)[0]
    result: Any = SimpleNamespace(
        candidate_masks=torch.ones(1, *case.image.shape[1:3]), best=0, image=case.image
    )
    nobody: Any = None
    assert comparison.right(case, result, nobody) == wanted
