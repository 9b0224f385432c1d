"""Runs over lists with models that know only colours: numbers against independent references, and runs that go on."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn_lists import COUNT, SIDE, pie_bench, square
from PIL import Image
from scipy.linalg import sqrtm
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity
from stubs import ColourEditor, ColourReferrer, ColourScorer, ColourSegmenter

from retouch_core.evaluation.measures import Gauges, background_distance, chosen, measure
from retouch_core.evaluation.pairs import read_pairs
from retouch_core.evaluation.run import Options, evaluate, sized
from retouch_core.evaluation.statistics import mean, share
from retouch_core.metrics.feature_distance import ScorerDistance
from retouch_core.pictures import read_picture
from retouch_core.pipeline import Retoucher
from retouch_core.result import Result
from retouch_core.tensors.frames import square_frames

QUICK = Options(candidates=2, steps=2)


def retoucher() -> Retoucher:
    return Retoucher(ColourSegmenter(), ColourScorer(), ColourEditor(), None, ColourReferrer())


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    return pie_bench(tmp_path / "list")


def run(listed: Path, folder: Path, options: Options = QUICK, *, sheets: int | None = 0, **more: Any) -> Any:
    gauges = Gauges.of(ColourScorer())
    return evaluate(read_pairs(listed), options, retoucher(), gauges, folder, sheets=sheets, **more)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A list and the folder of a whole run over it, for tests that only read or copy them."""
    place = tmp_path_factory.mktemp("whole")
    run(pie_bench(place / "list"), place / "out", sheets=None)
    return place / "list", place / "out"


