"""What a recipe is: the stages that run and their numbers, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

FINDERS = ("entities", "refer", "contrast", "learn")
DENOISER_KINDS = ("any", "plain")
RECONSTRUCTIONS = ("none", "weights", "latent")
HALVING = ((0.25, 0.375), (0.5, 0.1875))
"""When which share of many candidates goes on: of 16 in 20 steps 6 after 5 and 3 after 10, 0.44 of the work
(benchmarks/pruning.py)."""


@dataclass(frozen=True)
class Recipe:
    """One way from a picture and two phrases to a picture.

    Attributes:
        title, summary: for people.
        find: how the region is found, one of `FINDERS`: `entities` (segments that the scorer compares with the query), `refer` (a
            referring segmenter's map), `contrast` (where the predictions for query and prompt differ), `learn` (boxes
            that are edited, and the best of them).
        score_min, leftovers: entities (methods.md 1.2).
        view, fill, template: what the scorer sees and reads of a region (2).
        gate, gate_drop: whether the presence gate decides that nothing is there, and which rivals it leaves out (3.5).
        threshold, u, norm: how many regions the query means (3).
        beta: multiplier of the cosines; None takes the scorer's own logit scale.
        place_rule: how a region belongs to a part of the frame (4.1).
        refer_rule, refer_k, refer_pick, snap: which part of a referrer's map counts, and whether entities lend it their
            edges (5).
        draws, contrast_ratio: draws of noise of `contrast`, and the multiple of the mean at which its map is cut (13).
        sizes, learn_mode, learn_template: boxes at each place of `learn`, which tries one place a candidate; how the best
            are found; and the words around the prompt for its losses (7).
        shape: `box` edits the box of the region, `mask` its silhouette; other entities stay closed either way.
        dilate: odd kernel size k on ROM's 64x64 grid (6); 1 grows nothing.
        feather: share of the longer side over which the composite fades, inside the edited area.
        change_min: least difference of colour to the source that a candidate keeps; what differs less goes back to the
            source (0 keeps all of the edited area), and what of the autoencoder's own error is taken back fades with it.
        work_size: what the denoiser works on: `full`, the whole picture scaled to the model's size; `auto`, a crop around
            the region at the model's size, scaled down only where the region with its surroundings is larger; or a side
            in px for such a crop. Pictures that are no larger than that side are worked on as a whole.
        inpaint_input: what an inpainting denoiser sees of the old picture: `masked` or `unmasked` (9.3).
        denoiser: `any`, or `plain`: one that sees neither mask nor masked picture, as the papers' blended sampling has it,
            where the retoucher holds one.
        place_prompt: whether the words for the denoiser also say in which part of the frame the region lies.
        prompted: whether the denoiser reads the prompt; if not, only the losses lead it.
        hold: whether every step puts the source back outside the region.
        steps, scale, lam, strength, start, noise_mode, progressive: sampling (8, 9).
        loss_scale: what multiplies the losses that guide the sampler (10); 0 switches them off.
        loss_clip, loss_perceptual, loss_l2, loss_range: their weights.
        loss_path, loss_estimate, loss_distance, loss_cutouts, loss_cutting, loss_bound, loss_every, loss_until,
            loss_update, loss_window: as in `editing.loss_terms.Guidance` and `LossTerms`.
        reconstruct: whether the decoder's `weights`, or the `latent`, are fitted to the source outside the mask (8.5).
        removal_scale, removal_prompt: guidance scale (1 means no guidance) and words for the denoiser where the prompt is
            empty.
        candidates: how many are made unless the caller says otherwise.
        prune: pairs (share of the steps, share of the candidates that goes on): there the clean estimates are ranked and
            only the best are painted to the end. Without pairs all are.
        rank_mode, alpha, normalise, rank_region: which candidate is best (11).
        sources: for each value that somebody published or measured, where it comes from.
        substitutes: part of the published system -> what stands here in its place, and why.
    """

    title: str
    summary: str
    find: str = "entities"
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
    refer_rule: str = "inverted"
    refer_k: float = 150.0
    refer_pick: str = "all"
    snap: bool = False
    draws: int = 10
    contrast_ratio: float = 3.0
    sizes: int = 7
    learn_mode: str = "auto"
    learn_template: str = "{}"
    shape: str = "box"
    dilate: int = 5
    feather: float = 0.024
    change_min: float = 0.2
    work_size: int | str = "full"
    inpaint_input: str = "masked"
    denoiser: str = "any"
    place_prompt: bool = False
    prompted: bool = True
    hold: bool = True
    steps: int = 20
    scale: float = 2.0
    lam: float = 0.0
    strength: float = 1.0
    start: str = "noise"
    noise_mode: str = "fixed"
    progressive: int | str = 0
    loss_scale: float = 0.0
    loss_clip: float = 1.0
    loss_perceptual: float = 0.5
    loss_l2: float = 0.5
    loss_range: float = 0.0
    loss_path: str = "tiny_half"
    loss_estimate: str = "x0"
    loss_distance: str = "cosine"
    loss_cutouts: int = 2
    loss_cutting: str = "augment"
    loss_bound: float | None = 0.1
    loss_every: int = 1
    loss_until: float = 0.7
    loss_update: str = "own"
    loss_window: str = "region"
    reconstruct: str = "none"
    removal_scale: float = 1.0
    removal_prompt: str = "background"
    candidates: int = 4
    prune: tuple[tuple[float, float], ...] = ()
    rank_mode: str = "localised"
    alpha: float = 5.0
    normalise: str = "minmax"
    rank_region: str = "background"
    sources: dict[str, str] = field(default_factory=dict)
    substitutes: dict[str, str] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """Every number of the recipe as plain values, without titles and sources."""
        told = ("title", "summary", "sources", "substitutes")
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in told}

    @property
    def in_force(self) -> dict[str, Any]:
        """The settings that this recipe's stages read."""
        idle = [name for name in _STAGES if self.find != name]
        prefixes = tuple(prefix for name in idle for prefix in _STAGES[name])
        prefixes += ("loss_",) if not self.loss_scale else ()
        prefixes += ("prune",) if not self.prune else ()
        return {
            name: value
            for name, value in self.settings().items()
            if name == "loss_scale" or not name.startswith(prefixes)
        }


_STAGES = {
    "entities": ("view", "fill", "template", "gate", "threshold", "u", "beta", "norm", "place_rule"),
    "refer": ("refer_", "snap"),
    "contrast": ("draws", "contrast_"),
    "learn": ("sizes", "learn_"),
}
"""Ways to find -> beginnings of the names of what only they read."""
