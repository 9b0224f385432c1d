"""How a recipe finds its region: among entities, by a referring segmenter, or by the contrast of two predictions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .editing.contrast_maps import contrast_maps
from .editing.crop import CropPlan, crop, uncrop_mask
from .models.protocols import Editor, Referrer, Scorer, Segmenter
from .recipes import Recipe
from .recipes.recipe import FINDERS
from .regions.contrast import find_contrast
from .regions.entities import disjoint
from .regions.referring import refer
from .regions.search import Found, reduced, restored, search
from .tensors.checks import fit_mask
from .tensors.regions import Regions


def find(
    image: Tensor,
    query: str,
    prompt: str,
    settings: Recipe,
    *,
    segmenter: Segmenter,
    scorer: Scorer,
    editor: Editor,
    referrer: Referrer | None = None,
    negatives: Sequence[str] = (),
    seed: int = 0,
) -> Found:
    """What `query` means in IMAGE [1,H,W,3] in 0..1, the way that `settings.find` names.

    Args:
        prompt: what it becomes, which only `contrast` reads.
        editor: predicts for `contrast`; referrer: for `refer`.
        negatives: phrases for what is not meant, which only `entities` reads.
        seed: of the draws of `contrast`.

    Raises:
        ValueError: an unknown way, or one whose model is not there.
    """
    check_finder(settings, referrer)
    if settings.find == "refer":
        assert referrer is not None
        return _referred(image, query, settings, segmenter, referrer)
    if settings.find == "contrast":
        return _contrasted(image, query, prompt or settings.removal_prompt, settings, editor, seed)
    return search(image, query, segmenter, scorer, settings=settings.settings(), negatives=negatives)


def check_finder(settings: Recipe, referrer: Referrer | None) -> None:
    """Raise ValueError for a way of finding that does not exist, or whose model does not."""
    if settings.find not in FINDERS:
        raise ValueError(
            f"find must be one of {', '.join(FINDERS)}, got {settings.find!r}; entities is usual"
        )
    if settings.find == "refer" and referrer is None:
        raise ValueError(
            "referrer is None, but the recipe finds by one; give Retoucher a referrer, or use a recipe that finds entities"
        )


def given(mask: Tensor, image: Tensor) -> Found:
    """A search that the caller has done: one region, the MASK [1,H,W] itself."""
    height, width = image.shape[1:3]
    fitted, note = fit_mask(mask, (height, width))
    if len(fitted) != 1:
        raise ValueError(f"mask has batch {len(fitted)} but image has batch 1; join the masks first")
    regions = Regions(fitted > 0.5, None, (height, width)).traced("given mask", note=note)
    present = bool((fitted > 0.5).any())
    message = "" if present else "The mask is empty, so the picture is unchanged."
    return Found(regions, (fitted > 0.5).any().view(1), present, "", None, message, (note,) if note else ())


def _referred(image: Tensor, query: str, settings: Recipe, segmenter: Segmenter, referrer: Referrer) -> Found:
    snap: Regions | None = None
    if settings.snap:
        proposals, scores = segmenter(reduced(image))
        entities = disjoint(proposals, scores, score_min=settings.score_min, leftovers=settings.leftovers)
        snap = restored(entities, (image.shape[1], image.shape[2]))
    return refer(
        image,
        query,
        referrer,
        rule=settings.refer_rule,
        k=settings.refer_k,
        pick=settings.refer_pick,
        snap=snap,
        u=settings.u,
    )


def _contrasted(image: Tensor, query: str, target: str, settings: Recipe, editor: Editor, seed: int) -> Found:
    plan = CropPlan.whole((image.shape[1], image.shape[2]), editor.size)
    maps = contrast_maps(editor, crop(image, plan), query, target, draws=settings.draws, seed=seed)
    return find_contrast(
        image,
        query,
        *maps,
        ratio=settings.contrast_ratio,
        canvas=plan.work,
        back=lambda mask: uncrop_mask(mask, plan),
    )
