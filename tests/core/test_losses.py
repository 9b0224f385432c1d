"""Loss terms and views of guidance (methods.md 10.1, 10.2, 10.4) against closed forms and kornia's own warps."""

from __future__ import annotations

import math

import pytest
import torch

from retouch_core.editing.clean_image import clean_estimate
from retouch_core.editing.cutouts import (
    cut_square,
    cutouts,
    random_warps,
    resized,
    square_of,
    warped,
)
from retouch_core.editing.linear_decoder import fitted_factors, linear_decoder
from retouch_core.editing.loss_terms import Guidance, LossTerms
from retouch_core.editing.losses import background_l2, out_of_range, text_distance
from retouch_core.metrics.feature_distance import (
    EMBEDDING,
    FEATURES,
    LpipsDistance,
    ScorerDistance,
    perceptual_distance,
)
from tests.core.stub_scorer import StubScorer


@pytest.mark.parametrize(
    ("cosine", "expected"),
    [(1, 0), (0.5, 0.54831), (0.3, 0.80151), (0.25, 0.86871), (0.2, 0.93768), (0, 1.23370), (-1, 4.93480)],
)
def test_spherical_distance_of_10_1(cosine: float, expected: float):
    angle = math.acos(cosine)
    view = torch.tensor([[[math.cos(angle), math.sin(angle)]]], dtype=torch.float64)
    text = torch.tensor([1.0, 0.0], dtype=torch.float64)
    # The angle's slope is bounded just before opposite vectors, which costs 1e-2 there and nothing elsewhere.
    loose = 2e-2 if cosine == -1 else 1e-5
    assert text_distance(view, text, "spherical").item() == pytest.approx(expected, abs=loose)
    assert text_distance(view, text, "spherical").item() == pytest.approx(angle**2 / 2, abs=loose)
    assert text_distance(view, text, "cosine").item() == pytest.approx(1 - cosine, abs=1e-12)


@pytest.mark.parametrize("cosine", [1.0, -1.0])
@pytest.mark.parametrize("distance", ["cosine", "spherical"])
def test_distances_have_finite_gradients_at_their_ends(distance: str, cosine: float):
    view = torch.tensor([[[cosine, 0.0]]], requires_grad=True)
    loss = text_distance(view, torch.tensor([1.0, 0.0]), distance).sum()
    assert torch.isfinite(torch.autograd.grad(loss, view)[0]).all()


def test_range_of_10_1():
    values = torch.tensor([1.5, -0.5, -2, 0]).view(1, 1, 2, 2)
    assert out_of_range(values).item() == pytest.approx(0.3125)


def test_background_is_hidden_alike_on_both_sides():
    source, pixels = torch.rand(2, 1, 3, 6, 6)
    mask = torch.zeros(1, 1, 6, 6)
    mask[..., 2:4, 2:5] = 1
    assert background_l2(torch.where(mask > 0, pixels, source), source, mask).item() == 0
    outside = (mask[0, 0] == 0).nonzero().tolist()
    byhand = sum(float(((pixels - source)[0, :, y, x] ** 2).sum()) for y, x in outside) / (3 * 36)
    assert background_l2(pixels, source, mask).item() == pytest.approx(byhand, rel=1e-5)


def test_blended_estimate_of_10_2():
    abar = 0.64
    sigma = torch.tensor([math.sqrt((1 - abar) / abar)], dtype=torch.float64)
    x = torch.full((1, 1, 1, 1), 1.1 / math.sqrt(abar), dtype=torch.float64)
    denoised = torch.ones_like(x)
    assert clean_estimate(x, denoised, sigma, "blended").item() == pytest.approx(1.04, abs=1e-12)
    assert clean_estimate(x, denoised, sigma, "x0") is denoised


def box(height: int, width: int, top: int, left: int, h: int, w: int) -> torch.Tensor:
    mask = torch.zeros(1, 1, height, width)
    mask[..., top : top + h, left : left + w] = 1
    return mask


