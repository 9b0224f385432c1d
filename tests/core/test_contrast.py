"""Noise-contrast mask: the numbers of methods.md 13, and diffusers' own DiffEdit as reference."""

from __future__ import annotations

import math
from typing import Any

import pytest
import tiny_models
import torch
from stubs import COLOURS, ColourEditor
from torch import Tensor

from retouch_core.editing.contrast_maps import contrast_maps
from retouch_core.models.diffusers_editor import DiffusersEditor
from retouch_core.regions.contrast import contrast, difference, find_contrast, in_pixels


def of(*values: float, **options: Any) -> list[bool]:
    return contrast(torch.tensor([values]), **{"blur": 0.0, **options}).mask[0, 0].tolist()


@pytest.mark.parametrize(
    ("gap", "heat", "kept"),
    [
        ([0.1, 0.1, 0.1, 1.7], [0.0667, 0.0667, 0.0667, 1], [0, 0, 0, 1]),
        ([0.4, 0.6, 1, 2], [0.1333, 0.2, 0.3333, 0.6667], [0, 0, 0, 1]),
    ],
)
def test_cut_and_normalised_as_in_the_specification(
    gap: list[float], heat: list[float], kept: list[int]
) -> None:
    made = contrast(torch.tensor([gap]), blur=0.0)
    assert made.heat[0, 0].tolist() == pytest.approx(heat, abs=1e-4)
    assert made.mask[0, 0].int().tolist() == kept and made.mean == pytest.approx(sum(gap) / 4)


@pytest.mark.parametrize("ratio", [1.0, 2.5, 3.0, 4.0])
def test_the_cut_is_half_the_ratio_times_the_mean(ratio: float) -> None:
    gap = torch.rand(16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) ** 4
    made = contrast(gap, ratio=ratio, blur=0.0)
    assert torch.equal(made.mask[0], gap > ratio / 2 * gap.mean())


@pytest.mark.parametrize("blur", [0.0, 1.0])
@pytest.mark.parametrize("factor", [1e-6, 0.3, 1e6])
def test_a_factor_changes_nothing(blur: float, factor: float) -> None:
    gap = torch.rand(16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) ** 6
    assert torch.equal(contrast(gap, blur=blur).mask, contrast(gap * factor, blur=blur).mask)


@pytest.mark.parametrize("blur", [0.0, 1.0])
@pytest.mark.parametrize("value", [0.0, 1e-9, 0.7])
def test_a_map_of_one_value_keeps_nothing(blur: float, value: float) -> None:
    made = contrast(torch.full((8, 8), value), blur=blur)
    assert not made.mask.any()
    assert torch.allclose(made.heat, torch.full((1, 8, 8), 1 / 3 if value else 0.0))


def test_blur_keeps_places_and_loses_specks() -> None:
    gap = torch.full((24, 24), 0.1)
    gap[4:12, 6:14] = 2.0
    gap[20, 20] = 2.0
    assert contrast(gap, blur=0.0).mask[0, 20, 20]
    mask = contrast(gap).mask[0]
    assert not mask[20, 20] and mask[5:11, 7:13].all() and not mask[16:, :].any()


