"""Recipes: which stages run, with which numbers, and where each number comes from. Data, not code paths."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """One way from a picture and two phrases to a picture.

    Attributes:
        title, summary: for people.
        score_min, leftovers: entities (methods.md 1.2).
        view, fill, template: what the scorer sees and reads of a region (2).
        gate, gate_drop: whether the presence gate decides that nothing is there, and which rivals it leaves out (3.5).
        threshold, u, norm: how many regions the query means (3).
        beta: multiplier of the cosines; None takes the scorer's own logit scale.
        place_rule: how a region belongs to a part of the frame (4.1).
        shape: `box` edits the box of the region, `mask` its silhouette; other entities stay closed either way.
        dilate: odd kernel size k on ROM's 64x64 grid (6); 1 grows nothing.
        feather: share of the longer side over which the composite fades, inside the edited area.
        change_min: least difference of colour to the source that a candidate keeps; what differs less goes back to the
            source (0 keeps all of the edited area).
        inpaint_input: what an inpainting denoiser sees of the old picture: `masked` or `unmasked` (9.3).
        denoiser: `any`, or `plain`: one that sees neither mask nor masked picture, as the papers' blended sampling has it,
            where the retoucher holds one.
        place_prompt: whether the words for the denoiser also say in which part of the frame the region lies.
        steps, scale, lam, strength, start, noise_mode, progressive: sampling (8, 9).
        removal_scale, removal_prompt: guidance scale (1 means no guidance) and words for the denoiser where the prompt is
            empty.
        candidates: how many are made unless the caller says otherwise.
        rank_mode, alpha, normalise, rank_region: which candidate is best (11).
        sources: for each value that somebody published or measured, where it comes from.
    """

    title: str
    summary: str
    score_min: float = 0.2
    leftovers: str = "one_entity"
    view: str = "mean"
    fill: str = "black"
    template: str = "raw"
    gate: bool = True
    gate_drop: str = "equal"
    threshold: str = "quantile"
    u: float = 0.8
    beta: float | None = None
    norm: str = "softmax"
    place_rule: str = "centroid"
    shape: str = "box"
    dilate: int = 5
    feather: float = 0.024
    change_min: float = 0.2
    inpaint_input: str = "masked"
    denoiser: str = "any"
    place_prompt: bool = False
    steps: int = 20
    scale: float = 2.0
    lam: float = 0.0
    strength: float = 1.0
    start: str = "noise"
    noise_mode: str = "fixed"
    progressive: int | str = 0
    removal_scale: float = 1.0
    removal_prompt: str = "background"
    candidates: int = 4
    rank_mode: str = "localised"
    alpha: float = 5.0
    normalise: str = "minmax"
    rank_region: str = "background"
    sources: dict[str, str] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """Every number of the recipe as plain values, without titles and sources."""
        return {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in ("title", "summary", "sources")
        }


DEFAULT = "default"

RECIPES: dict[str, Recipe] = {
    DEFAULT: Recipe(
        title="Text Retouch",
        summary="entities, crop views, presence gate, adaptive threshold, place words, inpainting, zero-shot ranking",
        rank_mode="zero_shot",
        sources={
            "leftovers": "ours: a query for the sky or the wall must find a mask",
            "view": "ours: average of the cut-out and the plain crop",
            "gate": "ours: methods.md 3.5, calibrated on tune scenes",
            "threshold": "Guo et al. (S00) 3.2.2, read as a quantile",
            "beta": "the scorer's own logit scale",
            "dilate": "ROM (S03) fig. 8: under-coverage is worse than over-coverage",
            "shape": "ours: a new thing needs other room than the old one had",
            "change_min": "ours, after DiffEdit 3.2: chosen on tune scenes",
            "scale": "ours: chosen on tune scenes (retouch_core/models/embedded/README.md)",
            "removal_prompt": "ours: nothing is seen in 20 of 20 tune candidates; with the empty prompt in 11 of 20",
            "rank_mode": "ours: chosen on tune scenes; ROM's localised score against the scorer's other words",
        },
    ),
    "blended": Recipe(
        title="Blended latent diffusion",
        summary="the default with a denoiser that sees neither mask nor masked picture, told where to draw in words",
        denoiser="plain",
        place_prompt=True,
        scale=4.0,
        rank_mode="zero_shot",
        sources={
            "denoiser": "blended latent diffusion (Avrahami et al. 2023), as S00 3.3 and ROM (S03) use it",
            "place_prompt": "ours: a noisy latent alone does not say where there is room",
            "scale": "ours: chosen on tune scenes; blended latent diffusion on LDM uses 5",
            "rank_mode": "ours: chosen on tune scenes, as for the default",
        },
    ),
    "s00": Recipe(
        title="Text-guided mask-free local retouching (S00)",
        summary="entities, whole-frame views, adaptive threshold, nine-cell location, blended latent diffusion, CMA + IQA",
        leftovers="components",
        view="full+black",
        beta=100.0,
        shape="mask",
        dilate=1,
        feather=0.0,
        change_min=0.0,
        denoiser="plain",
        steps=50,
        scale=5.0,
        candidates=4,
        rank_mode="s00",
        rank_region="full",
        sources={
            "view": "S00 eq. 1 and 2: I * M on the whole frame",
            "template": "S00: the whole query, raw",
            "gate": "ours: S00 has none; nothing found must be a result",
            "denoiser": "S00 3.3: blended latent diffusion over a text-to-image model",
            "threshold": "S00 3.2.2 after TRT; quantile reading",
            "u": "unpublished; between TRT's settings 0.6 and 0.95",
            "beta": "unpublished; OpenAI CLIP's logit scale",
            "place_rule": "S00 3.2.3: nine regions; centroid is our reading",
            "dilate": "S00 has no dilation",
            "steps": "unpublished; blended latent diffusion uses 50 DDIM steps",
            "scale": "unpublished; blended latent diffusion on LDM uses 5",
            "start": "S00 eq. 4: the source noised to each level outside the mask",
            "candidates": "S00 table 1: m = 4",
            "rank_mode": "S00 eq. 5-7",
            "alpha": "S00 eq. 7: 5",
            "normalise": "unpublished; min-max fits table 1 (methods.md 11.1)",
        },
    ),
}


def recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe {name!r} does not exist; choose one of {', '.join(RECIPES)}")
    return RECIPES[name]


def recipe_table() -> str:
    """Every recipe as text: one value a line, with its source where one is known."""
    blocks = []
    for name, entry in RECIPES.items():
        lines = [f"{name}: {entry.title}", f"  {entry.summary}"]
        for key, value in entry.settings().items():
            source = entry.sources.get(key, "")
            shown = "scorer's own" if value is None else value
            lines.append(f"  {key:<14} {shown!s:<14} {source}".rstrip())
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)
