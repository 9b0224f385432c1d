"""Pictures as published networks take them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_towers import write

from retouch_core.models.pretrained.loading import ModelError
from retouch_core.models.pretrained.pictures import (
    Look,
    fitted_size,
    image_settings,
    look_of,
    needed_settings,
    pixels_of,
    square_side,
)
from retouch_core.models.pretrained.segmenters.processors import edge_of, processor_look


def test_sizes_are_rounded_as_the_published_processors_do() -> None:
    try:
        from transformers.image_transforms import get_size_with_aspect_ratio
    except ImportError:
        from transformers.models.eomt.image_processing_eomt import get_size_with_aspect_ratio

    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(16, 3000, (300, 2), generator=generator).tolist()
    for height, width in [*sizes, [800, 800], [800, 1200], [1200, 800], [16, 4000], [799, 1332]]:
        for shortest, longest in ((640, 640), (800, 1333)):
            expected = get_size_with_aspect_ratio((height, width), shortest, longest)
            assert fitted_size((height, width), shortest, longest) == tuple(expected)
    assert fitted_size((3000, 4000), 800, 1333) == (
        800,
        1066,
    )  # 1066.7 is cut, not rounded


@pytest.mark.parametrize("number", [0, 2, 3])
def test_resizing_is_that_of_pil(number: int) -> None:
    levels = torch.randint(0, 256, (37, 53, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    expected = Image.fromarray(levels.numpy()).resize((20, 24), Image.Resampling(number))
    look = look_of({"resample": number}, "a test")
    mine = look.resized(pixels_of(levels[None] / 255, torch.zeros(1)), (24, 20))
    # PIL rounds to 8 bits after each axis.
    difference = mine[0].movedim(0, -1) * 255 - torch.from_numpy(np.asarray(expected).astype(np.float32))
    assert float(difference.abs().max()) <= (0 if number == 0 else 1.51)


def test_normalised_by_hand() -> None:
    look = Look((0.5, 0.25, 0.0), (0.5, 0.25, 1.0))
    pixels = torch.tensor([0.75, 0.75, 0.75]).view(1, 3, 1, 1)
    assert look.normalised(pixels).flatten().tolist() == [0.5, 2.0, 0.75]


def test_settings_lie_in_either_file(tmp_path: Path) -> None:
    assert image_settings(tmp_path) == {}
    with pytest.raises(
        ModelError, match=r"has no preprocessor_config\.json, which says how SAM takes pictures"
    ):
        needed_settings(tmp_path, "SAM")
    write(tmp_path / "processor_config.json", {"image_processor": {"size": 5}, "tokens": 3})
    assert image_settings(tmp_path) == {"size": 5}
    write(tmp_path / "preprocessor_config.json", {"size": 7})
    assert needed_settings(tmp_path, "SAM") == {"size": 7}
    for broken in ("[1]", "{", json.dumps("text")):
        (tmp_path / "preprocessor_config.json").write_text(broken)
        with pytest.raises(ModelError, match=r"preprocessor_config\.json cannot be read"):
            image_settings(tmp_path)


def test_what_settings_leave_out_is_as_usual() -> None:
    usual = Look((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bicubic")
    assert look_of({}, "a test", usual) == usual
    assert look_of({"image_mean": None, "resample": None}, "a test", usual) == usual
    # open_clip has shorter words.
    assert look_of({"mean": [0, 0, 0], "std": [1, 1, 1]}, "a test", usual) == Look(
        (0,) * 3, (1,) * 3, "bicubic"
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"image_mean": [0.5]}, r"mean must be three numbers, one a channel, got \(0\.5,\)"),
        ({"image_mean": []}, "mean must be three numbers"),
        ({"image_std": [0.0, 1.0, 1.0]}, "std must be above 0"),
        ({"image_std": [float("nan"), 1.0, 1.0]}, "std must be three numbers"),
        ({"image_mean": "red"}, "could not convert"),
        ({"resample": 5}, "resample 5, which is not known"),
    ],
)
def test_looks_that_cannot_be(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=f"^models/x names colours.*{said}.*copy the model's own file"):
        look_of(settings, "models/x")


def test_a_mode_torch_lacks() -> None:
    with pytest.raises(
        ValueError, match="mode must be one of bicubic, bilinear, nearest-exact, got 'lanczos'"
    ):
        Look(mode="lanczos")


def test_squares() -> None:
    assert square_side({"size": 30}, 5, Path("x")) == square_side(
        {"size": {"height": 30, "width": 30}}, 5, Path("x")
    )
    assert square_side({}, 5, Path("x")) == 5
    for size in ({"height": 30, "width": 31}, {"shortest_edge": 30}, 0, "large"):
        with pytest.raises(ModelError, match="not of a square"):
            square_side({"size": size}, 5, Path("x"))


def test_processors_that_leave_a_step_out() -> None:
    whole = SimpleNamespace(image_mean=[0.5] * 3, image_std=[0.5] * 3, resample=3)
    assert processor_look(whole) == Look((0.5,) * 3, (0.5,) * 3, "bicubic")
    with pytest.raises(ModelError, match="SimpleNamespace has do_normalize off"):
        processor_look(SimpleNamespace(**vars(whole), do_normalize=False))


def test_edges() -> None:
    assert edge_of({"shortest_edge": 5, "longest_edge": None}, "longest_edge", "shortest_edge") == 5
    assert edge_of(SimpleNamespace(height=7), "height") == 7
    assert edge_of({}, "height") is edge_of(None, "height") is None
