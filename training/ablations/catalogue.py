"""Every published ablation as data, system by system. The numbers and words of the papers are those of methods.md 15."""

from __future__ import annotations

from typing import Any

from retouch_core.metrics.distribution import fid, named, sfid

from .design import Ablation, Claim, Metric, Variant, check
from .editing import ORACLE, measure_best_of
from .learned import measure_learned
from .perceptual import perceptual_name
from .referred import COVER, measure_k
from .searching import BEST, IOU, JUST_IT, measure_location, measure_threshold

STRICT = Metric("strict", share=True)
LENIENT = Metric("class and colour", share=True)
LEAKED = Metric("old class or colour", higher=False, share=True)
REMNANT = Metric("remnant", higher=False, share=True)
GONE = Metric("gone", share=True)
FIT = Metric("silhouette IoU")
SSIM, PSNR, MSE = Metric("SSIM"), Metric("PSNR"), Metric("MSE", higher=False)
PERCEPTUAL = Metric(perceptual_name(), higher=False)
FID = Metric(named("FID"), higher=False, of_set=fid)
SFID = Metric(named("SFID"), higher=False, of_set=sfid)
OVERLAP = Metric(IOU)
COVERED = Metric(COVER, share=True)
RIGHT = Metric(JUST_IT, share=True)
BACKGROUND = Metric("background error", higher=False)

ROM: dict[str, Any] = {
    "inpaint_input": "unmasked",
    "shape": "mask",
    "dilate": 3,
    "change_min": 0.0,
    "scale": 15.0,
    "lam": 1.0,
}
"""ROM (S03): the whole picture into the inpainting model, a dilated silhouette, conditional guidance at 15."""
ROM_FULL = {"steps": 100, "candidates": 24}
S00_FULL = {"steps": 200, "candidates": 4}
RDM_FULL = {"steps": 100, "candidates": 12}
SCALES = (1.0, 2.0, 2.5, 5.0, 7.5, 10.0)
DILATIONS = (1, 3, 5, 7)
COUNTS = tuple(range(1, 25))
K_VALUES = (50, 100, 150, 200, 230)
LAMBDAS = (1, 100, 1_000, 10_000, 100_000, 1_000_000)
SWEEP = 0.5
"""Share of the scenes for sweeps in which nothing is ranked, with one candidate each: the whole report has an hour."""
TABLE_1 = (SSIM, PSNR, FID, SFID, MSE, PERCEPTUAL, STRICT)


def _row(name: str, pick: str, *printed: float) -> Variant:
    """A row of S00's table 1, its numbers in the order of the paper's columns."""
    columns = ("SSIM", "PSNR", FID.name, "MSE", PERCEPTUAL.name)
    return Variant(name, pick=pick, published=dict(zip(columns, printed, strict=True)))


def _table_1_claims() -> tuple[Claim, ...]:
    """Each pair of rows that the paper's table orders, by each of its metrics."""
    order = (("IQA", "CMA and IQA"), ("CMA and IQA", "CMA"), ("CMA", "neither"), ("IQA", "neither"))
    printed = {
        "SSIM": (".7218", ".7125", ".7121", ".7042"),
        "PSNR": ("18.68", "17.81", "17.78", "17.74"),
        named("FID"): ("12.79", "14.55", "14.58", "16.73"),
        "MSE": (".0160", ".0190", ".0191", ".0218"),
        PERCEPTUAL.name: (".2499", ".2605", ".2608", ".2673"),
    }
    place = {"IQA": 0, "CMA and IQA": 1, "CMA": 2, "neither": 3}
    claims = [
        Claim(better, worse, metric, "S00 table 1", f"{values[place[better]]} against {values[place[worse]]}")
        for metric, values in printed.items()
        for better, worse in order
    ]
    claims += [Claim(better, worse, SFID.name, "S00 table 1, its FID") for better, worse in order]
    ours = Claim("CMA and IQA", "neither", "strict", "S00 fig. 5", "CMA yields what was asked for")
    return (*claims, ours, Claim("CMA", "IQA", "strict", "S00 fig. 5", "CMA yields what was asked for"))


