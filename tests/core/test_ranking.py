"""Candidate ranking (methods.md 11): its numbers, its rules, its fallbacks."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import pytest
import torch

from retouch_core.models.protocols import Scorer
from retouch_core.ranking.rank import normalise, rank, rank_removal
from retouch_core.ranking.scores import (
    SURROUNDS,
    box_pixels,
    cma,
    iqa,
    local_box,
    localised,
    masked_alignment,
    quality_order,
    quality_score,
    spherical_distance,
    zero_shot,
)

COSINES = [0.24, 0.30, 0.27, 0.26]
DISTANCES = [0.10, 0.16, 0.13, 0.11]


class ColourScorer:
    """Embeds a picture as its mean colour (plus a constant), a text as the colour it names."""

    image_size = 8
    logit_scale = 100.0
    gate = None
    rivals = ()
    colours = {"red": (1.0, 0, 0, 0.3), "green": (0, 1.0, 0, 0.3), "blue": (0, 0, 1.0, 0.3)}  # noqa: RUF012

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.seen: list[torch.Tensor] = []

    def encode_images(self, views: torch.Tensor) -> torch.Tensor:
        assert views.shape[1:] == (3, 8, 8)
        assert not ((views < 0) | (views > 1)).any()
        self.batches.append(len(views))
        self.seen.append(views)
        means = views.mean((2, 3))
        return torch.nn.functional.normalize(torch.cat([means, torch.full((len(views), 1), 0.3)], 1), dim=1)

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.tensor([self.colours[t] for t in texts]), dim=1)

    def unknown_words(self, text: str) -> tuple[str, ...]:
        return ()


class TableScorer(ColourScorer):
    """Gives each picture the cosine that the value of its first pixel indexes."""

    def __init__(self, cosines: Sequence[float]) -> None:
        super().__init__()
        self.cosines = torch.tensor(cosines, dtype=torch.float64)

    def encode_images(self, views: torch.Tensor) -> torch.Tensor:
        cosine = self.cosines[: len(views)]
        return torch.stack([cosine, (1 - cosine**2).sqrt()], 1)

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.tensor([[1.0, 0.0]] * len(texts))


def shifted(source: torch.Tensor, distances: Sequence[float]) -> torch.Tensor:
    """Candidates whose mean L2 distance from the source is as given."""
    return torch.cat([source + d / math.sqrt(3) for d in distances])


def grey(size: int = 16) -> torch.Tensor:
    return torch.full((1, size, size, 3), 0.5)


def table(cosines: Sequence[float] = COSINES, distances: Sequence[float] = DISTANCES, **options):
    source = grey()
    return rank(source, shifted(source, distances), None, TableScorer(cosines), "anything", **options)


def test_the_stub_is_a_scorer():
    assert isinstance(ColourScorer(), Scorer)


# --- 11.1 ---


@pytest.mark.parametrize(("norm", "expected"), [("l2", 0.125), ("l1_sum", 0.175), ("l1_mean", 0.05833)])
def test_pixel_distance_of_11_1(norm: str, expected: float):
    source, edited = torch.zeros(1, 2, 2, 3), torch.zeros(1, 2, 2, 3)
    edited[0, 1, 0] = torch.tensor([0.3, 0.4, 0.0])
    assert iqa(source, edited, norm=norm).item() == pytest.approx(expected, abs=5e-6)


def test_the_same_picture_in_mse_and_psnr():
    from retouch_core.metrics.fidelity import mse, psnr

    source, edited = torch.zeros(1, 2, 2, 3), torch.zeros(1, 2, 2, 3)
    edited[0, 1, 0] = torch.tensor([0.3, 0.4, 0.0])
    assert mse(source, edited).item() == pytest.approx(0.0208333, abs=1e-7)
    assert psnr(source, edited).item() == pytest.approx(16.812, abs=5e-4)


@pytest.mark.parametrize(
    ("how", "scores", "best"),
    [
        ("minmax", [-0.5, 0.2, -0.15, -0.21667], 1),
        ("softmax", None, 1),
        ("affine", [0.12, -0.15, -0.015, 0.08], 0),
    ],
)
def test_s00_score_of_11_1(how: str, scores: list[float] | None, best: int):
    ranking = table(normalise=how)
    assert ranking.best == best
    assert ranking.fallback is None
    if scores is not None:
        assert ranking.scores.tolist() == pytest.approx(scores, abs=5e-6)


def test_normalised_cosines_of_11_1():
    cosines = torch.tensor(COSINES, dtype=torch.float64)
    assert normalise(cosines, "minmax").tolist() == pytest.approx([0, 1, 0.5, 1 / 3], abs=1e-9)
    assert normalise(cosines, "affine").tolist() == pytest.approx([0.62, 0.65, 0.635, 0.63], abs=1e-9)
    weights = [math.exp(100 * c) for c in COSINES]
    assert normalise(cosines, "softmax", 100).tolist() == pytest.approx([w / sum(weights) for w in weights])


@pytest.mark.parametrize(("mode", "best"), [("iqa", 0), ("cma", 1)])
def test_one_criterion_alone(mode: str, best: int):
    assert table(mode=mode).best == best


def test_equal_cosines_leave_the_choice_to_the_distance():
    ranking = table([0.25] * 4, [0.3, 0.2, 0.1, 0.4])
    assert ranking.parts["alignment"].tolist() == [0, 0, 0, 0]
    assert ranking.order.tolist() == [2, 1, 0, 3]


@pytest.mark.parametrize("mode", ["s00", "cma", "iqa", "localised", "masked", "quality"])
def test_a_single_candidate_is_the_best(mode: str):
    mask = torch.zeros(1, 16, 16)
    mask[:, 4:8, 4:8] = 1
    ranking = rank(grey(), grey() * 0.9, mask, ColourScorer(), "red", mode=mode)
    assert ranking.order.tolist() == [0]
    assert ranking.scores.shape == (1,)


def test_the_scorers_own_logit_scale_is_used():
    ranking = table(normalise="softmax")
    weights = [math.exp(100 * c) for c in COSINES]
    assert ranking.parts["alignment"].tolist() == pytest.approx([w / sum(weights) for w in weights], abs=1e-6)


def test_alpha_weighs_the_distance():
    assert table(alpha=0.0).best == 1
    assert table(alpha=1000.0).best == 0


def test_background_distance_counts_only_pixels_outside_the_mask():
    source = grey()
    mask = torch.zeros(1, 16, 16)
    mask[:, :8] = 0.01
    edited = source.repeat(2, 1, 1, 1)
    edited[0, :8] = 1.0
    edited[1, 12, 3] = 0.0
    assert iqa(source, edited, mask).tolist() == pytest.approx([0, 0.5 * math.sqrt(3) / 128])
    assert iqa(source, edited, torch.ones_like(mask)).tolist() == [0, 0]
    assert rank(source, edited, mask, None, "x", mode="iqa", region="background").best == 0
    assert rank(source, edited, mask, None, "x", mode="iqa", region="full").best == 1


def test_alignment_follows_the_colour_asked_for_and_is_encoded_in_chunks():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(70, 16, 24, 3, generator=generator) * 0.3
    images[41, ..., 1] += 0.6
    scorer = ColourScorer()
    cosines = cma(scorer, images, "green")
    assert cosines.argmax() == 41
    assert scorer.batches == [32, 32, 6]
    one = torch.cat([cma(ColourScorer(), images[k : k + 1], "green") for k in range(70)])
    torch.testing.assert_close(cosines, one, rtol=0, atol=1e-5)


def test_nothing_of_a_wide_picture_is_cropped_away():
    """A centre crop to a square would lose the outer columns."""
    image = torch.zeros(1, 16, 64, 3)
    left = image.clone()
    left[:, :, :4, 0] = 1
    assert cma(ColourScorer(), left, "red") > cma(ColourScorer(), image, "red")


# --- 11.2 ---


def test_local_box_of_11_2():
    assert local_box((64, 64, 128, 128), (256, 256)) == pytest.approx((54.4, 54.4, 137.6, 137.6))
    assert local_box((0, 0, 40, 20), (100, 100)) == pytest.approx((0, 0, 46, 23))


def test_pixels_of_11_2():
    rows, columns = box_pixels((54.4, 54.4, 137.6, 137.6), (256, 256))
    assert list(range(256))[rows] == list(range(54, 138))
    assert list(range(256))[columns] == list(range(54, 138))
    rows, columns = box_pixels((90.0, 80.5, 100.0, 100.0), (100, 100))
    assert (rows.start, rows.stop, columns.start, columns.stop) == (80, 100, 90, 100)


@pytest.mark.parametrize(
    ("cosine", "expected"),
    [(1, 0), (0.5, 0.54831), (0.3, 0.80151), (0.25, 0.86871), (0.2, 0.93768), (0, 1.23370), (-1, 4.93480)],
)
def test_spherical_distance(cosine: float, expected: float):
    assert spherical_distance(torch.tensor(cosine, dtype=torch.float64)).item() == pytest.approx(
        expected, abs=5e-6
    )


def test_spherical_distance_is_half_the_squared_angle():
    cosine = torch.linspace(-1, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(spherical_distance(cosine), torch.acos(cosine) ** 2 / 2, rtol=1e-6, atol=1e-7)


def test_localised_looks_at_the_enlarged_box_of_the_unmasked_picture():
    source = torch.full((1, 100, 100, 3), 0.2)
    candidates = source.repeat(3, 1, 1, 1)
    candidates[0, 70:, 70:] = torch.tensor([1.0, 0, 0])  # red far from the box
    candidates[1, 40:60, 40:60] = torch.tensor([1.0, 0, 0])  # red in it
    candidates[2, 37:40, 37:63] = torch.tensor([1.0, 0, 0])  # red only in what the enlargement adds
    mask = torch.zeros(1, 100, 100)
    mask[:, 40:60, 40:60] = 1
    ranking = rank(source, candidates, mask, ColourScorer(), "red", mode="localised")
    assert ranking.order.tolist() == [1, 2, 0]
    assert (ranking.scores <= 0).all()
    scorer = ColourScorer()
    scores = localised(scorer, candidates, (40, 40, 60, 60), "red")
    torch.testing.assert_close(scores, ranking.scores, rtol=0, atol=0)
    means = candidates[:, 37:64, 37:64].mean((1, 2))  # 40 - 3 .. 60 + 3, end pixel included
    torch.testing.assert_close(scorer.seen[0].mean((2, 3)), means, rtol=0, atol=0.02)


def test_masked_ranking_sees_black_outside():
    source = torch.full((1, 16, 16, 3), 0.5)
    candidates = source.repeat(2, 1, 1, 1)
    candidates[0, :, 8:] = torch.tensor([1.0, 0, 0])  # red, but not where it was asked for
    candidates[1, 4:8, 2:6] = torch.tensor([1.0, 0, 0])
    mask = torch.zeros(1, 16, 16)
    mask[:, 4:8, 2:6] = 1
    scorer = ColourScorer()
    assert rank(source, candidates, mask, scorer, "red", mode="masked").best == 1
    expected = candidates * mask[..., None]
    torch.testing.assert_close(scorer.seen[0].mean((2, 3)), expected.mean((1, 2)), rtol=0, atol=0.01)
    torch.testing.assert_close(
        masked_alignment(scorer, candidates, mask, "red")[1], torch.tensor(1.0), rtol=0, atol=0.7
    )


# --- 11.5 ---


def test_ties_keep_the_lower_index_first():
    source = grey()
    assert rank(source, source.repeat(5, 1, 1, 1), None, ColourScorer(), "red").order.tolist() == [
        0,
        1,
        2,
        3,
        4,
    ]
    assert table([0.3, 0.2, 0.3, 0.2], [0.1] * 4).order.tolist() == [0, 2, 1, 3]


@pytest.mark.parametrize("mode", ["s00", "cma", "iqa"])
@pytest.mark.parametrize("how", ["minmax", "softmax", "affine"])
def test_a_nan_score_ranks_last_and_changes_no_other(mode: str, how: str):
    source = grey()
    three = shifted(source, DISTANCES[:3])
    broken = torch.cat([three, torch.full_like(source, math.nan)])[[0, 3, 1, 2]]
    cosines = [COSINES[0], math.nan, *COSINES[1:3]]
    ranking = rank(source, broken, None, TableScorer(cosines), "x", mode=mode, normalise=how)
    clean = rank(source, three, None, TableScorer(COSINES[:3]), "x", mode=mode, normalise=how)
    assert ranking.order[-1] == 1
    assert ranking.scores[1] == -math.inf
    assert ranking.fallback == "candidates [1] scored NaN and rank last"
    torch.testing.assert_close(ranking.scores[[0, 2, 3]], clean.scores)


def test_all_nan_is_an_error():
    source = grey()
    with pytest.raises(ValueError, match="all 2 candidates scored NaN"):
        rank(source, torch.full((2, 16, 16, 3), math.nan), None, ColourScorer(), "red")


@pytest.mark.parametrize("mode", ["s00", "cma", "localised", "masked", "quality"])
@pytest.mark.parametrize("text", ["", "   "])
def test_without_text_the_distance_decides_and_says_so(mode: str, text: str):
    source = grey()
    ranking = rank(source, shifted(source, DISTANCES), None, ColourScorer(), text, mode=mode)
    assert ranking.best == 0
    assert ranking.fallback == f"there is no text to rank by, so {mode} became iqa"


@pytest.mark.parametrize("mode", ["localised", "masked"])
def test_an_empty_mask_falls_back_and_says_so(mode: str):
    source = grey()
    ranking = rank(
        source, shifted(source, DISTANCES), torch.zeros(1, 16, 16), ColourScorer(), "red", mode=mode
    )
    assert ranking.fallback == f"the mask is empty, so {mode} became cma"


def test_no_text_or_scorer_needed_for_iqa():
    source = grey()
    ranking = rank(source, shifted(source, DISTANCES), None, None, "", mode="iqa")
    assert ranking.best == 0
    assert ranking.fallback is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "best"}, "mode must be one of"),
        ({"normalise": "zscore"}, "normalise must be one of"),
        ({"region": "inside"}, "region must be one of"),
        ({"candidates": torch.zeros(0, 16, 16, 3)}, "candidates is empty"),
        (
            {"candidates": torch.zeros(2, 16, 17, 3)},
            r"candidates are \[16, 17, 3\] but source is \[16, 16, 3\]",
        ),
        ({"mask": torch.zeros(1, 8, 8)}, r"mask must have shape \[1, 16, 16\]"),
        ({"mask": torch.full((1, 16, 16), math.nan)}, "mask holds NaN"),
        ({"mask": None, "mode": "localised"}, "mask is None"),
        ({"mask": None, "region": "background"}, "mask is None"),
        ({"scorer": None}, "scorer is None"),
    ],
)
def test_bad_input(change: dict, message: str):
    given = {
        "source": grey(),
        "candidates": grey().repeat(2, 1, 1, 1),
        "mask": torch.ones(1, 16, 16),
        "scorer": ColourScorer(),
        "text": "red",
        **change,
    }
    options = {name: given.pop(name) for name in ("mode", "normalise", "region") if name in given}
    with pytest.raises(ValueError, match=message):
        rank(*given.values(), **options)


def test_bad_input_of_the_parts():
    with pytest.raises(ValueError, match="norm must be one of"):
        iqa(grey(), grey(), norm="l7")
    with pytest.raises(ValueError, match="make their sizes equal"):
        iqa(grey(), grey(8))
    with pytest.raises(ValueError, match="text is empty"):
        cma(ColourScorer(), grey(), " ")
    with pytest.raises(ValueError, match="box must have area"):
        local_box((5, 5, 5, 9), (16, 16))


def test_ordinary_ranking_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table()


def test_a_removal_prefers_ground_to_the_thing() -> None:
    source = grey(16)
    mask = torch.zeros(1, 16, 16)
    mask[:, 4:12, 4:12] = 1
    colours = [(1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.0, 0.0, 1.0), (0.8, 0.3, 0.3)]
    candidates = source.repeat(4, 1, 1, 1)
    for candidate, colour in zip(candidates, colours, strict=True):
        candidate[4:12, 4:12] = torch.tensor(colour)
    scorer = ColourScorer()
    scorer.colours = scorer.colours | {"the background": (0.5, 0.5, 0.5, 0.3)}
    ranking = rank_removal(source, candidates, mask, scorer, "red")
    # Grey is the ground here: blue is less red, but as little ground as red is.
    assert ranking.order[-2:].tolist() == [3, 0]
    views = torch.tensor([[*colour, 0.3] for colour in colours])
    assert ranking.best in (1, 2)
    cosine = torch.nn.functional.cosine_similarity
    reference = [
        spherical_distance(cosine(v, torch.tensor([1.0, 0, 0, 0.3]), 0))
        - spherical_distance(cosine(v, torch.tensor([0.5, 0.5, 0.5, 0.3]), 0))
        for v in views
    ]
    assert ranking.order.tolist() == sorted(range(4), key=lambda k: -float(reference[k]))


ANGLES = {"red": 0.0, "green": 1.2, "blue": 2.4}


class WordsAndColours:
    """Views: their mean colour on a circle. Texts: fixed angles. So cosines are those of angles."""

    image_size, logit_scale, gate = 8, 10.0, None

    def __init__(self, *rivals: str) -> None:
        self.rivals = rivals
        self.views = 0

    def encode_images(self, views: torch.Tensor) -> torch.Tensor:
        self.views += len(views)
        angle = views.mean((2, 3)) @ torch.tensor([0.0, 1.2, 2.4])
        return torch.stack([angle.cos(), angle.sin()], 1)

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        angle = torch.tensor([ANGLES[text] for text in texts])
        return torch.stack([angle.cos(), angle.sin()], 1)

    def unknown_words(self, text: str) -> tuple[str, ...]:
        return ()


def three_patches() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A black picture, three candidates with a patch of another colour at another place each, and the mask of all."""
    source = torch.zeros(1, 40, 40, 3)
    made = source.repeat(3, 1, 1, 1)
    for k, colour in enumerate(torch.eye(3)):
        made[k, 4 + 10 * k : 12 + 10 * k, 6:14] = colour
    mask = torch.zeros(1, 40, 40)
    mask[:, 2:34, 4:16] = 1
    return source, made, mask