@pytest.fixture
def copied(whole: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """The list, and a copy of the run's folder to spoil."""
    shutil.copytree(whole[1], tmp_path / "out")
    return whole[0], tmp_path / "out"


def records_of(folder: Path) -> dict[str, dict[str, Any]]:
    return {r["id"]: r for r in map(json.loads, (folder / "results.jsonl").read_text().splitlines())}


def contents(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "table.md").read_bytes(), (folder / "table.json").read_bytes()


# ------------------------------------------------------------------------------------------------- numbers


def test_numbers_of_a_pair_against_skimage_and_brute_force(whole: tuple[Path, Path]):
    listed, out = whole
    records, scorer = records_of(out), ColourScorer()
    assert len(records) == COUNT and sum(record["found"] for record in records.values()) == COUNT - 1
    for pair in read_pairs(listed).pairs:
        record = records[pair.id]
        numbers = record["choices"]["recipe"]
        source = read_picture(pair.image)
        # Written with 8 bits, which moves a pixel by half a step at most.
        made = read_picture(out / "results" / f"{pair.id}.png")
        if not record["found"]:
            assert torch.equal(source, made)
            assert (numbers["mse"], numbers["psnr"], numbers["ssim"], numbers["perceptual"]) == (0, 100, 1, 0)
            assert record["region_iou"] == 0 and record["area"] == 0
            continue
        x, y = source[0].double().numpy(), made[0].double().numpy()
        assert numbers["mse"] == pytest.approx(mean_squared_error(x, y), abs=2e-3)
        assert numbers["psnr"] == pytest.approx(peak_signal_noise_ratio(x, y, data_range=1), abs=0.05)
        expected = structural_similarity(
            x, y, data_range=1, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert numbers["ssim"] == pytest.approx(expected, abs=2e-3)
        seen = scorer.encode_images(square_frames(made, scorer.image_size))
        cosine = float((seen * scorer.encode_texts([pair.prompt])).sum())
        assert numbers["clip"] == pytest.approx(cosine, abs=1e-3)
        assert numbers["kept"] and numbers["background_own"] == 0
        assert record["region_iou"] == 1, (
            "the square is found to the pixel, without the frame around the picture"
        )
        changed = (source != made).any(-1)[0]
        assert float(changed.float().mean()) <= record["area"]


def test_numbers_are_those_of_unrounded_pictures(listed: Path):
    pair = read_pairs(listed).pairs[0]
    source, scorer = read_picture(pair.image), ColourScorer()
    result = retoucher().retouch(source, pair.query, pair.prompt, candidates=2, steps=2)
    assert pair.mask is not None
    wanted = pair.mask.draw((SIDE, SIDE))
    found = measure(result, pair.prompt, wanted, ("recipe",), Gauges.of(scorer), scorer, 5.0, frame=True)
    x, y = (t[0].double().numpy() for t in (source, result.image))
    numbers = found.values["choices"]["recipe"]
    assert numbers["mse"] == pytest.approx(((x - y) ** 2).mean(), abs=1e-12)
    assert numbers["psnr"] == pytest.approx(-10 * math.log10(((x - y) ** 2).mean()), abs=1e-9)
    # The stand-in over a scorer without tokens is the squared distance of its embeddings, of squashed pictures.
    away = [scorer.encode_images(square_frames(t, 16, fit="squash")) for t in (source, result.image)]
    assert numbers["perceptual"] == pytest.approx(float((away[0] - away[1]).square().sum()), rel=0.05)
    inside = np.zeros((SIDE, SIDE), bool)
    inside[[0, -1]] = inside[:, [0, -1]] = True
    inside |= wanted.numpy()
    blacked = [torch.from_numpy(np.where(inside[..., None], 0, t)).float()[None] for t in (x, y)]
    expected = Gauges.of(scorer).perceptual.against(blacked[0].movedim(-1, 1) * 2 - 1)
    other = float(expected(blacked[1].movedim(-1, 1) * 2 - 1))
    assert numbers["background_listed"] == pytest.approx(other, abs=1e-7) and other > 0
    torch.testing.assert_close(found.source_features, scorer.encode_images(square_frames(source, 16))[0])


def test_background_is_what_lies_outside(listed: Path):
    gauges = Gauges.of(ColourScorer())
    source = read_picture(read_pairs(listed).pairs[0].image)
    inside = torch.from_numpy(square((10, 10)))
    made = source.clone()
    made[0][inside] = 0.9
    assert background_distance(source, made, inside, gauges) == 0
    assert background_distance(source, made, ~inside, gauges) == pytest.approx(
        float(gauges.perceptual.against(_black(source, ~inside))(_black(made, ~inside)))
    )
    assert background_distance(source, made, torch.ones_like(inside), gauges) is None


def _black(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return torch.where(mask[..., None], 0.0, image).movedim(-1, 1) * 2 - 1


def test_table_against_numpy_and_scipy(listed: Path, tmp_path: Path):
    table = run(listed, tmp_path / "out", replace(QUICK, choices=("recipe", "iqa")))
    records, scorer = records_of(tmp_path / "out"), ColourScorer()
    ids = [pair.id for pair in read_pairs(listed).pairs]
    rows = {(row.choice, row.subset): row for row in table.rows}
    assert set(rows) == {(c, s) for c in ("recipe", "iqa") for s in ("all pairs", "edited ones")}
    assert {row.count for key, row in rows.items() if key[1] == "edited ones"} == {COUNT - 1}
    for choice in ("recipe", "iqa"):
        values = rows[choice, "all pairs"].values
        for metric in ("ssim", "psnr", "mse", "perceptual", "clip", "background_listed"):
            column = np.array([records[name]["choices"][choice][metric] for name in ids])
            assert values[metric].value == pytest.approx(column.mean(), rel=1e-12)
            assert values[metric].low <= values[metric].value <= values[metric].high
            assert column.min() <= values[metric].low and values[metric].high <= column.max()
    pictures = [read_picture(pair.image) for pair in read_pairs(listed).pairs]
    made = [read_picture(tmp_path / "out" / "results" / f"{name}.png") for name in ids]
    a, b = (
        torch.cat([scorer.encode_images(square_frames(p, 16)) for p in each]).double().numpy()
        for each in (pictures, made)
    )
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    apart = ((a.mean(0) - b.mean(0)) ** 2).sum()
    full = apart + np.trace(first + second - 2 * sqrtm(first @ second).real)
    diagonal = apart + ((a.std(0, ddof=1) - b.std(0, ddof=1)) ** 2).sum()
    found = rows["recipe", "all pairs"].values
    assert found["fid"].value == pytest.approx(full, abs=2e-4) and found["fid"].low is None
    assert found["sfid"].value == pytest.approx(diagonal, abs=2e-4)
    assert table.finding["found"].value == pytest.approx((COUNT - 1) / COUNT)
    assert {row.subset: row.count for row in table.groups if row.choice == "iqa"} == {
        "1 change object": 2,
        "6 change color": 3,
    }


def test_choices_are_those_of_the_papers_equations(listed: Path):
    """S00's eq. 5 to 7 by hand over whole pictures."""
    pair, scorer = read_pairs(listed).pairs[0], ColourScorer()
    result = retoucher().retouch(read_picture(pair.image), pair.query, pair.prompt, candidates=5, steps=2)
    # What is drawn is all alike; colours between the source's and others make the equations disagree.
    colours = torch.rand(5, 1, 1, 3, generator=torch.Generator().manual_seed(1))
    share = torch.tensor([0.4, 0.9, 0.6, 0.2, 0.3])[:, None, None, None]
    result = replace(result, patches=torch.lerp(result.patches, colours, share), best=2)
    cosines = torch.stack(
        [
            (scorer.encode_images(square_frames(c[None], 16)) * scorer.encode_texts([pair.prompt])).sum()
            for c in result.candidates
        ]
    )
    away = (result.candidates - result.source).norm(dim=-1).mean((1, 2))
    spread = (cosines - cosines.min()) / (cosines.max() - cosines.min())
    expected = {
        "recipe": result.best,
        "first": 0,
        "cma": int(cosines.argmax()),
        "iqa": int(away.argmin()),
        "cma+iqa": int((spread - 5 * away).argmax()),
    }
    assert len(set(expected.values())) > 2, "the choices differ, or this shows nothing"
    assert {c: chosen(result, c, scorer, pair.prompt, 5.0) for c in expected} == expected


def test_statistics_against_closed_forms():
    draw = np.random.default_rng(4).normal(3, 2, 400)
    found = mean(draw.tolist())
    assert found is not None and found.low is not None and found.high is not None
    reach = 1.96 * draw.std(ddof=1) / math.sqrt(len(draw))
    assert found.value == pytest.approx(draw.mean(), rel=1e-12)
    assert found.low == pytest.approx(draw.mean() - reach, abs=0.05 * reach + 0.01)
    assert found.high == pytest.approx(draw.mean() + reach, abs=0.05 * reach + 0.01)
    assert mean(draw.tolist()) == found
    few = mean([1.0, 2.0])
    assert mean([]) is None and few is not None and (few.value, few.low, few.count) == (1.5, None, 2)
    # Wilson's ends solve (p - share)^2 = z^2 p (1 - p) / n.
    half = share([True] * 8 + [False] * 2)
    assert half is not None and half.low is not None and half.high is not None
    for end in (half.low, half.high):
        assert (end - 0.8) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / 10, rel=1e-5)
    whole = share([True] * 3)
    assert whole is not None and whole.high == 1 and whole.low is not None and whole.low < 0.5


# ------------------------------------------------------------------------------------------------- going on


class Stop(KeyboardInterrupt):
    """As if somebody pressed Ctrl-C."""


def stop_at(share: float) -> Callable[[float, str], None]:
    def tell(done: float, text: str) -> None:
        if done >= share:
            raise Stop

    return tell


@pytest.mark.parametrize("share", [0.1, 0.7])
def test_an_interrupted_run_gives_the_same_table_bit_for_bit(
    whole: tuple[Path, Path], tmp_path: Path, share: float
):
    listed, out = whole
    with pytest.raises(Stop):
        run(listed, tmp_path / "parts", sheets=None, progress=stop_at(share))
    assert not (tmp_path / "parts" / "table.md").exists()
    begun = tmp_path / "parts" / "results.jsonl"
    before = begun.read_text() if begun.exists() else ""
    assert len(before.splitlines()) == int(share * COUNT)
    run(listed, tmp_path / "parts", sheets=None)
    assert contents(tmp_path / "parts") == contents(out)
    assert begun.read_text().startswith(before), "what was done was not done again"
    for name in ("results", "sheets", "features"):
        files = {path.name: path.read_bytes() for path in (tmp_path / "parts" / name).iterdir()}
        assert (
            files == {path.name: path.read_bytes() for path in (out / name).iterdir()} and len(files) == COUNT
        )


def test_a_line_that_ends_in_the_middle_is_done_again(copied: tuple[Path, Path]):
    listed, out = copied
    before, path = contents(out), out / "results.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    run(listed, out)
    assert contents(out) == before and len(path.read_text().splitlines()) == COUNT


def test_lost_features_are_made_again(copied: tuple[Path, Path]):
    listed, out = copied
    before, files = contents(out), sorted((out / "features").iterdir())
    files[0].unlink()
    run(listed, out)
    assert contents(out) == before
    files[1].write_bytes(b"x")
    with pytest.raises(ValueError, match="is damaged; delete it and run the same command again"):
        run(listed, out)


def test_a_damaged_line_is_named(copied: tuple[Path, Path]):
    listed, out = copied
    path = out / "results.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:20], *lines[2:]]) + "\n")
    with pytest.raises(ValueError, match=r"results\.jsonl line 2 is damaged"):
        run(listed, out)


def test_a_larger_limit_goes_on(whole: tuple[Path, Path], tmp_path: Path):
    listed, out = whole
    some = run(listed, tmp_path / "out", limit=2)
    assert some.rows[0].count == 2 and len(records_of(tmp_path / "out")) == 2
    run(listed, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(out)
    assert run(listed, tmp_path / "out", limit=2) == some, "and a smaller one takes the first ones again"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 4}, "values.steps was 2, is 4"),
        ({"seed": 1}, "seed was 0, is 1"),
        ({"size": 32}, "size was null, is 32"),
        ({"recipe": "s00_text_guided"}, 'recipe was "default", is "s00_text_guided"'),
        ({"region": "list"}, 'region was "found", is "list"'),
        ({"choices": ("iqa",)}, "choices was"),
        ({"models": {"editor": "other"}}, "models was null"),
    ],
)
def test_other_settings_are_refused(whole: tuple[Path, Path], change: dict[str, Any], words: str):
    listed, out = whole
    with pytest.raises(ValueError, match=f"was begun with other settings: {words}.*--fresh to start anew"):
        run(listed, out, replace(QUICK, **change))
    assert len(records_of(out)) == COUNT


