"""The ablation harness: statistics against brute force, the report on made-up numbers, and runs that are cut off."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from retouch_core.metrics.distribution import fid, sfid
from retouch_core.recipes import Recipe, recipe
from training.ablations import __main__ as program
from training.ablations import jobs
from training.ablations.bench import Bench, cases_of
from training.ablations.catalogue import ABLATIONS
from training.ablations.design import Ablation, Claim, Measured, Metric, Variant, check
from training.ablations.editing import ORACLE, chosen, measure_best_of, measure_edits, recipe_of, value
from training.ablations.jobs import divided
from training.ablations.learned import Boxes
from training.ablations.perceptual import perceptual, perceptual_name
from training.ablations.records import joined, remnants
from training.ablations.referred import measure_k
from training.ablations.report import load, markdown, save, shown
from training.ablations.results import result, same
from training.ablations.searching import Asked, best_fixed, several
from training.ablations.statistics import difference, expected_best, mean, of_set, verdict, wins
from training.evaluation.cases import removals
from training.evaluation.edit import without_target
from training.evaluation.numbers import Estimate
from training.judge import Judge

# --- statistics ---


@pytest.mark.parametrize("seed", range(3))
def test_expected_best_is_the_mean_over_all_subsets(seed: int):
    generator = np.random.default_rng(seed)
    values = generator.integers(0, 2, 7).astype(float).tolist()
    scores = generator.integers(0, 4, 7).astype(float).tolist()  # with ties
    for m in range(1, 8):
        # Of equal scores the candidate that was made first ranks first, within a subset too.
        best = [values[max(s, key=lambda k: (scores[k], -k))] for s in itertools.combinations(range(7), m)]
        assert expected_best(values, scores, m) == pytest.approx(np.mean(best), abs=1e-12)


def test_the_oracle_misses_only_subsets_without_a_right_one():
    right = [1.0] * 3 + [0.0] * 21
    for m in range(1, 25):
        assert expected_best(right, right, m) == pytest.approx(1 - math.comb(21, m) / math.comb(24, m))
    curve = [expected_best(right, right, m) for m in range(1, 25)]
    assert curve == sorted(curve) and curve[0] == pytest.approx(3 / 24) and curve[-1] == 1


@pytest.mark.parametrize(("m", "scores"), [(0, [1.0, 2.0]), (3, [1.0, 2.0]), (1, [1.0])])
def test_bad_subsets(m: int, scores: list[float]):
    with pytest.raises(ValueError, match=r"m must lie in 1\.\.2|but 1 scores"):
        expected_best([0.0, 1.0], scores, m)


def test_a_paired_interval_ignores_what_both_share():
    generator = np.random.default_rng(0)
    scenes, noise = generator.normal(0, 10, 300), generator.normal(0, 0.5, 300)
    found = difference((scenes + 1 + noise).tolist(), scenes.tolist())
    reach = 1.96 * noise.std(ddof=1) / math.sqrt(300)
    assert found.value == pytest.approx(1 + noise.mean())
    assert (found.low, found.high) == pytest.approx((found.value - reach, found.value + reach), abs=0.01)
    assert verdict(found) == "agrees"


def test_scenes_without_a_number_leave_both_columns():
    nan = math.nan
    found = difference([1.0, nan, 3.0, 4.0], [0.0, 1.0, nan, 3.0])
    assert (found.value, found.count) == (1.0, 2)
    assert mean([nan, nan]).count == 0
    with pytest.raises(ValueError, match="columns hold 1 and 2 scenes"):
        difference([1.0], [1.0, 2.0])


def test_ties_are_half_won():
    found = wins([1, 1, 0, 0, 1], [0, 0, 0, 0, 1])
    assert found.value == pytest.approx((1 + 1 + 0.5 + 0.5 + 0.5) / 5)
    assert wins([1, 2, 3], [4, 5, 6]).value == 0


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(0.1, 1, "agrees"), (-1, -0.1, "does not"), (-0.1, 1, "undecided"), (0, 0, "undecided")],
)
def test_verdicts(low: float, high: float, word: str):
    assert verdict(Estimate((low + high) / 2, low, high, 9)) == word


def test_no_interval_is_undecided():
    assert verdict(mean([1.0])) == "undecided"


@pytest.mark.parametrize("distance", [fid, sfid])
def test_paired_distances_of_sets(distance):
    generator = torch.Generator().manual_seed(0)
    sources = torch.randn(80, 3, generator=generator)
    near, far = (sources + s + 0.1 * torch.randn(80, 3, generator=generator) for s in (0.2, 0.8))
    gain = of_set(distance, sources, far, near)
    assert gain.value == pytest.approx(float(distance(sources, far) - distance(sources, near)))
    assert 0 < gain.low < gain.value < gain.high
    back = of_set(distance, sources, near, far)
    assert (back.value, back.low, back.high) == pytest.approx((-gain.value, -gain.high, -gain.low))
    nothing = of_set(distance, sources, near, near)
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0)
    alone = of_set(distance, sources, far)
    assert alone.low < alone.value < alone.high


# --- picking ---

NOTE = {
    "found": True,
    "m": 4,
    "cosine": [0.24, 0.30, 0.27, 0.26],
    "distance": [0.10, 0.16, 0.13, 0.11],
    "localised": [-1.0, -0.5, -0.4, -0.4],
    "masked": [0.1, 0.1, 0.0, 0.3],
    "strict": [0.0, 1.0, 0.0, 0.0],
}


@pytest.mark.parametrize(
    ("pick", "index"), [("first", 0), ("cma", 1), ("iqa", 0), ("s00", 1), ("localised", 2), ("masked", 3)]
)
def test_picks_are_those_of_the_rankings(pick: str, index: int):
    """The first four by the numbers of methods.md 11.1."""
    assert chosen(NOTE, pick, 4) == index
    assert value(NOTE, "strict", pick, 4) == float(index == 1)


def test_only_the_asked_candidates_count():
    assert chosen(NOTE, "masked", 2) == 0
    assert value(NOTE, "strict", "every", 4) == 0.25
    assert value(NOTE, "strict", "every", 2) == 0.5


def test_where_nothing_was_found_the_edit_failed_and_closeness_counts_nothing():
    lost = {"found": False, "m": 0}
    assert value(lost, "strict", "localised", 4) == 0
    assert value(lost, "old class or colour", "every", 4) == 1
    assert math.isnan(value(lost, "SSIM", "every", 4))


# --- records ---


def test_candidates_of_two_goes_are_joined_in_their_order():
    first = {"found": True, "m": 2, "strict": [0.0, 1.0], "source": [0.5], "features": [[1.0], [2.0]]}
    second = {"found": True, "m": 1, "strict": [1.0], "source": [0.5], "features": [[3.0]]}
    both = joined(first, second)
    assert both["m"] == 3 and both["strict"] == [0.0, 1.0, 1.0]
    assert both["features"] == [[1.0], [2.0], [3.0]] and both["source"] == [0.5]


def test_remnants_are_what_still_looks_as_before():
    case = next(removals("test", 1))
    source, ground = case.image[0], without_target(case)
    assert remnants(case, torch.stack([source, ground])).tolist() == [1.0, 0.0]
    half = source.clone()
    half[:, :64] = ground[:, :64]
    assert 0 <= float(remnants(case, half[None])) <= 1


def test_the_stand_in_for_lpips_is_zero_for_itself_and_symmetric():
    def features(views: torch.Tensor, *_: int) -> list[torch.Tensor]:
        tokens = (views - 0.4).flatten(2).mT
        return [tokens, tokens[:, ::2] ** 2]

    distance = perceptual(SimpleNamespace(image_size=16, features=features))
    a, b = torch.rand(2, 16, 16, 3, generator=torch.Generator().manual_seed(1)).split(1)
    assert float(distance(a, a)) == 0
    torch.testing.assert_close(distance(a, b), distance(b, a))
    assert 0 < float(distance(a, b)) < 4  # unit vectors are at most 2 apart
    assert distance(torch.cat([a, b]), a).shape == (2,)
    assert perceptual_name() in ("LPIPS (vgg)", "perceptual distance (scorer features)")


# --- searching ---


def asked(scores: list[float], truth: list[int]) -> Asked:
    masks = torch.eye(len(scores), 4, dtype=torch.bool)[:, None]
    return Asked(torch.tensor(scores), masks, masks[truth].any(0))


def test_the_best_fixed_threshold_is_found_by_trying():
    scenes = [asked([0.1, 0.5, 0.4], [1, 2]), asked([0.3, 0.45, 0.9], [1, 2]), asked([0.2, 0.8], [1])]
    assert best_fixed(scenes, [0.0, 0.2, 0.35, 0.6]) == 0.35
    assert scenes[0].iou(torch.tensor([False, True, True])) == 1
    assert scenes[0].iou(torch.tensor([True, True, True])) == pytest.approx(2 / 3)
    assert scenes[0].iou(torch.zeros(3, dtype=torch.bool)) == 0


def test_queries_of_several_mean_all_things_of_that_class_and_colour():
    for case, truth in several("test", 3):
        things = case.scene.spec.things
        same = [k for k, t in enumerate(things) if (t.name, t.colour) == (things[0].name, things[0].colour)]
        assert len(same) >= 2
        assert torch.equal(truth, case.masks[same].any(0))


# --- learned regions ---


def test_a_box_is_edited_once_with_the_scenes_seed_and_only_there():
    calls: list[tuple[int, list[int]]] = []

    class Worker:
        def retouch(self, image, query, prompt, *, recipe, candidates, seed, mask):  # type: ignore[no-untyped-def]
            ys, xs = mask[0].nonzero().T
            calls.append((seed, [int(v) for v in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)]))
            assert (query, prompt, candidates) == ("cup", "a red star", 1) and float(mask.sum()) == 12 * 20
            return SimpleNamespace(image=image + len(calls))

    case = SimpleNamespace(image=torch.zeros(1, 64, 64, 3), prompt="a red star")
    worker: Any = Worker()
    nowhere: Any = case
    boxes = Boxes(worker, nowhere, recipe("default"), 7, "cup")
    first, second = [4, 8, 16, 28], [0, 0, 20, 12]
    made = boxes(case.image, torch.tensor([first, second, first]))
    assert calls == [(7, first), (7, second)]
    assert [float(picture.max()) for picture in made] == [1, 2, 1]


# --- referring segmentation ---


def test_a_larger_k_opens_more_and_nothing_opened_is_a_failure():
    class Worker:
        masks: list[float] = []  # noqa: RUF012

        def retouch(self, image, query, prompt, *, recipe, candidates, seed, mask):  # type: ignore[no-untyped-def]
            self.masks.append(float(mask.sum()))
            return SimpleNamespace(image=image)

    class Blur:
        def heat_maps(self, image: torch.Tensor, phrases: list[str]) -> torch.Tensor:
            thing = cases[len(Worker.masks) > 2].masks[0:1].float()  # any map will do, as long as it fades
            wide = torch.nn.functional.avg_pool2d(thing[None], 9, 1, 4)[0]
            return 0.9 * wide

    cases = cases_of("edit", 2)
    worker: Any = Worker()
    worker.referrer = Blur()
    ablation = made_up(
        metrics=(Metric("mask IoU"), Metric("covered"), Metric("strict"), Metric("remnant")),
        variants=tuple(Variant(f"K = {k}", {"k": k}) for k in (0, 60, 150, 230)),
        claims=(),
    )
    measured = measure_k(Bench(worker, Judge().eval(), scenes=2), ablation)
    assert len(worker.masks) == 6 and worker.masks[:3] == sorted(worker.masks[:3])
    covered = [measured.values[f"K = {k}"]["covered"][0] for k in (0, 60, 150, 230)]
    assert covered == sorted(covered) and covered[0] == 0
    assert measured.values["K = 0"]["remnant"] == [1.0, 1.0] and measured.values["K = 0"]["strict"] == [
        0.0,
        0.0,
    ]
    assert measured.values["K = 230"]["remnant"] == [1.0, 1.0]  # the worker changes nothing
    worker.referrer = None
    with pytest.raises(ValueError, match="retoucher has no referrer"):
        measure_k(Bench(worker, Judge(), scenes=2), ablation)


# --- the catalogue ---


def test_the_catalogue_holds_together():
    nobody: Any = None
    bench = Bench(nobody, nobody)
    check(ABLATIONS)
    for ablation in ABLATIONS:
        assert ablation.claims and ablation.published and ablation.paper
        if ablation.measure is None:
            assert set(ablation.full) - {"candidates"} <= {f.name for f in fields(Recipe)}
            for variant in ablation.variants:
                made = recipe_of(bench, ablation, variant.changes).settings()
                assert {k: made[k] for k in variant.changes} == variant.changes
                assert {k: made[k] for k in ablation.base} == ablation.base | {
                    k: v for k, v in variant.changes.items() if k in ablation.base
                }
    assert {c.metric for a in ABLATIONS if a.key == "cma-iqa" for c in a.claims} >= {
        "SSIM",
        "FID (scorer features)",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"claims": (Claim("a", "c", "x"),)}, "a claim names 'c'"),
        ({"claims": (Claim("a", "b", "y"),)}, "a claim names 'y'"),
        ({"variants": (Variant("a"), Variant("a"))}, "two variants share a name"),
        ({"variants": (Variant("a", pick="luck"), Variant("b"))}, "pick must be one of"),
        ({"variants": (Variant("a", published={"z": 1.0}), Variant("b"))}, "has a published 'z'"),
    ],
)
def test_an_ablation_that_does_not_hold_together(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        check((replace(made_up(), **change),))
    with pytest.raises(ValueError, match="two ablations share a key"):
        check((made_up(), made_up()))


# --- the report on made-up numbers ---


def made_up(**changes: Any) -> Ablation:
    entry = Ablation(
        key="made-up",
        title="Made up",
        paper="nobody",
        published="that a is better",
        metrics=(Metric("x", share=True), Metric("error", higher=False)),
        variants=(Variant("a", published={"error": 0.5}), Variant("b")),
        claims=(
            Claim("a", "b", "x", "fig. 1", "60 % won"),
            Claim("a", "b", "error"),
            Claim("b", "a", "x", "fig. 2"),
        ),
        wins=True,
        remark="Nobody measured this.",
    )
    return replace(entry, **changes)


def numbers() -> Measured:
    generator = np.random.default_rng(0)
    base = generator.random(60)
    return Measured(
        {
            "a": {"x": (base + 0.5).tolist(), "error": (base - 0.001 * generator.random(60)).tolist()},
            "b": {"x": base.tolist(), "error": base.tolist()},
        },
        notes=("the threshold is 3",),
    )


def entry(ablation: Ablation) -> dict[str, Any]:
    setup = {"scenes": 60, "candidates": 1, "steps": 25, "minutes": 1.5}
    return {"setup": setup, **result(ablation, numbers())}


def test_directions_follow_the_metric_and_the_claim():
    claims = result(made_up(), numbers())["claims"]
    assert [c["verdict"] for c in claims] == ["agrees", "agrees", "does not"]
    assert claims[0]["gain"]["value"] == pytest.approx(0.5) and claims[2]["gain"]["value"] == pytest.approx(
        -0.5
    )
    assert claims[1]["gain"]["value"] > 0  # lower error is better, so the gain is positive
    assert claims[0]["won"]["value"] == 1 and claims[2]["won"]["value"] == 0


def test_the_report_shows_values_verdicts_and_what_is_left(tmp_path: Path):
    ablation, waiting = made_up(), made_up(key="later", title="Later")
    path = tmp_path / "docs" / "ablations.md"
    save(path, {"made-up": entry(ablation)}, [ablation, waiting])
    text = path.read_text()
    assert "## Made up" in text and "**nobody**: that a is better." in text
    assert "| a | " in text and "| 0.5 |" in text
    assert (
        "| a over b | x ↑ | +50.0 points (+50.0 to +50.0, n 60) | 100.0 % (100.0 to 100.0, n 60) | fig. 1 |"
        in text
    )
    assert text.count("**agrees**") == 2 and text.count("**does not**") == 1
    assert (
        "| [Made up](#made-up) | nobody | 1 |  | 1 |" in text
    )  # our own comparison is not counted as published
    assert "Nobody measured this. Here the threshold is 3." in text
    assert "- Later (nobody): not run yet" in text
    stored = load(path.with_suffix(".json"))
    assert markdown(stored, [ablation, waiting]) == text
    assert stored["made-up"]["values"]["b"]["x"]["count"] == 60
    assert not list(path.parent.glob("*.new"))


def test_rows_of_a_table_have_as_many_cells_as_its_head():
    lines = markdown({"made-up": entry(made_up())}, [made_up()]).splitlines()
    blocks = [list(g) for inside, g in itertools.groupby(lines, lambda line: line.startswith("|")) if inside]
    assert len(blocks) == 3
    for block in blocks:
        assert len({line.count(" | ") for line in block}) == 1


def test_numbers_are_shown_with_digits_for_their_size():
    assert shown(None, Metric("x")) == "–"
    assert (
        shown({"value": 0.0213, "low": 0.02, "high": None, "count": 2}, Metric("x"))
        == "0.02130 (0.02000 to –, n 2)"
    )
    assert shown({"value": -17.7, "low": -18.0, "high": -17.0, "count": 9}, Metric("x")) == (
        "−17.70 (−18.00 to −17.00, n 9)"
    )


def test_a_file_that_is_not_ours_is_not_written_over(tmp_path: Path):
    assert load(tmp_path / "none.json") == {}
    (tmp_path / "other.json").write_text('{"rows": []}')
    with pytest.raises(ValueError, match=r"other\.json holds no ablations"):
        load(tmp_path / "other.json")


# --- runs that are cut off ---


@dataclass
class Counted(Bench):
    """Instead of pictures, notes that say which candidate they are."""

    log: list[tuple[int, int, int]] = field(default_factory=list)
    stop_at: int | None = None

    def _made(self, case, recipe, number, before, candidates, exact):  # type: ignore[no-untyped-def, override]
        if number == self.stop_at:
            raise KeyboardInterrupt
        have = before["m"] if before else 0
        self.log.append((number, have, candidates))
        made = [float(k) for k in range(have, candidates)]
        ranks = {name: made for name in ("localised", "masked", "cosine", "distance")}
        note = {"found": True, "m": len(made), "source": [1.0], "strict": made, **ranks}
        return joined(before, note) if before else note


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    judge = tmp_path / "judge"
    judge.write_bytes(b"x")
    monkeypatch.setattr("training.ablations.bench.cases_of", lambda task, count: range(count))

    def make(**options: Any) -> Counted:
        nobody: Any = None
        return Counted(nobody, nobody, folder=tmp_path / "kept", judge_file=judge, **options)

    return make


def test_scenes_are_measured_once_and_candidates_topped_up(counted):
    made = recipe("default")
    bench = counted()
    assert bench.missing(made, 2, 3) == 6
    bench.records(made, 2, 3)
    assert bench.log == [(0, 0, 2), (1, 0, 2), (2, 0, 2)]
    again = counted()
    assert again.missing(made, 4, 3) == 6 and again.missing(made, 1, 3) == 0
    notes = again.records(made, 4, 4)
    assert again.log == [(0, 2, 4), (1, 2, 4), (2, 2, 4), (3, 0, 4)]
    assert all(note["strict"] == [0.0, 1.0, 2.0, 3.0] for note in notes)
    last = counted()
    assert last.records(made, 4, 4) == notes and not last.log


def test_a_run_that_was_cut_off_goes_on_where_it_stopped(counted):
    made = recipe("default")
    bench = counted(stop_at=2)
    with pytest.raises(KeyboardInterrupt):
        bench.records(made, 1, 4)
    path = next((bench.folder).glob("*.jsonl"))
    with path.open("a") as lines:
        lines.write('[2, {"found": tr')  # killed while writing
    again = counted()
    again.records(made, 1, 4)
    assert [number for number, _, _ in again.log] == [2, 3]
    assert len(counted().records(made, 1, 4)) == 4


def test_other_settings_or_models_are_measured_anew_and_rankings_are_not(counted, tmp_path: Path):
    made = recipe("default")
    bench = counted()
    key = bench.key(made, True, "edit")
    assert bench.key(replace(made, scale=9.0), True, "edit") != key
    assert bench.key(made, False, "edit") != key and bench.key(made, True, "removal") != key
    assert bench.key(replace(made, rank_mode="iqa", alpha=1.0, candidates=9), True, "edit") == key
    (tmp_path / "judge").write_bytes(b"y")
    assert counted().key(made, True, "edit") != key


def test_variants_that_only_rank_share_their_candidates(counted):
    ablation = made_up(
        metrics=(Metric("strict"),),
        variants=(Variant("a", pick="localised"), Variant("b", pick="first"), Variant("c", {"scale": 6.0})),
        claims=(),
        candidates=3,
    )
    bench = counted(scenes=2)
    measured = measure_edits(bench, ablation)
    assert len(bench.log) == 4
    assert measured.values["a"]["strict"] == [2.0, 2.0] and measured.values["b"]["strict"] == [0.0, 0.0]
    # Two of three scenes are there; the third wants three candidates of each of the two different recipes.
    assert program.cost(counted(scenes=3), [ablation])[0][1] == 2 * 3


def test_best_of_m_comes_from_one_run(counted):
    ablation = made_up(
        metrics=(Metric("localised"), Metric(ORACLE)),
        variants=tuple(Variant(f"m = {m}", {"m": m}) for m in (1, 2, 3, 9)),
        claims=(Claim("m = 3", "m = 1", "localised"), Claim("m = 9", "m = 1", "localised")),
        measure=measure_best_of,
        candidates=3,
    )
    bench = counted(scenes=2)
    measured = measure_best_of(bench, ablation)
    assert bench.log == [(0, 0, 3), (1, 0, 3)]
    assert [measured.values[f"m = {m}"]["localised"][0] for m in (1, 2, 3)] == pytest.approx([1, 5 / 3, 2])
    # More than were made cannot be measured, and is left out of the claims.
    assert "m = 9" not in measured.values and len(result(ablation, measured)["claims"]) == 1


def test_full_runs_take_the_published_numbers(counted):
    ablation = made_up(
        full={"steps": 100, "candidates": 24}, variants=(Variant("a", {"scale": 6.0}),), claims=()
    )
    assert recipe_of(counted(), ablation, {"scale": 6.0}).steps == 25
    made = recipe_of(counted(full=True), ablation, {"scale": 6.0})
    assert (made.steps, made.scale) == (100, 6.0)


def test_the_program_measures_what_is_missing(tmp_path: Path, monkeypatch, capsys):
    one, two = made_up(key="one"), made_up(key="two", variants=(Variant("a"), Variant("b")))
    monkeypatch.setattr(program, "ABLATIONS", (one, two))
    monkeypatch.setattr(program.Retoucher, "embedded", classmethod(lambda cls: None))
    monkeypatch.setattr(program, "load", lambda path: None)
    monkeypatch.setattr(program, "cost", lambda bench, todo: [])
    done: list[str] = []

    def measure(bench: Bench, ablation: Ablation) -> dict[str, Any]:
        done.append(ablation.key)
        return {"setup": program.setup(bench, ablation), **result(ablation, numbers())}

    monkeypatch.setattr(program, "measure", measure)
    judge, path = tmp_path / "judge", tmp_path / "ablations.md"
    judge.write_bytes(b"x")
    common = ["--judge", str(judge), "--cache", str(tmp_path), "-o", str(path)]
    program.main([*common, "--only", "two"])
    assert done == ["two"] and "not run yet" in path.read_text()
    program.main(common)
    assert done == ["two", "one"]
    program.main(common)
    assert done == ["two", "one"]
    program.main([*common, "--scenes", "9", "--only", "one"])
    program.main([*common, "--only", "two", "--again"])
    assert done == ["two", "one", "one", "two"]
    assert sorted(json.loads(path.with_suffix(".json").read_text())["ablations"]) == ["one", "two"]
    with pytest.raises(SystemExit, match="does not exist; choose among one, two"):
        program.main([*common, "--only", "three"])
    with pytest.raises(SystemExit):
        program.main([*common, "--scenes", "1"])
    assert "--scenes must be at least 2, got 1" in capsys.readouterr().err


def test_what_shares_candidates_is_measured_together_longest_first():
    one, two = made_up(key="one"), made_up(key="two", variants=(Variant("a"), Variant("b")))
    other = made_up(key="other", base={"scale": 3.0})
    apart = made_up(key="apart", task="removal")
    plan = [(one, 4, 10.0), (apart, 4, 5.0), (other, 4, 30.0), (two, 2, 25.0)]
    assert divided(plan) == [["one", "two"], ["other"], ["apart"]]


def test_processes_bring_what_they_measured_and_say_when_one_failed(tmp_path: Path, monkeypatch):
    asked: list[list[str]] = []

    def run(command: list[str], env: dict[str, str], check: bool) -> Any:
        assert env["OMP_NUM_THREADS"] == "1"
        keys = command[command.index("--only") + 1 :]
        asked.append(keys)
        page = Path(command[command.index("-o") + 1])
        page.with_suffix(".json").write_text(json.dumps({"ablations": {key: {"x": key} for key in keys}}))
        return SimpleNamespace(returncode=1 if "bad" in keys else 0)

    monkeypatch.setattr(jobs.subprocess, "run", run)
    found: dict[str, Any] = {}
    for part in jobs.measured_by(2, [["a", "b"], ["c"]], ["--scenes", "9"]):
        found |= part
    assert found == {key: {"x": key} for key in "abc"} and sorted(asked) == [["a", "b"], ["c"]]
    with pytest.raises(SystemExit, match="ended with 1; start it again to go on"):
        for part in jobs.measured_by(1, [["bad"], ["d"]], []):
            found |= part
    assert "d" in found


def test_setups_are_compared_as_json_holds_them():
    assert same({"scenes": 3, "minutes": 1.0}, {"scenes": 3, "minutes": 2.0})
    assert not same({"scenes": 3}, {"scenes": 4})
