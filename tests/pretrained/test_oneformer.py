"""OneFormer with random weights, from the file to masks."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_segmenters import (
    oneformer_folder,
    oneformer_processor,
    picture,
    words_for_oneformer,
)
from torch.nn import functional

from retouch_core.models.pretrained.loading import ModelError
from retouch_core.models.pretrained.segmenters.oneformer import OneFormerSegmenter

LOOSE = {"score_min": 0.3, "overlap_min": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return oneformer_folder(tmp_path_factory.mktemp("oneformer"))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return oneformer_folder(tmp_path / "oneformer")


@pytest.mark.parametrize("size", [(50, 77), (97, 40), (64, 64)])
def test_masks_are_those_of_the_paper(folder: Path, size: tuple[int, int]) -> None:
    segmenter = OneFormerSegmenter.from_folder(folder, **LOOSE)
    image = picture(*size)
    masks, _ = segmenter(image)
    assert len(masks) > 0

    task = torch.tensor([words_for_oneformer(folder)])
    pixels = oneformer_processor()(
        images=image[0].movedim(-1, 0), task_inputs=["panoptic"], do_rescale=False, return_tensors="pt"
    )["pixel_values"]
    with torch.no_grad():
        out = segmenter.model(pixel_values=pixels, task_inputs=task)
    sure, labels = out.class_queries_logits[0].softmax(-1).max(-1)
    kept = (labels < 4) & (sure > 0.3)
    maps = functional.interpolate(
        out.masks_queries_logits, scale_factor=4, mode="bilinear", align_corners=False
    )
    maps = maps[:, :, : pixels.shape[2], : pixels.shape[3]]
    large = functional.interpolate(maps, size, mode="bilinear", align_corners=False)[0, kept]
    weighted = large.sigmoid() * sure[kept][:, None, None]
    for query in range(int(kept.sum())):
        wanted = (weighted.argmax(0) == query) & (large[query].sigmoid() >= 0.5)
        assert not wanted.any() or min(int((wanted ^ mask).sum()) for mask in masks) <= 2


def test_the_network_is_told_the_panoptic_task(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_address: Any, **_options: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    segmenter = OneFormerSegmenter.from_folder(folder)
    asked: list[torch.Tensor] = []
    forward = segmenter.model.forward

    def keep(**inputs: torch.Tensor) -> Any:
        asked.append(inputs["task_inputs"])
        return forward(**inputs)

    segmenter.model.forward = keep
    segmenter(picture(50, 77))
    assert asked[0].tolist() == [words_for_oneformer(folder)]


def test_weights_saved_in_training_ask_for_no_words(tmp_path: Path) -> None:
    segmenter = OneFormerSegmenter.from_folder(oneformer_folder(tmp_path, is_training=True), **LOOSE)
    assert segmenter(picture(40, 60))[0].shape[1:] == (40, 60)


def test_settings_that_are_broken(copy: Path) -> None:
    path = copy / "preprocessor_config.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found | {"size": {"height": 64, "width": 64}}))
    with pytest.raises(ModelError, match="OneFormer needs shortest_edge and longest_edge"):
        OneFormerSegmenter.from_folder(copy)
    path.write_text("{")
    with pytest.raises(ModelError, match=r"preprocessor_config\.json cannot be read"):
        OneFormerSegmenter.from_folder(copy)
    (copy / "vocab.json").unlink()
    with pytest.raises(ModelError, match="the CLIPTokenizer of OneFormer in"):
        OneFormerSegmenter.from_folder(copy)
