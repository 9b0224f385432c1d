"""The ranker's order and the measures, against independent numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

pytestmark = pytest.mark.host

ROOT = Path(__file__).resolve().parents[2]
Pack = Callable[[str], ModuleType]


@pytest.fixture(scope="module")
def scorer(pack: Pack) -> Any:
    return pack("retouch_core.models.embedded").load_scorer()


def pictures(seed: int, count: int = 1, side: int = 64) -> Tensor:
    return torch.rand(count, side, side, 3, generator=torch.Generator().manual_seed(seed))


def box(side: int = 64) -> Tensor:
    mask = torch.zeros(1, side, side)
    mask[:, 16:40, 20:44] = 1
    return mask


def drawn(pack: Pack, name: str) -> Tensor:
    return pack("retouch_core.pictures").read_picture(ROOT / "retouch_core" / "demo_pictures" / name)


def test_the_picture_that_shows_the_prompt_wins(pack: Pack, scorer: Any) -> None:
    """Real crops: a candidate with the thing asked for in the place of the edit, and two without."""
    node = pack("nodes.rank_candidates").RetouchRankCandidates
    source = drawn(pack, "sky.png")
    settings = pack("retouch_core.recipes").recipe("default").settings()
    segmenter = pack("retouch_core.models.graph_segmenter").GraphSegmenter()
    found = pack("retouch_core.regions.search").search(
        source, "the yellow cup", segmenter, scorer, settings=settings
    )
    mask = found.regions.masks[found.selected].any(0, keepdim=True).float()
    cup, other = source, source.flip(1)
    made = torch.cat([torch.full_like(source, 0.5), other, cup])
    best, order, report = node.execute(made, source, mask, scorer, "a yellow cup").args
    named = [int(line.split("candidate ")[1].split(":")[0]) for line in report.splitlines()[1:4]]
    assert torch.equal(order, made[[k - 1 for k in named]]) and torch.equal(best, order[:1])
    values = [float(line.split(": ")[1].split(" ")[0]) for line in report.splitlines()[1:4]]
    assert values == sorted(values, reverse=True)
    assert (3 in named[:2] and named[-1] == 1) or named[0] == 3


def test_closeness_orders_by_distance_and_keep_cuts(pack: Pack, scorer: Any) -> None:
    node = pack("nodes.rank_candidates").RetouchRankCandidates
    source = pictures(0)
    made = torch.cat([source + 0.3, source + 0.1, source + 0.2]).clamp(0, 1)
    _, order, _ = node.execute(made, source, box(), scorer, "", mode="iqa").args
    assert torch.equal(order, made[[1, 2, 0]])
    _, two, _ = node.execute(made, source, box(), scorer, "", mode="iqa", keep=2).args
    assert torch.equal(two, made[[1, 2]])


def test_nothing_found_passes_the_source_and_says_so(pack: Pack, scorer: Any) -> None:
    node = pack("nodes.rank_candidates").RetouchRankCandidates
    source = pictures(1)
    best, _, report = node.execute(source, source, torch.zeros(1, 64, 64), scorer, "a red car").args
    assert torch.equal(best, source) and "the mask is empty" in report


def test_half_precision_candidates_keep_their_values(pack: Pack, scorer: Any) -> None:
    node = pack("nodes.rank_candidates").RetouchRankCandidates
    source = pictures(2)
    made = torch.cat([pictures(3), pictures(4)]).half()
    _, order, _ = node.execute(made, source, box(), scorer, "a red car").args
    assert order.dtype == torch.float16
    assert torch.equal(order, made) or torch.equal(order, made.flip(0))


def test_measures_agree_with_skimage(pack: Pack) -> None:
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    node = pack("nodes.measure").RetouchMeasure
    source, mask = pictures(5), box()
    result = torch.where(mask[..., None] > 0, pictures(6), source)
    report, outside, likeness, noise, share, *_ = node.execute(source, result, mask).args
    a, b = source[0].double().numpy(), result[0].double().numpy()
    expected = structural_similarity(
        a, b, channel_axis=-1, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert likeness == pytest.approx(expected, abs=1e-6)
    assert noise == pytest.approx(peak_signal_noise_ratio(a, b, data_range=1), abs=1e-6)
    assert outside == 0 and share == pytest.approx(24 * 24 / 64**2)
    assert "none at all" in report


def test_one_value_outside_is_seen_and_equal_pictures_have_a_finite_psnr(pack: Pack) -> None:
    node = pack("nodes.measure").RetouchMeasure
    source, mask = pictures(7), box()
    result = source.clone()
    result[0, 3, 5, 1] = source[0, 3, 5, 1] + 0.25
    assert node.execute(source, result, mask).args[1] == pytest.approx(0.25, abs=1e-6)
    report, outside, likeness, noise, *_ = node.execute(source, source, mask).args
    assert (outside, noise) == (0, 100) and likeness == pytest.approx(1)
    assert "the pictures are equal" in report


def test_another_size_is_refused(pack: Pack, scorer: Any) -> None:
    with pytest.raises(ValueError, match="candidates are 32x32 px but source is 64x64"):
        pack("nodes.rank_candidates").RetouchRankCandidates.execute(
            pictures(0, side=32), pictures(0), box(), scorer, "a car"
        )
    with pytest.raises(ValueError, match="result is 32x32 px but source 64x64"):
        pack("nodes.measure").RetouchMeasure.execute(pictures(0), pictures(0, side=32), box())
