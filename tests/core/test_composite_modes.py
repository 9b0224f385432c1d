"""Modes of the composite, the colour match and the seam measures, against closed forms and scipy's sparse solver."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, sparse
from scipy.sparse.linalg import spsolve

from retouch_core.editing.colour_match import match_colours
from retouch_core.editing.composite import MODES, composite
from retouch_core.editing.poisson import membrane
from retouch_core.metrics.seam import seam

SIZES = [(16, 16), (17, 16), (33, 47), (64, 35)]


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def smooth(seed: int, height: int, width: int, sigma: float = 3) -> torch.Tensor:
    """IMAGE [1,H,W,3] with texture of about `sigma` px, in 0.1..0.9."""
    grain = np.random.default_rng(seed).standard_normal((height, width, 3))
    picture = ndimage.gaussian_filter(grain, (sigma, sigma, 0), mode="reflect")
    return torch.from_numpy((0.5 + 0.12 * picture / picture.std()).clip(0.1, 0.9)).float()[None]


def masks_of(height: int, width: int) -> dict[str, torch.Tensor]:
    """Masks [1,H,W] at every side, in the middle, as a dot, soft, in far parts, whole and empty."""
    third, quarter = height // 3, width // 4
    out = {
        name: torch.zeros(1, height, width)
        for name in ("top", "bottom", "left", "right", "middle", "dot", "parts")
    }
    out["top"][:, :third, quarter:-quarter] = 1
    out["bottom"][:, -third:, quarter:-quarter] = 1
    out["left"][:, third:-third, :quarter] = 1
    out["right"][:, third:-third, -quarter:] = 1
    out["middle"][:, third:-third, quarter:-quarter] = 1
    out["dot"][:, third, quarter] = 1
    out["parts"][:, 1:4, 1:5] = out["parts"][:, -3:, -6:] = 1
    grid_y, grid_x = torch.meshgrid(
        torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
    )
    out["soft"] = (1.4 - 2 * (grid_y**2 + grid_x**2).sqrt()).clamp(0, 1)[None]
    out["sides"] = 1 - out["middle"]
    out["whole"], out["empty"] = torch.ones(1, height, width), torch.zeros(1, height, width)
    return out


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_outside_is_the_source_bit_for_bit(mode: str, size: tuple[int, int], value: float | None) -> None:
    source = noise(1, 1, *size, 3) * 3 - 1
    for name, mask in masks_of(*size).items():
        edited = noise(2, 2, *size, 3)
        outside = mask[0] == 0
        if value is not None:
            edited[:, outside] = value
        made = composite(source, edited, mask, mode=mode)
        assert torch.equal(made[:, outside], source.expand_as(edited)[:, outside]), name
        assert torch.isfinite(made).all(), name


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(4096, 17), (16, 4095)])
def test_outside_stays_at_the_longest_sides(mode: str, size: tuple[int, int]) -> None:
    source, edited = noise(1, 1, *size, 3), noise(2, 1, *size, 3)
    for name in ("top", "right", "sides"):
        outside = masks_of(*size)[name][0] == 0
        broken = edited.masked_fill(outside[..., None], math.nan)
        made = composite(source, broken, masks_of(*size)[name], mode=mode)
        assert torch.equal(made[:, outside], source[:, outside]) and torch.isfinite(made).all(), name


@pytest.mark.parametrize("mode", MODES)
def test_ten_edits_in_a_row(mode: str) -> None:
    first = noise(0, 1, 45, 62, 3)
    current, touched = first, torch.zeros(45, 62, dtype=torch.bool)
    for k in range(10):
        mask = torch.zeros(1, 45, 62)
        mask[:, 3 * k : 3 * k + 9, 2 * k : 4 * k + 4] = 0.1 * k + 0.05
        touched |= mask[0] > 0
        current = composite(current, noise(k + 1, 1, 45, 62, 3), mask, mode=mode)
    assert not touched.all()
    assert torch.equal(current[:, ~touched], first[:, ~touched])


@pytest.mark.parametrize("mode", MODES)
def test_the_same_content_gives_the_same_picture(mode: str) -> None:
    source = smooth(3, 50, 61)
    for name, mask in masks_of(50, 61).items():
        assert (composite(source, source.clone(), mask, mode=mode) - source).abs().max() <= 1e-6, name


@pytest.mark.parametrize("mode", MODES)
def test_pictures_of_a_batch_stay_apart_and_types_stay(mode: str) -> None:
    masks = masks_of(33, 47)
    mask = torch.cat([masks["left"], masks["soft"], masks["empty"]])
    source, edited = noise(1, 3, 33, 47, 3), noise(2, 3, 33, 47, 3)
    together = composite(source, edited, mask, mode=mode)
    for k in range(3):
        assert torch.equal(
            together[k : k + 1], composite(source[k : k + 1], edited[k : k + 1], mask[k], mode=mode)
        )
    for dtype in (torch.float16, torch.float64):
        made = composite(source.to(dtype), edited, mask, mode=mode)
        assert made.dtype == dtype and torch.equal(made[2], source[2].to(dtype))


@pytest.mark.parametrize("mode", ["laplacian", "poisson"])
def test_what_a_mode_would_spread_is_refused(mode: str) -> None:
    mask, edited = masks_of(33, 47)["middle"], noise(2, 1, 33, 47, 3)
    edited[0, 16, 20, 1] = math.nan
    with pytest.raises(ValueError, match=f"edited holds NaN .* mode '{mode}'"):
        composite(noise(1, 1, 33, 47, 3), edited, mask, mode=mode)
    with pytest.raises(ValueError, match="mode must be one of feather, laplacian, poisson, got 'mean'"):
        composite(edited, edited, mask, mode="mean")


# --- poisson ---


def solved(values: np.ndarray, rim: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The same equations, one unknown a pixel, by a sparse direct solver in float64."""
    index = np.full(inside.shape, -1)
    index[inside] = np.arange(inside.sum())
    matrix, right = sparse.lil_matrix((inside.sum(), inside.sum())), np.zeros(inside.sum())
    for y, x in zip(*np.nonzero(inside), strict=True):
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if not (0 <= v < inside.shape[0] and 0 <= u < inside.shape[1]):
                continue
            matrix[index[y, x], index[y, x]] += 1
            if inside[v, u]:
                matrix[index[y, x], index[v, u]] -= 1
            else:
                right[index[y, x]] += values[v, u]
    out = np.where(rim, values, 0.0)
    out[inside] = spsolve(matrix.tocsr(), right)
    return out


