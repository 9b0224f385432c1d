"""What a candidate changed, against scikit-image's own example and by hand."""

from __future__ import annotations

import pytest
import torch

from retouch_core.editing.changed import (
    DETAIL_SHARE,
    GROW,
    LOW_SHARE,
    changed,
    detailed,
    difference,
    tightened,
)


def flat(*, side: int = 32, value: float = 0.5) -> torch.Tensor:
    return torch.full((1, side, side, 3), value)


def painted(*boxes: tuple[int, int, int, int, float]) -> torch.Tensor:
    """A flat picture with boxes (x0, y0, x1, y1) brighter by some amount."""
    picture = flat()
    for x0, y0, x1, y1, more in boxes:
        picture[:, y0:y1, x0:x1] += more
    return picture


def test_difference_is_the_root_mean_square_of_the_smoothed_channels() -> None:
    picture = flat()
    picture[0, 10:20, 10:20, 0] += 0.3
    apart = difference(picture, flat())[0]
    assert float(apart[15, 15]) == pytest.approx(0.3 / 3**0.5, abs=1e-6)
    assert float(apart[5, 5]) == 0.0
    # The corner of the box holds 4 of the 9 pixels around it.
    assert float(apart[10, 10]) == pytest.approx(4 / 9 * 0.3 / 3**0.5, abs=1e-6)


def test_weak_places_count_only_beside_strong_ones() -> None:
    weak = 0.2 * (LOW_SHARE + 1) / 2
    picture = painted((4, 4, 10, 10, 0.3), (10, 4, 16, 10, weak), (22, 22, 28, 28, weak))
    found = changed(picture, flat(), 0.2)[0]
    assert found[5:9, 5:15].all()
    assert not found[20:30, 20:30].any()


def test_candidates_are_looked_at_one_by_one() -> None:
    pair = torch.cat([painted((4, 4, 10, 10, 0.3)), painted((20, 20, 26, 26, 0.3))])
    found = changed(pair, flat(), 0.2)
    assert found.shape == (2, 32, 32)
    assert found[0, 7, 7] and not found[0, 23, 23]
    assert found[1, 23, 23] and not found[1, 7, 7]


def test_nothing_changed_is_nothing() -> None:
    assert not changed(flat(), flat(), 0.2).any()


def test_what_shows_the_source_becomes_the_source_and_what_is_new_stays() -> None:
    source = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(source.movedim(-1, 1), 3, 1, 1).movedim(1, -1)
    same = detailed(blurred, blurred, source, 0.2)
    assert (same - source).abs().max() <= 1e-6
    new = blurred.clone()
    new[:, 8:24, 8:24] = 0
    kept = detailed(torch.cat([new, blurred]), blurred, source, 0.2)
    far = difference(new, blurred)[0] >= 0.2
    assert far[10:22, 10:22].all()
    assert torch.equal(kept[0][far], new[0][far])
    outside = difference(new, blurred)[0] == 0
    assert (kept[0][outside] - source[0][outside]).abs().max() <= 1e-6
    assert torch.equal(kept[1:], same)


def test_giving_detail_back_leaves_nothing_outside_the_range() -> None:
    generator = torch.Generator().manual_seed(0)
    source = torch.rand(1, 24, 24, 3, generator=generator).round()
    before = (0.9 * source + 0.05).clamp(0, 1)
    edited = (before + 0.03 * torch.randn(2, 24, 24, 3, generator=generator)).clamp(0, 1)
    made = detailed(edited, before, source, 1.0)
    assert float((edited + (source - before)).max()) > 1.01, "the sum alone would leave it"
    assert float(made.min()) >= 0 and float(made.max()) <= 1
    # A picture that is brighter than white stays so where nothing changed.
    bright = torch.full((1, 4, 4, 3), 1.4)
    assert torch.equal(detailed(bright.clamp(0, 1), bright.clamp(0, 1), bright, 1.0), bright)


def test_the_detail_given_back_fades_with_the_difference() -> None:
    source, before = flat(value=0.5), flat(value=0.4)
    made = detailed(flat(value=0.41), before, source, 0.2)
    assert float(made[0, 16, 16, 0]) == pytest.approx(
        0.41 + (1 - 0.01 / (0.2 * DETAIL_SHARE)) * 0.1, abs=1e-5
    )
    assert torch.equal(detailed(flat(value=0.41), before, source, 0.0), flat(value=0.41))
    assert torch.equal(detailed(flat(value=0.45), before, source, 0.2), flat(value=0.45))


def test_nan_in_a_candidate_spoils_nothing_else() -> None:
    before = flat(value=0.4)
    broken = before.clone()
    broken[0, 4, 4] = float("nan")
    made = detailed(broken, before, flat(), 0.2)
    assert made[0, 4, 4].isnan().all()
    assert int(made.isnan().any(-1).sum()) == 1
    assert float(made[0, 20, 20, 0]) == pytest.approx(0.5)


@pytest.mark.parametrize("least", [-0.1, 1.5, float("nan")])
def test_a_threshold_outside_0_to_1_is_refused(least: float) -> None:
    with pytest.raises(ValueError, match=r"least must lie in 0\.\.1, got .*; 0\.2 suits"):
        changed(flat(), flat(), least)


@pytest.mark.parametrize(("side", "reach"), [(32, 1), (128, 2), (512, 8)])
def test_tightened_is_the_grown_change_under_the_old_mask(side: int, reach: int) -> None:
    assert reach == max(1, GROW * side)
    mask = torch.zeros(1, side, side)
    mask[:, 2 : side - 2, 2 : side // 2 + 4] = 1.0
    what = torch.zeros(1, side, side, dtype=torch.bool)
    what[:, 10, 10] = True
    core = torch.zeros(1, side, side)
    edge = side // 2 + 3
    core[:, 25, edge - 1] = 1
    tight = tightened(mask, what, core)
    sure = reach - 1
    assert (tight[0, 10 - sure : 11 + sure, 10 - sure : 11 + sure] == 1).all()
    assert float(tight[0, 25, edge - 1]) == 1.0
    assert float(tight[0, 10, 10 + reach]) == pytest.approx(2 / 3)
    assert float(tight[0, 10, 10 + reach + 2]) == 0.0
    assert (tight <= mask).all()
    assert float(tight[0, 25, edge + 1]) == 0.0
