"""RetouchAdaptiveThreshold: how many of the scored regions the words mean (methods.md 3)."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..retouch_core.regions.threshold import BETA, MODES, NORMS, SHARE, threshold_regions
from . import _host
from ._regions import check_number, check_regions, listed, overlay, union
from ._types import Regions, schema


class RetouchAdaptiveThreshold(io.ComfyNode):
    """The best regions until they hold the share u of the probability, or another rule."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RetouchAdaptiveThreshold",
            display_name="Adaptive Threshold",
            description="Keeps the regions whose scores stand out in this picture, however many they are.",
            search_aliases=["select regions", "top k", "otsu", "text retouch"],
            has_intermediate_output=True,
            inputs=[
                Regions.Input("regions", tooltip="Scored regions, from Score Regions."),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default="quantile",
                    tooltip="quantile: the best until they hold the share u. argmax: the best alone. topk: the best k. "
                    "maxstep: up to the largest gap. fixed: from u up.",
                ),
                io.Float.Input(
                    "u",
                    default=SHARE,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the probability that the kept regions hold; more keeps more.",
                ),
                io.Combo.Input(
                    "norm", options=list(NORMS), default="softmax", advanced=True, tooltip="Scores to shares."
                ),
                io.Float.Input(
                    "beta",
                    default=0.0,
                    min=0.0,
                    max=1000.0,
                    step=1.0,
                    advanced=True,
                    tooltip="Multiplier of the scores; 0 takes the scorer's own.",
                ),
                io.Int.Input(
                    "k", default=1, min=1, max=100, advanced=True, tooltip="How many regions topk keeps."
                ),
            ],
            outputs=[
                Regions.Output("regions", tooltip="The regions that are meant."),
                io.Mask.Output("mask", tooltip="All of them together."),
                io.String.Output("report", tooltip="What was kept, and from which score on."),
            ],
        )

    @classmethod
    def execute(
        cls,
        regions: Any,
        mode: str = "quantile",
        u: float = SHARE,
        norm: str = "softmax",
        beta: float = 0.0,
        k: int = 1,
    ) -> io.NodeOutput:
        given = check_regions(regions)
        check_number(u, "u", 0, 1)
        check_number(beta, "beta", 0)
        check_number(k, "k", 1, whole=True)
        if given.scores is None and len(given):
            raise ValueError(
                f"regions carry no scores, got {len(given)} without; connect Score Regions first"
            )
        own = next((e["logit_scale"] for e in reversed(given.trace) if "logit_scale" in e), BETA)
        options: dict[str, Any] = {"mode": mode, "u": u, "norm": norm, "beta": beta or own, "k": k}
        if mode in ("fixed", "fixed_prob"):
            options["tau"] = u
        if given.scores is None:
            given = given.with_scores(torch.zeros(0))
        kept = threshold_regions(given, **options)
        tau = kept.trace[-1]["tau"]
        selected = torch.zeros(len(given), dtype=torch.bool)
        selected[torch.tensor(kept.trace[-1]["selected"], dtype=torch.long)] = True
        said = f"Kept {len(kept)} of {len(given)} regions from {tau:.3f} up: {listed(kept)}."
        return io.NodeOutput(kept, union(kept), said, ui=_host.preview(overlay(given, selected), cls))
