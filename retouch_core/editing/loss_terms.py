"""Which losses guide a sampler, how strongly and along which path: plain values that can travel over a wire."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from ..models.protocols import Scorer
from ..tensors.checks import check_range, check_text
from .clean_image import ESTIMATES
from .cutouts import CUTTINGS
from .losses import DISTANCES, Perceptual

PATHS = ("detach_unet", "full", "tiny", "linear", "tiny_half")
"""Where the gradient goes (methods.md 10.5). `full`: decoder and denoiser. `detach_unet`: the decoder alone, the
predicted noise held constant. `tiny`: the same through a small decoder. `linear`: one colour a latent cell. `tiny_half`:
the small decoder stopped at half the picture's side (`models.half_decoder`)."""
SMALL = ("tiny", "tiny_half")
"""Paths through a small decoder."""
UPDATES = ("own", "everywhere")
"""Where a term may change the estimate: region terms in the region and background terms outside, or both anywhere."""
WINDOWS = ("region", "frame")
"""What is decoded for the losses: the mask's box with a margin, or the whole frame."""

RDM_SCALE = 150.0
"""Gradient scale of region-aware diffusion (section 4.1)."""
RDM_BACKGROUND = 0.5
"""Its lambda_1 and lambda_2."""
BOUND = 0.1
"""Largest change of the estimate in one step, as a share of its own size (methods.md 10.3)."""
GUIDED_SHARE = 0.7
"""Share of the steps, from the first, that are guided (methods.md 10.5)."""
CUTOUTS = 2
"""Views of the region a step: itself and a warped copy. On 24 tune scenes 1, 2, 4 and 8 views lead equally far (the cosine
with the prompt differs by less than its 95 % interval of 0.009), and every view costs time; diffusers' community pipeline has
4 (methods.md 10.3), the papers 8 and 16."""
MAX_CUTOUTS = 64
MAX_EVERY = 1000


def _number(value: Any, name: str, hint: str) -> None:
    if not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} must be a number of at least 0, got {value!r}; {hint}")


def _choice(value: str, name: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}; use {known[0]}")


@dataclass(frozen=True)
class LossTerms:
    """The losses towards one prompt: scale * (clip * L_clip + perceptual * L_p + l2 * L_2 + value_range * L_r).

    Attributes:
        prompt: what the region should show; needed where `clip` is above 0.
        scorer: the image-text model that says so.
        perceptual_distance: what `perceptual` weighs, a picture distance with a name.
        scale: multiplies all of them; 0 switches them off. Defaults are RDM's (150; 1, 0.5, 0.5).
        clip, perceptual, l2, value_range: weights of the region's distance from the prompt, of the background's
            perceptual and squared distance from the source, and of values outside the range of a picture.
        distance: `cosine` or `spherical`.
        cutouts: views of the region a step.
        cutting: how they are made, one of `cutouts.CUTTINGS`.
    """

    prompt: str = ""
    scorer: Scorer | None = None
    perceptual_distance: Perceptual | None = None
    scale: float = RDM_SCALE
    clip: float = 1.0
    perceptual: float = RDM_BACKGROUND
    l2: float = RDM_BACKGROUND
    value_range: float = 0.0
    distance: str = "cosine"
    cutouts: int = CUTOUTS
    cutting: str = "augment"

    def __post_init__(self) -> None:
        for name in ("scale", "clip", "perceptual", "l2", "value_range"):
            _number(getattr(self, name), name, "0 switches it off")
        _choice(self.distance, "distance", DISTANCES)
        _choice(self.cutting, "cutting", CUTTINGS)
        if not isinstance(self.cutouts, int):
            raise ValueError(f"cutouts must be a whole number, got {self.cutouts!r}; try {CUTOUTS}")
        check_range(self.cutouts, "cutouts", 1, MAX_CUTOUTS, hint=f"try {CUTOUTS}")
        if self.looks_at_region:
            check_text(self.prompt, "prompt")
            if self.scorer is None:
                raise ValueError(
                    f"scorer is None, but clip {self.clip:g} needs one; give a scorer or set clip to 0"
                )
        if self.scale * self.perceptual and self.perceptual_distance is None:
            raise ValueError(
                f"perceptual_distance is None, but perceptual {self.perceptual:g} needs one; give one or set it to 0"
            )

    @property
    def looks_at_region(self) -> bool:
        """Whether the prompt counts."""
        return self.scale * self.clip > 0

    @property
    def looks_at_background(self) -> bool:
        """Whether the background counts."""
        return self.scale * (self.perceptual + self.l2) > 0

    @property
    def active(self) -> bool:
        """Whether anything counts."""
        return self.looks_at_region or self.looks_at_background or self.scale * self.value_range > 0