@pytest.mark.parametrize("size", [(3, 40), (9, 7), (31, 44), (50, 33)])
@pytest.mark.parametrize("name", ["left", "bottom", "middle", "soft", "sides", "parts"])
def test_the_membrane_equals_a_sparse_solver(size: tuple[int, int], name: str) -> None:
    if min(size) < 8 and name in ("parts", "sides"):
        pytest.skip("the picture is too small for this mask")
    held = masks_of(*size)[name][0] > 0
    away = torch.nn.functional.pad(held[None, None].float(), (1, 1, 1, 1), mode="replicate")
    cross = torch.tensor([[0.0, 1, 0], [1, 1, 1], [0, 1, 0]])[None, None]
    inside = (torch.nn.functional.conv2d(away, cross)[0, 0] == 5) & held
    rim = held & ~inside
    values = noise(4, 2, *size).double()
    found = membrane(values, rim, inside)
    if not inside.any():
        assert torch.equal(found, torch.where(rim, values, 0))
        return
    for ours, given in zip(found, values, strict=True):
        expected = solved(given.numpy(), rim.numpy(), inside.numpy())
        assert np.abs(ours.numpy() - expected)[held.numpy()].max() <= 1e-8


def test_single_precision_is_a_hundredth_of_a_level_close() -> None:
    """Colours come as float32, and are solved in it: against the same in float64."""
    held = torch.zeros(150, 170, dtype=torch.bool)
    held[5:, 10:165] = True
    inner = torch.from_numpy(ndimage.binary_erosion(held.numpy(), border_value=1))
    values = noise(4, 3, 150, 170)
    close = membrane(values, held & ~inner, inner) - membrane(values.double(), held & ~inner, inner)
    assert close.abs().max() <= 0.01 / 255


@pytest.mark.parametrize("name", ["top", "bottom", "left", "right", "middle", "sides", "soft"])
def test_poisson_takes_back_an_offset(name: str) -> None:
    """An edit that only adds a constant per channel disappears."""
    source = smooth(5, 60, 53)
    made = composite(
        source, source + torch.tensor([0.1, -0.08, 0.05]), masks_of(60, 53)[name], mode="poisson"
    )
    assert (made - source).abs().max() <= 1e-5


