"""How well things are edited: the judge's verdict, untouched pixels, time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from retouch_core.models.protocols import Editor
from retouch_core.pipeline import Retoucher
from retouch_core.recipes import Recipe, recipe
from retouch_core.result import Result

from ..judge import NOTHING, Judge, crops_of
from ..world.icons import CLASSES, COLOUR_NAMES
from ..world.scenes import Spec, draw
from .cases import Case
from .search import ExactMasks, selects_mask
from .silhouette import ENOUGH, NO_HALO, Halo, best_fit, drawn, halo, with_edge


@dataclass(frozen=True)
class Verdict:
    """What the judge says of the candidates of one edit.

    Attributes:
        found: whether the right object, and nothing else, was edited.
        names, colours: bool [m], the asked class and colour are seen.
        leaked: bool [m], the class or the colour of the old object is seen.
        nothing: bool [m], no object is seen.
        fits: [m], IoU of what was drawn with the best-fitting icon of the asked class.
        best: index of the best candidate by the ranking.
        untouched: whether the source is the same bit for bit wherever the mask is 0.
        ring: error of the first candidate on the ground of the area to edit that the source shows too.
        kept: the same on the part of it that the candidate kept for itself.
        uncovered: the same where the old object hid the ground.
    """

    found: bool
    names: Tensor
    colours: Tensor
    leaked: Tensor
    nothing: Tensor
    fits: Tensor
    best: int
    untouched: bool
    ring: Halo = NO_HALO
    kept: Halo = NO_HALO
    uncovered: Halo = NO_HALO

    @property
    def both(self) -> Tensor:
        """Class and colour are right: lenient about form."""
        return self.names & self.colours

    @property
    def strict(self) -> Tensor:
        """Class, colour and silhouette are right."""
        return self.both & (self.fits >= ENOUGH)


def untouched(source: Tensor, result: Result) -> bool:
    """`torch.equal` outside the composite mask, for every candidate."""
    outside = (result.mask == 0)[0]
    return all(
        torch.equal(source[0][outside], made[outside]) for made in (*result.candidates, result.image[0])
    )


@torch.no_grad()
def read(judge: Judge, pictures: Tensor, area: Tensor) -> tuple[Tensor, Tensor]:
    """Class (or NOTHING) and colour, long [m], in pictures [m,H,W,3] around `area` bool [1,H,W]."""
    said, painted, _ = judge(crops_of(pictures.movedim(-1, 1), area.expand(len(pictures), -1, -1)))
    return said.argmax(1), painted.argmax(1)


def redrawn(spec: Spec) -> Tensor:
    """A scene as [H,W,3] in 0..1."""
    return torch.from_numpy(draw(spec).image).float() / 255


def without_target(case: Case) -> Tensor:
    """The scene redrawn without the object, [H,W,3] in 0..1."""
    return redrawn(case.scene.spec.without(case.target))


def alone(case: Case, pictures: Tensor, area: Tensor) -> Tensor:
    """Pictures [m,H,W,3] with bare ground instead of the neighbours outside `area` bool [1,H,W].

    The judge's square may hold a part of a neighbour, which is not what it is asked about.
    """
    rest = [mask for k, mask in enumerate(case.masks) if k != case.target]
    if not rest:
        return pictures
    hidden = with_edge(torch.stack(rest).any(0)) & ~area[0]
    return torch.where(hidden[:, :, None], redrawn(replace(case.scene.spec, things=())), pictures)


@torch.no_grad()
def verdict(case: Case, result: Result, judge: Judge, editor: Editor) -> Verdict:
    """Judge the candidates of one case on the square around the area to edit."""
    thing = case.scene.spec.things[case.target]
    found = result.report.found and selects_mask(result.regions.masks[result.selected].any(0), case)
    count = len(result.candidates)
    if not count:
        no = torch.zeros(1, dtype=torch.bool)
        same = torch.equal(result.image, case.image)
        return Verdict(False, no, no, no, ~no, torch.zeros(1), 0, same)
    area = result.area > 0
    said, painted = read(judge, alone(case, result.candidates, area), area)
    ground = without_target(case)
    fits = [best_fit(drawn(made, ground, area[0]), case.name) for made in result.candidates]
    restored = editor.decode(editor.encode(ground[None]))[0]
    old = with_edge(case.masks[case.target])
    bare = area[0] & ~with_edge(fits[0].mask)
    return Verdict(
        found,
        said == CLASSES.index(case.name),
        (painted == COLOUR_NAMES.index(case.colour)) & (said != NOTHING),
        (said != NOTHING)
        & ((said == CLASSES.index(thing.name)) | (painted == COLOUR_NAMES.index(thing.colour))),
        said == NOTHING,
        torch.tensor([fit.iou for fit in fits]),
        result.best,
        untouched(case.image, result),
        halo(result.candidates[0], ground, restored, bare & ~old),
        halo(result.candidates[0], ground, restored, bare & ~old & (result.candidate_masks[0] > 0)),
        halo(result.candidates[0], ground, restored, bare & old),
    )


def run(
    cases: Sequence[Case],
    retoucher: Retoucher,
    judge: Judge,
    *,
    settings: str | Recipe = "default",
    candidates: int = 4,
    seed: int = 1000,
    exact: bool = True,
    keep: Callable[[int, Case, Result, Verdict], None] | None = None,
    **changes: object,
) -> list[Verdict]:
    """Edit every case, with exact masks or the retoucher's own segmenter; `changes` replace values of the recipe."""
    chosen = recipe(settings) if isinstance(settings, str) else settings
    chosen = replace(chosen, **changes)  # type: ignore[arg-type]
    verdicts = []
    for number, case in enumerate(cases):
        segmenter = ExactMasks(case.masks) if exact else retoucher.segmenter
        worker = retoucher.with_segmenter(segmenter)
        result = worker.retouch(
            case.image,
            case.query,
            case.prompt,
            recipe=chosen,
            candidates=candidates,
            seed=seed + 100 * number,
        )
        verdicts.append(verdict(case, result, judge, retoucher.editor))
        if keep is not None:
            keep(number, case, result, verdicts[-1])
    return verdicts


def seconds_per_retouch(case: Case, retoucher: Retoucher, repeats: int = 5) -> float:
    """Median seconds of one retouch with 4 candidates and 20 steps, after a first one."""
    times = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        retoucher.retouch(case.image, case.query, case.prompt, candidates=4, steps=20)
        times.append(time.perf_counter() - begun)
    return sorted(times[1:])[repeats // 2]
