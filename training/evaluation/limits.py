"""What the judge says of real things, and of icons of a wrong class: its ceiling and its floor."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from retouch_core.models.protocols import Editor
from retouch_core.regions.edit_mask import edit_mask

from ..judge import NOTHING, Judge, grounds_of
from ..world.grounds import GROUND_NAMES
from ..world.icons import CLASSES, COLOUR_NAMES
from .cases import Case
from .edit import alone, read, redrawn, without_target
from .numbers import Estimate, Row, Share
from .silhouette import ENOUGH, best_fit, drawn


@torch.no_grad()
def limit_rows(cases: Sequence[Case], judge: Judge, editor: Editor) -> list[Row]:
    """Edit cases, of which only the scene and the object that is there now are looked at.

    The floor asks for the class that the case would have made of it, which is another one.
    """
    seen, empty, stood = [], [], []
    fits, wrong = [], []
    for case in cases:
        thing = case.scene.spec.things[case.target]
        ground = without_target(case)
        own = case.masks[case.target : case.target + 1].float()
        area = edit_mask(own, torch.zeros_like(own)).composite > 0
        real, bare = (editor.decode(editor.encode(p)) for p in (redrawn(case.scene.spec)[None], ground[None]))
        said, painted = read(judge, alone(case, real, area), area)
        seen.append(CLASSES[int(said[0])] == thing.name if said[0] != NOTHING else False)
        seen[-1] &= COLOUR_NAMES[int(painted[0])] == thing.colour
        nobody, _ = read(judge, alone(case, bare, area), area)
        empty.append(bool(nobody[0] == NOTHING))
        kind = judge(grounds_of(real.movedim(-1, 1), case.masks.any(0, keepdim=True)))[2].argmax(1)
        stood.append(GROUND_NAMES[int(kind[0])] == case.scene.spec.ground)
        silhouette = drawn(real[0], ground, area[0])
        fits.append(best_fit(silhouette, thing.name).iou)
        wrong.append(best_fit(silhouette, case.name).iou)
    strict = [s and fit >= ENOUGH for s, fit in zip(seen, fits, strict=True)]
    return [
        Row("judge, ceiling: real things through the autoencoder, strict", Share.of(strict)),
        Row("  class and colour", Share.of(seen)),
        Row("  silhouette IoU", Estimate.mean(fits)),
        Row("  bare ground read as nothing", Share.of(empty)),
        Row("  kind of ground", Share.of(stood)),
        Row(
            "judge, floor: a wrong class asked of them, silhouette IoU >= 0.7",
            Share.of([w >= ENOUGH for w in wrong]),
        ),
        Row("  silhouette IoU", Estimate.mean(wrong)),
    ]