def test_poisson_takes_back_a_ramp_that_is_harmonic() -> None:
    """So does any added function that is the mean of its neighbours, where the mask does not touch the frame."""
    source = smooth(6, 60, 53)
    y, x = torch.meshgrid(torch.arange(60.0), torch.arange(53.0), indexing="ij")
    for added in (0.002 * x - 0.001 * y, 0.00005 * (x * x - y * y), 0.00008 * x * y):
        made = composite(source, source + added[..., None], masks_of(60, 53)["middle"], mode="poisson")
        assert (made - source).abs().max() <= 1e-5


def test_poisson_across_the_frame_is_free() -> None:
    """A ramp across a strip from frame to frame: along the frame's normal the correction has no slope."""
    source, mask = torch.full((1, 40, 30, 3), 0.5), torch.zeros(1, 40, 30)
    mask[:, 10:30] = 1
    edited = source.clone()
    edited[:, 10:30] += 0.01 * torch.arange(20.0)[None, :, None, None] - 0.1
    assert (composite(source, edited, mask, mode="poisson") - source).abs().max() <= 1e-5


def test_poisson_keeps_the_gradients_of_the_edit() -> None:
    source, mask = smooth(7, 64, 64), masks_of(64, 64)["middle"]
    edited = smooth(8, 64, 64)
    made = composite(source.double(), edited, mask, mode="poisson").double()
    left = (made - edited.double())[0, 23:41, 18:46]
    around = left[:-2, 1:-1] + left[2:, 1:-1] + left[1:-1, :-2] + left[1:-1, 2:] - 4 * left[1:-1, 1:-1]
    assert around.abs().max() <= 1e-7


def test_a_large_membrane_needs_few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    from retouch_core.editing import poisson

    monkeypatch.setattr(poisson, "MAX_ITERATIONS", 25)
    grid_y, grid_x = np.ogrid[:150, :170]
    held = torch.from_numpy((grid_y - 70) ** 2 + (grid_x - 90) ** 2 / 2 < 50**2)
    inner = torch.from_numpy(ndimage.binary_erosion(held.numpy(), border_value=1))
    values = torch.from_numpy(np.broadcast_to(0.01 * grid_x + 0.02 * grid_y, (150, 170)).copy())
    found = membrane(values[None], held & ~inner, inner)[0]
    frame = held.clone()
    frame[1:-1, 1:-1] = False
    assert not frame.any()
    assert (found - values)[held].abs().max() <= 1e-7


# --- laplacian ---


def test_laplacian_is_the_edit_deep_inside_and_feather_without_room() -> None:
    source, edited = smooth(1, 90, 120), smooth(2, 90, 120)
    mask = torch.zeros(1, 90, 120)
    mask[:, 10:80, 10:110] = 1
    made = composite(source, edited, mask, mode="laplacian")
    assert torch.equal(made[:, 40:50, 40:80], edited[:, 40:50, 40:80])
    thin = torch.zeros(1, 90, 120)
    thin[:, 40:45, 10:110] = 0.7
    assert torch.equal(composite(source, edited, thin, mode="laplacian"), composite(source, edited, thin))


def test_laplacian_hides_the_seam_of_an_offset_and_keeps_detail() -> None:
    """A shift of colour fades in over many pixels; detail of two pixels is there right inside the outline."""
    source, mask = torch.full((1, 96, 96, 3), 0.4), torch.zeros(1, 96, 96)
    mask[:, 16:80, 16:80] = 1
    shifted = composite(source, source + 0.2, mask, mode="laplacian")
    hard = composite(source, source + 0.2, mask)
    assert seam(source, shifted, mask)[0].step < 0.05 * seam(source, hard, mask)[0].step
    checks = 0.1 * ((torch.arange(96)[:, None] + torch.arange(96)) % 2 * 2 - 1.0)[None, ..., None]
    made = composite(source, source + checks, mask, mode="laplacian") - source
    assert (made.abs()[0, 20:76, 20:76] > 0.08).all()


# --- colour match ---


@pytest.mark.parametrize("kind", ["shift", "contrast"])
def test_the_ring_takes_back_a_shift_of_colour(kind: str) -> None:
    source, mask = smooth(1, 70, 80), masks_of(70, 80)["middle"]
    edited = torch.where(mask[..., None] > 0, smooth(9, 70, 80), source)
    moved = edited + torch.tensor([0.05, -0.03, 0.02])
    if kind == "contrast":
        moved = (edited - 0.5) * 0.9 + 0.47
    moved[0, :3] = math.nan
    back, notes = match_colours(source, moved, mask, kind)
    assert (back - edited)[0, 3:].abs().max() <= 2e-3 if kind == "contrast" else 1e-6
    assert len(notes) == 1 and "levels of 255" in notes[0]


