"""What is written down of every candidate, so that any ablation can be computed from it later."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from retouch_core.editing.crop import uncrop
from retouch_core.metrics.distribution import scorer_features
from retouch_core.metrics.fidelity import mse, psnr, ssim
from retouch_core.pipeline import Retoucher
from retouch_core.ranking.rank import rank
from retouch_core.result import Result
from retouch_core.tensors.regions import mask_boxes

from ..evaluation.cases import Case
from ..evaluation.edit import alone, read, verdict, without_target
from ..evaluation.search import selects_mask
from ..evaluation.silhouette import DIFFERENCE, ENOUGH, best_fit, drawn
from ..judge import NOTHING, Judge
from ..world.icons import CLASSES, COLOUR_NAMES
from .perceptual import Distance, perceptual_name

IDENTICAL_DB = 100.0
"""PSNR that stands for infinity (methods.md 12)."""
SAME = DIFFERENCE / 2
"""Difference of colour below which a pixel still shows the old picture."""
DIGITS = 5
"""Significant digits that are kept; more would only make the files longer."""

FIDELITY = ("SSIM", "PSNR", "MSE")
FAILED = {
    "strict": 0.0,
    "class and colour": 0.0,
    "old class or colour": 1.0,
    "gone": 0.0,
    "silhouette IoU": 0.0,
    "remnant": 1.0,
}
"""What counts for a scene in which nothing, or the wrong thing, was edited; closeness to the source then counts nothing."""

Record = dict[str, Any]
"""`found`, `m`, `source` (features of the source), and for every candidate a number or a list under each other name."""


@torch.no_grad()
def record(case: Case, result: Result, retoucher: Retoucher, judge: Judge, distance: Distance) -> Record:
    """Everything about the candidates of one scene, none of it dependent on which other candidates were made.

    Cases with a prompt are edits, which are judged by class, colour and silhouette; those without are removals.
    """
    made = result.candidates
    count = len(made)
    right = count > 0 and selects_mask(result.regions.masks[result.selected].any(0), case)
    note: Record = {"found": right, "m": count}
    if not right:
        return note | {name: [value] * count for name, value in FAILED.items()}
    if case.prompt:
        said = verdict(case, result, judge, retoucher.editor)
        flags = {"strict": said.strict, "class and colour": said.both, "old class or colour": said.leaked}
        note |= {name: [float(v) for v in values] for name, values in flags.items()}
        note["silhouette IoU"] = _short(said.fits)
        note |= ranks(case, result, retoucher)
    else:
        area = result.area > 0
        seen, _ = read(judge, alone(case, made, area), area)
        note["gone"] = (seen == NOTHING).double().tolist()
    note["remnant"] = _short(remnants(case, made))
    decibels = psnr(result.source, made).clamp(max=IDENTICAL_DB)
    measures = (ssim(result.source, made), decibels, mse(result.source, made), distance(made, result.source))
    names = (*FIDELITY, perceptual_name())
    note |= {name: _short(values) for name, values in zip(names, measures, strict=True)}
    features = scorer_features(torch.cat([result.source, made]), retoucher.scorer)
    note["source"], note["features"] = _short(features[0]), [_short(row) for row in features[1:]]
    note["background error"] = _short(background_errors(result))
    return note


def remnants(case: Case, made: Tensor) -> Tensor:
    """Share [m] of the pixels in which the old thing shows that still show it.

    It shows, with its edge and its shadow, where the scene differs from the same scene without it.
    """
    source, ground = case.image[0], without_target(case)
    shows = _apart(source, ground) > DIFFERENCE
    if not shows.any():
        return torch.zeros(len(made))
    return torch.stack([(_apart(picture, source) < SAME)[shows].float().mean() for picture in made])


@torch.no_grad()
def seen_in(case: Case, made: Tensor, area: Tensor, judge: Judge) -> dict[str, float]:
    """What the strict judge says of one edited picture [1,H,W,3] in `area` bool [1,H,W], and what is left of the old thing.

    For edits whose area no search has found, so that it need not hold the thing that a case means.
    """
    said, painted = read(judge, alone(case, made, area), area)
    right = int(said[0]) == CLASSES.index(case.name) and int(painted[0]) == COLOUR_NAMES.index(case.colour)
    fit = best_fit(drawn(made[0], without_target(case), area[0]), case.name)
    return {"strict": float(right and fit.iou >= ENOUGH), "remnant": float(remnants(case, made))}


def ranks(case: Case, result: Result, retoucher: Retoucher) -> Record:
    """What the rankings of methods.md 11 see of each candidate, in the area to edit as it was before sampling."""
    made, area = result.candidates, result.area
    notes: Record = {}
    for mode in ("localised", "masked"):
        notes[mode] = _short(rank(case.image, made, area, retoucher.scorer, case.prompt, mode=mode).scores)
    parts = rank(case.image, made, area, retoucher.scorer, case.prompt, mode="s00").parts
    return notes | {"cosine": _short(parts["cosine"]), "distance": _short(parts["distance"])}


def background_errors(result: Result) -> Tensor:
    """Root mean square error [m] of what the model made outside the box of the area, before any composite.

    0 where nothing was painted but boxes (learnable regions).
    """
    if not result.painted:
        return torch.zeros(len(result.candidates))
    ((plan, canvas),) = result.painted
    x0, y0, x1, y1 = (int(v) for v in mask_boxes(result.area > 0)[0])
    outside = torch.ones(result.area.shape[1:], dtype=torch.bool)
    outside[y0:y1, x0:x1] = False
    return (uncrop(canvas, plan) - result.source).square()[:, outside].mean((1, 2)).sqrt()


def joined(first: Record, second: Record) -> Record:
    """The record of a scene whose candidates were made in two goes, in their order."""
    if not first["m"] or not second["m"]:
        return first if first["m"] else second
    lists = {k: v + second[k] for k, v in first.items() if isinstance(v, list) and k != "source"}
    return first | lists | {"m": first["m"] + second["m"]}


def _apart(a: Tensor, b: Tensor) -> Tensor:
    """Root mean square over the channels of the difference of [H,W,3] pictures."""
    return (a - b).square().mean(-1).sqrt()


def _short(values: Tensor) -> list[float]:
    return [float(f"{v:.{DIGITS}g}") for v in values.double().tolist()]
