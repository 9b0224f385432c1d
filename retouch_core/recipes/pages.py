"""Help pages of the recipes as Markdown, made of their data, so that they say what runs."""

from __future__ import annotations

from . import PUBLISHED, RECIPES, recipe
from .recipe import Recipe

OURS, NOWHERE = "ours", "unpublished"
"""How the source of a value begins that no paper gives."""


def _shown(value: object) -> str:
    return "–" if value is None else f"`{value}`"


def _table(head: str, rows: list[tuple[str, str, str]]) -> list[str]:
    lines = [f"| {head} | value | source |", "|---|---|---|"]
    return [*lines, *(f"| {name} | {value} | {source} |" for name, value, source in rows), ""]


def _groups(entry: Recipe) -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    """Values with a published source, and values with a source of ours or none published."""
    said: list[tuple[str, str, str]] = []
    chosen: list[tuple[str, str, str]] = []
    for name, value in entry.in_force.items():
        source = entry.sources.get(name)
        if source is None:
            continue
        row = (f"`{name}`", _shown(value), source)
        (chosen if source.startswith((OURS, NOWHERE)) else said).append(row)
    return said, chosen


def page(name: str) -> str:
    """The help page of a recipe.

    Raises:
        ValueError: there is no such recipe.
    """
    entry = recipe(name)
    said, chosen = _groups(entry)
    lines = [f"# {entry.title}", "", f"{entry.summary[0].upper()}{entry.summary[1:]}.", ""]
    lines += [
        "```",
        'python -m retouch_core retouch picture.png --query "the red ball" --prompt "a blue fish" \\',
        f"  --recipe {name} -o out",
        "```",
        "",
    ]
    if name in PUBLISHED:
        lines += [
            f"In ComfyUI: Templates → text-retouch → {name.replace('_', ' ')}.",
            "",
            f"![The graph](../../example_workflows/{name}.jpg)",
            "",
        ]
    if said:
        lines += ["## As published", "", *_table("what", said)]
    if chosen:
        lines += ["## Our choice", "", *_table("what", chosen)]
    rest = [key for key in entry.in_force if key not in entry.sources]
    if rest:
        values = ", ".join(f"{key} {_shown(entry.in_force[key])}" for key in rest)
        lines += ["## Also in force", "", f"{values}.", ""]
    if entry.substitutes:
        lines += ["## What stands in", "", "| there | here |", "|---|---|"]
        lines += [f"| {part} | {what} |" for part, what in entry.substitutes.items()]
        lines.append("")
    return "\n".join(lines)


def index() -> str:
    """A page that lists all recipes."""
    rows = [f"| [{name}]({name}.md) | {entry.title} | {entry.summary} |" for name, entry in RECIPES.items()]
    head = ["# Recipes", "", "Which stages run, with which numbers, and where each number comes from.", ""]
    return "\n".join([*head, "| recipe | what | stages |", "|---|---|---|", *rows, ""])


def pages() -> dict[str, str]:
    """File name -> text of every page."""
    return {"README.md": index(), **{f"{name}.md": page(name) for name in RECIPES}}
