"""RetouchLoadReferrer: networks on disk that find by a phrase alone."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..retouch_core.models.pretrained.opening import mask_makers
from ._pretrained import ANY, dtype_input, folders, model_input, opened
from ._types import Referrer, schema

ROLE = "referrer"


def _share(name: str, default: float, tooltip: str) -> io.Float.Input:
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.01, tooltip=tooltip)


def _masks() -> io.Combo.Input:
    return io.Combo.Input(
        "masks",
        options=[ANY, *mask_makers(folders())],
        default=ANY,
        tooltip="The SAM 2 or SAM that turns boxes into masks. auto: one that is there.",
    )


class RetouchLoadReferrer(io.ComfyNode):
    """One handle for Referring Segment, whatever stands behind it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RetouchLoadReferrer",
            display_name="Load Referrer",
            description="Loads what finds a phrase in a photograph without a segmenter. Grounding DINO with SAM 2 tells things "
            "apart and is the usual choice; CLIPSeg gives one soft map and is quick.",
            search_aliases=[
                "clipseg",
                "grounding dino",
                "grounded sam",
                "florence",
                "sam3",
                "owl",
                "text retouch",
            ],
            inputs=[
                io.DynamicCombo.Input(
                    "backend",
                    options=[
                        io.DynamicCombo.Option(
                            "grounding_dino",
                            [
                                model_input(ROLE, "grounding_dino"),
                                _masks(),
                                _share("threshold", 0.3, "Least certainty of a box."),
                                _share("text_threshold", 0.25, "Least certainty that a word is meant."),
                            ],
                        ),
                        io.DynamicCombo.Option("clipseg", [model_input(ROLE, "clipseg")]),
                        io.DynamicCombo.Option(
                            "owlv2",
                            [
                                model_input(ROLE, "owlv2"),
                                _masks(),
                                _share("threshold", 0.1, "Least certainty of a box."),
                            ],
                        ),
                        io.DynamicCombo.Option("florence2", [model_input(ROLE, "florence2")]),
                        io.DynamicCombo.Option(
                            "sam3",
                            [
                                model_input(ROLE, "sam3"),
                                _share("threshold", 0.5, "Least certainty of an instance."),
                            ],
                        ),
                    ],
                    tooltip="Which kind of network; only its own options are shown.",
                ),
                dtype_input(),
            ],
            outputs=[Referrer.Output("referrer", tooltip="For Referring Segment.")],
        )

    @classmethod
    def execute(cls, backend: dict[str, Any], dtype: str = ANY) -> io.NodeOutput:
        options = dict(backend)
        kind = options.pop("backend")
        if options.get("masks") == ANY:
            options["masks"] = ""
        return io.NodeOutput(opened(ROLE, kind, options.pop("model", ANY), dtype, **options))
