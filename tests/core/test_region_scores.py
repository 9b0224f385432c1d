"""Cosines of regions with a query, with stub encoders (methods.md 2.4)."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from stub_scorer import StubScorer, picture, some_regions

from retouch_core.regions.scores import embed_regions, embed_text, score_regions, with_article
from retouch_core.regions.threshold import adaptive_threshold
from retouch_core.regions.views import region_views
from retouch_core.tensors.regions import Regions


def scores_of(regions: Regions) -> torch.Tensor:
    assert regions.scores is not None
    return regions.scores


def test_one_full_region_is_the_cosine_of_picture_and_text() -> None:
    image, scorer = picture(24, 40), StubScorer()
    square = np.zeros((40, 40, 3), dtype=np.float32)
    square[8:32] = image[0].numpy()
    small = [
        Image.fromarray(square[..., c].copy()).resize((16, 16), Image.Resampling.BICUBIC) for c in range(3)
    ]
    seen = scorer.encode_images(torch.from_numpy(np.stack([np.asarray(s) for s in small])).clamp(0, 1)[None])
    expected = float((seen @ scorer.encode_texts(["a dog"]).T)[0, 0])
    whole = Regions(torch.ones(1, 24, 40, dtype=torch.bool), None, (24, 40))
    scored = score_regions(image, whole, "a dog", scorer, view="full+black")
    assert float(scores_of(scored)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("view", ["mean", "crop+fill", "full+mean"])
def test_permuting_regions_permutes_scores(view: str) -> None:
    regions, mix = some_regions(), torch.tensor([3, 0, 4, 2, 1])
    straight = scores_of(score_regions(picture(), regions, "a dog", StubScorer(), view=view))
    mixed = scores_of(score_regions(picture(), regions.select(mix), "a dog", StubScorer(), view=view))
    assert torch.allclose(straight[mix], mixed, atol=1e-6)
    assert bool((straight.abs() <= 1).all()) and straight.unique().numel() == 5


def test_chunks_do_not_matter() -> None:
    one, many = StubScorer(), StubScorer()
    regions = some_regions(7)
    single = score_regions(picture(), regions, "a dog", one, chunk=1)
    batched = score_regions(picture(), regions, "a dog", many, chunk=32)
    assert one.seen == [1] * 14 and many.seen == [7, 7]
    assert torch.allclose(scores_of(single), scores_of(batched), atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_cosines_stay_in_their_interval(seed: int) -> None:
    scored = score_regions(picture(seed=seed), some_regions(seed=seed), f"query {seed}", StubScorer())
    assert bool((scores_of(scored).abs() <= 1).all())


def test_a_perfect_match_scores_one() -> None:
    regions = some_regions(1)
    vector = StubScorer().encode_images(region_views(picture(), regions.masks, 16, "crop"))[0]
    scored = score_regions(picture(), regions, "it", StubScorer({"it": 3 * vector}), view="crop")
    assert float(scores_of(scored)) == pytest.approx(1, abs=1e-6) and float(scores_of(scored)) <= 1


def test_the_mean_view_averages_unit_vectors() -> None:
    scorer, regions = StubScorer(), some_regions()
    filled = scorer.encode_images(region_views(picture(), regions.masks, 16, "crop+fill", "mean")).double()
    plain = scorer.encode_images(region_views(picture(), regions.masks, 16, "crop", "mean")).double()
    mean = (filled + plain) / 2
    expected = mean / mean.norm(dim=1, keepdim=True)
    assert torch.allclose(
        embed_regions(picture(), regions, scorer, fill="mean").double(), expected, atol=1e-6
    )


@pytest.mark.parametrize(
    ("beta", "expected"), [(1, [0.32231, 0.34224, 0.33546]), (100, [0.00218, 0.87888, 0.11894])]
)
def test_softmax_of_three_cosines(beta: float, expected: list[float]) -> None:
    result = adaptive_threshold(torch.tensor([0.21, 0.27, 0.25]), beta=beta)
    assert result.probs.tolist() == pytest.approx(expected, abs=6e-6)


@pytest.mark.parametrize("beta", [0.01, 1, 100])
def test_the_best_does_not_depend_on_beta(beta: float) -> None:
    result = adaptive_threshold(torch.tensor([0.21, 0.27, 0.25]), beta=beta, mode="argmax")
    assert result.selected.tolist() == [False, True, False]


def test_probabilities_of_the_trace() -> None:
    scorer, regions = StubScorer(), some_regions(4)
    scored = score_regions(picture(), regions, "a xyzzy dog", scorer)
    entry = scored.trace[-1]
    logits = 20 * scores_of(scored).double().numpy()
    expected = np.exp(logits) / np.exp(logits).sum()
    assert entry["probs"] == pytest.approx(expected.tolist(), abs=1e-6)
    assert entry["unknown_words"] == ["xyzzy"] and entry["stage"] == "scores"
    json.dumps(scored.trace, allow_nan=False)


def test_none_and_one_region() -> None:
    empty = Regions(torch.zeros(0, 40, 56, dtype=torch.bool), None, (40, 56))
    scored = score_regions(picture(), empty, "a dog", StubScorer())
    assert scores_of(scored).shape == (0,) and scored.trace[-1]["probs"] == []
    assert score_regions(picture(), some_regions(1), "a dog", StubScorer()).trace[-1]["probs"] == [1.0]


def test_raw_text_is_the_query_itself() -> None:
    scorer = StubScorer()
    score_regions(picture(), some_regions(1), " the red car ", scorer)
    assert scorer.read == ["the red car"]


@pytest.mark.parametrize(
    ("query", "phrase"),
    [
        ("red car", "a red car"),
        ("orange boat", "an orange boat"),
        ("a car", "a car"),
        ("an apple", "an apple"),
        ("The car", "The car"),
        ("two cars", "two cars"),
        ("some cars", "some cars"),
        ("my car", "my car"),
        ("theatre", "a theatre"),
        ("anchor", "an anchor"),
    ],
)
def test_articles_in_templates(query: str, phrase: str) -> None:
    assert with_article(query) == phrase
    scorer = StubScorer()
    embed_text(scorer, query, "ensemble")
    assert scorer.read == [
        f"a photo of {phrase}",
        f"a cropped photo of {phrase}",
        f"a close-up photo of {phrase}",
    ]


def test_the_ensemble_averages_unit_vectors() -> None:
    scorer = StubScorer()
    units = scorer.encode_texts(
        ["a photo of a cat", "a cropped photo of a cat", "a close-up photo of a cat"]
    ).double()
    expected = units.mean(0) / units.mean(0).norm()
    assert torch.allclose(embed_text(scorer, "cat", "ensemble").double(), expected, atol=1e-6)


def test_a_template_of_ones_own() -> None:
    scorer = StubScorer()
    embed_text(scorer, "cat", "a high quality image of {}.")
    assert scorer.read == ["a high quality image of a cat."]


def test_known_embeddings_are_not_made_again() -> None:
    scorer, regions = StubScorer(), some_regions()
    embeddings = embed_regions(picture(), regions, scorer)
    scorer.seen.clear()
    scored = score_regions(picture(), regions, "a dog", scorer, embeddings=embeddings)
    assert not scorer.seen
    assert torch.equal(scores_of(scored), scores_of(score_regions(picture(), regions, "a dog", StubScorer())))


def test_progress_can_stop_the_run() -> None:
    told: list[tuple[int, int]] = []

    def tell(done: int, total: int) -> None:
        told.append((done, total))
        if done >= 3:
            raise KeyboardInterrupt

    scorer = StubScorer()
    with pytest.raises(KeyboardInterrupt):
        score_regions(picture(), some_regions(), "a dog", scorer, chunk=1, callback=tell)
    assert told == [(1, 10), (2, 10), (3, 10)] and len(scorer.seen) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query": " "}, "query is empty"),
        ({"view": "box"}, "kind must be crop"),
        ({"fill": "red"}, "fill must be one of"),
        ({"template": "photo"}, "template must be raw"),
        ({"template": "{} of {}"}, "template must be raw"),
        ({"chunk": 0}, "chunk must be at least 1"),
        ({"regions": Regions(torch.zeros(1, 40, 56, dtype=torch.bool), None, (40, 56))}, "area 0"),
        ({"regions": some_regions(height=32)}, "56x32 px but the picture is 56x40"),
    ],
)
def test_bad_input_is_one_sentence(options, message) -> None:  # type: ignore[no-untyped-def]
    arguments = {"regions": some_regions(), "query": "a dog", **options}
    with pytest.raises(ValueError, match=message):
        score_regions(picture(), scorer=StubScorer(), **arguments)
