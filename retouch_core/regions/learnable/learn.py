"""Regions learnt from the words alone: attention anchors, boxes around them, the best box of each (methods.md 7)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...models.protocols import Attention, Perception, Scorer
from ...tensors.checks import InputWarning, check_image, check_range, check_text, clamped
from .anchors import random_anchors, top_anchors
from .edits import Edit, Edits, Progress
from .losses import LEAST, EditLosses, Weights
from .proposals import SIZES, box_masks, half_sizes, patch_boxes, pixel_boxes
from .region_network import RegionNetwork
from .training import History, Schedule, best_boxes, exhaustive, gumbel_st, likeliest, reinforce
from .views import VIEWS, Views

MODES = ("auto", "exhaustive", "reinforce", "gumbel_st")
BASELINES = ("random",)
"""S01's own comparison: a size drawn at random at every anchor."""
ANCHORS = ("attention", "random")
EXHAUSTIVE_UP_TO = 64
"""Edits that `auto` still makes one by one (methods.md 7.6)."""
COUNT = 9
"""K of the official train.sh; S01 gives none."""
TEMPLATE = "a high quality image of {}."
"""Of the official code, around the target text alone."""

Choose = Callable[[Tensor, Tensor], tuple[Tensor, int]]
"""(source IMAGE [1,H,W,3], edits [K,H,W,3]) -> scores [K], higher is better, and the winner's index."""


@dataclass(frozen=True)
class Settings:
    """What S01 leaves to choose.

    Attributes:
        count: K anchors; sizes: M boxes around each.
        mode: `exhaustive` edits all K*M boxes and takes the least loss of each anchor; `reinforce` and `gumbel_st`
            train the region network; `auto` is `exhaustive` up to 64 edits, else `reinforce`; `random` takes any size.
        anchors: `attention`, or `random` (S01's baseline).
        template: around the target text, with {} for it.
    """

    count: int = COUNT
    sizes: int = SIZES
    mode: str = "auto"
    anchors: str = "attention"
    schedule: Schedule = field(default_factory=Schedule)
    weights: Weights = field(default_factory=Weights)
    views: int = VIEWS
    template: str = TEMPLATE
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("mode", (*MODES, *BASELINES)), ("anchors", ANCHORS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}; choose one of them"
                )
        for name, value in (("epochs", self.schedule.epochs), ("repeats", self.schedule.repeats)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"{name} must be a whole number from 1 up, got {value!r}; 5 and 10 are usual"
                )
        check_range(self.schedule.rate, "rate", 0, 10, open_low=True, hint="3e-3 is published")
        for name, value in vars(self.weights).items():
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"weight {name} must be a number from 0 up, got {value!r}; 1 is published")
        if "{}" not in self.template:
            raise ValueError(
                f"template must hold {{}} for the prompt, got {self.template!r}; try {TEMPLATE!r}"
            )

    def settled_mode(self, edits: int) -> str:
        """The mode for K*M = `edits` boxes."""
        if self.mode != "auto":
            return self.mode
        return "exhaustive" if edits <= EXHAUSTIVE_UP_TO else "reinforce"


