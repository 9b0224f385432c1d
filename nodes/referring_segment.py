"""RetouchReferringSegment: from words to a mask without a segmenter (methods.md 5; RDM, ROM)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..retouch_core.models.protocols import Referrer as ReferrerRole
from ..retouch_core.regions.heat import HeatFound
from ..retouch_core.regions.referring import PICKS, RULES, K, check_rule, refer
from ..retouch_core.regions.threshold import SHARE
from ..retouch_core.tensors.checks import check_image, check_text
from . import _host
from ._regions import check_number, check_regions, listed, one_picture, overlay
from ._types import Referrer, Regions, schema


class RetouchReferringSegment(io.ComfyNode):
    """A map of how probably each pixel is meant, a threshold, and the parts that are left."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RetouchReferringSegment",
            display_name="Referring Segment",
            description="Finds what the words mean in one step: a map over the pixels, cut by RDM's threshold. Connect entities "
            "and it takes those whole that the map names, with their edges.",
            search_aliases=[
                "clipseg",
                "text to mask",
                "referring",
                "grounding",
                "find by text",
                "text retouch",
            ],
            has_intermediate_output=True,
            inputs=[
                io.Image.Input("image", tooltip="The picture. Each picture of a batch goes its own way."),
                Referrer.Input("referrer", tooltip="From Load Embedded Models."),
                io.String.Input(
                    "query",
                    default="",
                    tooltip="What to change, such as 'the red car on the left'; the referrer reads words of place too.",
                ),
                io.Combo.Input(
                    "mode",
                    options=list(RULES),
                    default="inverted",
                    tooltip="How K cuts the map. inverted: from 1 - K/255 up, so that a larger K takes more, as RDM's figures "
                    "show. direct: from K/255 up. rdm_code: the map stretched to its own range, without K.",
                ),
                io.Float.Input(
                    "k", default=K, min=0.0, max=255.0, step=1.0, tooltip="RDM's threshold, of 255."
                ),
                io.Combo.Input(
                    "pick",
                    options=["all", *[name for name in PICKS if name != "all"]],
                    default="all",
                    tooltip="all: everything that passes. best: the part with the highest mean alone, as ROM does.",
                ),
                Regions.Input(
                    "regions",
                    optional=True,
                    tooltip="Entities of this picture, to snap to: those with the highest mean of the map are taken whole.",
                ),
                io.Float.Input(
                    "u",
                    optional=True,
                    default=SHARE,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="With regions connected: share of the means that the kept ones hold; more keeps more.",
                ),
            ],
            outputs=[
                Regions.Output(
                    "regions", is_output_list=True, tooltip="What is meant; none if it is not there."
                ),
                io.Mask.Output("mask", tooltip="All of it together."),
                io.Mask.Output("heat", tooltip="The map itself: how probably each pixel is meant."),
                io.String.Output("report", tooltip="What was found, or how far the map came."),
            ],
        )

    @classmethod
    @torch.no_grad()
    def execute(
        cls,
        image: Tensor,
        referrer: Any,
        query: str,
        mode: str = "inverted",
        k: float = K,
        pick: str = "all",
        regions: Any = None,
        u: float = SHARE,
    ) -> io.NodeOutput:
        if not isinstance(referrer, ReferrerRole):
            raise TypeError(
                f"referrer must be a referrer, got {type(referrer).__name__}; connect Load Embedded Models or Load Referrer"
            )
        query = check_text(query)
        if mode not in RULES:
            raise ValueError(f"mode must be one of {', '.join(RULES)}, got {mode!r}; inverted is usual")
        check_rule(mode, k)
        check_number(u, "u", 0.01, 1)
        if regions is None:
            pictures = check_image(_host.to_work(_host.rgb(image)) if isinstance(image, Tensor) else image)
        else:
            pictures = one_picture(image, check_regions(regions))
        if not len(pictures):
            raise ValueError("image is a batch of no pictures; connect at least one")
        tell = _host.progress(len(pictures))
        found: list[HeatFound] = []
        with _host.noted() as notes:
            for done, picture in enumerate(pictures.split(1), 1):
                _host.check_cancelled()
                found.append(refer(picture, query, referrer, rule=mode, k=k, pick=pick, snap=regions, u=u))
                tell(done, len(pictures))
        shown = [_numbered(one, picture) for one, picture in zip(found, pictures.split(1), strict=True)]
        chosen = [all_of.select(one.selected) for one, all_of in zip(found, shown, strict=True)]
        drawn = [overlay(all_of, one.selected) for one, all_of in zip(found, shown, strict=True)]
        lines = [_said(one, kept, query) for one, kept in zip(found, chosen, strict=True)]
        notes = list(dict.fromkeys([*notes, *(note for one in found for note in one.notes)]))
        return io.NodeOutput(
            chosen,
            _host.to_wire(torch.cat([kept.union() for kept in chosen])),
            _host.to_wire(torch.cat([one.heat for one in found if one.heat is not None])),
            "\n".join([*lines, *(f"Note: {note}." for note in notes)]),
            ui=_host.preview(torch.cat(drawn), cls),
        )


def _numbered(found: HeatFound, picture: Tensor) -> Any:
    """The regions with names and their picture; entities keep the names that they have."""
    labels = found.regions.labels or tuple(str(k + 1) for k in range(len(found.regions)))
    return replace(found.regions, labels=labels, picture=picture)


def _said(found: HeatFound, chosen: Any, query: str) -> str:
    if not found.present:
        return found.message
    share = 100 * float(chosen.union().mean())
    return f"“{query}”: {len(chosen)} of {len(found.regions)} regions, {share:.1f} % of the picture: {listed(chosen)}."
