"""Whether the thing asked for is in the picture at all (methods.md 3.5)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.protocols import Scorer
from ..tensors.checks import check_range, check_text
from ..tensors.regions import Regions
from .scores import CHUNK, cosine, embed_regions, embed_texts
from .views import MARGIN

DROPS = ("equal", "related", "none")

_ARTICLES = frozenset(("a", "an", "the", "some"))


@dataclass(frozen=True)
class Presence:
    """The gate's answer.

    Attributes:
        present: whether any region passes the gate.
        best: the highest g, 0..1; 0 without regions.
        per_region: g of every region, float64 [N].
        gate: the threshold that g was held against; None where the scorer has none and nobody gave one.
        note: why the answer says less than it seems to, or None.
        rivals: the phrases that competed with the query.
        unknown_words: words of the query that the scorer cannot read.
    """

    present: bool
    best: float
    per_region: Tensor
    gate: float | None
    note: str | None = None
    rivals: tuple[str, ...] = ()
    unknown_words: tuple[str, ...] = ()


def rival_shares(query: Tensor, rivals: Tensor, logit_scale: float) -> Tensor:
    """g float64 [N]: the query's share in a softmax over itself and its rivals.

    Args:
        query: cosines [N] of the regions with the query.
        rivals: cosines [N,K] with the rival phrases; with K = 0 every share is 1.
        logit_scale: the scorer's own multiplier of cosines.
    """
    logits = logit_scale * torch.cat([query[:, None], rivals], 1).double()
    return torch.softmax(logits, 1)[:, 0]


def presence(
    image: Tensor,
    regions: Regions,
    query: str,
    scorer: Scorer,
    *,
    negatives: Sequence[str] = (),
    gate: float | None = None,
    drop: str = "equal",
    view: str = "mean",
    fill: str = "black",
    margin: float = MARGIN,
    template: str = "raw",
    chunk: int = CHUNK,
    embeddings: Tensor | None = None,
) -> Presence:
    """Hold the query against phrases for other things: present if it wins the share `gate` in any region.

    Scores alone cannot tell absence, since some region always has the highest. The rivals are the scorer's own and
    `negatives`. A rival that says what the query says would halve every share, so `drop` removes

    * `equal`: rivals with the same words, leaving case and articles aside (default);
    * `related`: also those that contain all words of the query or are contained in it ("car" against "red car"),
      which are true of the same region;
    * `none`: nothing.

    Negatives are what the user does not mean: of these only `equal` ones are ever dropped.

    Args:
        image: IMAGE [1,H,W,3].
        regions: of this picture; with N = 0 nothing is present.
        query: without words of place.
        gate: in 0..1; None takes the scorer's calibrated value, and if it has none, everything counts as present.
        view, fill, margin, template, chunk, embeddings: as in `score_regions`.

    Raises:
        ValueError: a blank query, a gate outside 0..1, another word for `drop`.
    """
    query = check_text(query)
    if drop not in DROPS:
        raise ValueError(f"drop must be one of {', '.join(DROPS)}, got {drop!r}; choose one of them")
    gate = scorer.gate if gate is None else gate
    if gate is not None:
        check_range(gate, "gate", 0, 1, hint="it is compared with a share of a softmax")
    unknown = tuple(scorer.unknown_words(query))
    rivals = _rivals(query, scorer.rivals, negatives, drop)
    clash = next(
        (phrase for phrase in negatives if drop != "none" and _content(phrase) == _content(query)), None
    )
    if not len(regions):
        nobody = torch.zeros(0, dtype=torch.float64, device=regions.masks.device)
        return Presence(False, 0.0, nobody, gate, "there are no regions", rivals, unknown)
    if embeddings is None:
        embeddings = embed_regions(image, regions, scorer, view=view, fill=fill, margin=margin, chunk=chunk)
    cosines = cosine(embeddings, embed_texts(scorer, [query, *rivals], template))
    shares = rival_shares(cosines[:, 0], cosines[:, 1:], scorer.logit_scale)
    best = float(shares.max())
    note = None if clash is None else f"the negative '{clash}' says what the query says and was left out"
    if not rivals:
        note = "there are no rival phrases, so the query always wins"
    if gate is None:
        note = "the scorer has no calibrated gate, so the query counts as present"
    return Presence(gate is None or best >= gate, best, shares, gate, note, rivals, unknown)


def _rivals(query: str, own: Sequence[str], negatives: Sequence[str], drop: str) -> tuple[str, ...]:
    asked = _content(query)
    kept: dict[str, str] = {}
    for phrase, by_user in [*((p, False) for p in own), *((p, True) for p in negatives)]:
        words = _content(phrase)
        equal = drop != "none" and words == asked
        related = drop == "related" and not by_user and (set(words) <= set(asked) or set(asked) <= set(words))
        if words and not equal and not related:
            kept.setdefault(phrase.strip().lower(), phrase.strip())
    return tuple(kept.values())


def _content(phrase: str) -> tuple[str, ...]:
    words = re.findall(r"[^\W_]+(?:['-][^\W_]+)*", phrase.lower())
    return tuple(word for word in words if word not in _ARTICLES) or tuple(words)