def test_local_offsets_follow_the_place_and_leave_detail_alone() -> None:
    """A tint that grows across the picture, as an autoencoder's; what the edit draws inside must not pull."""
    source, mask = smooth(1, 90, 110, 1.5), masks_of(90, 110)["middle"]
    edited = source.clone()
    edited[:, 40:50, 45:60] = 0.9
    x = torch.linspace(-1, 1, 110)[None, None, :, None]
    tinted = edited + 0.06 * x + torch.tensor([0.03, 0.0, -0.02])
    rim = mask.bool() & (torch.nn.functional.max_pool2d(1 - mask[:, None], 9, 1, 4)[:, 0] > 0)
    local, (note,) = match_colours(source, tinted, mask, "local")
    assert (local - edited)[rim].abs().mean() < 1.5 / 255 < 0.25 * (tinted - edited)[rim].abs().mean()
    (seen,) = seam(source, composite(source, local, mask), mask)
    assert seen.colour_shift <= 1 / 255 and "from place to place" in note
    constant, _ = match_colours(source, edited + torch.tensor([0.05, -0.03, 0.02]), mask, "local")
    assert (constant - edited)[mask > 0].abs().max() <= 1e-5


def test_nothing_around_means_nothing_changes() -> None:
    source, edited = smooth(1, 40, 40), smooth(2, 40, 40)
    whole = torch.ones(1, 40, 40)
    kept, notes = match_colours(source, edited, whole)
    assert torch.equal(kept, edited) and "leaves 0 px" in notes[0]
    assert torch.equal(match_colours(source, edited, whole * 0)[0], edited)
    assert match_colours(source, edited, whole, "none") == (edited, [])
    with pytest.raises(
        ValueError, match="colour_match must be one of none, shift, contrast, local, got 'lab'"
    ):
        match_colours(source, edited, whole, "lab")


# --- seam ---


def grounds(height: int, width: int) -> dict[str, torch.Tensor]:
    x = torch.linspace(0, 1, width).expand(height, width)
    return {
        "flat": torch.full((1, height, width, 3), 0.5),
        "gradient": x[None, ..., None].expand(1, height, width, 3).contiguous(),
        "noise": noise(3, 1, height, width, 3),
        "photograph": smooth(4, height, width),
    }


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ground", ["flat", "gradient", "noise", "photograph"])
def test_no_seam_where_the_edit_shows_the_same(mode: str, ground: str) -> None:
    """Also after a round trip that costs a level of 255 here and there."""
    source = grounds(60, 75)[ground]
    edited = source + (noise(11, *source.shape) - 0.5) / 255
    for name in ("middle", "soft", "left"):
        (seen,) = seam(
            source, composite(source, edited, masks_of(60, 75)[name], mode=mode), masks_of(60, 75)[name]
        )
        assert seen.step <= max(1.2 * seen.natural, 1 / 255)
        assert seen.colour_shift <= 1 / 255


def test_seam_of_a_step_in_closed_form() -> None:
    source, mask = torch.zeros(1, 30, 40, 3), torch.zeros(1, 30, 40)
    mask[:, 10:20, 10:25] = 1
    result = source + mask[..., None] * torch.tensor([0.3, 0.1, 0.2])
    (seen,) = seam(source, result, mask)
    assert seen.step == pytest.approx(0.2) and seen.natural == 0 and seen.pairs == 2 * (10 + 15)
    assert seen.colour_shift == pytest.approx(0.3)
    ramp = torch.arange(40.0)[None, None, :, None].expand(1, 30, 40, 3) / 100
    (seen,) = seam(ramp, ramp, mask)
    # Twenty of fifty pairs lie along the ramp; the ring's pairs are half along it, half across.
    assert seen.step == pytest.approx(0.01 * 20 / 50, abs=1e-8) and 0.004 < seen.natural < 0.006


def test_seams_without_an_outline_and_of_batches() -> None:
    picture = noise(1, 2, 20, 30, 3)
    for mask in (torch.zeros(1, 20, 30), torch.ones(1, 20, 30)):
        assert [s.pairs for s in seam(picture[:1], picture, mask)] == [0, 0]
    with pytest.raises(ValueError, match="must share one height and width"):
        seam(picture, picture[:, 1:], torch.zeros(1, 20, 30))
