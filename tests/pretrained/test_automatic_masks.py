"""A grid of points before a stubbed decoder: what is asked, what stays, and how much memory it takes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from tiny_segmenters import processor_class
from torch import Tensor
from torch.nn import functional

from retouch_core.models.pretrained.segmenters import automatic_masks as auto
from retouch_core.models.pretrained.segmenters.maps import stretched
from retouch_core.tensors.checks import InputWarning

CPU = torch.device("cpu")
EVERYTHING = {"pred_iou_min": 0.0, "stability_min": 0.0, "box_iou_max": 1.0}


class Decoder:
    """Three smooth maps a point, the same for the same point, and IoUs for them; keeps what it was asked."""

    def __init__(self, side: int = 4, seed: int = 0, cells: int = 24) -> None:
        generator = torch.Generator().manual_seed(seed)
        count = side * side
        coarse = 8 * torch.randn(count, 3, 5, 5, generator=generator)
        self.logits = functional.interpolate(coarse, size=(cells, cells), mode="bicubic")
        self.ious = 0.5 + 0.5 * torch.rand(count, 3, generator=generator)
        self.grid = auto.point_grid(side)
        self.asked: list[int] = []

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        index = torch.cdist(points, self.grid).argmin(1)
        self.asked.append(len(points))
        return self.logits[index], self.ious[index]


def masks_of(decoder: Decoder, size: tuple[int, int], tell: auto.Tell | None = None, **rules: float) -> tuple:
    settings = auto.MaskRules(points_per_side=4, points_at_once=5, **rules)
    return auto.automatic_masks(decoder, stretched, size, settings, CPU, tell=tell)


def test_the_grid_lies_in_the_middles_of_cells() -> None:
    expected = [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    assert torch.allclose(auto.point_grid(2), torch.tensor(expected))
    assert torch.equal(auto.point_grid(1), torch.tensor([[0.5, 0.5]]))


def test_stability_by_hand() -> None:
    logits = torch.tensor(
        [[[2.0, 0.5], [-0.5, -2.0]], [[9.0, 9.0], [9.0, -9.0]], [[-9.0, -9.0], [-9.0, -9.0]]]
    )
    # One pixel above +1 and three above -1; three and three; none at all.
    assert torch.allclose(auto.stability(logits), torch.tensor([1 / 3, 1.0, 0.0]))


def test_boxes_hold_their_last_pixel() -> None:
    masks = torch.zeros(3, 5, 7, dtype=torch.bool)
    masks[0, 1:3, 2:6] = True
    masks[1, 4, 6] = True
    assert auto.mask_boxes(masks).tolist() == [[2, 1, 5, 2], [6, 4, 6, 4], [0, 0, 0, 0]]
    assert auto.mask_boxes(masks[:0]).shape == (0, 4)


@pytest.mark.parametrize("size", [(61, 97), (24, 24), (130, 40)])
def test_the_same_masks_as_the_published_processor(size: tuple[int, int]) -> None:
    decoder = Decoder()
    masks, scores = masks_of(decoder, size, pred_iou_min=0.7, stability_min=0.6, box_iou_max=0.7)

    processor = processor_class("SamImageProcessor")()
    large = functional.interpolate(decoder.logits, size, mode="bilinear", align_corners=False)
    rles, ious, boxes = processor.filter_masks(
        large, decoder.ious, list(size), [0, 0, size[1], size[0]], 0.7, 0.6, 0, 1
    )
    assert len(rles) > 5
    expected, ious, *_ = processor.post_process_for_mask_generation(rles, ious, boxes, 0.7)
    assert 0 < len(expected) < len(rles)
    assert len(masks) == len(expected)
    found = {mask.numpy().tobytes(): float(score) for mask, score in zip(masks, scores, strict=True)}
    for mask, iou in zip(expected, ious, strict=True):
        inner, outer = _forms(large, torch.as_tensor(mask))
        assert found[torch.as_tensor(mask).contiguous().numpy().tobytes()] == pytest.approx(
            float(iou) * inner / outer
        )
    assert scores.tolist() == sorted(scores.tolist(), reverse=True)


def _forms(large: Tensor, mask: Tensor) -> tuple[int, int]:
    """Pixels above +1 and above -1 of the map that this mask comes from."""
    for logits in large.flatten(0, 1):
        if torch.equal(logits > 0, mask):
            return int((logits > 1).sum()), int((logits > -1).sum())
    raise AssertionError("no map has this mask")


def test_a_large_picture_is_judged_small_and_drawn_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    assert auto.measured_size((700, 2100)) == (341, 1024)
    assert auto.measured_size((1, 5000)) == (1, 1024) and auto.measured_size((1024, 77)) == (1024, 77)
    monkeypatch.setattr(auto, "MEASURED_SIDE", 100)
    decoder, size = Decoder(), (70, 210)
    sizes: list[tuple[int, ...]] = []

    def enlarge(logits: Tensor, target: tuple[int, int]) -> Tensor:
        sizes.append(target)
        return stretched(logits, target)

    rules = auto.MaskRules(
        points_per_side=4, points_at_once=5, pred_iou_min=0.9, stability_min=0.6, box_iou_max=1.0
    )
    masks, scores = auto.automatic_masks(decoder, enlarge, size, rules, CPU)
    assert sizes[0] == (33, 100) and sizes[-1] == size
    large = (
        functional.interpolate(decoder.logits, size, mode="bilinear", align_corners=False).flatten(0, 1) > 0
    )
    assert masks.shape == (len(scores), *size) and len(scores) > 2
    for mask in masks:
        assert any(torch.equal(mask, other) for other in large)


def test_what_stays_does_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    first = masks_of(Decoder(), (50, 70), pred_iou_min=0.7, stability_min=0.5)
    monkeypatch.setattr(auto, "PIXELS_AT_ONCE", 1)
    settings = auto.MaskRules(points_per_side=4, points_at_once=16, pred_iou_min=0.7, stability_min=0.5)
    second = auto.automatic_masks(Decoder(), stretched, (50, 70), settings, CPU)
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


def test_few_masks_at_once_even_of_a_small_picture() -> None:
    """Maps of a padded input are enlarged to 1024x1024 on their way to any size: 4 MiB each."""
    at_once: list[int] = []

    def enlarge(logits: Tensor, target: tuple[int, int]) -> Tensor:
        at_once.append(len(logits))
        return stretched(logits, target)

    rules = auto.MaskRules(points_per_side=4, points_at_once=16, **EVERYTHING)
    masks, _ = auto.automatic_masks(Decoder(), enlarge, (30, 40), rules, CPU)
    assert len(masks) > 16 and max(at_once) == 16


def test_nothing_found_is_legal() -> None:
    masks, scores = masks_of(Decoder(), (30, 40), pred_iou_min=0.999999)
    assert masks.shape == (0, 30, 40) and masks.dtype == torch.bool
    assert scores.shape == (0,) and scores.dtype == torch.float32


def test_masks_without_a_pixel_are_left_out() -> None:
    decoder = Decoder()
    decoder.logits[:] = -5.0
    assert len(masks_of(decoder, (30, 40), **EVERYTHING)[0]) == 0


def test_progress_is_told_and_stops_the_work() -> None:
    told: list[tuple[int, int]] = []
    masks, _ = masks_of(Decoder(), (30, 40), tell=lambda done, of: told.append((done, of)), **EVERYTHING)
    assert told[:4] == [(5, 16), (10, 16), (15, 16), (16, 16)]
    assert set(told[4:]) == {(16, 16)} and len(masks)

    decoder = Decoder()

    def stop(done: int, _of: int) -> None:
        if done == 10:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        masks_of(decoder, (30, 40), tell=stop, **EVERYTHING)
    assert decoder.asked == [5, 5]


def test_points_are_halved_where_memory_is_short() -> None:
    decoder = Decoder()

    def scarce(points: Tensor) -> tuple[Tensor, Tensor]:
        if len(points) > 3:
            raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes.")
        return decoder(points)

    settings = auto.MaskRules(points_per_side=4, points_at_once=5, **EVERYTHING)
    with pytest.warns(InputWarning, match="points go through 2 at a time"):
        masks, scores = auto.automatic_masks(scarce, stretched, (30, 40), settings, CPU)
    expected = masks_of(Decoder(), (30, 40), **EVERYTHING)
    assert torch.equal(masks, expected[0]) and torch.equal(scores, expected[1])
    assert max(decoder.asked) == 2


def test_more_masks_than_memory_keeps_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    masks, scores = masks_of(Decoder(), (30, 40), **EVERYTHING)
    monkeypatch.setattr(auto, "MAX_MASK_BYTES", 3 * 30 * 40)
    with pytest.warns(InputWarning, match=f"best 3 of {len(masks)} masks"):
        few, best = masks_of(Decoder(), (30, 40), **EVERYTHING)
    assert torch.equal(few, masks[:3]) and torch.equal(best, scores[:3])


def test_numbers_that_overflowed_are_refused() -> None:
    decoder = Decoder()
    decoder.ious[2] = torch.nan
    with pytest.raises(ValueError, match="3 of 15 values that are not finite; run the segmenter in float32"):
        masks_of(decoder, (30, 40))


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("points_per_side", 0, "points_per_side must be at least 1, got 0"),
        ("points_at_once", -1, "points_at_once must be at least 1, got -1"),
        ("pred_iou_min", 1.0, r"pred_iou_min must be in \[0, 1\), got 1.0"),
        ("stability_min", -0.1, r"stability_min must be in \[0, 1\), got -0.1"),
        ("box_iou_max", 0, r"box_iou_max must be in \(0, 1\], got 0"),
    ],
)
def test_rules_out_of_range(field: str, value: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        auto.MaskRules(**{field: value})


def test_memory_is_that_of_the_masks_and_little_more() -> None:
    """At 12 megapixels 24 masks are 275 MiB as bool and 1.1 GiB as float32."""
    script = """
        import resource, torch
        torch.set_num_threads(1)
        from torchvision.ops import nms
        from retouch_core.models.pretrained.segmenters.automatic_masks import MaskRules, automatic_masks
        from retouch_core.models.pretrained.segmenters.maps import stretched
        y, x = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
        def decode(points):
            centres = points * 256
            away = (x - centres[:, 0, None, None]) ** 2 + (y - centres[:, 1, None, None]) ** 2
            return 20 - away[:, None].sqrt(), torch.full((len(points), 1), 0.95)
        def run(size):
            rules = MaskRules(points_per_side=5, stability_min=0.5)
            return automatic_masks(decode, stretched, size, rules, torch.device("cpu"))[0]
        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        run((300, 400))
        before = peak()
        masks = run((3000, 4000))
        print(len(masks), masks.numel(), peak() - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    count, of_masks, extra = map(int, done.stdout.split())
    assert count == 25 and of_masks == count * 12_000_000
    assert extra < of_masks + 250e6
