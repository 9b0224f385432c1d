"""Choose the value of the presence gate on tune scenes, and write it beside the scorer with its ROC.

python -m training.calibrate [--scenes 240]
"""

from __future__ import annotations

import argparse
import json
from itertools import chain

import torch
from torch import Tensor

from retouch_core.models.clip_scorer import ClipScorer
from retouch_core.models.embedded import SCORER_NOTES, load_text_parts
from retouch_core.models.graph_segmenter import GraphSegmenter
from retouch_core.models.protocols import Segmenter
from retouch_core.recipes import DEFAULT, recipe
from retouch_core.regions.entities import disjoint
from retouch_core.regions.presence import presence
from retouch_core.regions.scores import embed_regions
from retouch_core.regions.search import GATE_FILL, GATE_VIEW

from .bundle import EMBEDDED, write_manifest
from .evaluation.cases import TOLD, Case, absent, naming
from .world.grounds import GROUND_NAMES
from .world.icons import CLASSES, COLOUR_NAMES

RIVALS = (
    *CLASSES,
    *(f"{colour} thing" for colour in COLOUR_NAMES),
    *(f"{ground} background" for ground in GROUND_NAMES),
    "something else",
)
"""Phrases that compete with a query in the presence gate: everything that the scorer has words for."""

REFUSE = 0.95
"""Share of absent things that the gate must refuse on tune scenes. It is set no higher than that takes, because to
lose what is there is the worse mistake."""

DROPS = ("equal", "related")


def best_shares(case: Case, segmenter: Segmenter, scorer: ClipScorer) -> list[float]:
    """The highest presence g of any entity of the scene, with rivals dropped in each of the ways of DROPS."""
    regions = disjoint(*segmenter(case.image), leftovers="one_entity")
    if not len(regions):
        return [0.0] * len(DROPS)
    seen = embed_regions(case.image, regions, scorer, view=GATE_VIEW, fill=GATE_FILL)
    return [
        presence(case.image, regions, case.query, scorer, gate=0.0, drop=drop, embeddings=seen).best
        for drop in DROPS
    ]


def choose(there: Tensor, missing: Tensor) -> tuple[float, list[dict[str, float]]]:
    """The gate, and the ROC: shares of present kept and of absent refused at a row of gates."""
    gates = torch.linspace(0.01, 0.9, 90)
    curve = [
        {
            "gate": round(float(g), 3),
            "kept": float((there >= g).float().mean()),
            "refused": float((missing < g).float().mean()),
        }
        for g in gates
    ]
    return next(row["gate"] for row in curve if row["refused"] >= REFUSE), curve


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scenes", type=int, default=240)
    args = parser.parse_args()
    model, tokenizer = load_text_parts()
    processor = json.loads((EMBEDDED / "clip" / "preprocessor_config.json").read_text())
    scorer = ClipScorer(
        model, tokenizer, mean=processor["image_mean"], std=processor["image_std"], gate=0.0, rivals=RIVALS
    )
    segmenter = GraphSegmenter()
    third = args.scenes // 3
    named = chain.from_iterable(naming("tune", third, told, start=1000 * i) for i, told in enumerate(TOLD))
    present = torch.tensor([best_shares(case, segmenter, scorer) for case in named]).T
    unmet = absent("tune", args.scenes, start=5000)
    lacking = torch.tensor([best_shares(case, segmenter, scorer) for case in unmet]).T
    areas = {
        drop: float((yes[:, None] > no[None]).float().mean())
        for drop, yes, no in zip(DROPS, present, lacking, strict=True)
    }
    way = recipe(DEFAULT).gate_drop
    print(f"ROC areas: {areas}; the default recipe drops {way}")
    there, missing, area = present[DROPS.index(way)], lacking[DROPS.index(way)], areas[way]
    gate, curve = choose(there, missing)
    notes = {"gate": gate, "rivals": list(RIVALS), "roc_area": round(area, 4), "roc": curve}
    (EMBEDDED / SCORER_NOTES).write_text(json.dumps(notes, indent=1) + "\n")
    write_manifest()
    kept, refused = float((there >= gate).float().mean()), float((missing < gate).float().mean())
    print(f"gate {gate}: keeps {kept:.3f} of present, refuses {refused:.3f} of absent, ROC area {area:.4f}")


if __name__ == "__main__":
    main()
