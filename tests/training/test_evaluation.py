"""What the rows of the table count, on edits whose outcome is known."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from retouch_core.recipes import RECIPES
from retouch_core.regions.edit_mask import edit_mask
from retouch_core.report import Report
from retouch_core.result import Result
from retouch_core.tensors.boxes import Box
from retouch_core.tensors.regions import Regions
from training import card
from training.evaluation import paths
from training.evaluation.cases import edits, grounds, removals
from training.evaluation.edit import Verdict, alone, redrawn, verdict, without_target
from training.evaluation.limits import limit_rows
from training.evaluation.removal import ground_rows, removal
from training.evaluation.silhouette import Halo
from training.judge import NOTHING
from training.world.grounds import GROUND_NAMES
from training.world.icons import CLASSES, COLOUR_NAMES
from training.world.scenes import dress


class Perfect:
    """An autoencoder that loses nothing."""

    def encode(self, image: Tensor) -> Tensor:
        return image

    def decode(self, latents: Tensor) -> Tensor:
        return latents


class Says:
    """A judge with one answer for everything."""

    def __init__(self, name: int, colour: int = 0, ground: int = 0) -> None:
        self.answer = name, colour, ground

    def __call__(self, crops: Tensor) -> tuple[Tensor, ...]:
        sizes = NOTHING + 1, len(COLOUR_NAMES), len(GROUND_NAMES)
        hot = zip(self.answer, sizes, strict=True)
        return tuple(torch.eye(n)[at].expand(len(crops), -1) for at, n in hot)


def told(case: Any, made: list[Tensor], best: int = 0) -> Result:
    """The result of an edit of `case` that painted the pictures `made` [H,W,3]."""
    own = case.masks[case.target : case.target + 1].float()
    area = edit_mask(own, torch.zeros_like(own)).composite
    candidates = torch.where(area[0][..., None] > 0, torch.stack(made), case.image)
    selected = torch.arange(len(case.masks)) == case.target
    report = Report(case.query, case.prompt, "default", 0, (128, 128), len(made), len(made), found=True)
    return Result(
        source=case.image,
        image=candidates[best : best + 1],
        mask=area,
        window=Box.whole((128, 128)),
        patches=candidates,
        patch_masks=area.expand(len(made), -1, -1),
        area=area,
        scores=torch.zeros(len(made)),
        best=best,
        regions=Regions(case.masks, None, (128, 128)),
        selected=selected,
        report=report,
    )


def as_asked(case: Any) -> Tensor:
    """The scene redrawn with what the case asks for, where the old thing stands."""
    import numpy as np

    spec = case.scene.spec
    old = spec.things[case.target]
    new = dress(np.random.default_rng(0), (old.x, old.y, old.size), case.name, case.colour)
    return redrawn(spec.with_thing(case.target, new))


def test_a_perfect_edit_is_right_by_every_judge() -> None:
    (case,) = edits("tune", 1, start=77)
    judge: Any = Says(CLASSES.index(case.name), COLOUR_NAMES.index(case.colour))
    found = verdict(case, told(case, [as_asked(case), without_target(case)], best=1), judge, Perfect())
    assert found.strict.tolist() == [True, False] and found.fits[0] > 0.8
    assert found.both.tolist() == [True, True] and not found.leaked.any()
    assert found.untouched and found.found and found.best == 1
    # The ground of a redrawn scene is the ground of the scene.
    assert found.ring.values > 0 and found.ring.edited < 1e-3 * found.ring.values


def test_leakage_is_the_old_class_or_the_old_colour() -> None:
    (case,) = edits("tune", 1, start=78)
    old = case.scene.spec.things[case.target]
    result = told(case, [case.image[0]])
    for name, colour, leaked in (
        (old.name, case.colour, True),
        (case.name, old.colour, True),
        (case.name, case.colour, False),
    ):
        judge: Any = Says(CLASSES.index(name), COLOUR_NAMES.index(colour))
        assert bool(verdict(case, result, judge, Perfect()).leaked[0]) is leaked
    nobody: Any = Says(NOTHING, COLOUR_NAMES.index(old.colour))
    seen = verdict(case, result, nobody, Perfect())
    assert not seen.leaked[0] and seen.nothing[0] and not seen.both[0]


def test_neighbours_are_hidden_from_the_judge() -> None:
    case = next(c for c in edits("tune", 20, start=80) if len(c.masks) > 2)
    area = torch.zeros(1, 128, 128, dtype=torch.bool)
    seen = alone(case, case.image, area)[0]
    only = redrawn(replace(case.scene.spec, things=(case.scene.spec.things[case.target],)))
    from training.evaluation.silhouette import with_edge

    near = with_edge(case.masks[case.target])
    assert (seen - only).abs()[~near].max() <= 1.5 / 255
    assert torch.equal(seen[case.masks[case.target]], case.image[0][case.masks[case.target]])


def test_removal_is_measured_against_the_redrawn_scene() -> None:
    (case,) = removals("tune", 1, start=90)
    ground, judge = without_target(case), Says(NOTHING)

    class Holder:
        editor = Perfect()

    holder: Any = Holder()
    gone = removal(case, told(case, [ground]), judge, holder)
    assert gone.gone and gone.untouched and gone.error == pytest.approx(0, abs=1e-9) and gone.restored == 0
    still = removal(case, told(case, [case.image[0]]), Says(3), holder)
    area = told(case, [ground]).area[0] > 0
    assert not still.gone
    assert still.error == pytest.approx(float((case.image[0] - ground)[area].square().mean()), rel=1e-4)


def test_grounds_are_counted_by_the_asked_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = list(grounds("tune", 30, start=95))
    sand = GROUND_NAMES.index("sand")
    monkeypatch.setattr(
        "training.evaluation.removal._retouched",
        lambda case, retoucher, number: told(replace(case, target=0), [case.image[0]]),
    )
    rows = {r.name.strip(): r.value for r in ground_rows(cases, None, Says(0, 0, sand))}  # type: ignore[arg-type]
    asked = sum(case.name == "sand" for case in cases)
    assert asked and rows["background: the asked kind is seen, best of 4"].right == asked
    assert rows["sand"].value == 1 and all(rows[c.name].right == 0 for c in cases if c.name != "sand")


def test_the_ceiling_of_a_judge_that_is_always_wrong_is_zero() -> None:
    cases = list(edits("tune", 3, start=100))
    rows = {r.name.strip(): r.value for r in limit_rows(cases, Says(NOTHING), Perfect())}  # type: ignore[arg-type]
    assert rows["judge, ceiling: real things through the autoencoder, strict"].right == 0
    assert rows["bare ground read as nothing"].right == 3
    assert rows["silhouette IoU"].value < 0.9  # the last one of that name: icons of a wrong class


def flags(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.bool)


def made(strict: Tensor, best: int) -> Verdict:
    return Verdict(True, strict, strict, ~strict, ~strict, strict.float(), best, True)


def test_rows_of_a_path() -> None:
    verdicts = [made(flags(1, 0, 0, 0), 0), made(flags(0, 1, 0, 0), 1), made(flags(0, 1, 1, 0), 0)]
    values = {
        r.name.strip(): r for r in (*paths.strict_rows(verdicts, (0.3, 0.7)), *paths.gain_rows(verdicts))
    }
    assert values["strict (class, colour, silhouette), single"].value.right == 1
    assert values["strict (class, colour, silhouette), single"].met
    assert values["strict, best of 4 by the ranking"].value.right == 2
    assert not values["strict, best of 4 by the ranking"].met
    assert values["strict, any of 4"].value.right == 3
    # Over the first: best gains 0, 1, 0 and the oracle 0, 1, 1.
    assert values["ranking gains over the single candidate, strict"].value.value == pytest.approx(1 / 3)
    assert values["of what the oracle gains over the single candidate"].value.value == pytest.approx(1 / 2)
    # Over the mean: best gains 3/4, 3/4, -1/2 and the oracle 3/4, 3/4, 1/2.
    assert values["ranking gains over the mean of all candidates, strict"].value.value == pytest.approx(1 / 3)
    assert values["of what the oracle gains over the mean of all candidates"].value.value == pytest.approx(
        1 / 2
    )


def test_halos_are_pooled_over_textured_grounds_only() -> None:
    cases = list(edits("tune", 12, start=120))
    rough = [c.scene.spec.ground not in paths.SMOOTH for c in cases]
    assert 0 < sum(rough) < len(rough)
    verdicts = [
        replace(made(flags(1), 0), ring=Halo(4.0, 1.0, 3) if r else Halo(100.0, 1.0, 3)) for r in rough
    ]
    ring = paths.halo_rows(cases, verdicts)[0]
    assert ring.value.value == pytest.approx(2.0) and not ring.met and ring.value.count == sum(rough)


def test_the_card_shows_the_curves() -> None:
    share = {"share": 0.75, "low": 0.6, "high": 0.9, "right": 30, "count": 40}
    keys = ("strict", "class and colour", "old class or colour", "nothing")
    used = RECIPES["default"].scale
    line = {"value": used, "halo": 1.25, **dict.fromkeys(keys, share)}
    stored = {
        "default": {
            "scale": {"scenes": 20, "lines": [line, {**line, "value": used + 3}]},
            "ranking": {"scenes": 20, "lines": [{"ranking": "localised", "strict": share}]},
        }
    }
    text = card.choices(json.loads(json.dumps(stored)))
    assert "Recipe `default`, 20 tune scenes, 2 candidates each:" in text
    assert f"| **{used}** | 75.0 % (59.8–85.8, n 40) | 75.0 % | 75.0 % | 75.0 % | 1.25 |" in text
    assert f"| {used + 3} |" in text and "| localised | 75.0 % (59.8–85.8, n 40) |" in text
    assert {"default", "blended", "s00_text_guided"} <= set(RECIPES)