def _thresholds(key: str, title: str, recipe: str, remark: str) -> Ablation:
    adaptive = "adaptive (quantile)"
    return Ablation(
        key=key,
        title=title,
        paper="S00 section 4.3.1, fig. 3",
        published="a fixed threshold of 0.2 loses entities in complex scenes, the adaptive one keeps them (pictures only)",
        metrics=(OVERLAP,),
        variants=(
            Variant(adaptive, {"mode": "quantile"}),
            Variant("adaptive (largest step)", {"mode": "maxstep"}),
            Variant("adaptive (as TRT's code)", {"mode": "reattention"}),
            Variant("fixed, 0.2", {"mode": "fixed", "tau": 0.2}),
            Variant("fixed, best of tune scenes", {"mode": "fixed", "tau": BEST}),
            Variant("argmax", {"mode": "argmax"}),
        ),
        claims=(
            Claim(adaptive, "fixed, 0.2", IOU, "S00 fig. 3"),
            Claim(adaptive, "fixed, best of tune scenes", IOU),
            Claim(adaptive, "argmax", IOU),
        ),
        recipe=recipe,
        measure=measure_threshold,
        remark=remark,
    )


SEARCH = (
    _thresholds(
        "threshold",
        "Adaptive against fixed threshold and argmax",
        "default",
        "Entities of the embedded segmenter; a quarter of the queries are true of two things. The gate is off.",
    ),
    _thresholds(
        "threshold-s00",
        "The same with S00's views and scale",
        "s00",
        "Whole-frame views and a logit scale of 100, as recipe s00 has them.",
    ),
    Ablation(
        key="location",
        title="Location filter on and off",
        paper="S00 section 4.3.1, fig. 4",
        published="positional restraints are well retained (pictures only)",
        metrics=(OVERLAP, RIGHT),
        variants=(Variant("on", {"place": True}), Variant("off", {"place": False})),
        claims=(
            Claim("on", "off", IOU, "S00 fig. 4"),
            Claim("on", "off", JUST_IT, "S00 fig. 4"),
        ),
        measure=measure_location,
        remark="Two things of one class and colour, and a place word that is true of one of them.",
    ),
)

RANKING = (
    Ablation(
        key="cma-iqa",
        title="Ranking by alignment, by closeness, by both, by neither",
        paper="S00 section 4.3.2, table 1 (T = 200, m = 4)",
        published="closeness alone is best by every metric of closeness, both hardly differ from alignment alone",
        metrics=TABLE_1,
        variants=(
            _row("neither", "first", 0.7042, 17.7389, 16.7268, 0.0218, 0.2673),
            _row("CMA", "cma", 0.7121, 17.7823, 14.5790, 0.0191, 0.2608),
            _row("IQA", "iqa", 0.7218, 18.6803, 12.7913, 0.0160, 0.2499),
            _row("CMA and IQA", "s00", 0.7125, 17.8141, 14.5512, 0.0190, 0.2605),
        ),
        claims=_table_1_claims(),
        recipe="s00",
        candidates=4,
        full=S00_FULL,
        remark="Every metric but the last compares the whole result with the source, so leaving the thing in wins. "
        "The paper has Inception features for FID, and LPIPS; ours have other features, so that only their order compares.",
    ),
    Ablation(
        key="localised-ranking",
        title="Localised against masked ranking",
        paper="S03 section 5.3, fig. 7",
        published="top-ranked results of the localised ranking are usually more realistic (pictures only)",
        metrics=(STRICT, LENIENT, FIT),
        variants=(
            Variant("localised", pick="localised"),
            Variant("masked", pick="masked"),
            Variant("first candidate", pick="first"),
        ),
        claims=(
            Claim("localised", "masked", "strict", "S03 fig. 7"),
            Claim("localised", "masked", "silhouette IoU", "S03 fig. 7"),
            Claim("localised", "first candidate", "strict"),
        ),
        recipe="blended",
        candidates=4,
        full=ROM_FULL,
        remark="The same candidates for all three.",
    ),
    Ablation(
        key="best-of-m",
        title="Best of m candidates",
        paper="S03 section 4.4 (m = 24); S00 (m = 4)",
        published="24 samples and the best by the localised ranking; no number for other m",
        metrics=(
            Metric("localised", share=True),
            Metric("masked", share=True),
            Metric(ORACLE, share=True),
        ),
        variants=tuple(Variant(f"m = {m}", {"m": m}) for m in COUNTS),
        claims=(
            Claim("m = 24", "m = 1", "localised"),
            Claim("m = 24", "m = 4", "localised"),
            Claim("m = 4", "m = 1", "localised"),
            Claim("m = 24", "m = 1", "masked"),
        ),
        recipe="blended",
        measure=measure_best_of,
        candidates=24,
        scenes=0.2,
        full=ROM_FULL,
        remark="Share of scenes that are right by the strict judge: the mean over all subsets of m of 24 candidates, in "
        "closed form. The rankings see the area to edit as it was before sampling.",
    ),
)

