"""The whole chain on models that know only colours: what must always hold (architecture.md 4), whatever the models."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from stubs import ColourEditor, ColourScorer, ColourSegmenter
from torch import Tensor

from retouch_core.pipeline import Retoucher
from retouch_core.recipes import recipe
from retouch_core.tensors.checks import InputWarning

PLAIN = replace(recipe("default"), scale=1.0, steps=4)


def scene(height: int = 64, width: int = 64, **squares: tuple[float, float]) -> Tensor:
    """Grey with a square per colour at (x, y) in 0..1 of the picture, a quarter of its shorter side wide."""
    image = torch.full((1, height, width, 3), 0.5)
    image += 0.05 * torch.rand(image.shape, generator=torch.Generator().manual_seed(0))
    side = max(9, min(height, width) // 4)
    for name, (x, y) in squares.items():
        left, top = int(x * width) - side // 2, int(y * height) - side // 2
        colour = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1)}[name.rstrip("12")]
        image[:, top : top + side, left : left + side] = torch.tensor(colour, dtype=torch.float32)
    return image


def retoucher(**options: Any) -> Retoucher:
    return Retoucher(ColourSegmenter(), ColourScorer(), ColourEditor(**options))


TWO = {"red": (0.3, 0.3), "blue": (0.7, 0.7)}


def test_the_named_thing_becomes_the_asked_one_and_the_rest_stays() -> None:
    image = scene(**TWO)
    result = retoucher().retouch(image, "the red thing", "a green thing", recipe=PLAIN, candidates=3, seed=5)
    outside = (result.mask == 0)[0]
    for made in (*result.candidates, result.image[0]):
        assert torch.equal(made[outside], image[0][outside])
    inside = result.image[0, 16:22, 16:22]
    assert (inside - torch.tensor([0.0, 1.0, 0.0])).abs().max() < 0.1
    assert torch.equal(result.image[0, 40:, 40:], image[0, 40:, 40:]), "the blue one is not touched"
    assert result.candidates.shape == (3, 64, 64, 3) and result.image.shape == image.shape
    assert torch.equal(result.image[0], result.candidates[result.best])
    assert not torch.equal(result.candidates[0], result.candidates[1])


@pytest.mark.parametrize("size", [(16, 16), (17, 61), (64, 64), (63, 65), (100, 31), (128, 200), (333, 251)])
def test_any_size_keeps_the_outside_bit_for_bit(size: tuple[int, int]) -> None:
    image = scene(*size, **(TWO if min(size) > 30 else {"red": (0.5, 0.5)}))
    result = retoucher().retouch(image, "red thing", "blue", recipe=PLAIN, candidates=2)
    assert result.report.found and result.image.shape == image.shape and result.mask.shape == (1, *size)
    outside = (result.mask == 0)[0]
    assert torch.equal(result.image[0][outside], image[0][outside])
    red = (image[0] == torch.tensor([1.0, 0, 0])).all(-1)
    assert (result.mask[0][red] > 0).all(), "the whole old thing may change"


def test_ten_edits_in_a_row_never_leak() -> None:
    image = scene(**TWO)
    now, touched = image, torch.zeros(1, 64, 64, dtype=torch.bool)
    words = ["red", "green", "red", "green", "red", "green", "red", "green", "red", "green", "red"]
    for k in range(10):
        result = retoucher().retouch(
            now, f"{words[k]} thing", words[k + 1], recipe=PLAIN, candidates=1, seed=k
        )
        now, touched = result.image, touched | (result.mask > 0)
    assert torch.equal(now[~touched], image[~touched])


def test_same_seed_same_bits_and_a_candidate_alone_is_the_one_of_the_batch() -> None:
    image = scene(**TWO)
    run = lambda **more: retoucher().retouch(image, "red thing", "green", recipe=PLAIN, **more)  # noqa: E731
    first, again = run(candidates=3, seed=7), run(candidates=3, seed=7)
    assert torch.equal(first.candidates, again.candidates) and torch.equal(first.scores, again.scores)
    alone = run(candidates=1, seed=9)
    assert torch.allclose(alone.candidates[0], first.candidates[2], atol=1e-4)
    halves = run(candidates=3, seed=7, batch=1)
    assert torch.allclose(halves.candidates, first.candidates, atol=1e-4)


def test_nothing_found_is_a_result() -> None:
    image = scene(blue=(0.5, 0.5))
    editor = retoucher()
    result = editor.retouch(image, "the red thing", "green", recipe=PLAIN)
    assert torch.equal(result.image, image) and result.mask.shape == (1, 64, 64) and not result.mask.any()
    assert not result.report.found and len(result.candidates) == 0 and not result.selected.any()
    assert "the red thing" in result.report.message and editor.editor.calls == 0  # type: ignore[attr-defined]
    json.loads(result.report.to_json())


def test_a_picture_without_entities_is_not_a_crash() -> None:
    result = retoucher().retouch(scene(), "the red thing", "green", recipe=replace(PLAIN, leftovers="ignore"))
    assert not result.report.found and len(result.regions) == 0


def test_place_words_choose_between_twins() -> None:
    image = scene(red1=(0.2, 0.5), red2=(0.8, 0.5))
    left = retoucher().retouch(image, "the red thing on the left", "green", recipe=PLAIN, candidates=1)
    right = retoucher().retouch(image, "the rightmost red thing", "green", recipe=PLAIN, candidates=1)
    assert left.mask[0, 32, 12] == 1 and left.mask[0, :, 40:].max() == 0
    assert right.mask[0, 32, 51] == 1 and right.mask[0, :, :24].max() == 0


def test_background_is_everything_but_the_things() -> None:
    image = scene(**TWO)
    result = retoucher().retouch(image, "the background", "green", recipe=PLAIN, candidates=1)
    things = (image[0] == 1).any(-1) & (image[0] == 0).any(-1)
    assert torch.equal(result.image[0][things], image[0][things])
    assert (result.image[0, 60, 4] - torch.tensor([0.0, 1.0, 0.0])).abs().max() < 0.1


def test_empty_prompt_removes_without_guidance() -> None:
    image = scene(**TWO)
    result = retoucher().retouch(image, "red thing", "", recipe=replace(PLAIN, scale=9.0), candidates=2)
    assert (result.image[0, 18, 18] - 0.5).abs().max() < 0.1
    assert not result.report.fallback


def test_nan_from_the_decoder_stays_inside_the_mask() -> None:
    image = scene(**TWO)
    with pytest.raises(ValueError, match="scored NaN"):
        retoucher(broken=True).retouch(image, "red thing", "green", recipe=PLAIN, candidates=1)


def test_a_mask_replaces_the_search() -> None:
    image = scene(**TWO)
    mask = torch.zeros(1, 64, 64)
    mask[0, 4:12, 40:56] = 1
    result = retoucher().retouch(image, "", "green", recipe=PLAIN, mask=mask, candidates=1)
    assert (result.image[0, 8, 48] - torch.tensor([0.0, 1.0, 0.0])).abs().max() < 0.1
    half = torch.nn.functional.max_pool2d(mask[None], 2)[0]
    noted = retoucher().retouch(image, "", "green", recipe=PLAIN, mask=half, candidates=1)
    assert any("resized from 32x32 to 64x64" in text for text in noted.report.warnings)
    placeholder = retoucher().retouch(
        scene(100, 80, **TWO), "", "green", recipe=PLAIN, mask=torch.zeros(1, 64, 64)
    )
    assert not placeholder.report.found and not placeholder.mask.any()
    with pytest.raises(ValueError, match=r"mask is 64x32 px but the picture is 64x64"):
        retoucher().retouch(image, "", "green", recipe=PLAIN, mask=torch.zeros(1, 32, 64))
    with pytest.raises(ValueError, match="mask has batch 2"):
        retoucher().retouch(image, "", "green", recipe=PLAIN, mask=torch.zeros(2, 64, 64))


def test_what_hardly_changed_goes_back_to_the_source() -> None:
    image = scene(**TWO)
    roomy = replace(PLAIN, dilate=15)
    kept = replace(roomy, change_min=0.0)
    whole = retoucher().retouch(image, "red thing", "a grey thing", recipe=kept, candidates=2)
    tight = retoucher().retouch(image, "red thing", "a grey thing", recipe=roomy, candidates=2)
    red = (image[0] == torch.tensor([1.0, 0, 0])).all(-1)
    assert (tight.mask[0][red] > 0).all()
    assert int((tight.mask > 0).sum()) < 0.8 * int((whole.mask > 0).sum())
    for result in (whole, tight):
        assert torch.equal(result.mask, result.candidate_masks.amax(0, keepdim=True))
        for made, own in zip(result.candidates, result.candidate_masks, strict=True):
            assert torch.equal(made[own == 0], image[0][own == 0])
    assert torch.equal(whole.candidate_masks[0], whole.candidate_masks[1])
    assert torch.equal(whole.mask, whole.area) and torch.equal(tight.area, whole.area)
    # A strong edit is kept whole.
    green = retoucher().retouch(image, "red thing", "green", recipe=roomy, candidates=1)
    assert int((green.mask > 0).sum()) > 0.9 * int((whole.mask > 0).sum())


def test_a_recipe_for_plain_denoisers_takes_the_plain_one() -> None:
    image, settings = scene(**TWO), replace(PLAIN, denoiser="plain")
    inpainting, plain = ColourEditor(inpaint=True), ColourEditor()
    both = Retoucher(ColourSegmenter(), ColourScorer(), inpainting, plain)
    both.retouch(image, "red thing", "green", recipe=settings, candidates=1)
    assert (inpainting.calls, plain.calls) == (0, 4)
    both.retouch(image, "red thing", "green", recipe=PLAIN, candidates=1)
    assert (inpainting.calls, plain.calls) == (4, 4)
    alone = Retoucher(ColourSegmenter(), ColourScorer(), inpainting)
    with pytest.warns(InputWarning, match="wants a denoiser without mask input"):
        result = alone.retouch(image, "red thing", "green", recipe=settings, candidates=1)
    assert inpainting.calls == 8 and any("only an inpainting one" in text for text in result.report.warnings)
    with pytest.raises(ValueError, match="denoiser must be one of any, plain, got 'best'"):
        alone.retouch(image, "red thing", "green", recipe=replace(PLAIN, denoiser="best"))


def test_the_prompt_says_where_if_the_recipe_wants_it() -> None:
    image, settings = scene(red=(0.8, 0.2)), replace(PLAIN, place_prompt=True)
    worker = retoucher()
    worker.retouch(image, "red thing", "green", recipe=settings, candidates=1)
    worker.retouch(image, "red thing", "green on the left", recipe=settings, candidates=1)
    worker.retouch(image, "red thing", "green", recipe=PLAIN, candidates=1)
    told = worker.editor.told[0::3]  # type: ignore[attr-defined]
    assert told == ["green at the top right", "green on the left", "green"]
    worker.retouch(image, "red thing", "", recipe=settings, candidates=1)
    assert worker.editor.told[9] == "background"  # type: ignore[attr-defined]


def test_progress_rises_to_one_and_cancels_within_a_step() -> None:
    seen: list[float] = []
    image = scene(**TWO)
    retoucher().retouch(
        image, "red thing", "green", recipe=PLAIN, progress=lambda share, text: seen.append(share)
    )
    assert seen == sorted(seen) and seen[-1] == 1.0 and len(seen) >= 7

    class Cancelled(Exception):
        pass

    def cancel(share: float, text: str) -> None:
        if text.startswith("painting, step 2"):
            raise Cancelled

    worker = retoucher()
    with pytest.raises(Cancelled):
        worker.retouch(image, "red thing", "green", recipe=PLAIN, progress=cancel)
    assert worker.editor.calls == 2  # type: ignore[attr-defined]


def test_pruning_paints_fewer_to_the_end_and_finds_the_same_best() -> None:
    image = scene(**TWO)
    asked: dict[str, Any] = {
        "image": image,
        "query": "red thing",
        "prompt": "green",
        "recipe": PLAIN,
        "seed": 5,
    }
    every = retoucher().retouch(**asked, candidates=8)
    shares: list[float] = []
    worker = retoucher()
    cut = worker.retouch(
        **asked,
        candidates=8,
        prune=((0.25, 0.5), (0.5, 0.25)),
        progress=lambda share, text: shares.append(share),
    )
    (stage,) = [entry for entry in cut.report.stages if entry["stage"] == "prune"]
    (kept,), (lived,) = stage["kept"], stage["steps_lived"]
    assert len(cut.candidates) == len(kept) == 2 and sorted(lived) == [1, 1, 1, 1, 2, 2, 4, 4]
    assert [k for k, steps in enumerate(lived) if steps == 4] == kept
    assert torch.allclose(cut.candidates, every.candidates[kept], rtol=0, atol=1e-6)
    outside = (cut.mask == 0)[0]
    assert all(torch.equal(made[outside], image[0][outside]) for made in cut.candidates)
    assert shares == sorted(shares) and shares[-1] == 1.0
    json.loads(cut.report.to_json())
    # The estimates of this editor are in the order of the finished candidates from the first step on.
    assert every.best in kept and kept[cut.best] == every.best


def test_values_outside_the_range_warn_and_survive_outside_the_mask() -> None:
    image = scene(**TWO)
    image[0, 60:, :8] = 1.7
    with pytest.warns(InputWarning, match=r"image has values in \[0, 1.7\]"):
        result = retoucher().retouch(image, "red thing", "green", recipe=PLAIN, candidates=1)
    assert torch.equal(result.image[0, 60:, :8], image[0, 60:, :8])
    assert any("clamped" in text for text in result.report.warnings)


GOOD: dict[str, Any] = {"image": scene(**TWO), "query": "red thing", "prompt": "green", "recipe": PLAIN}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"image": torch.zeros(64, 64, 3)},
            ValueError,
            r"image must have shape \[B,H,W,3\], got \[64, 64, 3\]",
        ),
        ({"image": torch.zeros(1, 64, 64, 4)}, ValueError, r"got \[1, 64, 64, 4\]"),
        (
            {"image": torch.zeros(1, 15, 64, 3)},
            ValueError,
            r"image is 64x15 px, but both sides must be at least 16",
        ),
        ({"image": torch.zeros(2, 64, 64, 3)}, ValueError, r"image must hold 1 picture\(s\), got 2"),
        ({"image": torch.full((1, 64, 64, 3), torch.nan)}, ValueError, r"image holds 12288 NaN"),
        ({"image": torch.zeros(1, 64, 64, 3, dtype=torch.uint8)}, TypeError, r"image must be a float tensor"),
        ({"query": "   "}, ValueError, r"query is empty"),
        ({"query": 3}, TypeError, r"query must be text, got int"),
        ({"prompt": None}, TypeError, r"prompt must be text, got NoneType"),
        (
            {"recipe": "s99"},
            ValueError,
            r"recipe 's99' does not exist; choose one of default, blended, s00_text_guided",
        ),
        ({"candidates": 0}, ValueError, r"candidates must be a whole number from 1 up, got 0"),
        ({"steps": 0}, ValueError, r"steps must be a whole number from 1 up, got 0"),
        ({"prune": ((0.5, 2.0),)}, ValueError, r"prune must hold pairs .*got \(\(0.5, 2.0\),\)"),
        ({"seed": -1}, ValueError, r"seed must be a whole number from 0 up, got -1"),
        ({"query": "the fifth red thing from the left"}, ValueError, r"."),
    ],
)
def test_bad_input_gets_one_sentence(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(error, match=message) as caught:
            retoucher().retouch(**(GOOD | change))
    assert "\n" not in str(caught.value)


def test_report_has_what_decided_the_result() -> None:
    result = retoucher().retouch(**GOOD, candidates=2, seed=3)
    report = json.loads(result.report.to_json())
    assert report["query"] == "red thing" and report["seed"] == 3 and report["candidates"] == 2
    assert report["batch_size"] == 2 and report["settings"]["steps"] == 4
    assert [entry["stage"] for entry in report["stages"]][-1] == "locate"
    assert set(report["timings"]) == {"search", "paint", "decode", "rank"}
    assert sorted(report["ranking"]) == [0, 1] and report["best"] == result.best
    assert str(result.report).count("\n") >= 2


def test_what_spans_the_frame_is_background_too() -> None:
    image = scene(**TWO)
    image[:, 56:] = torch.tensor([0.0, 1.0, 0.0])
    result = retoucher().retouch(image, "background", "blue", recipe=PLAIN, candidates=1)
    assert (result.image[0, 62, 4] - torch.tensor([0.0, 0.0, 1.0])).abs().max() < 0.1
    things = ((image[0] == 1).any(-1) & (image[0] == 0).any(-1)).clone()
    things[56:] = False
    assert torch.equal(result.image[0][things], image[0][things])


def test_a_crop_around_the_region_is_what_is_worked_on() -> None:
    """Twice: the region at its own scale in a larger picture, and a picture of the model's size as ever."""
    image, cut = scene(64, 64, **TWO), replace(PLAIN, work_size="auto")
    whole = retoucher().retouch(image, "red thing", "green", recipe=PLAIN, candidates=2)
    same = retoucher().retouch(image, "red thing", "green", recipe=PLAIN, work_size="auto", candidates=2)
    assert torch.equal(same.candidates, whole.candidates) and torch.equal(same.scores, whole.scores)
    large = scene(301, 407, red=(0.3, 0.3))
    worker = retoucher()
    result = worker.retouch(large, "red thing", "green", recipe=cut, candidates=2)
    outside = result.mask[0] == 0
    assert all(torch.equal(made[outside], large[0][outside]) for made in result.candidates)
    (told,) = result.report.stages[-1]["crops"]
    assert "of 407x301 px on 64x64 px at scale" in told and "crop" not in {
        e["stage"] for e in whole.report.stages
    }
    red = (large[0] == torch.tensor([1.0, 0, 0])).all(-1)
    assert (result.image[0][red] - torch.tensor([0.0, 1.0, 0.0])).abs().max() < 0.1
    assert worker.editor.calls == 4  # type: ignore[attr-defined]


