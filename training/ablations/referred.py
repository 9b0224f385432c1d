"""The ablation of referring segmentation (S02): how much of the picture a threshold K opens, and what then comes of it."""

from __future__ import annotations

from tqdm import tqdm

from retouch_core.metrics.background import mask_iou
from retouch_core.regions.referring import binarised

from .bench import APART, SEED, Bench, cases_of
from .design import Ablation, Measured
from .editing import recipe_of, size_of
from .records import FAILED, seen_in
from .searching import IOU

COVER = "covered"
"""Share of the thing that is open."""
RULE = "inverted"
"""The reading of K that fits the paper's figure (methods.md 5.1)."""


def measure_k(bench: Bench, ablation: Ablation) -> Measured:
    """Every K on the same maps, and an edit of what it opens with the scene's seed.

    Raises:
        ValueError: there is no referrer.
    """
    referrer = bench.retoucher.referrer
    if referrer is None:
        raise ValueError(
            "the bench's retoucher has no referrer; give one that fits models.protocols.Referrer"
        )
    _, count = size_of(bench, ablation)
    made = recipe_of(bench, ablation, {})
    values: dict[str, dict[str, list[float]]] = {
        v.name: {metric.name: [] for metric in ablation.metrics} for v in ablation.variants
    }
    for number, case in enumerate(tqdm(cases_of("edit", count), desc="K", leave=False)):
        heat = referrer.heat_maps(case.image, [case.query])
        truth = case.masks[case.target, None]
        for variant in ablation.variants:
            area = binarised(heat, rule=RULE, k=variant.changes["k"])
            said = {
                IOU: float(mask_iou(area.float(), truth.float())),
                COVER: float(area[truth].float().mean()),
            }
            if area.any():
                result = bench.retoucher.retouch(
                    case.image,
                    case.query,
                    case.prompt,
                    recipe=made,
                    candidates=1,
                    seed=SEED + APART * number,
                    mask=area.float(),
                )
                said |= seen_in(case, result.image, area, bench.judge)
            else:
                said |= {name: FAILED[name] for name in ("strict", "remnant")}
            for name, column in values[variant.name].items():
                column.append(said[name])
    return Measured(values)