def test_zero_shot_looks_at_what_each_candidate_changed():
    source, made, mask = three_patches()
    for best, text in enumerate(("red", "green", "blue")):
        scorer = WordsAndColours("red", "green", "blue")
        ranking = rank(source, made, mask, scorer, text, mode="zero_shot")
        assert ranking.best == best and scorer.views == 3 * len(SURROUNDS)


def test_zero_shot_is_the_logarithm_of_a_softmax_over_the_rivals():
    source = torch.zeros(1, 16, 16, 3)
    made = torch.ones(1, 16, 16, 3) * torch.tensor([0.0, 0.5, 0.0])
    mask = torch.ones(1, 16, 16)
    found = zero_shot(WordsAndColours("red", "blue", "green"), source, made, mask, "green")
    angle = 0.6
    logits = [10 * math.cos(angle - other) for other in (1.2, 0.0, 2.4)]
    expected = logits[0] - math.log(sum(map(math.exp, logits)))
    assert float(found) == pytest.approx(expected, abs=1e-5)
    alone = zero_shot(WordsAndColours(), source, made, mask, "green")
    assert float(alone) == pytest.approx(math.cos(angle - 1.2), abs=1e-5)


def test_zero_shot_takes_the_mask_where_nothing_changed():
    source, made, mask = three_patches()
    same = zero_shot(WordsAndColours("red"), source, source, mask, "blue")
    also = zero_shot(WordsAndColours("red"), source, torch.cat([source, made[2:]]), mask, "blue")
    assert same.shape == (1,) and float(also[0]) == pytest.approx(float(same[0])) and also[1] > also[0]