def test_square_is_the_box_times_1_3_about_its_middle():
    top, left, side = square_of(box(64, 80, 20, 30, 10, 20))
    assert side == 26
    assert (top + side / 2, left + side / 2) == (25, 40)
    assert square_of(box(64, 80, 3, 4, 1, 1))[2] == 8


def test_square_beyond_the_frame_is_grey_there():
    pixels = torch.rand(1, 3, 16, 20) + 0.5
    part = cut_square(pixels, (-3, 14, 10))
    assert part.shape == (1, 3, 10, 10)
    assert torch.equal(part[..., 3:, :6], pixels[..., :7, 14:])
    assert not part[..., :3, :].any() and not part[..., 6:].any()


def test_warps_are_kornias_own():
    """kornia warps twice, we once: alike where the picture is smooth and nothing comes from outside."""
    import kornia.augmentation as augment

    size = 48
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, size)] * 2, indexing="ij")
    smooth = torch.stack([x, y, x * y])[None]
    warps = random_warps(6, size, seed=5)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(5)
        steps = [
            augment.RandomAffine(15.0, (0.1, 0.1), p=0.7, align_corners=True),
            augment.RandomPerspective(0.7, p=0.7, align_corners=True),
        ]
        drawn = [step.forward_parameters(torch.Size([6, 3, size, size])) for step in steps]
        expected, inside = smooth.repeat(6, 1, 1, 1), torch.ones(6, 3, size, size)
        for step, params in zip(steps, drawn, strict=True):
            expected, inside = (step(v, params=params) for v in (expected, inside))
    found = warped(smooth, warps)
    whole = (inside > 0.999) & (torch.nn.functional.avg_pool2d(inside, 3, 1, 1) > 0.999)
    assert whole.float().mean() > 0.3
    assert (found - expected)[whole].abs().max() < 0.02
    assert not torch.allclose(warps, torch.eye(3).expand(6, 3, 3))


