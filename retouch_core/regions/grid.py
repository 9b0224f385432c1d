"""Regions in a 3x3 grid of the frame, and how a place narrows a selection (methods.md 4.1 and 4.3)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from ..tensors.regions import Regions
from .location import OPPOSITE, Cell, Location
from .threshold import Threshold, adaptive_threshold, describe

RULES = ("centroid", "majority", "overlap")

OVERLAP = 0.5
"""Share of a region that must lie in a part of the frame to count as being there."""

U_POOL = 0.98
"""Share of probability mass among which ranks are counted; wider than a selection, so that ranks see all rivals."""


def grid_lines(length: int) -> Tensor:
    """Column (or row) 0..2 of each of `length` pixels, long [length]: min(2, floor(3 x / length)) at pixel centres."""
    # In whole numbers, since a centre may lie exactly on a grid line.
    return ((2 * torch.arange(length) + 1) * 3 // (2 * length)).clamp(max=2)


def centroid(mask: Tensor) -> tuple[Fraction, Fraction]:
    """Mean (y, x) of the pixel centres of a mask bool [H,W], in pixels and exact.

    Raises:
        ValueError: the mask is empty or not [H,W].
    """
    if mask.ndim != 2:
        raise ValueError(f"mask must have shape [H,W], got {list(mask.shape)}; pass one region at a time")
    rows, columns = mask.sum(1), mask.sum(0)
    count = int(rows.sum())
    if count == 0:
        raise ValueError(f"mask of {mask.shape[1]}x{mask.shape[0]} px is empty; drop empty regions first")
    return _twice_mean(rows, count) / 2, _twice_mean(columns, count) / 2


def cell_of(mask: Tensor, rule: str = "centroid") -> Cell:
    """The cell (row, column) of the 3x3 grid that a mask bool [H,W] belongs to.

    `centroid`: the cell of the mean of its pixel centres, which may hold none of its pixels. `majority`: the cell
    with most of its pixels; of equal ones that whose centre is nearest to the centroid, then the first row by row.

    Raises:
        ValueError: an empty mask, another shape, or another rule.
    """
    if rule not in ("centroid", "majority"):
        raise ValueError(f"rule must be centroid or majority, got {rule!r}; use overlaps() for shares")
    y, x = centroid(mask)
    height, width = mask.shape
    if rule == "centroid":
        return min(2, int(3 * y / height)), min(2, int(3 * x / width))
    counts = _cell_counts(mask)

    def preference(cell: Cell) -> tuple[int, Fraction, Cell]:
        dy = y - Fraction((2 * cell[0] + 1) * height, 6)
        dx = x - Fraction((2 * cell[1] + 1) * width, 6)
        return -counts[cell], dy * dy + dx * dx, cell

    return min(counts, key=preference)


def overlaps(mask: Tensor, cells: Iterable[Cell], least: float = OVERLAP) -> bool:
    """Whether at least the share `least` of a mask bool [H,W] lies in `cells`.

    Raises:
        ValueError: an empty mask or another shape.
    """
    centroid(mask)
    counts = _cell_counts(mask)
    return sum(counts[cell] for cell in set(cells)) >= least * int(mask.sum())


def in_half(mask: Tensor, half: str, least: float = OVERLAP) -> bool:
    """Whether at least the share `least` of a mask bool [H,W] lies in the left, right, top or bottom half.

    A pixel is in the left half if its centre lies left of W/2; a centre on the line belongs to the other half.

    Raises:
        ValueError: an empty mask, another shape, or another half.
    """
    if half not in OPPOSITE:
        raise ValueError(f"half must be one of {', '.join(OPPOSITE)}, got {half!r}; choose one of them")
    centroid(mask)
    height, width = mask.shape
    first = int(mask[:, : width // 2].sum()) if half in ("left", "right") else int(mask[: height // 2].sum())
    total = int(mask.sum())
    return (first if half in ("left", "top") else total - first) >= least * total


def locate(
    regions: Regions,
    location: Location,
    *,
    threshold_kwargs: dict[str, Any] | None = None,
    rule: str = "centroid",
    u_pool: float = U_POOL,
    on_rank: str = "error",
) -> Regions:
    """Threshold scored regions and keep those that are where the query says.

    Cells and halves: the selected regions that lie there. If none does, all regions there are thresholded by
    themselves (fallback `relocated`); if none is there at all, the place is widened once, a corner to its row and
    column, the middle to the middle column and then the middle row (`relaxed`); else the selection stays as it was
    (`location_ignored`). Ranks are counted in a wider pool, by centroid, ties by the other axis, then by score.
    Where the query is nothing but a place (`location.text` is empty), all regions count as selected; if none is there,
    nothing is found (`nothing_there`), for the rest of the picture is the opposite of what was asked.

    Args:
        regions: with scores, for the query without its place; N = 0 gives N = 0.
        threshold_kwargs: for `adaptive_threshold`.
        rule: how a region belongs to cells: `centroid`, `majority`, or `overlap` (half of it lies in them).
        u_pool: share of probability mass of the pool of superlatives and ordinals.
        on_rank: what to do when a rank exceeds the pool: `error`, or `last` (fallback `rank_clipped`).

    Returns:
        The selected regions; the last entry of the trace has kind, tau, k, what was selected and the fallback.

    Raises:
        ValueError: no scores, unknown words for `rule` and `on_rank`, a rank beyond the pool.
    """
    if regions.scores is None:
        raise ValueError("regions carry no scores; run score_regions on them first")
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}; choose one of them")
    if on_rank not in ("error", "last"):
        raise ValueError(f"on_rank must be error or last, got {on_rank!r}; choose one of them")
    options = dict(threshold_kwargs or {})
    result = adaptive_threshold(regions.scores, **options)
    thresholded = result.selected
    by_place_alone = not location.text and location.kind not in ("none", "relative")
    selected = torch.ones_like(thresholded) if by_place_alone else thresholded
    search = _Search(regions, regions.scores, location, options, rule, by_place_alone)

    fallback: str | None = None
    if selected.any() and location.kind in ("cells", "half"):
        selected, fallback, result = search.in_place(selected, result)
    elif selected.any() and location.kind in ("superlative", "ordinal"):
        selected, fallback = search.by_rank(u_pool, on_rank)
    notes = describe(result, options) | {
        "thresholded": thresholded.nonzero()[:, 0].tolist(),
        "kind": location.kind,
        "phrase": location.phrase,
        "text": location.text,
        "cells": sorted(map(list, location.cells)),
        "side": location.side,
        "half": location.half,
        "rank": location.rank,
        "rule": rule,
        "selected": selected.nonzero()[:, 0].tolist(),
        "fallback": fallback,
    }
    if location.kind == "relative":
        notes["warning"] = (
            f"'{location.phrase} {location.anchor}' relates to another object, which the grid cannot use; "
            "it was left in the query"
        )
    return regions.select(selected).traced("locate", **notes)


@dataclass(frozen=True)
class _Search:
    regions: Regions
    scores: Tensor
    location: Location
    options: dict[str, Any]
    rule: str
    by_place_alone: bool

    def in_place(self, selected: Tensor, result: Threshold) -> tuple[Tensor, str | None, Threshold]:
        if self.location.kind == "half":
            half = str(self.location.half)
            places = [self._flags(in_half(mask, half) for mask in self.regions.masks)]
        else:
            places = [
                self._flags(self._is_in(mask, cells) for mask in self.regions.masks)
                for cells in (self.location.cells, *_relaxed(self.location.cells))
            ]
        for number, there in enumerate(places):
            if (selected & there).any():
                return selected & there, "relaxed" if number else None, result
            again = adaptive_threshold(self.scores[there], **self.options)
            if again.selected.any():
                chosen = there.clone()
                chosen[there] = again.selected
                return chosen, "relaxed" if number else "relocated", again
        if self.by_place_alone:
            return torch.zeros_like(selected), "nothing_there", result
        return selected, "location_ignored", result

    def by_rank(self, u_pool: float, on_rank: str) -> tuple[Tensor, str | None]:
        side, rank = str(self.location.side), self.location.rank
        shares = {name: self.options[name] for name in ("beta", "norm") if name in self.options}
        pool = adaptive_threshold(self.scores, u=u_pool, **shares).selected
        if self.by_place_alone:
            pool = torch.ones_like(pool)
        members = pool.nonzero()[:, 0].tolist()
        if rank > len(members) and on_rank == "error":
            raise ValueError(
                f"the query asks for number {rank} from the {side}, but only {len(members)} region(s) match; "
                "ask for a lower number"
            )
        points = {i: centroid(self.regions.masks[i]) for i in members}
        values = self.scores.tolist()

        def key(i: int) -> tuple[Fraction, Fraction, float, int]:
            y, x = points[i]
            along, across = (x, y) if side in ("left", "right") else (y, x)
            return (-along if side in ("right", "bottom") else along), across, -values[i], i

        chosen = torch.zeros_like(pool)
        chosen[sorted(members, key=key)[min(rank, len(members)) - 1]] = True
        return chosen, "rank_clipped" if rank > len(members) else None

    def _is_in(self, mask: Tensor, cells: frozenset[Cell]) -> bool:
        return overlaps(mask, cells) if self.rule == "overlap" else cell_of(mask, self.rule) in cells

    def _flags(self, values: Iterable[bool]) -> Tensor:
        return torch.tensor(list(values), dtype=torch.bool, device=self.scores.device)


def _relaxed(cells: frozenset[Cell]) -> list[frozenset[Cell]]:
    """Wider places to try instead of a single cell, in order; none for rows, columns and unions."""
    if len(cells) != 1:
        return []
    (row, column) = next(iter(cells))
    whole_row = frozenset((row, c) for c in range(3))
    whole_column = frozenset((r, column) for r in range(3))
    if (row, column) == (1, 1):
        return [whole_column, whole_row]
    if row == 1:
        return [whole_column]
    if column == 1:
        return [whole_row]
    return [whole_row | whole_column]


def _twice_mean(counts: Tensor, total: int) -> Fraction:
    """Twice the mean of the pixel centres j + 0.5 that `counts` [L] weighs."""
    centres = 2 * torch.arange(len(counts), device=counts.device) + 1
    return Fraction(int((counts.long() * centres).sum()), total)


def _cell_counts(mask: Tensor) -> dict[Cell, int]:
    rows, columns = (grid_lines(length).to(mask.device) for length in mask.shape)
    index = rows[:, None] * 3 + columns[None]
    counts = torch.bincount(index[mask.bool()], minlength=9).tolist()
    return {(row, column): counts[row * 3 + column] for row in range(3) for column in range(3)}