GUIDANCE = (
    Ablation(
        key="cfg-scale",
        title="Scale of classifier-free guidance",
        paper="S02 section 4.5, fig. 8",
        published="not competitive without guidance, better above 2.5, 5 by default (pictures only)",
        metrics=(STRICT, LENIENT, FIT, LEAKED),
        variants=tuple(Variant(f"s = {s:g}", {"scale": s}) for s in SCALES),
        claims=(
            Claim("s = 5", "s = 1", "strict", "S02 fig. 8"),
            Claim("s = 5", "s = 2.5", "strict", "S02 fig. 8"),
            Claim("s = 5", "s = 2", "strict", "S02 fig. 8"),
            Claim("s = 5", "s = 10", "strict"),
        ),
        recipe="blended",
        scenes=SWEEP,
        full=RDM_FULL,
    ),
    Ablation(
        key="conditional-cfg",
        title="Conditional against plain classifier-free guidance",
        paper="S03 section 5.2, table 1 and fig. 6",
        published="conditional guidance at s = 15 wins 58.4 % of comparisons with plain guidance at s = 5 (60 people)",
        metrics=(STRICT, LENIENT, LEAKED, FIT),
        variants=(
            Variant("plain, s = 5", {"scale": 5.0, "lam": 0.0}),
            Variant("λ = 0.5, s = 5", {"scale": 5.0, "lam": 0.5}),
            Variant("λ = 1, s = 5", {"scale": 5.0, "lam": 1.0}),
            Variant("plain, s = 15", {"scale": 15.0, "lam": 0.0}),
            Variant("λ = 0.5, s = 15", {"scale": 15.0, "lam": 0.5}),
            Variant("λ = 1, s = 15", {"scale": 15.0, "lam": 1.0}),
        ),
        claims=(
            Claim("λ = 1, s = 15", "plain, s = 5", "strict", "S03 table 1", "58.4 % of comparisons won"),
            Claim(
                "λ = 1, s = 15", "plain, s = 5", "silhouette IoU", "S03 table 1", "58.4 % of comparisons won"
            ),
            Claim("λ = 1, s = 5", "plain, s = 5", "strict"),
            Claim("λ = 0.5, s = 5", "plain, s = 5", "strict"),
            Claim("λ = 1, s = 15", "plain, s = 15", "strict"),
        ),
        base=ROM,
        scenes=SWEEP,
        full=ROM_FULL,
        wins=True,
        remark="Share won: scenes in which one variant is better by the number on the left, ties half. People judged "
        "realism too, which the judge does not.",
    ),
    Ablation(
        key="inpaint-input",
        title="Masked against unmasked picture into the inpainting model",
        paper="S03 section 4.3",
        published="the unmasked picture, so that the model knows what it changes (no number)",
        metrics=(STRICT, LENIENT, LEAKED, FIT),
        variants=(
            Variant("unmasked, λ = 1, s = 15", {"inpaint_input": "unmasked"}),
            Variant("masked, λ = 1, s = 15", {"inpaint_input": "masked"}),
            Variant("unmasked, plain, s = 5", {"inpaint_input": "unmasked", "scale": 5.0, "lam": 0.0}),
            Variant("masked, plain, s = 5", {"inpaint_input": "masked", "scale": 5.0, "lam": 0.0}),
        ),
        claims=(
            Claim("unmasked, λ = 1, s = 15", "masked, λ = 1, s = 15", "strict", "S03 4.3"),
            Claim("unmasked, plain, s = 5", "masked, plain, s = 5", "strict"),
        ),
        base=ROM,
        scenes=SWEEP,
        full=ROM_FULL,
        remark="The embedded denoiser was trained on masked pictures alone, as GLIDE was, whom ROM shows unmasked ones at "
        "sampling time. A denoiser without mask input takes neither, and the variants are then equal.",
    ),
    Ablation(
        key="dilation",
        title="Dilation of the mask",
        paper="S03 section 5.3, fig. 8",
        published="k = 1 and 3 leave boundaries from which the thing is drawn again (pictures only)",
        metrics=(GONE, REMNANT),
        variants=tuple(Variant(f"k = {k}", {"dilate": k}) for k in DILATIONS),
        claims=(
            Claim("k = 5", "k = 1", "gone", "S03 fig. 8"),
            Claim("k = 5", "k = 3", "gone", "S03 fig. 8"),
            Claim("k = 5", "k = 1", "remnant", "S03 fig. 8"),
            Claim("k = 7", "k = 5", "remnant"),
        ),
        base={"shape": "mask", "change_min": 0.0},
        task="removal",
        exact=False,
        scenes=SWEEP,
        full=ROM_FULL,
        remark="Removals with the embedded segmenter's silhouettes. Remnant: share of the pixels in which the old thing "
        "shows, with its shadow, that look as before.",
    ),
)

