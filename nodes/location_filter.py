"""RetouchLocationFilter: words of place, or cells of a 3x3 grid (methods.md 4)."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import torch
from comfy_api.latest import io

from ..retouch_core.regions.grid import RULES, locate
from ..retouch_core.regions.location import Location, parse_location
from ..retouch_core.tensors.regions import Regions as FoundRegions
from . import _host
from ._regions import check_regions, listed, overlay, union
from ._types import Regions, schema

FALLBACKS = {
    "relaxed": "none lies there, so the whole row or column counts",
    "nothing_there": "none lies there",
}
"""What `locate` did instead -> what the report says."""

ROWS = {"top": 0, "middle": 1, "center": 1, "centre": 1, "bottom": 2}
COLUMNS = {"left": 0, "middle": 1, "center": 1, "centre": 1, "right": 2}


def cells_of(text: str) -> frozenset[tuple[int, int]]:
    """Cells (row, column) of "top left, middle" or of nine digits 0 and 1, row by row; none only for blank text.

    One word names a whole row or column, `middle` the cell in the middle.

    Raises:
        ValueError: anything else.
    """
    flat = re.sub(r"[\s,;/|]+", "", text)
    if re.fullmatch(r"[01]{9}", flat) and "1" in flat:
        return frozenset(divmod(k, 3) for k, digit in enumerate(flat) if digit == "1")
    cells: set[tuple[int, int]] = set()
    for part in filter(None, (piece.strip() for piece in re.split(r"[,;\n]", text.lower()))):
        words = re.split(r"[\s-]+", part)
        if len(words) == 1 and words[0] in ROWS and words[0] in COLUMNS:
            cells.add((1, 1))
        elif len(words) == 1 and words[0] in ROWS:
            cells |= {(ROWS[words[0]], column) for column in range(3)}
        elif len(words) == 1 and words[0] in COLUMNS:
            cells |= {(row, COLUMNS[words[0]]) for row in range(3)}
        elif len(words) == 2 and words[0] in ROWS and words[1] in COLUMNS:
            cells.add((ROWS[words[0]], COLUMNS[words[1]]))
        else:
            raise ValueError(
                f"cells holds {part!r:.60}, which names no cell; write such as 'top left, middle', or nine digits 0 and 1"
            )
    return frozenset(cells)


class RetouchLocationFilter(io.ComfyNode):
    """Filters what it is given; a place where nothing is gets widened once, and the report says so."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RetouchLocationFilter",
            display_name="Location Filter",
            description="Keeps the regions that lie where the sentence says: 'on the left', 'second from the right', "
            "'in the top right corner'. Cells of a 3x3 grid take the place of the sentence.",
            search_aliases=["position", "left", "right", "place", "grid", "text retouch"],
            has_intermediate_output=True,
            inputs=[
                Regions.Input("regions", tooltip="Regions of one picture, best after the threshold."),
                io.String.Input(
                    "query", default="", tooltip="The same sentence; only its words of place count."
                ),
                io.String.Input(
                    "cells",
                    default="",
                    advanced=True,
                    tooltip="Instead of the sentence: 'top left, middle', 'left', or nine digits 0 and 1, row by row.",
                ),
                io.Combo.Input(
                    "place_rule",
                    options=list(RULES),
                    default="centroid",
                    advanced=True,
                    tooltip="How a region belongs to a cell: by its centre, by most of its area, or by half of it.",
                ),
            ],
            outputs=[
                Regions.Output("regions", tooltip="The regions that lie there."),
                io.Mask.Output("mask", tooltip="All of them together."),
                io.String.Output("phrase", tooltip="The words of place that were understood."),
                io.String.Output(
                    "report", tooltip="What was kept, and what was done where nothing lay there."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, cells: str = "") -> bool | str:
        try:
            cells_of(cells or "")
        except ValueError as refusal:
            return str(refusal)
        return True

    @classmethod
    def execute(
        cls, regions: Any, query: str = "", cells: str = "", place_rule: str = "centroid"
    ) -> io.NodeOutput:
        given = check_regions(regions)
        for name, text in (("query", query), ("cells", cells)):
            if not isinstance(text, str):
                raise TypeError(
                    f"{name} must be text, got {type(text).__name__}; leave it blank for any place"
                )
        if place_rule not in RULES:
            raise ValueError(
                f"place_rule must be one of {', '.join(RULES)}, got {place_rule!r}; choose one of them"
            )
        wanted = cells_of(cells)
        if wanted:
            location = Location("cells", cells=wanted, phrase=cells.strip())
        elif query.strip():
            location = parse_location(query)
        else:
            location = Location("none")
        kept = given
        if location.kind not in ("none", "relative") and len(given):
            kept = _lying(given, location, place_rule)
        where = f"“{location.phrase}”" if location.phrase else "No words of place"
        said = f"{where}: kept {len(kept)} of {len(given)} regions: {listed(kept)}."
        notes = []
        selected = torch.ones(len(given), dtype=torch.bool)
        if kept is not given:
            last = kept.trace[-1]
            selected[:] = False
            selected[torch.tensor(last["selected"], dtype=torch.long)] = True
            notes = [FALLBACKS[last["fallback"]]] if last["fallback"] else []
        if wanted and query.strip():
            notes.append("cells are given, so the words of place in the query do not count")
        if location.kind == "relative":
            notes.append(
                f"“{location.phrase} {location.anchor}” relates to another object and was left in the query"
            )
        report = "\n".join([said, *(f"Note: {note}." for note in notes)])
        return io.NodeOutput(
            kept, union(kept), location.phrase, report, ui=_host.preview(overlay(given, selected), cls)
        )


def _lying(regions: FoundRegions, location: Location, rule: str) -> FoundRegions:
    """Those of the regions that lie there; none if none does."""
    # With equal scores and no words but the place, `locate` counts every region as meant and every rank among them.
    equal = regions.with_scores(torch.zeros(len(regions)))
    found = locate(equal, replace(location, text=""), rule=rule)
    entry = found.trace[-1] | {"text": location.text}
    chosen = regions.select(torch.tensor(entry["selected"], dtype=torch.long))
    return replace(chosen, trace=(*regions.trace, entry))
