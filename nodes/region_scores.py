"""RetouchRegionScores: how well each region fits the words, and whether what they name is there at all (methods.md 2, 3.5)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..retouch_core.models.protocols import Scorer as ScorerRole
from ..retouch_core.regions.location import parse_location
from ..retouch_core.regions.search import (
    GATE_FILL,
    GATE_VIEW,
    are_things,
    is_background,
    score_and_gate,
    with_ground,
)
from ..retouch_core.report import not_found
from ..retouch_core.tensors.checks import check_text, clamped
from ..retouch_core.tensors.regions import Regions as FoundRegions
from . import _host
from ._regions import check_number, check_regions, listed, one_picture, overlay, union
from ._types import Regions, Scorer, schema

VIEWS = ("mean", "crop", "crop+fill", "full+black", "full+mean", "full+blur")
OWN_GATE = -1.0


class RetouchRegionScores(io.ComfyNode):
    """Words of place are left to the Location Filter; the presence gate may answer "not found"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RetouchRegionScores",
            display_name="Score Regions",
            description="Gives every region the score of the phrase, and says where nothing in the picture fits it. "
            "'background' names everything that is not a thing.",
            search_aliases=["clip score", "find by text", "grounding", "text to mask", "text retouch"],
            has_intermediate_output=True,
            inputs=[
                io.Image.Input("image", tooltip="The picture that the regions are of."),
                Regions.Input("regions", tooltip="From Segment Entities or Masks to Regions."),
                Scorer.Input("scorer", tooltip="From Load Embedded Models or Scorer from CLIP."),
                io.String.Input(
                    "query",
                    default="",
                    tooltip="What to change, such as 'the red car on the left'; words of place are not scored.",
                ),
                io.Combo.Input(
                    "view",
                    options=list(VIEWS),
                    default=GATE_VIEW,
                    advanced=True,
                    tooltip="What the scorer sees of a region: the cut-out and the crop averaged, one of them, or the frame.",
                ),
                io.String.Input(
                    "template",
                    default="raw",
                    advanced=True,
                    tooltip="raw: the words as they are; ensemble: three photo phrases; or a text with {}.",
                ),
                io.Float.Input(
                    "gate",
                    default=OWN_GATE,
                    min=OWN_GATE,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Share against rival phrases that counts as present: -1 takes the scorer's own, 0 switches it off.",
                ),
            ],
            outputs=[
                Regions.Output(
                    "regions", tooltip="The regions with scores; none if the phrase is not there."
                ),
                io.Mask.Output("mask", tooltip="All of them together."),
                io.String.Output("report", tooltip="Scores, or why nothing was found."),
            ],
        )

    @classmethod
    @torch.no_grad()
    def execute(
        cls,
        image: Tensor,
        regions: Any,
        scorer: Any,
        query: str,
        view: str = GATE_VIEW,
        template: str = "raw",
        gate: float = OWN_GATE,
    ) -> io.NodeOutput:
        given = check_regions(regions)
        if not isinstance(scorer, ScorerRole):
            raise TypeError(
                f"scorer must be a scorer, got {type(scorer).__name__}; connect Load Embedded Models, Load Scorer or Scorer from CLIP"
            )
        picture = one_picture(image, given)
        query = check_text(query)
        if view not in VIEWS:
            raise ValueError(f"view must be one of {', '.join(VIEWS)}, got {view!r}; {GATE_VIEW} is usual")
        if gate != OWN_GATE:
            check_number(gate, "gate", 0, 1)
        template = check_text(template, "template")
        given = replace(given, picture=picture)
        with _host.noted() as notes:
            seen = clamped(picture)
            scored, shown, said = _scored(seen, given, scorer, query, view, template, gate)
        report = "\n".join([said, *(f"Note: {note}." for note in notes)])
        return io.NodeOutput(scored, union(scored), report, ui=_host.preview(overlay(shown), cls))


def _scored(
    image: Tensor, regions: FoundRegions, scorer: Any, query: str, view: str, template: str, gate: float
) -> tuple[FoundRegions, FoundRegions, str]:
    """The regions to pass on, those to show, and a sentence."""
    if is_background(query):
        _, whole = with_ground(regions.select(are_things(regions)))
        ground = replace(whole.select(torch.arange(len(whole)) == len(whole) - 1), labels=("background",))
        ground = ground.with_scores(torch.ones(1))
        if not ground.masks.any():
            ground = ground.select(torch.zeros(1, dtype=torch.bool))
            return ground, ground, "Entities cover the whole picture, so it has no background."
        return ground, ground, "The background: everything that is not a thing."
    if not len(regions):
        nobody = regions.with_scores(torch.zeros(0))
        return nobody, nobody, not_found(query, ())
    location = parse_location(query)
    text = location.text
    regions = regions.traced("query", query=query, text=text, kind=location.kind, phrase=location.phrase)
    if not text:
        # "the bottom" names a part of the frame, and the ground is in every part: only things count.
        things = regions.select(are_things(regions))
        pool = things if len(things) else regions
        pool = pool.with_scores(torch.zeros(len(pool))).traced("scores", query="", scores=[])
        return pool, pool, f"“{query}” names only a place; {len(pool)} regions are candidates."
    unknown = scorer.unknown_words(text)
    scored, there = score_and_gate(
        image,
        regions,
        text,
        scorer,
        view=view,
        fill=GATE_FILL,
        template=template,
        gate=None if gate == OWN_GATE else gate,
        callback=_host.progress(2 * len(regions)),
    )
    if there is not None and not there.present:
        nobody = scored.select(torch.zeros(len(scored), dtype=torch.bool))
        said = not_found(query, there.per_region.tolist(), gate=there.gate, unknown_words=unknown)
        # Drawn with the numbers of the sentence: the shares, which the gate decides on.
        return nobody, scored.with_scores(there.per_region.float()), said
    said = f"“{text}” against {len(scored)} regions: {listed(scored)}."
    if there is not None and there.gate is None:
        said += " The scorer has no calibrated gate, so the phrase counts as present."
    if unknown:
        said += f" The scorer does not know {', '.join(unknown)}."
    return scored, scored, said