def test_starting_anew_takes_away_what_the_run_wrote_and_nothing_else(copied: tuple[Path, Path]):
    listed, out = copied
    (out / "mine.txt").write_text("stays")
    run(listed, out, replace(QUICK, seed=3), limit=2, fresh=True)
    assert len(records_of(out)) == 2 and (out / "mine.txt").exists()
    assert len(list((out / "results").iterdir())) == 2 and not list((out / "sheets").iterdir())


def test_another_list_is_refused(listed: Path, tmp_path: Path):
    run(listed, tmp_path / "out", limit=1)
    path = listed / "mapping_file.json"
    path.write_text(path.read_text().replace("[green]", "[blue]"))
    with pytest.raises(ValueError, match=r"other settings: list\.sha256 was"):
        run(listed, tmp_path / "out", limit=1)


def test_records_without_settings_are_nobodys(listed: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=r"results\.jsonl but no settings\.json"):
        run(listed, tmp_path / "out", fresh=True)
    assert (tmp_path / "out" / "results.jsonl").read_text() == "{}\n"


def test_a_broken_picture_is_left_out_and_said(listed: Path, tmp_path: Path):
    pair = read_pairs(listed).pairs[1]
    content = pair.image.read_bytes()
    pair.image.write_bytes(content[: len(content) // 2])
    said: list[str] = []
    table = run(listed, tmp_path / "out", say=said.append)
    assert table.rows[0].count == COUNT - 1
    assert len(said) == 1 and said[0].startswith(pair.where) and "damaged" in said[0]
    assert any(pair.id in note and "left out" in note for note in table.notes)
    assert pair.id not in records_of(tmp_path / "out"), "so that the next run tries it again"


def test_not_one_pair_that_can_be_done(listed: Path, tmp_path: Path):
    alone = Retoucher(ColourSegmenter(), ColourScorer(), ColourEditor())
    with pytest.raises(ValueError, match="referrer is None"):
        evaluate(
            read_pairs(listed),
            replace(QUICK, recipe="s02_rdm"),
            alone,
            Gauges.of(ColourScorer()),
            tmp_path / "out",
        )


# ------------------------------------------------------------------------------------------- other ways to run


def test_the_lists_masks_in_place_of_the_search(listed: Path, tmp_path: Path):
    table = run(listed, tmp_path / "out", replace(QUICK, region="list"), limit=2)
    assert table.finding["found"].value == 1 and "region_iou" not in table.finding
    (tmp_path / "own").mkdir()
    shutil.copy(listed / "annotation_images" / "0.png", tmp_path / "own" / "0.png")
    (tmp_path / "own" / "pairs.jsonl").write_text('{"image": "0.png", "query": "red", "prompt": "blue"}')
    with pytest.raises(ValueError, match=r"pairs\.jsonl line 1 has no mask"):
        run(tmp_path / "own", tmp_path / "out2", replace(QUICK, region="list"))


def test_size_scales_picture_and_mask(listed: Path, tmp_path: Path):
    run(listed, tmp_path / "out", replace(QUICK, size=48), limit=1)
    for path in (tmp_path / "out" / "results").iterdir():
        assert Image.open(path).size == (48, 48)
    image, mask = sized(torch.rand(1, 40, 80, 3), torch.from_numpy(np.eye(40, 80, dtype=bool)), 20)
    assert image.shape == (1, 10, 20, 3) and mask is not None and mask.shape == (10, 20)
    half = torch.zeros(40, 80, dtype=torch.bool)
    half[:, :40] = True
    _, mask = sized(torch.rand(1, 40, 80, 3), half, 20)
    assert mask is not None and torch.equal(mask, half[::4, ::4])


def test_a_removal_has_no_clip_score(listed: Path, tmp_path: Path):
    folder = tmp_path / "own"
    folder.mkdir()
    shutil.copy(listed / "annotation_images" / "0.png", folder / "0.png")
    (folder / "pairs.jsonl").write_text('{"image": "0.png", "query": "the red thing", "prompt": ""}')
    table = run(folder, tmp_path / "out")
    assert "clip" not in table.rows[0].values and "fid" not in table.rows[0].values
    (record,) = records_of(tmp_path / "out").values()
    assert record["found"] and record["choices"]["recipe"]["clip"] is None


def test_sheets_of_the_first_ones(listed: Path, tmp_path: Path):
    run(listed, tmp_path / "out", sheets=1, limit=2)
    assert [path.stem for path in (tmp_path / "out" / "sheets").iterdir()] == [read_pairs(listed).pairs[0].id]


def test_a_broken_candidate_has_no_numbers(listed: Path):
    pair, scorer = read_pairs(listed).pairs[0], ColourScorer()
    result: Result = retoucher().retouch(
        read_picture(pair.image), pair.query, pair.prompt, candidates=2, steps=3
    )
    patches = result.patches.clone()
    patches[0, 12, 12] = math.nan
    broken = replace(result, patches=patches, best=1)
    found = measure(broken, pair.prompt, None, ("recipe", "first"), Gauges.of(scorer), scorer, 5.0)
    assert found.values["choices"]["recipe"]["mse"] > 0
    assert found.values["choices"]["first"]["mse"] is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"recipe": "s99"}, "recipe 's99' does not exist"),
        ({"region": "mask"}, "region must be one of found, list, got 'mask'"),
        (
            {"choices": ("best",)},
            "choices must be different ones of recipe, first, cma, iqa, cma.iqa, got best",
        ),
        ({"choices": ("iqa", "iqa")}, "choices must be different ones"),
    ],
)
def test_options_that_are_none(options: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        Options(**options)


def test_the_stand_in_for_lpips_is_named(listed: Path, tmp_path: Path):
    gauges = Gauges.of(ColourScorer())
    assert isinstance(gauges.perceptual, ScorerDistance) and not gauges.is_lpips
    table = run(listed, tmp_path / "out", limit=2)
    names = table.plain()["names"]
    assert "LPIPS" not in names["perceptual"] and "scorer features" in names["fid"]