S01: dict[str, Any] = {"shape": "box", "dilate": 1, "feather": 0.0, "change_min": 0.0}
"""Learnable regions (S01): what is edited is the box itself."""
S01_FULL = {"steps": 50, "candidates": 9}
S01_REMARK = (
    "Candidates are anchors here: K = 3, as the official code has by default, with M = 7 boxes each, of which all are "
    "edited; the caption is the class of the thing alone. A box covers more than a silhouette, so its IoU stays low."
)

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

PENDING = (
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
            Variant("CLIP-guided", {"scale": 1.0, "lam": 0.0, "clip_scale": 150.0}),
        ),
        claims=(
            Claim("conditional, s = 15", "CLIP-guided", "strict", "S03 table 1", "65.8 % of comparisons won"),
            Claim("plain, s = 5", "CLIP-guided", "strict", "S03 table 1", "57.4 % of comparisons won"),
        ),
        base=ROM,
        scenes=SWEEP,
        full=ROM_FULL,
        wins=True,
        needs="guidance losses in the recipe",
    ),
    Ablation(
        key="background-losses",
        title="With and without background losses",
        paper="S02 section 4.5, table 2 and fig. 7",
        published="LPIPS outside the mask .039 with, .143 without",
        metrics=(BACKGROUND, STRICT),
        variants=(
            Variant("with", {"perceptual_scale": 0.5, "l2_scale": 0.5}),
            Variant("without", {"perceptual_scale": 0.0, "l2_scale": 0.0}),
        ),
        claims=(Claim("with", "without", "background error", "S02 table 2", ".039 against .143 LPIPS"),),
        recipe="blended",
        scenes=0.3,
        full=RDM_FULL,
        needs="guidance losses in the recipe, and the decoded candidates as `Result.decoded`",
        remark="Error of the decoded candidates outside the area's box, before the composite, which would make it 0.",
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
        needs="the embedded referrer's weights",
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
            variants=tuple(Variant(f"{symbol} = {v:g}", {name: float(v)}) for v in values),
            claims=tuple(
                Claim(f"{symbol} = 1000", f"{symbol} = {v:g}", metric, "S04 fig. 7") for metric, v in claimed
            ),
            scenes=0.1,
            full={"candidates": 1},
            needs="guidance losses in the recipe, and recipe s04_segformer_clip",
        )
        for short, symbol, name, values, claimed, said in (
            (
                "clip",
                "λ_CLIP",
                "clip_scale",
                LAMBDAS,
                (("strict", 1), ("strict", 1_000_000)),
                "too low: the edit does not come; too high: it leaves the region; 1000 is best (pictures only)",
            ),
            (
                "l2",
                "λ_2",
                "l2_scale",
                (0, *LAMBDAS),
                (("background error", 0), ("strict", 1_000_000)),
                "0 with λ_LPIPS 0: black; 1e5 and 1e6: the edit spills over; 1000 is best (pictures only)",
            ),
            (
                "lpips",
                "λ_LPIPS",
                "perceptual_scale",
                (0, *LAMBDAS),
                (("background error", 0), ("strict", 1_000_000)),
                "0 with λ_2 0: black; 1e5 and 1e6: the edit spills over; 1000 is best (pictures only)",
            ),
        )
    ),
)
"""What cannot be measured yet. To plug one in: fit `changes` to the fields that the recipe got (or give `measure`, a
function of the bench and the ablation, where it is no edit with a recipe), and take `needs` away."""

ABLATIONS: tuple[Ablation, ...] = (*SEARCH, *RANKING, *GUIDANCE, *LEARNED, *PENDING)
"""All of them, in the order of the report."""

check(ABLATIONS)
