"""What the referrer learns from: phrases and exactly the pixels that they mean."""

from __future__ import annotations

import random

import pytest
import torch

from training.referrer import Said, loss_of, say
from training.world.archive import PLACES, Archive, draw_archive
from training.world.icons import CLASSES, COLOUR_NAMES


@pytest.fixture(scope="module")
def world() -> Archive:
    return draw_archive("tune", 0, 12)


def test_a_phrase_means_every_thing_that_fits_it_and_nothing_else(world: Archive) -> None:
    for scene in range(len(world)):
        things = [t for t in world.things[scene].tolist() if t[0] >= 0]
        for name, colour, place in ((n, c, p) for n, c, p, *_ in things):
            for said in (Said(name), Said(None, colour), Said(name, colour), Said(name, colour, place)):
                expected = torch.zeros(128, 128, dtype=torch.bool)
                for k, thing in enumerate(things):
                    wanted = (said.name, said.colour, said.place)
                    if all(w in (None, has) for w, has in zip(wanted, thing[:3], strict=True)):
                        expected |= world.owners[scene] == k + 1
                assert torch.equal(said.mask(world, scene), expected) and expected.any()


def test_grounds_and_strangers(world: Archive) -> None:
    kind = int(world.grounds[0])
    ground = world.owners[0] == 0
    assert torch.equal(Said(ground=kind).mask(world, 0), ground)
    assert torch.equal(Said(ground=-1).mask(world, 0), ground)
    assert not Said(ground=(kind + 1) % 8).mask(world, 0).any()
    colour = int(world.things[0, 0, 1])
    assert (
        Said(None, colour).mask(world, 0).any() and not Said(None, colour, stranger=True).mask(world, 0).any()
    )


def test_words_say_what_is_meant() -> None:
    rng = random.Random(0)
    for _ in range(50):
        name, colour, place = rng.randrange(16), rng.randrange(8), PLACES.index("left")
        words = Said(name, colour, place).phrase(rng)
        assert "left" in words
        if CLASSES[name] in ("star", "tree") and COLOUR_NAMES[colour] != "purple":
            assert CLASSES[name] in words and COLOUR_NAMES[colour] in words
    assert not set(Said(None, 0, stranger=True).phrase(rng).split()) & set(CLASSES)


def test_phrases_are_true_and_false_in_useful_shares(world: Archive) -> None:
    rng = random.Random(1)
    said = [(scene, say(world, scene, rng)) for scene in range(len(world)) for _ in range(60)]
    empty = sum(not one.mask(world, scene).any() for scene, one in said) / len(said)
    assert 0.1 < empty < 0.35
    placed = sum(one.place is not None for _, one in said) / len(said)
    assert 0.15 < placed < 0.35
    assert any(one.ground is not None for _, one in said) and any(one.stranger for _, one in said)


def test_loss_is_least_for_the_right_map() -> None:
    targets = torch.zeros(2, 16, 16, dtype=torch.bool)
    targets[0, 4:9, 3:12] = True  # and nothing in the second
    right = torch.where(targets, 12.0, -12.0)
    assert float(loss_of(right, targets)) < 1e-3
    for wrong in (-right, torch.zeros_like(right), right.roll(3, 1), right.abs()):
        assert float(loss_of(wrong, targets)) > 0.1
