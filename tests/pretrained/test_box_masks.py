"""Masks of boxes by SAM and SAM 2: against the published processors, and by hand where padding is cut off."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from folder_faults import FAULTS, check_refused
from tiny_referrers import eight_bit, picture, sam2_folder, sam_folder

from retouch_core.models.pretrained.referrers.box_masks import BoxSegmenter

BOXES = torch.tensor([[3.0, 4.0, 30.0, 25.0], [10.5, 2.25, 60.0, 39.0], [0.0, 0.0, 64.0, 40.0]])
BUILDERS: dict[str, Callable[[Path], Path]] = {"sam": sam_folder, "sam2": sam2_folder}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("models")
    return {kind: build(place / kind) for kind, build in BUILDERS.items()}


@pytest.fixture(params=BUILDERS)
def folder(folders: dict[str, Path], request: pytest.FixtureRequest) -> Path:
    return folders[request.param]


@pytest.fixture()
def segmenter(folder: Path) -> BoxSegmenter:
    return BoxSegmenter.from_folder(folder)


def published(
    segmenter: BoxSegmenter, folder: Path, image: torch.Tensor, boxes: torch.Tensor
) -> torch.Tensor:
    """Probabilities [N,H,W] by the published processor, the model's own forward pass and post-processing."""
    from transformers import Sam2Processor, SamProcessor

    processor = (SamProcessor if segmenter.padded else Sam2Processor).from_pretrained(folder)
    inputs = processor(images=eight_bit(image), input_boxes=[boxes.tolist()], return_tensors="pt")
    kept = {name: inputs[name] for name in ("pixel_values", "input_boxes")}
    kept["input_boxes"] = kept["input_boxes"].float()
    with torch.no_grad():
        masks = segmenter.model(**kept, multimask_output=False).pred_masks
    sizes = {"original_sizes": inputs["original_sizes"]}
    if segmenter.padded:
        sizes["reshaped_input_sizes"] = inputs["reshaped_input_sizes"]
    large = processor.image_processor.post_process_masks(masks, **sizes, binarize=False)[0]
    return torch.sigmoid(large[:, 0].float())


@pytest.mark.parametrize("size", [(64, 64), (40, 64)])
def test_masks_are_those_of_the_published_pipeline(
    segmenter: BoxSegmenter, folder: Path, size: tuple[int, int]
) -> None:
    if size != (64, 64) and not segmenter.padded:
        pytest.skip("SAM 2 squashes what is not square; the next test has that")
    image = picture(*size)  # needs no resizing, only padding
    expected = published(segmenter, folder, image, BOXES)
    masks = segmenter(image, BOXES)
    assert float(expected.std()) > 0.005 and float((expected[0] - expected[1]).abs().max()) > 1e-3
    torch.testing.assert_close(masks, expected, atol=1e-4, rtol=0)


def test_other_sizes_differ_by_rounding_only(segmenter: BoxSegmenter, folder: Path) -> None:
    image = picture(57, 91)
    masks = segmenter(image, BOXES)
    assert masks.shape == (3, 57, 91) and masks.dtype == torch.float32 and masks.device.type == "cpu"
    assert float(masks.min()) >= 0 and float(masks.max()) <= 1
    assert float((masks - published(segmenter, folder, image, BOXES)).abs().max()) < 0.05


def test_same_bits_again_and_chunks_change_nothing(segmenter: BoxSegmenter, folder: Path) -> None:
    image, told = picture(30, 50), []
    masks = segmenter(image, BOXES / 2)
    assert torch.equal(masks, segmenter(image, BOXES / 2))
    two = BoxSegmenter.from_folder(folder, chunk=2)
    again = two(image, BOXES / 2, tell=lambda done, of: told.append((done, of)))
    torch.testing.assert_close(masks, again, atol=1e-5, rtol=0)
    assert told == [(2, 3), (3, 3)]


def test_no_box_gives_no_mask(segmenter: BoxSegmenter) -> None:
    assert segmenter(picture(20, 30), torch.zeros(0, 4)).shape == (0, 20, 30)


