"""The ablations of guidance losses, referring segmentation and learnable regions, as data."""

from __future__ import annotations

from typing import Any

from .columns import (
    BACKGROUND,
    COVERED,
    FIT,
    K_VALUES,
    LAMBDAS,
    LEAKED,
    LENIENT,
    OVERLAP,
    RDM_FULL,
    REMNANT,
    ROM,
    ROM_FULL,
    STRICT,
    SWEEP,
)
from .design import Ablation, Claim, Variant
from .learned import measure_learned
from .referred import measure_k
from .searching import IOU

S01: dict[str, Any] = {"shape": "box", "dilate": 1, "feather": 0.0, "change_min": 0.0}
"""Learnable regions (S01): what is edited is the box itself."""
S01_FULL = {"steps": 50, "candidates": 9}
S01_REMARK = (
    "Candidates are anchors here: K = 3, as the official code has by default, with M = 7 boxes each, of which all are "
    "edited; the caption is the class of the thing alone. A box covers more than a silhouette, so its IoU stays low."
)

CLIP_ALONE: dict[str, Any] = {
    "scale": 1.0,
    "lam": 0.0,
    "loss_scale": 150.0,
    "loss_perceptual": 0.0,
    "loss_l2": 0.0,
}
S04_SCALE = 1000.0
"""`loss_scale` of the recipe, by which its weights are multiplied."""

LEARNED = (
    Ablation(
        key="anchors",
        title="Anchored boxes against random anchors and random sizes",
        paper="S01, ablation study",
        published="preferred in 83.9 % against random anchors and sizes, 71.0 % against attention anchors of random size",
        metrics=(OVERLAP, STRICT, REMNANT),
        variants=(
            Variant("learned", {"anchors": "attention", "mode": "auto"}),
            Variant("attention anchors, random size", {"anchors": "attention", "mode": "random"}),
            Variant("random anchors, random size", {"anchors": "random", "mode": "random"}),
        ),
        claims=(
            Claim("learned", "random anchors, random size", "strict", "S01", "83.9 % of comparisons won"),
            Claim("learned", "attention anchors, random size", "strict", "S01", "71.0 % of comparisons won"),
        ),
        wins=True,
        base=S01,
        measure=measure_learned,
        candidates=3,
        scenes=0.1,
        full=S01_FULL,
        remark=S01_REMARK,
    ),
    Ablation(
        key="region-losses",
        title="Without the direction loss, without the structure loss",
        paper="S01, losses",
        published="all three losses are used with weight 1; no number for fewer",
        metrics=(OVERLAP, STRICT, REMNANT),
        variants=(
            Variant("all losses", {}),
            Variant("without L_dir", {"direction": 0.0}),
            Variant("without L_str", {"structure": 0.0}),
        ),
        claims=(
            Claim("all losses", "without L_dir", "strict", "S01"),
            Claim("all losses", "without L_str", "strict", "S01"),
        ),
        base=S01,
        measure=measure_learned,
        candidates=3,
        scenes=0.1,
        full=S01_FULL,
        remark=S01_REMARK,
    ),
)

