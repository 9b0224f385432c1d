"""What every pretrained segmenter promises, whichever network stands behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tiny_segmenters as tiny
import torch
from folder_faults import FAULTS, check_refused

from retouch_core.models.pretrained.opening import class_of
from retouch_core.models.protocols import Segmenter

POINTS = {"points_per_side": 4, "pred_iou_min": 0.0, "stability_min": 0.0, "box_iou_max": 1.0}
QUERIES = {"score_min": 0.0, "overlap_min": 0.0}


@dataclass(frozen=True)
class Case:
    """A backend with a folder that it reads.

    Attributes:
        processor: makes the published image processor, which prepares pictures for the network.
        options: with which random weights give masks.
        disjoint: whether no pixel is in two masks.
    """

    save: Callable[[Path], Path]
    processor: Callable[[], Any]
    options: dict[str, Any] = field(default_factory=dict)
    disjoint: bool = True


def case(model: Callable[[], Any], processor: Callable[[], Any], *more: Any, **named: Any) -> Case:
    return Case(lambda folder: tiny.saved(folder, model(), processor()), processor, *more, **named)


class PanopticTask:
    """OneFormer's processor wants to be told the task."""

    def __call__(self, **inputs: Any) -> Any:
        return tiny.oneformer_processor()(task_inputs=["panoptic"], **inputs)


CASES = {
    "sam": case(tiny.tiny_sam, tiny.sam_processor, POINTS, disjoint=False),
    "sam2": case(tiny.tiny_sam2, tiny.sam2_processor, POINTS, disjoint=False),
    "eomt": case(tiny.tiny_eomt, tiny.eomt_processor, QUERIES),
    "mask2former": case(tiny.tiny_mask2former, tiny.mask2former_processor, QUERIES),
    "oneformer": Case(tiny.oneformer_folder, PanopticTask, QUERIES),
    "segformer": case(tiny.tiny_segformer, tiny.segformer_processor),
}


@pytest.fixture(scope="module", params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return CASES[name].save(tmp_path_factory.mktemp(name) / name)


@pytest.fixture
def segmenter(name: str, folder: Path) -> Any:
    return class_of(name).from_folder(folder, **CASES[name].options)


@pytest.mark.parametrize("size", [(50, 77), (64, 64)])
def test_masks_and_scores(name: str, segmenter: Any, size: tuple[int, int]) -> None:
    assert isinstance(segmenter, Segmenter) and 0 <= segmenter.score_min < 1
    image = tiny.picture(*size)
    masks, scores = segmenter(image)
    assert len(masks) > 0 and masks.shape[1:] == size and masks.dtype == torch.bool
    assert scores.shape == (len(masks),) and scores.dtype == torch.float32
    assert masks.device.type == scores.device.type == "cpu"
    assert masks.flatten(1).any(1).all() and bool(((scores >= 0) & (scores <= 1)).all())
    if CASES[name].disjoint:
        assert int(masks.sum(0).max()) == 1
    again = segmenter(image)
    assert torch.equal(masks, again[0]) and torch.equal(scores, again[1])


@pytest.mark.parametrize("size", [(50, 77), (64, 64), (201, 150), (300, 120)])
def test_pictures_are_prepared_as_the_published_processor_does(
    name: str, segmenter: Any, size: tuple[int, int]
) -> None:
    entrance = "get_image_embeddings" if name in ("sam", "sam2") else "forward"
    seen: list[torch.Tensor] = []
    honest = getattr(segmenter.model, entrance)

    def keep(*given: Any, **named: Any) -> Any:
        pixels = named.get("pixel_values", *given)
        seen.append(pixels)
        return honest(*given, **named)

    setattr(segmenter.model, entrance, keep)
    image = tiny.picture(*size)
    segmenter(image)
    assert len(seen) == 1, "the picture is seen once"
    tiny.check_prepared(seen[0], CASES[name].processor(), image)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_in_the_network(segmenter: Any, dtype: torch.dtype) -> None:
    for network in segmenter.networks:
        network.to(dtype)
    masks, scores = segmenter(tiny.picture(40, 60))
    assert scores.dtype == torch.float32 and masks.dtype == torch.bool and masks.shape[1:] == (40, 60)
    assert {weight.dtype for network in segmenter.networks for weight in network.parameters()} == {dtype}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_folders_that_are_wrong(
    name: str, folder: Path, tmp_path: Path, fault: Callable[[Path], str]
) -> None:
    check_refused(folder, tmp_path / name, fault, class_of(name).from_folder)


def test_pictures_that_are_none(segmenter: Any) -> None:
    with pytest.raises(ValueError, match="image must have shape"):
        segmenter(tiny.picture(40, 60)[0])
    with pytest.raises(ValueError, match="image must hold 1 picture"):
        segmenter(tiny.picture(40, 60).repeat(2, 1, 1, 1))


def test_work_can_be_stopped_before_it_begins(segmenter: Any) -> None:
    def stop(done: int, of: int) -> None:
        assert done == 0 < of
        raise InterruptedError

    with pytest.raises(InterruptedError):
        segmenter(tiny.picture(40, 60), tell=stop)


def test_no_case_is_forgotten() -> None:
    from retouch_core.models.pretrained.opening import backends_of

    assert set(backends_of("segmenter")) == set(CASES)