@dataclass(frozen=True)
class Learned:
    """One box per anchor, and which of them is the best. K is without the anchors for which nothing could be edited.

    Attributes:
        boxes: half-open pixel boxes xyxy, long [K,4]; masks: bool [K,H,W].
        edited: IMAGE [K,H,W,3]; scores: [K], higher is better; winner: index of the best.
        losses: `clip`, `direction`, `structure`, `total`, each [A,M] over all A anchors; NaN where nothing was edited.
        anchors: patches [A,2] (row, column) of the grid; kept: the anchor [K] of each box; chosen: its size [K].
        candidates: every box, long [A,M,4]; probs: the network's [A,M], or None where none was trained.
        attention: [h,w]; mode: what was done; made: boxes that were edited; history: mean loss per step of training.
        notes: what was noticed, as sentences.
    """

    boxes: Tensor
    masks: Tensor
    edited: Tensor
    scores: Tensor
    winner: int
    losses: dict[str, Tensor]
    anchors: Tensor
    kept: Tensor
    chosen: Tensor
    candidates: Tensor
    probs: Tensor | None
    attention: Tensor
    mode: str
    made: int
    history: tuple[float, ...]
    notes: tuple[str, ...]

    def numbers(self) -> dict[str, Any]:
        """What a trace or report shows, as plain values."""
        table = self.losses["total"].tolist()
        return {
            "mode": self.mode,
            "edits": self.made,
            "boxes": self.boxes.tolist(),
            "scores": [round(score, 5) for score in self.scores.tolist()],
            "winner": self.winner,
            "anchors": self.anchors.tolist(),
            "losses": [[None if math.isnan(loss) else round(loss, 5) for loss in row] for row in table],
            "notes": list(self.notes),
        }


def learn_regions(
    image: Tensor,
    prompt: str,
    caption: str,
    *,
    attention: Attention,
    perception: Perception,
    scorer: Scorer,
    edit: Edit,
    settings: Settings | None = None,
    choose: Choose | None = None,
    progress: Progress | None = None,
) -> Learned:
    """Find where an edit towards `prompt` does best, without a mask (S01).

    Args:
        image: IMAGE [1,H,W,3] in 0..1.
        prompt: what shall be there; caption: what is there, "just the class name"; "" leaves L_dir out, with a warning.
        attention: where anchors come from; perception: the image tower of `scorer`, whose texts the losses take.
        edit: (image, half-open pixel boxes xyxy long [n,4]) -> IMAGE [n,H,W,3]; each box is asked for once. Where it
            runs out of memory for one box alone, what is finished is kept.
        choose: scores the K edits, and says which is the best; None: the least loss.
        progress: called with (done, of all): boxes, or steps of training.

    Raises:
        TypeError, ValueError: one sentence that names the input and says what to do, also where `edit` gives another
            size, or nothing at all could be edited.
    """
    settings = settings or Settings()
    image = clamped(check_image(image, batch=1))
    prompt = check_text(prompt, "prompt")
    inference = torch.is_inference_mode_enabled()
    weights, target, old = _texts(prompt, caption, scorer, settings)
    seen, features = attention(image)
    with torch.inference_mode(False), torch.enable_grad():
        # Tensors of an inference mode can never take part in a gradient; copies can.
        image, seen, features, target = (t.clone() for t in (image, seen, features, target))
        views = Views(perception.image_size, settings.views, settings.seed)
        losses = EditLosses(image, target, None if old is None else old.clone(), perception, views)
        anchors, boxes = _proposals(seen, settings)
        candidates = pixel_boxes(boxes, (seen.shape[0], seen.shape[1]), (image.shape[1], image.shape[2]))
        edits = Edits(image, candidates, edit, losses, weights).within(inference)
        mode = settings.settled_mode(len(anchors) * settings.sizes)
        chosen, probs, history = _train(mode, features, boxes, edits, settings, progress)
        return _result(image, edits, anchors, chosen, probs, seen, mode, history, choose)


def _texts(
    prompt: str, caption: str, scorer: Scorer, settings: Settings
) -> tuple[Weights, Tensor, Tensor | None]:
    """The weights that hold for these texts, and the embeddings [D] of prompt and caption."""
    weights, words = settings.weights, [settings.template.replace("{}", prompt)]
    caption = caption.strip() if isinstance(caption, str) else ""
    texts = scorer.encode_texts([*words, caption] if caption else words).float()
    if not caption:
        weights = Weights(weights.clip, 0.0, weights.structure)
        warnings.warn(
            "caption is empty, so the direction of the change is not judged; write what is there now",
            InputWarning,
            stacklevel=3,
        )
        return weights, texts[0], None
    if (texts[0] - texts[1]).norm() < LEAST:
        warnings.warn(
            f"prompt and caption mean the same to the scorer ({caption!r}), so the direction of the change is not "
            "judged; write different ones",
            InputWarning,
            stacklevel=3,
        )
    return weights, texts[0], texts[1]


