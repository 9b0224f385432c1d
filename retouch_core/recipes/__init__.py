"""Recipes: which stages run, with which numbers, and where each number comes from. Data, not code paths."""

from __future__ import annotations

from .ours import OURS
from .published import PUBLISHED
from .recipe import HALVING, Recipe
from .references import REFERENCES

__all__ = [
    "DEFAULT",
    "HALVING",
    "OURS",
    "PUBLISHED",
    "RECIPES",
    "REFERENCES",
    "Recipe",
    "recipe",
    "recipe_table",
]

DEFAULT = "default"

RECIPES: dict[str, Recipe] = OURS | PUBLISHED | REFERENCES
"""Name -> recipe: ours, the five published systems, and what they compare themselves with."""


def recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe {name!r} does not exist; choose one of {', '.join(RECIPES)}")
    return RECIPES[name]


def recipe_table(names: tuple[str, ...] | None = None) -> str:
    """Recipes as text: the values that their stages read, one a line, each with its source, and what stands in."""
    blocks = []
    for name in names or tuple(RECIPES):
        entry = recipe(name)
        lines = [f"{name}: {entry.title}", f"  {entry.summary}"]
        for key, value in entry.in_force.items():
            source = entry.sources.get(key, "")
            shown = (
                {"beta": "scorer's own", "loss_bound": "none"}.get(key, "none") if value is None else value
            )
            lines.append(f"  {key:<16} {shown!s:<14} {source}".rstrip())
        lines += [f"  in place of {part}: {what}" for part, what in entry.substitutes.items()]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)
