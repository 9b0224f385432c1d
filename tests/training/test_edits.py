"""The material of the denoisers: masks hold what they must and nothing else, phrases say what is there."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from retouch_core.regions.location import CELL_PHRASES as SAID
from retouch_core.regions.location import parse_location
from training import edits
from training.denoiser import KINDS, Shuffled, borrowed, network, phrase_for
from training.edits import CELL, GRID, GROUND, NOTHING, edit_cells, empty_cells, place_of, samples, snapped
from training.world.archive import archive, draw_archive
from training.world.grounds import GROUND_NAMES
from training.world.icons import CLASSES, COLOUR_NAMES
from training.world.phrases import CELL_PHRASES, SYNONYMS, cell_phrase


@pytest.fixture(scope="module")
def world():
    return draw_archive("train", 500, 40)


def test_scenes_drawn_alone_are_those_of_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.world.archive.CACHE", tmp_path)
    whole, part = archive("tune", 250), draw_archive("tune", 100, 20)
    assert torch.equal(whole.images[100:120], part.images) and torch.equal(whole.things[100:120], part.things)
    assert torch.equal(whole.owners[100:120], part.owners)


def test_masks_hold_their_thing_and_leave_the_neighbours(world) -> None:
    rng, pairs = random.Random(0), world.objects()
    for scene, k in pairs[:60].tolist():
        owners = world.owners[scene]
        own, others = owners == k + 1, (owners > 0) & (owners != k + 1)
        cells = edit_cells(own, others, world.masks(pairs[rng.randrange(len(pairs))][None])[0], rng)
        area = cells.repeat_interleave(CELL, 0).repeat_interleave(CELL, 1)
        assert (area | ~own).all()
        foreign = (others & area).view(GRID, CELL, GRID, CELL).float().mean((1, 3))
        assert (foreign[~snapped(own[None])[0]] <= edits.NEIGHBOUR + 1e-6).all()


def test_empty_patches_are_empty(world) -> None:
    rng, seen = random.Random(3), 0
    for owners in world.owners:
        cells = empty_cells(owners > 0, rng)
        if cells is not None:
            seen += 1
            area = cells.repeat_interleave(CELL, 0).repeat_interleave(CELL, 1)
            assert (owners[area] > 0).float().mean() < 0.01
            assert 9 <= int(cells.sum()) <= 64
    assert seen > 20


def test_samples_say_what_is_where(world) -> None:
    made = samples(world, random.Random(1))
    kinds = made.about[:, 0]
    things = kinds >= 0
    assert (
        int(things.sum()) >= 40 and int((kinds == NOTHING).sum()) >= 3 and int((kinds == GROUND).sum()) >= 2
    )
    for cells, scene, about in zip(made.cells, made.source.tolist(), made.about.tolist(), strict=True):
        assert GROUND_NAMES[about[2]] == GROUND_NAMES[int(world.grounds[scene])]
        if about[0] == GROUND:
            assert torch.equal(cells, snapped((world.owners[scene] == 0)[None])[0])
        elif about[0] >= 0:
            same = [
                t
                for t in world.things[scene].tolist()
                if t[:2] == about[:2] and place_of(t) == about[3] and t[0] >= 0
            ]
            assert same
            _, _, _, x, y, side = same[0]
            assert about[3] == 3 * int((y + side / 2) * 3 / 128) + int((x + side / 2) * 3 / 128)
    again = samples(world, random.Random(1))
    assert torch.equal(made.cells, again.cells)


def test_phrases_of_places_are_read_back_as_their_cell() -> None:
    for number, phrases in enumerate(CELL_PHRASES):
        cell = divmod(number, 3)
        assert SAID[cell] in phrases
        for phrase in phrases:
            found = parse_location(f"a red car {phrase}")
            assert found.text == "a red car" and cell in found.cells


def test_phrases_name_the_thing_and_where_it_is() -> None:
    rng = random.Random(5)
    name, colour = CLASSES.index("car"), COLOUR_NAMES.index("red")
    said = [phrase_for([name, colour, 0, 2], KINDS["blended"].placed, rng) for _ in range(600)]
    assert 0.9 < sum("car" in s for s in said) / 600 < 0.98
    assert 0.83 < sum("red" in s for s in said) / 600 < 0.95
    assert 0.75 < sum("right" in s for s in said) / 600 < 0.9
    assert 0.005 < said.count("") / 600 < 0.07
    assert not any("left" in s or "bottom" in s for s in said)


def test_phrases_of_grounds_and_of_nothing() -> None:
    rng, grass = random.Random(6), GROUND_NAMES.index("grass")
    whole = [phrase_for([GROUND, -1, grass, -1], 0.9, rng) for _ in range(200)]
    assert sum("grass" in s for s in whole) > 180
    empty = [phrase_for([NOTHING, -1, grass, -1], 0.9, rng) for _ in range(600)]
    named, blank = sum("grass" in s for s in empty), empty.count("")
    assert 0.24 < named / 600 < 0.36 and 0.24 < blank / 600 < 0.36
    assert not any(word in s for s in empty for word in (*CLASSES, *SYNONYMS["ball"]))
    assert cell_phrase(4, random.Random(0)) in CELL_PHRASES[4]


def test_shuffled_passes_show_everything_once() -> None:
    batches = Shuffled(100, 100 + 64 * 3)
    first = torch.cat([batches() for _ in range(3)])
    assert sorted(first.tolist()) == list(range(100, 292))
    assert batches().min() >= 100


def test_interrupted_preparation_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edits, "RUNS", tmp_path)
    monkeypatch.setattr(edits, "CHUNK", 10)
    plain = edits.prepare(20, masked=False)
    assert plain.scenes.shape == (20, 4, GRID, GRID) and len(plain.masked) == 0
    written = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("scenes_*.pt")}
    assert len(written) == 2
    whole = edits.prepare(30, masked=True)
    assert torch.equal(whole.scenes[:20], plain.scenes) and len(whole.masked) == len(whole)
    assert torch.equal(whole.edits.cells[: len(plain)], plain.edits.cells)
    assert all(p.stat().st_mtime_ns == then for p, then in written.items())
    assert int(whole.edits.source.max()) == 29


def test_one_denoiser_starts_as_the_other() -> None:
    torch.manual_seed(0)
    wide, narrow = network(9).eval(), network(4).eval()
    noisy, rest, told = torch.randn(2, 4, 16, 16), torch.zeros(2, 5, 16, 16), torch.randn(2, 16, 128)
    steps = torch.tensor([10, 900])
    for start, other in ((wide, narrow), (narrow, wide)):
        other.load_state_dict(borrowed(start.state_dict(), other.config.in_channels))
        seen = {9: torch.cat([noisy, rest], 1), 4: noisy}
        with torch.no_grad():
            expected, made = (m(seen[m.config.in_channels], steps, told).sample for m in (start, other))
        assert torch.allclose(made, expected, atol=1e-5)
