"""RetouchLoadEmbedded: the models that ship with the pack, as the host's own."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..retouch_core.models.embedded import DENOISERS, FOLDER, SCORER_NOTES, check_bundle
from ..retouch_core.models.graph_segmenter import GraphSegmenter
from ._bundle import host_autoencoder, host_clip, host_model, host_vision, read_state
from ._referrer import HostReferrer
from ._scorer import HostScorer
from ._types import Referrer, Scorer, Segmenter, schema


def embedded_scorer(bundle: Path, clip: Any) -> HostScorer:
    """The bundle's scorer over the host CLIP `clip` made from the same bundle, with its calibrated presence gate."""
    notes = json.loads((bundle / SCORER_NOTES).read_text(encoding="utf-8"))
    temperature = float(read_state(bundle / "clip")["logit_scale"])
    return HostScorer(
        clip,
        host_vision(bundle),
        logit_scale=math.exp(temperature),
        gate=notes["gate"],
        rivals=notes["rivals"],
    )


class RetouchLoadEmbedded(io.ComfyNode):
    """The shipped networks in ordinary patchers, so that the host loads, moves and unloads them as it does its own."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RetouchLoadEmbedded",
            display_name="Load Embedded Models",
            description=(
                "Loads the small models that ship with Text Retouch: nothing is downloaded. They know drawn scenes of "
                "128 px (16 kinds of thing in 8 colours), enough to try every node; photographs want real checkpoints."
            ),
            search_aliases=["text retouch", "demo models", "tiny models", "segmenter", "scorer"],
            inputs=[
                io.Combo.Input(
                    "denoiser",
                    options=list(DENOISERS),
                    default="inpaint",
                    tooltip="inpaint: a denoiser of nine channels that sees the mask and what lies around it. blended: one of "
                    "four channels that sees neither, as most checkpoints; say in the prompt where the thing lies.",
                )
            ],
            outputs=[
                io.Model.Output("model", tooltip="The denoiser, as any sampler of ComfyUI takes it."),
                io.Clip.Output("clip", tooltip="The text encoder; it knows about 80 words."),
                io.Vae.Output("vae", tooltip="The autoencoder, 8 px a cell."),
                Segmenter.Output("segmenter", tooltip="Finds entities without a network."),
                Scorer.Output("scorer", tooltip="Tells how well a region fits a phrase."),
                Referrer.Output("referrer", tooltip="Tells of every pixel how probably a phrase means it."),
            ],
        )

    @classmethod
    def execute(cls, denoiser: str) -> io.NodeOutput:
        check_bundle(FOLDER)
        if denoiser not in DENOISERS:
            raise ValueError(
                f"denoiser must be one of {', '.join(DENOISERS)}, got {denoiser!r}; choose one of them"
            )
        clip = host_clip(FOLDER)
        scorer = embedded_scorer(FOLDER, clip)
        return io.NodeOutput(
            host_model(FOLDER, DENOISERS[denoiser]),
            clip,
            host_autoencoder(FOLDER),
            GraphSegmenter(),
            scorer,
            HostReferrer(FOLDER, scorer),
        )
