"""Masked ranking of blended diffusion (methods.md 11.3), beside the localised one that replaces it (11.2)."""

from __future__ import annotations

import pytest
import torch
from stub_scorer import StubScorer
from torch import Tensor

from retouch_core.ranking.rank import rank
from retouch_core.ranking.scores import masked_alignment, spherical_distance


def setting(count: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    source = torch.rand(1, 32, 32, 3, generator=generator)
    candidates = source.repeat(count, 1, 1, 1)
    mask = torch.zeros(1, 32, 32)
    mask[:, 8:20, 10:22] = 1
    candidates[:, 8:20, 10:22] = torch.rand(count, 12, 12, 3, generator=generator)
    return source, candidates, mask


def test_harmony_with_the_surroundings_is_invisible_to_it_and_visible_to_the_localised_one():
    source, candidates, mask = setting()
    elsewhere = torch.where(mask[..., None] > 0, candidates, 1 - candidates)
    scorer = StubScorer()
    for mode, blind in (("masked", True), ("localised", False)):
        here, there = (
            rank(source, made, mask, scorer, "a tree", mode=mode).scores for made in (candidates, elsewhere)
        )
        assert torch.equal(here, there) == blind


def test_nothing_outside_the_mask_counts_not_even_nan():
    _, candidates, mask = setting()
    broken = torch.where(mask[..., None] > 0, candidates, torch.nan)
    expected = masked_alignment(StubScorer(), candidates, mask, "a tree")
    assert torch.equal(masked_alignment(StubScorer(), broken, mask, "a tree"), expected)


def test_it_is_the_cosine_of_the_picture_times_the_mask_on_the_full_frame():
    _, candidates, mask = setting()
    soft = mask * 0.5
    scorer = StubScorer()
    pooled = torch.nn.functional.interpolate(
        (candidates * soft[..., None]).movedim(-1, 1), size=(16, 16), mode="bicubic", antialias=True
    )
    expected = scorer.encode_images(pooled.clamp(0, 1)) @ scorer.encode_texts(["a tree"])[0]
    torch.testing.assert_close(masked_alignment(scorer, candidates, soft, "a tree"), expected)


@pytest.mark.parametrize("text", ["a tree", "a cat"])
def test_blended_diffusions_distance_and_blended_latent_diffusions_cosine_rank_alike(text: str):
    source, candidates, mask = setting(9)
    ranking = rank(source, candidates, mask, StubScorer(), text, mode="masked")
    distances = spherical_distance(masked_alignment(StubScorer(), candidates, mask, text))
    assert ranking.order.tolist() == distances.argsort(stable=True).tolist()