def test_padding_is_cut_off_before_resizing(folders: dict[str, Path]) -> None:
    """Of 16 rows of logits that stand for 64 px, a 40 px high picture has the first 10; row 39 lies 0.375 of the way
    from the last of them to the first row of padding, and row 37 does not reach it."""
    segmenter = BoxSegmenter.from_folder(folders["sam"])
    logits = torch.full((1, 16, 16), -20.0)
    logits[:, 10:] = 20.0
    masks = segmenter.probabilities(logits, (40, 64))
    assert masks.shape == (1, 40, 64)
    torch.testing.assert_close(masks[0, 39], torch.sigmoid(torch.tensor(-5.0)).expand(64))
    torch.testing.assert_close(masks[0, 37], torch.sigmoid(torch.tensor(-20.0)).expand(64))
    # Twice the size in both directions: the same cut, then a resize.
    large = segmenter.probabilities(logits, (80, 128))
    assert (
        large.shape == (1, 80, 128) and float(large[0, :76].max()) < 1e-6 and float(large[0, 79].max()) < 0.01
    )
    # SAM 2 has no padding, so the same logits fill the picture: 10 of 16 rows are 25 of 40.
    squashed = BoxSegmenter.from_folder(folders["sam2"]).probabilities(logits, (40, 64))
    assert float(squashed[0, :24].max()) < 0.01 and float(squashed[0, 26:].min()) > 0.99


@pytest.mark.parametrize(("kind", "scales"), [("sam", (0.5, 0.5)), ("sam2", (0.5, 1.0))])
def test_boxes_go_in_at_the_scale_of_what_the_network_sees(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, kind: str, scales: tuple[float, float]
) -> None:
    """A 128x64 picture becomes 64x32 for SAM and 64x64 for SAM 2."""
    segmenter = BoxSegmenter.from_folder(folders[kind])
    given: list[torch.Tensor] = []

    def forward(**inputs: Any) -> SimpleNamespace:
        given.append(inputs["input_boxes"])
        assert inputs["multimask_output"] is False
        return SimpleNamespace(pred_masks=torch.zeros(1, inputs["input_boxes"].shape[1], 1, 16, 16))

    monkeypatch.setattr(segmenter.model, "forward", forward)
    masks = segmenter(picture(64, 128), torch.tensor([[8.0, 4.0, 100.0, 60.0]]))
    x, y = scales
    assert given[0].dtype == torch.float32
    torch.testing.assert_close(given[0], torch.tensor([[[8 * x, 4 * y, 100 * x, 60 * y]]]))
    assert torch.equal(masks, torch.full((1, 64, 128), 0.5))


def test_bfloat16_weights(segmenter: BoxSegmenter) -> None:
    image = picture(40, 50)
    full = segmenter(image, BOXES)
    for network in segmenter.networks:
        network.bfloat16()
    half = segmenter(image, BOXES)
    assert half.dtype == torch.float32 and torch.isfinite(half).all()
    assert float((half - full).abs().mean()) < 0.1


def test_the_published_video_model_holds_the_picture_model(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = tmp_path / "video"
    shutil.copytree(folders["sam2"], copy)
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "sam2_video"}))
    image = picture(40, 50)
    video, plain = BoxSegmenter.from_folder(copy), BoxSegmenter.from_folder(folders["sam2"])
    assert torch.equal(video(image, BOXES), plain(image, BOXES))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_wrong_folders(folder: Path, tmp_path: Path, fault: Any) -> None:
    check_refused(folder, tmp_path / "copy", fault, BoxSegmenter.from_folder)


@pytest.mark.parametrize(
    ("boxes", "said"),
    [
        (torch.zeros(3, 5), r"shape \[N,4\]"),
        (torch.tensor([[5.0, 0.0, 2.0, 9.0]]), "x0 <= x1"),
        (torch.tensor([[0.0, 0.0, float("nan"), 9.0]]), "x0 <= x1"),
        ([[0, 0, 1, 1]], r"shape \[N,4\]"),
    ],
)
def test_wrong_boxes(folders: dict[str, Path], boxes: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        BoxSegmenter.from_folder(folders["sam"])(picture(20, 20), boxes)


def test_other_models_are_refused() -> None:
    model = SimpleNamespace(config=SimpleNamespace(model_type="vit"))
    with pytest.raises(ValueError, match="got one of type 'vit'"):
        BoxSegmenter(model)