@pytest.mark.parametrize("cutting", ["augment", "crops"])
def test_cutouts_are_the_same_for_every_candidate_and_leave_the_generator_alone(cutting: str):
    pixels = torch.rand(3, 3, 40, 40) * 2 - 1
    square = square_of(box(40, 40, 10, 12, 16, 12))
    before = torch.random.get_rng_state()
    views = cutouts(pixels, square, 5, 16, cutting, 3, 1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert views.shape == (3, 5, 3, 16, 16)
    alone = cutouts(pixels[1:2], square, 5, 16, cutting, 3, 1)
    assert torch.allclose(views[1], alone[0], atol=1e-6)
    assert not torch.allclose(views, cutouts(pixels, square, 5, 16, cutting, 3, 2))
    if cutting == "augment":
        clean = resized(cut_square(pixels, square), 16)
        assert torch.allclose(views[:, 0], clean, atol=1e-5)
        assert torch.equal(cutouts(pixels, square, 1, 16, cutting, 3, 1)[:, 0], clean)


def test_linear_preview_is_fitted_exactly_where_the_world_is_linear():
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 6, 8, generator=generator)
    factors, bias = torch.randn(4, 3, generator=generator), torch.randn(3, generator=generator)
    colours = torch.einsum("bchw,cd->bdhw", latents, factors) + bias.view(1, 3, 1, 1)
    pixels = colours.repeat_interleave(8, -1).repeat_interleave(8, -2)
    found, offset = fitted_factors(latents, pixels)
    torch.testing.assert_close(found, factors, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(offset, bias, rtol=1e-4, atol=1e-5)
    decoded = linear_decoder(found, offset, 8)(latents)
    assert decoded.shape == pixels.shape
    flat = linear_decoder(*fitted_factors(torch.ones(1, 4, 3, 3), torch.full((1, 3, 24, 24), 0.3)), 8)
    assert flat(torch.ones(1, 4, 3, 3)).mean().item() == pytest.approx(0.3, abs=1e-5)


def test_stand_in_says_what_it_is_and_is_a_distance():
    scorer = StubScorer()
    assert ScorerDistance(scorer).name == EMBEDDING
    scorer.features = lambda views, depth: [views.flatten(2).transpose(1, 2) + 0.1]  # type: ignore[attr-defined]
    chosen = ScorerDistance(scorer)
    assert chosen.name == FEATURES and "LPIPS" not in chosen.name
    a, b = torch.rand(2, 2, 3, 20, 24) * 2 - 1
    distance = chosen.against(a)
    assert distance(a).tolist() == [0, 0]
    assert (distance(b) > 0).all()
    torch.testing.assert_close(chosen.against(b)(a), distance(b))


def test_lpips_is_taken_where_its_weights_are(monkeypatch: pytest.MonkeyPatch, tmp_path):
    from retouch_core.metrics import feature_distance

    file = tmp_path / "weights.pth"
    monkeypatch.setattr(feature_distance, "backbone_file", lambda net: file)
    assert isinstance(perceptual_distance(StubScorer()), ScorerDistance)
    file.touch()
    seen = []

    def network(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        seen.append((a.shape, b.shape))
        return (a - b).square().mean((1, 2, 3), keepdim=True)

    monkeypatch.setattr(feature_distance, "load_lpips", lambda net: network)
    chosen = perceptual_distance(StubScorer(), "alex")
    assert isinstance(chosen, LpipsDistance) and chosen.name == "LPIPS (alex)"
    a, b = torch.rand(1, 3, 64, 64), torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(chosen.against(a)(b), (a - b).square().mean((1, 2, 3)))
    assert seen == [(b.shape, b.shape)]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"scale": -1.0}, "scale must be a number of at least 0, got -1.0"),
        ({"scale": math.nan}, "scale must be a number of at least 0, got nan"),
        ({"clip": math.inf}, "clip must be a number"),
        ({"l2": -0.5}, "l2 must be"),
        ({"distance": "euclid"}, "distance must be one of cosine, spherical, got 'euclid'"),
        ({"cutting": "tiles"}, "cutting must be one of"),
        ({"cutouts": 0}, r"cutouts must be in \[1, 64\], got 0"),
        ({"cutouts": 2.5}, "cutouts must be a whole number"),
        ({"prompt": "  "}, "prompt is empty"),
        ({"scorer": None}, "scorer is None, but clip 1 needs one"),
        ({"perceptual": 1.0}, "perceptual_distance is None"),
    ],
)
def test_terms_that_mean_nothing(values, sentence):
    good = {"prompt": "a star", "scorer": StubScorer(), "perceptual": 0.0}
    with pytest.raises(ValueError, match=sentence):
        LossTerms(**good | values)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"path": "half"}, "path must be one of detach_unet, full, tiny, linear, tiny_half, got 'half'"),
        ({"estimate": "x1"}, "estimate must be one of"),
        ({"update": "nowhere"}, "update must be one of"),
        ({"window": "none"}, "window must be one of"),
        ({"bound": 0.0}, "bound must be above 0, got 0.0"),
        ({"bound": math.nan}, "bound must be above 0"),
        ({"every": 0}, r"every must be in \[1, 1000\], got 0"),
        ({"every": 1.5}, "every must be a whole number"),
        ({"until": 1.2}, r"until must be in \[0, 1\], got 1.2"),
        ({"until": math.nan}, "until must be in"),
    ],
)
def test_options_that_mean_nothing(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        Guidance(**values)


def test_terms_join_in_order_and_are_described_by_name():
    first = Guidance((LossTerms(clip=0, perceptual=0, l2=1.0),), path="linear", every=3)
    scorer = StubScorer()
    both = Guidance((LossTerms("a star", scorer, ScorerDistance(scorer)),), path="tiny").joined(first)
    assert [terms.l2 for terms in both.terms] == [1.0, 0.5]
    assert (both.path, both.every) == ("tiny", 1)
    told = both.described()["terms"][1]
    assert told["perceptual_distance"] == EMBEDDING and told["prompt"] == "a star" and "scorer" not in told
    assert both.joined(None) is both
    assert not Guidance().active and not Guidance((LossTerms(scale=0.0),)).active
