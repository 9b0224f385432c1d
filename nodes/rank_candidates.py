"""RetouchRankCandidates: the best of several edits, and why (methods.md 11)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from comfy_api.latest import io
from torch import Tensor

from ..retouch_core.ranking.rank import ALPHA, MODES, Ranking, rank, rank_removal
from ..retouch_core.sheet import Panel, fitted, panel_sheet
from ..retouch_core.tensors.checks import check_image, clamped, fit_mask
from . import _host
from ._types import Scorer, schema

TILE = 256
"""Longer side of each picture on the contact sheet, in pixels."""
COLUMNS = 4


class RetouchRankCandidates(io.ComfyNode):
    """Every candidate stays; only their order changes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RetouchRankCandidates",
            display_name="Rank Candidates",
            description="Sorts candidates by how well the edited place shows the prompt (or by closeness to the source), "
            "and shows all of them with their scores, the best one framed.",
            search_aliases=["best of n", "pick", "clip score", "choose", "sort", "text retouch"],
            has_intermediate_output=True,
            inputs=[
                io.Image.Input("candidates", tooltip="The edits, as the Region Sampler gives them."),
                io.Image.Input("source", tooltip="The picture before the edit."),
                io.Mask.Input("mask", tooltip="Where it was edited."),
                Scorer.Input("scorer", tooltip="Judges how well a picture shows a text."),
                io.String.Input(
                    "prompt",
                    default="",
                    tooltip="What the edit should show. Blank, with a query: something was removed.",
                ),
                io.String.Input("query", default="", tooltip="What was there before; only for removals."),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default="localised",
                    tooltip="localised: the place of the edit against the prompt. masked: only what is inside the mask. "
                    "cma: the whole picture. iqa: closeness to the source. s00: cma less alpha times the distance. "
                    "zero_shot: what each candidate changed, the prompt against the other things the scorer knows. "
                    "quality: the whole picture against prompt and source, among the three best by prompt.",
                ),
                io.Float.Input(
                    "alpha",
                    default=ALPHA,
                    min=0.0,
                    max=1000.0,
                    step=0.5,
                    advanced=True,
                    tooltip="Weight of the distance from the source in mode s00.",
                ),
                io.Int.Input(
                    "keep",
                    default=0,
                    min=0,
                    max=4096,
                    advanced=True,
                    tooltip="How many of the sorted candidates to pass on; 0 passes all.",
                ),
            ],
            outputs=[
                io.Image.Output("best", tooltip="The best candidate."),
                io.Image.Output("sorted", tooltip="All candidates, best first."),
                io.String.Output("report", tooltip="The order with its scores."),
            ],
        )

    @classmethod
    @torch.no_grad()
    def execute(
        cls,
        candidates: Tensor,
        source: Tensor,
        mask: Tensor,
        scorer: Any,
        prompt: str,
        query: str = "",
        mode: str = "localised",
        alpha: float = ALPHA,
        keep: int = 0,
    ) -> io.NodeOutput:
        made = check_image(_host.to_work(_host.rgb(candidates)), "candidates")
        before = check_image(_host.to_work(_host.rgb(source)), "source", batch=1)
        if not len(made):
            raise ValueError("candidates is a batch of no pictures; connect at least one")
        if made.shape[1:] != before.shape[1:]:
            raise ValueError(
                f"candidates are {made.shape[2]}x{made.shape[1]} px but source is {before.shape[2]}x{before.shape[1]}; "
                "rank pictures of the source's size"
            )
        if not isinstance(keep, int) or keep < 0:
            raise ValueError(f"keep must be a whole number from 0 up, got {keep!r}; 0 passes all")
        if not math.isfinite(alpha):
            raise ValueError(f"alpha must be a finite number, got {alpha!r}; 5 is usual")
        area, note = fit_mask(_host.to_work(mask), (before.shape[1], before.shape[2]))
        area = area.amax(0, keepdim=True) if len(area) else before.new_zeros(1, *before.shape[1:3])
        with _host.noted() as notes:
            seen = clamped(made, "candidates")
            if not prompt.strip() and query.strip() and (area > 0).any():
                ranking = rank_removal(clamped(before, "source"), seen, area, scorer, query.strip())
                by = f"removal of “{query.strip()}”"
            else:
                ranking = rank(
                    clamped(before, "source"), seen, area, scorer, prompt.strip(), mode=mode, alpha=alpha
                )
                by = f"{mode}, “{prompt.strip()}”" if prompt.strip() else "closeness to the source"
        notes += [line for line in (note, ranking.fallback) if line]
        if not (area > 0).any():
            notes.append("the mask is empty, so nothing was edited and every candidate is the source")
        order = ranking.order[: keep or None].to(candidates.device)
        sheet = _sheet(made, ranking, by)
        return io.NodeOutput(
            candidates[order[:1]],
            candidates[order],
            _report(ranking, by, notes),
            ui=_host.preview(sheet, cls),
        )


def _report(ranking: Ranking, by: str, notes: list[str]) -> str:
    lines = [f"Ranked {len(ranking.order)} candidates by {by}; higher is better."]
    for place, k in enumerate(ranking.order.tolist(), 1):
        parts = ", ".join(f"{name} {float(values[k]):.4f}" for name, values in ranking.parts.items())
        lines.append(
            f"{place}. candidate {k + 1}: {float(ranking.scores[k]):.4f}" + (f" ({parts})" if parts else "")
        )
    return "\n".join([*lines, *(f"Note: {note}." for note in notes)])


def _sheet(made: Tensor, ranking: Ranking, by: str) -> Tensor:
    """The candidates in the order of their seeds as one IMAGE [1,h,w,3]; the best one is framed."""
    panels = [
        Panel(
            fitted(picture, TILE),
            f"{k + 1}: {float(ranking.scores[k]):.3f}" + (" best" if k == ranking.best else ""),
            k == ranking.best,
        )
        for k, picture in enumerate(made)
    ]
    rows = [panels[first : first + COLUMNS] for first in range(0, len(panels), COLUMNS)]
    drawn = panel_sheet(rows, by, tile=TILE)
    return torch.from_numpy(np.asarray(drawn, dtype=np.float32) / 255)[None]