def _proposals(attention: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """Anchors [K,2] and their boxes [K,M,4] in patches."""
    grid = (attention.shape[0], attention.shape[1])
    if settings.anchors == "random":
        anchors = random_anchors(grid, settings.count, _generator(settings.seed))
    else:
        anchors = top_anchors(attention, settings.count)
    return anchors, patch_boxes(anchors, half_sizes(settings.sizes), grid)


def _train(
    mode: str,
    features: Tensor,
    boxes: Tensor,
    edits: Edits,
    settings: Settings,
    progress: Progress | None,
) -> tuple[Tensor, Tensor | None, History]:
    """The size [K] that each anchor takes (-1: none), the network's probabilities, and how the loss went."""
    distinct = len(edits.boxes.flatten(0, 1).unique(dim=0))
    total = {"exhaustive": distinct, "random": len(boxes)}.get(mode, settings.schedule.steps)

    def tell(done: int) -> None:
        if progress is not None:
            progress(min(done, total), total)

    if mode == "exhaustive":
        exhaustive(edits, tell)
        return best_boxes(edits.losses["total"]), None, History()
    generator = _generator(settings.seed)
    if mode == "random":
        drawn = torch.randint(boxes.shape[1], (len(boxes),), generator=generator)
        edits.need(list(enumerate(drawn.tolist())), tell)
        there = edits.done.gather(1, drawn[:, None])[:, 0]
        return torch.where(there, drawn, -1), None, History()
    network = RegionNetwork(len(features), boxes.shape[1], settings.seed)
    features, parameters = features.float(), list(network.head.parameters())

    def log_probs() -> Tensor:
        found: Tensor = network(features, boxes)
        return found

    if mode == "reinforce":
        with torch.no_grad():
            unedited = float(edits.weights.total(edits.losses_of(edits.image)))
        history = reinforce(log_probs, parameters, edits, settings.schedule, unedited, generator, tell)
    else:
        history = gumbel_st(log_probs, parameters, edits, settings.schedule, generator, tell)
    with torch.no_grad():
        final = log_probs()
    edits.need(list(enumerate(final.argmax(-1).tolist())))
    return likeliest(final, edits.done), final.exp(), history


def _result(
    image: Tensor,
    edits: Edits,
    anchors: Tensor,
    chosen: Tensor,
    probs: Tensor | None,
    attention: Tensor,
    mode: str,
    history: History,
    choose: Choose | None,
) -> Learned:
    kept = (chosen >= 0).nonzero()[:, 0]
    if not len(kept):
        why = "; ".join(edits.notes) or "no box has a finite loss"
        raise ValueError(f"edit made no usable picture ({why}); try a smaller picture or check the model")
    if len(kept) < len(chosen):
        edits.notes.append(f"{len(chosen) - len(kept)} of {len(chosen)} anchors have no finished edit")
    chosen = chosen[kept]
    boxes = edits.boxes[kept, chosen]
    pictures = torch.cat([edits.picture(int(i), int(j)) for i, j in zip(kept, chosen, strict=True)])
    if choose is None:
        scores = -edits.losses["total"][kept, chosen]
        winner = int(scores.argmax())
    else:
        with edits.as_called():
            scores, winner = choose(image, pictures)
    return Learned(
        boxes=boxes,
        masks=box_masks(boxes, (image.shape[1], image.shape[2])),
        edited=pictures,
        scores=scores,
        winner=winner,
        losses=edits.losses,
        anchors=anchors,
        kept=kept,
        chosen=chosen,
        candidates=edits.boxes,
        probs=probs,
        attention=attention,
        mode=mode,
        made=edits.made,
        history=tuple(history.losses),
        notes=tuple(edits.notes),
    )


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed % 2**63)