@dataclass(frozen=True)
class Guidance:
    """Loss terms and how their gradient reaches the sampler.

    Attributes:
        terms: added up; terms that are switched off cost nothing.
        path: one of `PATHS`.
        estimate: the clean picture that the losses see, one of `clean_image.ESTIMATES`.
        bound: largest root mean square of the change in one step, relative to the estimate's, measured where the change
            may act; None does not bound it.
        every: guide each n-th step.
        until: share of the steps, from the first, that may be guided, 0..1.
        update: one of `UPDATES`; means nothing where the sampler holds the source outside the mask.
        window: one of `WINDOWS`.
        seed: of the cut-outs, which are the same for all candidates, so that each is the same alone or in a batch.
        decoder: whoever runs this may keep here what it decodes with on the path `tiny`; the library does not read it.
    """

    terms: tuple[LossTerms, ...] = ()
    path: str = "detach_unet"
    estimate: str = "x0"
    bound: float | None = BOUND
    every: int = 1
    until: float = GUIDED_SHARE
    update: str = "own"
    window: str = "region"
    seed: int = 0
    decoder: Any = None

    def __post_init__(self) -> None:
        _choice(self.path, "path", PATHS)
        _choice(self.estimate, "estimate", ESTIMATES)
        _choice(self.update, "update", UPDATES)
        _choice(self.window, "window", WINDOWS)
        if self.bound is not None and not (math.isfinite(self.bound) and self.bound > 0):
            raise ValueError(
                f"bound must be above 0, got {self.bound!r}; {BOUND} is usual, None does not bound"
            )
        if not isinstance(self.every, int):
            raise ValueError(f"every must be a whole number, got {self.every!r}; 1 guides every step")
        check_range(self.every, "every", 1, MAX_EVERY, hint="1 guides every step")
        check_range(self.until, "until", 0, 1, hint=f"{GUIDED_SHARE} guides the first steps only")

    @property
    def active(self) -> bool:
        """Whether it changes anything at all."""
        return self.until > 0 and any(terms.active for terms in self.terms)

    @property
    def looks_at_region(self) -> bool:
        """Whether any prompt counts."""
        return any(terms.looks_at_region for terms in self.terms)

    def joined(self, before: Guidance | None) -> Guidance:
        """This guidance with the terms of another one in front; the path and its options stay this one's."""
        if before is None:
            return self
        both = (*before.terms, *self.terms)
        return replace(self, terms=both, decoder=self.decoder if self.decoder is not None else before.decoder)

    def described(self) -> dict[str, Any]:
        """Its values for a report, models by name."""
        values: dict[str, Any] = {
            name: getattr(self, name)
            for name in self.__dataclass_fields__
            if name not in ("terms", "decoder")
        }
        values["terms"] = [
            {
                name: getattr(terms, name)
                for name in terms.__dataclass_fields__
                if name not in ("scorer", "perceptual_distance")
            }
            | {"perceptual_distance": getattr(terms.perceptual_distance, "name", None)}
            for terms in self.terms
        ]
        return values
