"""Our own recipes."""

from __future__ import annotations

from .recipe import Recipe

OURS: dict[str, Recipe] = {
    "default": Recipe(
        title="Text Retouch",
        summary="entities, crop views, presence gate, adaptive threshold, place words, inpainting, zero-shot ranking",
        rank_mode="zero_shot",
        sources={
            "leftovers": "ours: a query for the sky or the wall must find a mask",
            "view": "ours: average of the cut-out and the plain crop",
            "gate": "ours: calibrated on tune scenes",
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
        title="Blended latent diffusion, told where",
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
}
