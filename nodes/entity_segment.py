"""RetouchEntitySegment: everything in the picture that could be meant (methods.md 1)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..retouch_core.regions.entities import LEFTOVERS, SCORE_MIN, disjoint
from ..retouch_core.regions.search import reduced, restored
from ..retouch_core.tensors.checks import check_image, clamped
from . import _host
from ._regions import check_number, overlay
from ._types import Regions, Segmenter, schema


class RetouchEntitySegment(io.ComfyNode):
    """Picture by picture: the host maps what follows over the lists."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RetouchEntitySegment",
            display_name="Segment Entities",
            description="Finds every entity of a picture without naming it, no pixel in two of them, and numbers them.",
            search_aliases=["segment anything", "entity", "auto mask", "text retouch"],
            has_intermediate_output=True,
            inputs=[
                io.Image.Input("image", tooltip="The picture. Each picture of a batch goes its own way."),
                Segmenter.Input("segmenter", tooltip="From Load Segmenter, or Load Embedded Models."),
                io.Float.Input(
                    "score_min",
                    default=SCORE_MIN,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Proposals with a lower score are left out.",
                ),
                io.Combo.Input(
                    "leftovers",
                    options=["one_entity", *[name for name in LEFTOVERS if name != "one_entity"]],
                    default="one_entity",
                    tooltip="What becomes of pixels that no entity holds: one more entity, nothing, or one for each part.",
                ),
            ],
            outputs=[
                io.Image.Output("image", is_output_list=True, tooltip="The pictures, one by one."),
                Regions.Output("regions", is_output_list=True, tooltip="The entities of each picture."),
                io.Mask.Output("mask", tooltip="All entities of each picture together."),
            ],
        )

    @classmethod
    @torch.no_grad()
    def execute(
        cls, image: Tensor, segmenter: Any, score_min: float = SCORE_MIN, leftovers: str = "one_entity"
    ) -> io.NodeOutput:
        if not callable(segmenter):
            raise TypeError(
                f"segmenter must be a segmenter, got {type(segmenter).__name__}; connect Load Embedded Models or Load Segmenter"
            )
        check_number(score_min, "score_min", 0, 1)
        pictures = check_image(_host.to_work(_host.rgb(image)) if isinstance(image, Tensor) else image)
        if not len(pictures):
            raise ValueError("image is a batch of no pictures; connect at least one")
        tell = _host.progress(len(pictures))
        found = []
        for done, picture in enumerate(pictures.split(1), 1):
            _host.check_cancelled()
            with _host.noted() as notes:
                seen = reduced(clamped(picture))
                proposals, scores = segmenter(seen)
            regions = disjoint(proposals, scores, score_min=score_min, leftovers=leftovers)
            regions = restored(regions, (picture.shape[1], picture.shape[2]))
            regions = regions.traced("picture", warning="; ".join(notes)) if notes else regions
            labels = tuple(str(k + 1) for k in range(len(regions)))
            found.append(replace(regions, labels=labels, picture=picture))
            tell(done, len(pictures))
        drawn = torch.cat([overlay(regions) for regions in found])
        masks = torch.cat([regions.union() for regions in found])
        return io.NodeOutput(list(image.split(1)), found, _host.to_wire(masks), ui=_host.preview(drawn, cls))
