"""RetouchLoadSegmenter: finds entities in photographs, with networks that lie on disk."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..retouch_core.models.graph_segmenter import GraphSegmenter
from ._pretrained import ANY, dtype_input, model_input, opened
from ._types import Segmenter, schema

ROLE = "segmenter"
EMBEDDED = "embedded"
"""The one that needs no file: graph segmentation, for drawn scenes."""


def _share(name: str, default: float, tooltip: str) -> io.Float.Input:
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.01, advanced=True, tooltip=tooltip)


def _grid() -> list[Any]:
    """What automatic masks of points are asked with (SAM's own generator)."""
    return [
        io.Int.Input(
            "points_per_side",
            default=32,
            min=1,
            max=128,
            tooltip="Points along each side of the picture, each of which asks for a mask: 32 finds small things, 16 takes a "
            "quarter of the time.",
        ),
        _share("pred_iou_min", 0.88, "Least quality that the network itself gives a mask."),
        _share("stability_min", 0.95, "Least agreement of a mask with itself at other cut-offs."),
    ]


def _panoptic() -> list[Any]:
    """What panoptic networks filter with."""
    return [
        _share("score_min", 0.8, "Least certainty of an entity."),
        _share("overlap_min", 0.8, "Least share of an entity that must be its own."),
    ]


def _split() -> io.Boolean.Input:
    return io.Boolean.Input(
        "split_components",
        default=False,
        tooltip="One mask for each separate part of a class, as place words need (the left car), instead of one a class.",
    )


class RetouchLoadSegmenter(io.ComfyNode):
    """One handle for Segment Entities, whatever stands behind it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RetouchLoadSegmenter",
            display_name="Load Segmenter",
            description="Loads what finds the entities of a photograph. EoMT gives things and grounds in one pass and is the "
            "usual choice; SAM and SAM 2 have finer edges and find parts too; SegFormer gives one mask a class.",
            search_aliases=[
                "sam",
                "sam2",
                "eomt",
                "segformer",
                "segment anything",
                "panoptic",
                "text retouch",
            ],
            inputs=[
                io.DynamicCombo.Input(
                    "backend",
                    options=[
                        io.DynamicCombo.Option("eomt", [model_input(ROLE, "eomt"), *_panoptic()]),
                        io.DynamicCombo.Option("sam2", [model_input(ROLE, "sam2"), *_grid()]),
                        io.DynamicCombo.Option("segformer", [model_input(ROLE, "segformer"), _split()]),
                        io.DynamicCombo.Option("sam", [model_input(ROLE, "sam"), *_grid()]),
                        io.DynamicCombo.Option(
                            "mask2former", [model_input(ROLE, "mask2former"), *_panoptic()]
                        ),
                        io.DynamicCombo.Option("oneformer", [model_input(ROLE, "oneformer"), *_panoptic()]),
                        io.DynamicCombo.Option(EMBEDDED, []),
                    ],
                    tooltip="Which kind of network; only its own options are shown.",
                ),
                dtype_input(),
            ],
            outputs=[Segmenter.Output("segmenter", tooltip="For Segment Entities.")],
        )

    @classmethod
    def execute(cls, backend: dict[str, Any], dtype: str = ANY) -> io.NodeOutput:
        options = dict(backend)
        kind = options.pop("backend")
        if kind == EMBEDDED:
            return io.NodeOutput(GraphSegmenter())
        return io.NodeOutput(opened(ROLE, kind, options.pop("model", ANY), dtype, **options))