GUIDED = (
    Ablation(
        key="clip-guided",
        title="CLIP-guided against classifier-free against conditional guidance",
        paper="S03 table 1; S02 table 1",
        published="S03: ours wins 65.8 % against CLIP-guided and 58.4 % against plain guidance, plain wins 57.4 % against "
        "CLIP-guided; S02: CLIP score .843 CLIP-guided, .849 RDM",
        metrics=(STRICT, LENIENT, LEAKED, FIT),
        variants=(
            Variant("conditional, s = 15", {"scale": 15.0, "lam": 1.0}),
            Variant("plain, s = 5", {"scale": 5.0, "lam": 0.0}),
            Variant("CLIP-guided", CLIP_ALONE),
        ),
        claims=(
            Claim("conditional, s = 15", "CLIP-guided", "strict", "S03 table 1", "65.8 % of comparisons won"),
            Claim("plain, s = 5", "CLIP-guided", "strict", "S03 table 1", "57.4 % of comparisons won"),
        ),
        base=ROM,
        scenes=SWEEP,
        full=ROM_FULL,
        wins=True,
        remark="CLIP-guided as GLIDE's: the denoiser reads the prompt, no classifier-free guidance, the CLIP term of RDM's "
        "scale with bounded steps.",
    ),
    Ablation(
        key="background-losses",
        title="With and without background losses",
        paper="S02 section 4.5, table 2 and fig. 7",
        published="LPIPS outside the mask .039 with, .143 without",
        metrics=(BACKGROUND, STRICT),
        variants=(
            Variant("with", {"loss_perceptual": 0.5, "loss_l2": 0.5}),
            Variant("without", {"loss_perceptual": 0.0, "loss_l2": 0.0}),
            Variant("with, nothing held", {"loss_perceptual": 0.5, "loss_l2": 0.5, "hold": False}),
            Variant("without, nothing held", {"loss_perceptual": 0.0, "loss_l2": 0.0, "hold": False}),
        ),
        claims=(
            Claim("with", "without", "background error", "S02 table 2", ".039 against .143 LPIPS"),
            Claim("with, nothing held", "without, nothing held", "background error"),
            Claim("with, nothing held", "without, nothing held", "strict"),
        ),
        recipe="s02_rdm",
        base={"find": "entities"},
        scenes=0.2,
        full=RDM_FULL,
        remark="Error of the decoded candidates outside the area's box, before the composite, which would make it 0. "
        "Where every step puts the source back, its latents are the source's with or without the losses.",
    ),
    Ablation(
        key="k-sweep",
        title="Threshold K of the referring segmentation",
        paper="S02 section 4.5, fig. 6",
        published="too small a K covers less than the thing, from some K on nothing changes; 150 by default (pictures only)",
        metrics=(OVERLAP, COVERED, STRICT, REMNANT),
        variants=tuple(Variant(f"K = {k}", {"k": k}) for k in K_VALUES),
        claims=(
            Claim("K = 150", "K = 50", COVERED.name, "S02 fig. 6"),
            Claim("K = 150", "K = 50", "remnant", "S02 fig. 6"),
            Claim("K = 150", "K = 50", "strict", "S02 fig. 6"),
            Claim("K = 150", "K = 230", IOU),
        ),
        recipe="blended",
        base={"shape": "mask", "dilate": 1, "feather": 0.0, "change_min": 0.0},
        measure=measure_k,
        scenes=0.3,
        full=RDM_FULL,
        remark="K by the reading of methods.md 5.1 in which a larger one opens more; the silhouette of the map is what "
        "is edited.",
    ),
    *(
        Ablation(
            key=f"s04-{short}",
            title=f"Sweep of {symbol} in S04",
            paper="S04 section 4.2, fig. 7",
            published=said,
            metrics=(STRICT, LENIENT, BACKGROUND),
            variants=tuple(Variant(f"{symbol} = {v:g}", {name: v / S04_SCALE}) for v in values),
            claims=tuple(
                Claim(f"{symbol} = 1000", f"{symbol} = {v:g}", metric, "S04 fig. 7") for metric, v in claimed
            ),
            scenes=0.1,
            full={"candidates": 1},
            recipe="s04_segformer_clip",
            remark="Weights of pixels, taken over for latents as they are; the others stay at 1000. Where LPIPS's weights are "
            "not on disk the perceptual term is a distance of the scorer's features, whose gradient disturbs the background "
            "that the L2 term alone holds, the more the larger its weight.",
        )
        for short, symbol, name, values, claimed, said in (
            (
                "clip",
                "λ_CLIP",
                "loss_clip",
                LAMBDAS,
                (("strict", 1), ("strict", 1_000_000)),
                "too low: the edit does not come; too high: it leaves the region; 1000 is best (pictures only)",
            ),
            (
                "l2",
                "λ_2",
                "loss_l2",
                (0, *LAMBDAS),
                (("background error", 0), ("strict", 1_000_000)),
                "0 with λ_LPIPS 0: black; 1e5 and 1e6: the edit spills over; 1000 is best (pictures only)",
            ),
            (
                "lpips",
                "λ_LPIPS",
                "loss_perceptual",
                (0, *LAMBDAS),
                (("background error", 0), ("strict", 1_000_000)),
                "0 with λ_2 0: black; 1e5 and 1e6: the edit spills over; 1000 is best (pictures only)",
            ),
        )
    ),
)
"""Guidance losses (S02, S04) and referring segmentation (S02)."""
