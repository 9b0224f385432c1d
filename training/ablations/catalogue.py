"""Every published ablation as data, system by system. The numbers and words of the papers are those of methods.md 15."""

from __future__ import annotations

from retouch_core.metrics.distribution import named

from .columns import (
    COUNTS,
    DILATIONS,
    FID,
    FIT,
    GONE,
    LEAKED,
    LENIENT,
    MSE,
    OVERLAP,
    PERCEPTUAL,
    PSNR,
    RDM_FULL,
    REMNANT,
    RIGHT,
    ROM,
    ROM_FULL,
    S00_FULL,
    SCALES,
    SFID,
    SSIM,
    STRICT,
    SWEEP,
)
from .design import Ablation, Claim, Metric, Variant, check
from .editing import ORACLE, measure_best_of
from .searching import BEST, IOU, JUST_IT, measure_location, measure_threshold
from .systems import GUIDED, LEARNED

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
        "s00_text_guided",
        "Whole-frame views and a logit scale of 100, as recipe s00_text_guided has them. The best fixed threshold was "
        "fitted to tune scenes of the same kind as the test scenes, which nobody has for photographs.",
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
        recipe="s00_text_guided",
        candidates=4,
        full=S00_FULL,
        remark="Every metric but the last compares the whole result with the source, so leaving the thing in wins: what "
        "the alignment picks shows the new thing more plainly, and so is further from the source than the first candidate, "
        "while closeness alone is right in fewer scenes than no ranking. The paper has Inception features for FID, and LPIPS; ours have other features, so that only their order compares.",
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
        "realism too, which the judge does not. Away from what is there is a longer step than away from nothing, and at "
        "s = 15 it overshoots with this small denoiser: colours saturate and outlines break. At s = 5 the mixture gains, and "
        "the old thing is seen less often the larger λ is, which is what the paper is after.",
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

ABLATIONS: tuple[Ablation, ...] = (*SEARCH, *RANKING, *GUIDANCE, *LEARNED, *GUIDED)
"""All of them, in the order of the report."""

check(ABLATIONS)
