"""The world is deterministic by seed, its masks are exact, and its questions have the answers they claim."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from scipy import ndimage

from training.evaluation.cases import absent, edits, naming, twins
from training.evaluation.numbers import Share
from training.world.archive import pack
from training.world.grounds import GROUND_NAMES, draw_ground
from training.world.icons import CLASSES, COLOUR_NAMES, COLOURS, draw_icon
from training.world.phrases import ground_phrase, thing_phrase, vocabulary
from training.world.scenes import SPLITS, draw, scene, spec_of


def test_same_seed_same_scene_and_splits_differ() -> None:
    assert np.array_equal(scene("train", 3).image, scene("train", 3).image)
    pictures = {split: scene(split, 3).image.tobytes() for split in SPLITS}
    assert len(set(pictures.values())) == len(SPLITS)
    assert spec_of("tune", 3) != spec_of("tune", 4)


def test_enough_classes_colours_and_grounds() -> None:
    assert len(CLASSES) == 16 and len(COLOUR_NAMES) == 8 and len(GROUND_NAMES) >= 8
    counts = {len(scene("tune", i).spec.things) for i in range(60)}
    assert counts == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("index", range(6))
def test_a_mask_is_where_the_picture_changes_when_its_object_goes(index: int) -> None:
    """Redrawing without the object changes its mask, and nothing farther away than its antialiased edge and shadow."""
    drawn = scene("tune", index, at_least=2)
    for k, mask in enumerate(drawn.masks):
        changed = (draw(drawn.spec.without(k)).image != drawn.image).any(-1)
        near = ndimage.binary_dilation(mask, iterations=5, structure=np.ones((3, 3)))
        assert not (changed & ~near).any()
        assert changed[mask].mean() > 0.95
    assert drawn.masks.sum(0).max() <= 1, "objects never overlap"


def test_every_icon_fills_its_box_and_shows_its_colour() -> None:
    for name in CLASSES:
        for colour, rgb in COLOURS.items():
            pixels, cover = draw_icon(name, rgb, 48)
            inside = pixels[cover > 0.99]
            share = (np.abs(inside - np.array(rgb)).max(-1) < 60).mean()
            assert cover.mean() > 0.15 and share > 0.3, (name, colour)


def test_grounds_are_textured_and_deterministic() -> None:
    for kind in GROUND_NAMES:
        assert np.array_equal(draw_ground(kind, 5), draw_ground(kind, 5))
        assert draw_ground(kind, 5).std() > 1 and not np.array_equal(
            draw_ground(kind, 5), draw_ground(kind, 6)
        )


def test_phrases_use_known_words_only() -> None:
    known, rng = set(vocabulary()), random.Random(0)
    for _ in range(300):
        phrase = thing_phrase(
            rng.choice([None, *CLASSES]),
            rng.choice([None, *COLOUR_NAMES]),
            rng.choice([None, "left", "center"]),
            rng,
        )
        assert set(phrase.split()) <= known
        assert set(ground_phrase(rng.choice([None, *GROUND_NAMES]), rng).split()) <= known


def test_questions_have_one_answer() -> None:
    for case in [*naming("tune", 8, "class"), *naming("tune", 8, "colour"), *naming("tune", 8, "both")]:
        things = case.scene.spec.things
        target = things[case.target]
        same = [
            t
            for t in things
            if (case.told == "colour" or t.name == target.name)
            and (case.told == "class" or t.colour == target.colour)
        ]
        assert same == [target]


def test_twins_differ_by_place_alone() -> None:
    for case in twins("tune", 10):
        things = case.scene.spec.things
        target = things[case.target]
        (other,) = [t for t in things if (t.name, t.colour) == (target.name, target.colour) and t != target]
        axis = 0 if case.told in ("left", "right") else 1
        sign = 1 if case.told in ("left", "top") else -1
        assert sign * (other.centre[axis] - target.centre[axis]) >= 0.2


def test_absent_things_are_absent_and_edits_change_both() -> None:
    for case in absent("tune", 12):
        words = case.query.split()
        for thing in case.scene.spec.things:
            names = {"both": (thing.colour, thing.name), "class": (thing.name,), "colour": (thing.colour,)}[
                case.told
            ]
            assert not all(name in words for name in names)
    for case in edits("tune", 6):
        thing = case.scene.spec.things[case.target]
        assert case.name != thing.name and case.colour != thing.colour
        assert case.prompt == f"a {case.colour} {case.name}"


def test_packed_scenes_hold_what_the_scenes_hold() -> None:
    scenes = [scene("tune", i) for i in range(3)]
    images, owners, things, _ = pack(scenes)
    for i, drawn in enumerate(scenes):
        assert np.array_equal(images[i], drawn.image)
        for k, thing in enumerate(drawn.spec.things):
            assert np.array_equal(owners[i] == k + 1, drawn.masks[k])
            assert CLASSES[things[i, k, 0]] == thing.name and COLOUR_NAMES[things[i, k, 1]] == thing.colour


def test_wilson_interval_against_its_defining_equation() -> None:
    """The bounds p solve |p_hat - p| = z sqrt(p (1 - p) / n)."""
    share = Share(47, 50)
    for bound in share.interval:
        assert abs(abs(share.value - bound) - 1.96 * (bound * (1 - bound) / 50) ** 0.5) < 1e-9
    low, high = Share(50, 50).interval
    assert high == pytest.approx(1) and 0.9 < low < 1


def test_muon_orthogonalises() -> None:
    """Newton-Schulz brings every singular value near 1 and keeps the singular vectors."""
    from training.optim import orthogonalised

    matrix = torch.randn(24, 40, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    step = orthogonalised(matrix)
    assert (torch.linalg.svdvals(step) - 1).abs().max() < 0.35
    core = u.T @ step @ v.T
    assert (core - torch.diag(core.diagonal())).abs().max() < 1e-3
