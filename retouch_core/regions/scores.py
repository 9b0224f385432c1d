"""How well each region fits a query: cosines of an image-text model (methods.md 2)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ..models.protocols import Scorer
from ..tensors.checks import check_text
from ..tensors.regions import Regions
from .views import MARGIN, region_views

CHUNK = 32
"""Views that are encoded at once."""

MEAN_OF = ("crop+fill", "crop")
"""The two views whose normalised embeddings the view `mean` averages."""

ENSEMBLE = ("a photo of {}", "a cropped photo of {}", "a close-up photo of {}")
"""Templates whose normalised embeddings the template `ensemble` averages (our choice)."""

DETERMINER = re.compile(
    r"(?:an?|the|some|my|your|his|her|its|our|their|this|that|these|those|no|any|all|both|many|several|"
    r"one|two|three|four|five|six|seven|eight|nine|ten|\d+)\b",
    re.IGNORECASE,
)
"""Phrases that begin like this get no article in a template."""


def score_regions(
    image: Tensor,
    regions: Regions,
    query: str,
    scorer: Scorer,
    *,
    view: str = "mean",
    fill: str = "black",
    margin: float = MARGIN,
    template: str = "raw",
    chunk: int = CHUNK,
    embeddings: Tensor | None = None,
    callback: Callable[[int, int], None] | None = None,
) -> Regions:
    """Give every region its cosine with the query, -1..1 (S00 eq. 2, with both sides normalised).

    Args:
        image: IMAGE [1,H,W,3].
        regions: of this picture; N = 0 gives scores of shape [0].
        query: without words of place (`parse_location`).
        view: a kind of `region_views`, or `mean` of `crop+fill` and `crop`.
        fill, margin: for `region_views`.
        template: `raw`, `ensemble`, or a text with {} in place of the query.
        chunk: views encoded at once.
        embeddings: [N,D] from `embed_regions`, to save encoding the same views again.
        callback: called with (views done, views in all) after each chunk; whatever it raises stops the run.

    Returns:
        The same regions with scores; the trace has the cosines, their softmax under the scorer's own logit scale,
        and the words of the query that the scorer does not know.

    Raises:
        ValueError: a blank query, an empty mask, an unknown view, fill or template.
    """
    query = check_text(query)
    text = embed_text(scorer, query, template)
    if embeddings is None:
        embeddings = embed_regions(
            image, regions, scorer, view=view, fill=fill, margin=margin, chunk=chunk, callback=callback
        )
    cosines = cosine(embeddings, text[None])[:, 0]
    probs = torch.softmax(scorer.logit_scale * cosines.double(), 0)
    return regions.with_scores(cosines).traced(
        "scores",
        query=query,
        template=template,
        view=view,
        fill=fill,
        logit_scale=scorer.logit_scale,
        scores=[round(c, 6) for c in cosines.tolist()],
        probs=[round(p, 6) for p in probs.tolist()],
        unknown_words=list(scorer.unknown_words(query)),
    )


def embed_regions(
    image: Tensor,
    regions: Regions,
    scorer: Scorer,
    *,
    view: str = "mean",
    fill: str = "black",
    margin: float = MARGIN,
    chunk: int = CHUNK,
    callback: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Unit embeddings float32 [N,D] of the regions of IMAGE [1,H,W,3]; arguments as in `score_regions`."""
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk!r}; {CHUNK} is usual")
    kinds = MEAN_OF if view == "mean" else (view,)
    total = len(regions) * len(kinds)
    done = 0
    per_kind = []
    for kind in kinds:
        parts = []
        # Views of the next chunk are made only when the last is encoded, so that memory does not grow with N.
        for masks in regions.masks.split(chunk) if len(regions) else [regions.masks]:
            views = region_views(image, masks, scorer.image_size, kind, fill, margin)
            parts.append(functional.normalize(scorer.encode_images(views).float(), dim=-1))
            done += len(masks)
            if callback is not None:
                callback(done, total)
        per_kind.append(torch.cat(parts))
    return per_kind[0] if len(per_kind) == 1 else _mean(torch.stack(per_kind))


def embed_text(scorer: Scorer, phrase: str, template: str = "raw") -> Tensor:
    """Unit embedding float32 [D] of a phrase under a template (`raw`, `ensemble`, or a text with {}).

    Raises:
        ValueError: another template.
    """
    return embed_texts(scorer, [phrase], template)[0]


def embed_texts(scorer: Scorer, phrases: Sequence[str], template: str = "raw") -> Tensor:
    """Unit embeddings float32 [T,D] of phrases; see `embed_text`."""
    templates = _templates(template)
    if templates is None:
        return functional.normalize(scorer.encode_texts(list(phrases)).float(), dim=-1)
    filled = [each.format(with_article(phrase)) for each in templates for phrase in phrases]
    units = functional.normalize(scorer.encode_texts(filled).float(), dim=-1)
    return _mean(units.view(len(templates), len(phrases), -1))


def with_article(phrase: str) -> str:
    """The phrase with "a" or "an" before it, unless it begins with a determiner: "red car" -> "a red car"."""
    if DETERMINER.match(phrase):
        return phrase
    return f"{'an' if phrase[:1].lower() in 'aeiou' else 'a'} {phrase}"


def cosine(images: Tensor, texts: Tensor) -> Tensor:
    """Cosines [N,T] in -1..1 of unit embeddings [N,D] and [T,D]; float32."""
    # Rounding of unit vectors may leave the interval by 1e-7.
    return (images.float() @ texts.to(images.device).float().T).clamp(-1, 1)


def _templates(template: str) -> tuple[str, ...] | None:
    if template == "raw":
        return None
    if template == "ensemble":
        return ENSEMBLE
    if template.count("{}") == 1 and template.replace("{}", "").count("{") == 0:
        return (template,)
    raise ValueError(
        f"template must be raw, ensemble or a text with one {{}} in it, got {template!r:.60}; use raw"
    )


def _mean(units: Tensor) -> Tensor:
    """[K,N,D] -> [N,D]: averaged over K and brought back to unit length."""
    return functional.normalize(units.mean(0), dim=-1)