# --- 11.4 ---

TEXT = [0.24, 0.30, 0.27, 0.26]
IMAGE = [0.80, 0.70, 0.85, 0.90]


def test_quality_score_of_11_4():
    text, image = (torch.tensor(v, dtype=torch.float64) for v in (TEXT, IMAGE))
    assert torch.softmax(text, 0).tolist() == pytest.approx([0.24316, 0.25820, 0.25057, 0.24807], abs=5e-6)
    assert torch.softmax(image, 0).tolist() == pytest.approx([0.24623, 0.22280, 0.25885, 0.27212], abs=5e-6)
    quality = quality_score(text, image)
    assert quality.tolist() == pytest.approx([0.73255, 0.73919, 0.75999, 0.76827], abs=5e-6)
    assert quality_order(text, quality).tolist() == [3, 2, 1, 0]


def test_the_best_quality_does_not_win_without_being_among_the_three_best_by_text():
    text = torch.tensor([0.20, 0.30, 0.27, 0.26])
    # By hand: .90, .694, .717, .692.
    quality = quality_score(text, torch.tensor([1.0, 0.1, 0.3, 0.2]))
    assert quality.argmax() == 0
    assert quality_order(text, quality).tolist() == [2, 1, 3, 0]


def test_quality_with_nan_and_ties():
    text = torch.tensor([0.3, math.nan, 0.3, 0.3, 0.3])
    quality = quality_score(text, torch.full((5,), 0.5))
    assert quality.isnan().tolist() == [False, True, False, False, False]
    assert quality[0].item() == pytest.approx(3 / 4)
    assert quality_order(text, quality.nan_to_num(-math.inf)).tolist() == [0, 2, 3, 4, 1]


