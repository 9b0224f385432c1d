"""Questions about scenes whose answers are known: queries true of one object, twins, absent things, edits."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..world.grounds import GROUND_NAMES
from ..world.icons import CLASSES, COLOUR_NAMES
from ..world.phrases import thing_phrase
from ..world.scenes import Scene, Thing, scene

TOLD = ("both", "class", "colour")
"""What a query says: colour and class, only the class, only the colour."""


@dataclass(frozen=True)
class Case:
    """A scene, a query, and the object it is true of (-1: nothing there is meant); for edits also the prompt."""

    scene: Scene
    query: str
    target: int
    told: str
    prompt: str = ""
    name: str = ""
    colour: str = ""

    @property
    def image(self) -> Tensor:
        """IMAGE [1,128,128,3]."""
        return torch.from_numpy(self.scene.image).float()[None] / 255

    @property
    def masks(self) -> Tensor:
        """bool [N,128,128], the exact masks."""
        return torch.from_numpy(self.scene.masks)


def _key(thing: Thing, told: str) -> tuple[str, ...]:
    return {"both": (thing.colour, thing.name), "class": (thing.name,), "colour": (thing.colour,)}[told]


def _phrase(key: tuple[str, ...], told: str, rng: random.Random) -> str:
    name = None if told == "colour" else key[-1]
    colour = None if told == "class" else key[0]
    return thing_phrase(name, colour, None, rng)


def naming(split: str, count: int, told: str, start: int = 0) -> Iterator[Case]:
    """`count` scenes of two or more objects with a query true of exactly one of them."""
    index = start
    while count:
        drawn = scene(split, index, at_least=2)
        rng = random.Random(f"{split}-{told}-{index}")
        index += 1
        keys = [_key(t, told) for t in drawn.spec.things]
        unique = [i for i, key in enumerate(keys) if keys.count(key) == 1]
        if len(keys) >= 2 and unique:
            target = rng.choice(unique)
            yield Case(drawn, _phrase(keys[target], told, rng), target, told)
            count -= 1


SIDES = {
    "left": (0, 1, ("on the left", "on the left side")),
    "right": (0, -1, ("on the right", "to the right")),
    "top": (1, 1, ("at the top", "in the upper part")),
    "bottom": (1, -1, ("at the bottom", "in the lower part")),
}
"""For each side the axis of the centre, the direction, and phrases."""
APART = 0.2
"""Least distance of two twins along an axis, as a share of the picture, for a place word to tell them apart."""


def twins(split: str, count: int, start: int = 0) -> Iterator[Case]:
    """`count` scenes with two objects of one class and colour, of which a place word is true of exactly one.

    True means: the centre lies in that third of the picture; false: it does not, and is at least APART away.
    """
    index = start
    while count:
        drawn = scene(split, index, twins=True)
        rng = random.Random(f"{split}-twins-{index}")
        index += 1
        things = drawn.spec.things
        same = [i for i, t in enumerate(things) if _key(t, "both") == _key(things[0], "both")]
        if len(same) != 2:
            continue
        options = []
        for side, (axis, direction, phrases) in SIDES.items():
            for target, other in (same, same[::-1]):
                here, there = (
                    things[i].centre[axis] if direction > 0 else 1 - things[i].centre[axis]
                    for i in (target, other)
                )
                if here < 1 / 3 <= there and there - here >= APART:
                    options.append((target, side, phrases))
        if options:
            target, side, phrases = rng.choice(options)
            thing = things[target]
            yield Case(drawn, f"the {thing.colour} {thing.name} {rng.choice(phrases)}", target, side)
            count -= 1


def absent(split: str, count: int, start: int = 0) -> Iterator[Case]:
    """`count` scenes with a query that is true of nothing in them, a third each of colour and class, class, colour.

    Half of the queries of the first kind are near misses: the class or the colour alone is there.
    """
    index = start
    while count:
        drawn = scene(split, index, at_least=2)
        rng = random.Random(f"{split}-absent-{index}")
        told = TOLD[count % 3]
        index += 1
        things = drawn.spec.things
        names, colours = {t.name for t in things}, {t.colour for t in things}
        name = rng.choice([n for n in CLASSES if n not in names])
        colour = rng.choice([c for c in COLOUR_NAMES if c not in colours])
        if told == "both" and rng.random() < 0.5:
            if rng.random() < 0.5:
                name = rng.choice(sorted(names))
            else:
                colour = rng.choice(sorted(colours))
        key = {"both": (colour, name), "class": (name,), "colour": (colour,)}[told]
        yield Case(drawn, _phrase(key, told, rng), -1, told)
        count -= 1


def edits(split: str, count: int, start: int = 0) -> Iterator[Case]:
    """`count` scenes with an object, named by colour and class, that is to become another class in another colour."""
    for case in naming(split, count, "both", start):
        thing = case.scene.spec.things[case.target]
        rng = random.Random(f"{split}-edit-{case.query}-{thing.x}-{thing.y}")
        name = rng.choice([n for n in CLASSES if n != thing.name])
        colour = rng.choice([c for c in COLOUR_NAMES if c != thing.colour])
        query = f"the {thing.colour} {thing.name}"
        yield Case(case.scene, query, case.target, "both", f"a {colour} {name}", name, colour)


def removals(split: str, count: int, start: int = 0) -> Iterator[Case]:
    """`count` scenes with an object, named by colour and class, that is to go."""
    for case in naming(split, count, "both", start):
        thing = case.scene.spec.things[case.target]
        yield Case(case.scene, f"the {thing.colour} {thing.name}", case.target, "both")


def grounds(split: str, count: int, start: int = 0) -> Iterator[Case]:
    """`count` scenes whose ground is to become one of another kind; `name` is that kind, and the target is -1."""
    for index in range(start, start + count):
        drawn = scene(split, index)
        rng = random.Random(f"{split}-ground-{index}")
        kind = rng.choice([g for g in GROUND_NAMES if g != drawn.spec.ground])
        yield Case(drawn, "the background", -1, "ground", kind, kind)