def test_the_map_is_the_mean_over_draws_and_channels() -> None:
    generator = torch.Generator().manual_seed(2)
    a, b = (torch.randn(5, 4, 6, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    expected = torch.zeros(6, 7, dtype=torch.float64)
    for k in range(5):
        for c in range(4):
            expected += (a[k, c] - b[k, c]).abs() / 20
    assert torch.allclose(difference(a, b), expected)
    assert torch.equal(difference(a, b), difference(b, a))
    frames = difference(a[:, :, None].expand(-1, -1, 3, -1, -1), b[:, :, None].expand(-1, -1, 3, -1, -1))
    assert torch.allclose(frames, expected)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"ratio": 0.0}, "ratio must be a number above 0, got 0.0; 3 is usual"),
        ({"ratio": -1.0}, "ratio must be"),
        ({"ratio": math.nan}, "ratio must be"),
        ({"blur": -1.0}, "blur must be a number of at least 0, got -1.0"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(options: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        contrast(torch.rand(4, 4), **options)


def test_maps_that_do_not_fit_are_refused() -> None:
    a = torch.rand(2, 4, 8, 8)
    with pytest.raises(ValueError, match=r"referring \[2, 4, 8, 8\] and target \[1, 4, 8, 8\]"):
        difference(a, a[:1])
    with pytest.raises(ValueError, match="n of at least 1"):
        difference(a[:0], a[:0])
    with pytest.raises(ValueError, match="NaN or infinite"):
        difference(a, a * math.nan)
    with pytest.raises(ValueError, match="gap must be a map"):
        contrast(a - 1)


def test_pixels_are_the_cells_in_blocks_under_a_smooth_map() -> None:
    gap = torch.full((4, 6), 0.1)
    gap[1:3, 2:4] = 3.0
    made = contrast(gap, blur=0.0)
    heat, mask = in_pixels(made, (32, 48))
    assert torch.equal(mask, made.mask.repeat_interleave(8, 1).repeat_interleave(8, 2))
    assert heat.shape == (1, 32, 48) and 0 <= float(heat.min()) <= float(heat.max()) <= 1


# ------------------------------------------------------------------------------------------------ with an editor


class LocalEditor(ColourEditor):
    """Predicts the prompt's colour where the picture is red, and the picture itself elsewhere."""

    def denoise(
        self, x: Tensor, sigma: Tensor, conditioning: Tensor, mask: Any = None, masked_latents: Any = None
    ) -> Tensor:
        self.calls += 1
        self.saw = (mask, masked_latents)
        told = conditioning.expand(len(x), -1, -1)[:, 0, :, None, None]
        return torch.where(self.here, told.expand_as(x), x / (sigma.view(-1, 1, 1, 1) ** 2 + 1).sqrt())


def scene() -> Tensor:
    image = torch.full((1, 64, 64, 3), 0.5)
    image[:, 16:40, 24:48] = torch.tensor(COLOURS["red"])
    return image


@pytest.mark.parametrize("inpaint", [False, True])
def test_the_place_where_two_prompts_differ_is_found(inpaint: bool) -> None:
    editor = LocalEditor(64, inpaint=inpaint)
    editor.here = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    editor.here[..., 2:5, 3:6] = True
    told: list[tuple[int, int]] = []
    maps = contrast_maps(
        editor, scene(), "red", "blue", draws=5, at_once=2, callback=lambda *n: told.append(n)
    )
    assert maps[0].shape == maps[1].shape == (5, 3, 8, 8) and told == [(2, 5), (4, 5), (5, 5)]
    found = find_contrast(scene(), "red", *maps, blur=0.0)
    expected = torch.zeros(1, 64, 64)
    expected[:, 16:40, 24:48] = 1
    assert found.present and torch.equal(found.chosen.union(), expected) and len(found.regions) == 1
    assert (editor.saw[0] is not None) == inpaint
    if inpaint:
        assert editor.saw[0].min() == 1 and torch.equal(
            editor.saw[1][:1], editor.encode(torch.full((1, 64, 64, 3), 0.5))
        )


def test_the_same_words_find_nothing() -> None:
    editor = LocalEditor(64)
    editor.here = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    found = find_contrast(scene(), "red", *contrast_maps(editor, scene(), "red", "red", draws=2))
    assert not found.present and len(found.regions) == 0 and "predict the same" in found.message
    assert found.heat is not None and not found.heat.any()


def test_a_draw_is_the_same_whatever_their_number_and_batch() -> None:
    editor = LocalEditor(64)
    editor.here = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    many = contrast_maps(editor, scene(), "", "blue", draws=5, at_once=5, seed=3)
    one = contrast_maps(editor, scene(), "", "blue", draws=1, seed=5)
    assert torch.allclose(many[1][2], one[1][0], atol=1e-6)
    assert not torch.allclose(many[1][1], one[1][0], atol=1e-2)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"strength": 0.0}, "strength must be in"),
        ({"strength": 1.0}, "strength must be below 1, got 1.0"),
        ({"strength": -0.5}, "strength must be in"),
        ({"draws": 0}, "draws must be a whole number of at least 1, got 0; 10 is usual"),
        ({"draws": 2.5}, "draws must be a whole number"),
        ({"at_once": 0}, "at_once must be at least 1"),
    ],
)
def test_draws_that_mean_nothing_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        contrast_maps(ColourEditor(64), scene(), "red", "blue", **options)
    with pytest.raises(ValueError, match="target is empty"):
        contrast_maps(ColourEditor(64), scene(), "red", "")


def test_a_callback_stops_it() -> None:
    def stop(done: int, of: int) -> None:
        raise KeyboardInterrupt

    editor = ColourEditor(64)
    with pytest.raises(KeyboardInterrupt):
        contrast_maps(editor, scene(), "red", "blue", callback=stop)
    assert editor.calls == 2


def test_masks_are_those_of_diffusers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same noise, level, guidance and cut through diffusers' unmodified generate_mask."""
    diffusers = pytest.importorskip("diffusers")
    if not hasattr(diffusers, "StableDiffusionDiffEditPipeline"):
        pytest.skip("this diffusers has no DiffEdit pipeline any more")
    made = tiny_models.parts("epsilon")
    inverse = diffusers.DDIMInverseScheduler.from_config(made["scheduler"].config)
    pipe = diffusers.StableDiffusionDiffEditPipeline(
        **made,
        inverse_scheduler=inverse,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    editor = DiffusersEditor(**made)
    image = torch.rand(1, 96, 128, 3, generator=torch.Generator().manual_seed(4))
    draws, seed = 3, 11
    maps = contrast_maps(editor, image, "a red car", "a blue boat", draws=draws, seed=seed)
    ours = contrast(difference(*maps), blur=0.0)
    expected = pipe.generate_mask(
        image=editor.encode(image),  # four channels: taken as latents
        source_prompt="a red car",
        target_prompt="a blue boat",
        num_maps_per_mask=draws,
        generator=[torch.Generator().manual_seed(seed + k) for k in range(draws)],
        output_type="np",
    )
    assert expected.shape == ours.mask.shape and 0 < expected.sum() < expected.size
    wrong = torch.from_numpy(expected > 0) != ours.mask
    # A cell whose value lies within rounding of the cut may fall on either side.
    assert not (wrong & ((ours.heat - 0.5).abs() > 1e-3)).any()
