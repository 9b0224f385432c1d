"""RetouchPruneCandidates: which candidates a sampler gives up on the way."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..retouch_core.ranking.rank import MODES, TEXT_MODES
from ..retouch_core.recipes import HALVING
from ..retouch_core.tensors.checks import check_range
from . import _types
from ._pruning import Pruning

(FIRST_AT, FIRST_KEEP), (SECOND_AT, SECOND_KEEP) = HALVING


def _share(name: str, default: float, tooltip: str) -> Any:
    return io.Float.Input(name, default=default, min=0.01, max=0.99, step=0.01, round=0.0001, tooltip=tooltip)


class RetouchPruneCandidates(io.ComfyNode):
    """Successive halving: unfinished candidates are ranked twice, and only the best go on."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _types.schema(
            node_id="RetouchPruneCandidates",
            display_name="Prune Candidates",
            description="Many candidates for less: on the way the Region Sampler looks at what they are becoming, ranks "
            "that, and paints only the most promising to the end.",
            search_aliases=["best of", "early stopping", "successive halving", "candidates", "text retouch"],
            inputs=[
                _types.Scorer.Input(
                    "scorer", tooltip="Judges how well an unfinished picture shows the prompt."
                ),
                io.String.Input(
                    "prompt",
                    default="",
                    tooltip="What the edit should show; the same text as in Rank Candidates. Blank, with a query: "
                    "something is removed.",
                ),
                io.String.Input("query", default="", tooltip="What was there before; only for removals."),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default="localised",
                    tooltip="How they are ranked; as in Rank Candidates.",
                ),
                _share("first_at", FIRST_AT, "Share of the steps after which they are ranked first."),
                _share("first_keep", FIRST_KEEP, "Share of the candidates that goes on then."),
                _share("second_at", SECOND_AT, "Share of the steps after which they are ranked again."),
                _share("second_keep", SECOND_KEEP, "Share of the candidates that is painted to the end."),
            ],
            outputs=[_types.Pruning.Output("pruning", tooltip="For the Region Sampler.")],
        )

    @classmethod
    def execute(
        cls,
        scorer: Any,
        prompt: str = "",
        query: str = "",
        mode: str = "localised",
        first_at: float = FIRST_AT,
        first_keep: float = FIRST_KEEP,
        second_at: float = SECOND_AT,
        second_keep: float = SECOND_KEEP,
    ) -> io.NodeOutput:
        """Check the numbers and pass them on."""
        for name, value in (
            ("first_at", first_at),
            ("first_keep", first_keep),
            ("second_at", second_at),
            ("second_keep", second_keep),
        ):
            check_range(value, name, 0, 1, hint="it is a share")
        if second_at <= first_at:
            raise ValueError(f"second_at is {second_at:g}, not after first_at {first_at:g}; make it larger")
        if second_keep >= first_keep:
            raise ValueError(
                f"second_keep is {second_keep:g}, not below first_keep {first_keep:g}; make it smaller"
            )
        prompt, query = prompt.strip(), query.strip()
        if mode in TEXT_MODES and not (prompt or query):
            raise ValueError(
                f"prompt is empty, but mode {mode!r} ranks by it; write what the edit should show, or choose iqa"
            )
        points = ((first_at, first_keep), (second_at, second_keep))
        return io.NodeOutput(Pruning(scorer, prompt, query, mode, points))
