"""SegFormer with random weights, from the file to one mask a label."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_segmenters import picture, saved, segformer_processor, tiny_segformer
from torch.nn import functional

from retouch_core.models.pretrained.loading import ModelError
from retouch_core.models.pretrained.segmenters import segformer
from retouch_core.models.pretrained.segmenters.segformer import SegformerSegmenter, label_map
from retouch_core.models.protocols import Segmenter


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("segformer"), tiny_segformer(), segformer_processor())


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return saved(tmp_path / "segformer", tiny_segformer(), segformer_processor())


def stubbed(folder: Path, logits: torch.Tensor, **options: Any) -> SegformerSegmenter:
    segmenter = SegformerSegmenter.from_folder(folder, **options)
    segmenter.model.forward = lambda **_inputs: type("Out", (), {"logits": logits})
    return segmenter


@pytest.mark.parametrize("size", [(50, 77), (97, 40), (64, 64)])
def test_masks_are_the_labels_of_the_published_classes(folder: Path, size: tuple[int, int]) -> None:
    segmenter = SegformerSegmenter.from_folder(folder)
    assert isinstance(segmenter, Segmenter)
    assert segmenter.score_min == 0.0
    image = picture(*size)
    masks, scores = segmenter(image)
    assert masks.shape == (len(scores), *size) and masks.dtype == torch.bool and len(masks) > 1
    assert scores.dtype == torch.float32 and 0 < scores.min() <= scores.max() <= 1
    assert masks.sum(0).eq(1).all()
    again = segmenter(image)
    assert torch.equal(masks, again[0]) and torch.equal(scores, again[1])

    processor = segformer_processor()
    pixels = processor(images=image[0].movedim(-1, 0), do_rescale=False, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        out = segmenter.model(pixel_values=pixels)
    labels = processor.post_process_semantic_segmentation(out, target_sizes=[size])[0]
    names = labels.unique().tolist()
    assert len(names) == len(masks)
    wrong = sum(int((mask ^ (labels == name)).sum()) for mask, name in zip(masks, names, strict=True))
    assert wrong <= 4


@pytest.mark.parametrize(
    ("cells", "size"), [((9, 9), (50, 77)), ((16, 8), (16, 8)), ((12, 12), (7, 5)), ((1, 6), (20, 31))]
)
def test_labels_are_the_argmax_of_all_enlarged_logits(cells: tuple[int, int], size: tuple[int, int]) -> None:
    for seed in range(5):
        logits = torch.randn(40, *cells, generator=torch.Generator().manual_seed(seed))
        large = functional.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]
        assert torch.equal(label_map(logits, size).long(), large.argmax(0))


def test_a_label_that_wins_between_cells_only_is_found() -> None:
    """Second best on both sides of an edge, it is the best in the middle: 0.6 against means of 0.5."""
    logits = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[0.6, 0.6]], [[-1.0, -1.0]]])
    told: list[tuple[int, int]] = []
    labels = label_map(logits, (1, 40), tell=lambda done, of: told.append((done, of)))
    assert set(labels.unique().tolist()) == {0, 1, 2}
    # The last label can win nowhere and is never enlarged.
    assert told == [(2, 4), (3, 4), (4, 4)]


def test_scores_and_masks_by_hand(folder: Path) -> None:
    """Three labels on 2x2 cells: the left half, the upper right and the lower right quarter."""
    probabilities = torch.full((5, 2, 2), 0.05)
    probabilities[3, :, 0] = torch.tensor([0.8, 0.6])
    probabilities[0, 0, 1], probabilities[4, 1, 1] = 0.7, 0.8
    probabilities[2] = 1 - probabilities[[0, 1, 3, 4]].sum(0)
    masks, scores = stubbed(folder, probabilities.log()[None])(picture(16, 16))
    assert len(masks) == 3
    assert masks[1, :, :6].all() and masks[0, :6, 10:].all() and masks[2, 10:, 10:].all()
    cells = functional.interpolate(masks[:, None].float(), (2, 2), mode="area")[:, 0]
    for score, share, label in zip(scores, cells, (0, 3, 4), strict=True):
        assert float(score) == pytest.approx(
            float((share * probabilities[label]).sum() / share.sum()), abs=1e-5
        )


def test_reduced_labels_of_the_training_data_move_no_prediction(folder: Path) -> None:
    image, model = picture(40, 60), SegformerSegmenter.from_folder(folder).model
    first = SegformerSegmenter(model, segformer_processor(do_reduce_labels=True))(image)
    second = SegformerSegmenter(model, segformer_processor(do_reduce_labels=False))(image)
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


def test_parts_of_a_label_are_masks_of_their_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.zeros(1, 5, 8, 8)
    logits[0, 1] = 1.0
    for rows, columns in ((slice(0, 2), slice(0, 2)), (slice(2, 4), slice(2, 4)), (slice(5, 8), slice(5, 8))):
        logits[0, 3, rows, columns] = 9.0
    monkeypatch.setattr(segformer, "PART_MIN", 0.01)
    whole, _ = stubbed(folder, logits)(picture(64, 64))
    assert len(whole) == 2
    parts, scores = stubbed(folder, logits, split_components=True)(picture(64, 64))
    # The two squares that touch at a corner hang together, and are smaller than the third.
    assert len(parts) == 3 and len(scores) == 3
    assert torch.equal(parts[0], whole[0]) and torch.equal(parts[1] | parts[2], whole[1])
    assert not (parts[1] & parts[2]).any() and parts[1].sum() >= parts[2].sum()
    assert parts[1, 60, 60] or parts[1, 4, 4]

    monkeypatch.setattr(segformer, "MAX_MASK_BYTES", 2 * 64 * 64)
    few, best = stubbed(folder, logits, split_components=True)(picture(64, 64))
    assert torch.equal(few, parts[:2]) and torch.equal(best, scores[:2])
    monkeypatch.setattr(segformer, "PART_MIN", 0.25)
    assert len(stubbed(folder, logits, split_components=True)(picture(64, 64))[0]) == 1


def test_numbers_that_overflowed_are_refused(folder: Path) -> None:
    logits = torch.zeros(1, 5, 8, 8)
    logits[0, 1, 2, 3] = torch.inf
    with pytest.raises(
        ValueError, match="logits hold 1 of 320 values that are not finite; run the segmenter in"
    ):
        stubbed(folder, logits)(picture(64, 64))


def test_another_model_or_no_size_is_refused(copy: Path) -> None:
    model = SegformerSegmenter.from_folder(copy).model
    with pytest.raises(ModelError, match="SegFormer needs height and width"):
        SegformerSegmenter(model, segformer_processor(size={"shortest_edge": 64}))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "eomt"}))
    with pytest.raises(ModelError, match="holds a model of type 'eomt', but SegFormer needs 'segformer'"):
        SegformerSegmenter.from_folder(copy)