def test_candidates_of_a_large_picture_are_held_as_their_window() -> None:
    image = scene(600, 500, red=(0.5, 0.4))
    result = retoucher().retouch(
        image, "red thing", "green", recipe=PLAIN, candidates=3, work_size=256, steps=2
    )
    held = result.patches.numel() + result.patch_masks.numel()
    assert 0 < held < 0.6 * 3 * image.numel()
    rows, columns = result.window.slices
    assert torch.equal(result.candidates[:, rows, columns], result.patches)
    assert torch.equal(result.candidate(result.best), result.image[0])
    assert torch.equal(result.candidate_masks.amax(0, keepdim=True), result.mask)
    assert len(result) == 3 and result.sheet().width > 0


def test_far_regions_are_worked_on_one_by_one() -> None:
    image = torch.full((1, 300, 500, 3), 0.5)
    image[:, 20:40, 30:50] = image[:, 250:270, 440:460] = torch.tensor([1.0, 0, 0])
    image[:, 100:130, 200:230] = torch.tensor([0.0, 0, 1.0])
    red = (image == torch.tensor([1.0, 0, 0])).all(-1).float()
    worker, seen = retoucher(), []
    result = worker.retouch(
        image,
        "",
        "green",
        recipe=replace(PLAIN, work_size=64),
        mask=red,
        candidates=2,
        progress=lambda share, _: seen.append(share),
    )
    assert worker.editor.calls == 8  # type: ignore[attr-defined]
    assert seen == sorted(seen) and seen[-1] == 1.0
    for rows, columns in ((slice(20, 40), slice(30, 50)), (slice(250, 270), slice(440, 460))):
        assert (result.image[0, rows, columns] - torch.tensor([0.0, 1.0, 0.0])).abs().max() < 0.1
        assert (result.mask[0, rows, columns] == 1).all()
    outside = result.mask[0] == 0
    assert torch.equal(result.image[0][outside], image[0][outside]) and outside[100:130, 200:230].all()
    assert int((result.mask > 0).sum()) < 4000


def test_a_work_size_that_does_not_fit_is_named() -> None:
    for value, message in (
        ("large", "work_size must be full, auto or"),
        (100, "work_size 100 is no multiple of 8"),
    ):
        with pytest.raises(ValueError, match=message):
            retoucher().retouch(**GOOD | {"recipe": replace(PLAIN, work_size=value)})