class PairScorer(ColourScorer):
    """Grey g of the first pixel -> a vector whose cosine with the text is TEXT, and with the source IMAGE."""

    def encode_images(self, views: torch.Tensor) -> torch.Tensor:
        rows = []
        for view in views:
            k = round(float(view[0, 0, 0]) * 10)
            # Axes: the text, the source, the rest.
            a, b = (TEXT[k], IMAGE[k]) if k < 4 else (0.0, 1.0)
            rows.append([a, b, math.sqrt(max(0.0, 1 - a * a - b * b))])
        return torch.tensor(rows)

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.tensor([[1.0, 0.0, 0.0]] * len(texts))


def test_mode_quality_ranks_as_11_4_says():
    source = torch.full((1, 16, 16, 3), 0.9)
    made = torch.cat([torch.full_like(source, k / 10) for k in range(4)])
    ranking = rank(source, made, None, PairScorer(), "x", mode="quality")
    assert ranking.order.tolist() == [3, 2, 1, 0]
    assert ranking.scores.tolist() == pytest.approx([0.73255, 0.73919, 0.75999, 0.76827], abs=5e-6)
    assert ranking.parts["source"].tolist() == pytest.approx(IMAGE)
    by_text = rank(source, made, None, PairScorer(), "x", mode="quality", quality_weights=(1.0, 0.0))
    assert by_text.best == 1
