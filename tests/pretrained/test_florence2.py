"""Florence-2 as a referrer: against the published processor, and by hand where polygons are filled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from folder_faults import FAULTS, check_refused
from tiny_referrers import eight_bit, florence2_folder, picture

from retouch_core.models.pretrained.referrers.florence2 import Florence2Referrer, filled, polygons
from retouch_core.models.protocols import InstanceReferrer
from retouch_core.regions.referring import refer

SQUARE = [
    "<loc_250>",
    "<loc_250>",
    "<loc_749>",
    "<loc_250>",
    "<loc_749>",
    "<loc_749>",
    "<loc_250>",
    "<loc_749>",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return florence2_folder(tmp_path_factory.mktemp("models") / "florence2")


@pytest.fixture()
def referrer(folder: Path) -> Florence2Referrer:
    return Florence2Referrer.from_folder(folder, tokens=12)


def answering(referrer: Florence2Referrer, words: list[str]) -> dict[str, Any]:
    """Let the model write these words; returns what it is given."""
    given: dict[str, Any] = {}
    tokenizer = referrer.processor.tokenizer

    def generate(**inputs: Any) -> torch.Tensor:
        given.update(inputs)
        return torch.tensor([tokenizer.convert_tokens_to_ids(["</s>", "<s>", *words, "</s>"])])

    referrer.model.generate = generate
    return given


@pytest.mark.parametrize("size", [(64, 64), (51, 90)])
def test_the_model_is_given_what_the_processor_makes(
    referrer: Florence2Referrer, folder: Path, size: tuple[int, int]
) -> None:
    from transformers import Florence2Processor

    image = picture(*size)
    given = answering(referrer, SQUARE)
    referrer.heat_maps(image, [" the red car "])
    inputs = Florence2Processor.from_pretrained(folder)(
        text="<REFERRING_EXPRESSION_SEGMENTATION>the red car", images=eight_bit(image), return_tensors="pt"
    )
    assert given["input_ids"].tolist() == inputs["input_ids"].tolist()
    # Bicubic weights go below 0, so that rounding to 8 bits twice may add up to a little more than a step.
    assert float((given["pixel_values"] - inputs["pixel_values"]).abs().max()) < 2 / 255 / 0.224
    assert given["max_new_tokens"] == 12 and given["num_beams"] == 3 and given["do_sample"] is False


def test_a_whole_run_is_deterministic(referrer: Florence2Referrer) -> None:
    image, told = picture(51, 90), []
    heat = referrer.heat_maps(image, ["red car", "sky"], tell=lambda done, of: told.append((done, of)))
    assert heat.shape == (2, 51, 90) and heat.dtype == torch.float32 and heat.device.type == "cpu"
    assert torch.equal(heat, referrer.heat_maps(image, ["red car", "sky"])) and told == [(1, 2), (2, 2)]
    assert referrer.heat_maps(image, []).shape == (0, 51, 90)


def test_bfloat16_weights(referrer: Florence2Referrer) -> None:
    for network in referrer.networks:
        network.bfloat16()
    assert referrer.heat_maps(picture(40, 50), ["cat"]).shape == (1, 40, 50)


def test_one_region_by_hand(referrer: Florence2Referrer) -> None:
    """Steps 250 and 749 of a 100x40 picture are 25.05 and 74.95 across, 10.02 and 29.98 down: pixels 25 to 74, 10 to 29."""
    answering(referrer, SQUARE)
    found = referrer.instances(picture(40, 100), "cat")
    assert found.masks.shape == (1, 40, 100) and found.scores.tolist() == [1.0]
    expected = torch.zeros(40, 100)
    expected[10:30, 25:75] = 1
    assert torch.equal(found.masks[0], expected)
    assert found.boxes.tolist() == [[25, 10, 75, 30]]
    assert isinstance(referrer, InstanceReferrer)
    result = refer(picture(40, 100), "cat", referrer)
    assert result.present and int(result.regions.masks[result.selected].sum()) == 20 * 50


def test_no_area_is_no_region(referrer: Florence2Referrer) -> None:
    for words in ([], ["r", "re"], SQUARE[:4], ["<loc_5>"] * 8):
        answering(referrer, words)
        found = referrer.instances(picture(40, 100), "cat")
        assert (
            found.masks.shape == (0, 40, 100) and found.boxes.shape == (0, 4) and found.scores.shape == (0,)
        )


def test_polygons_are_those_of_the_published_processor(referrer: Florence2Referrer) -> None:
    words = [*SQUARE[:6], "<loc_1>", "<sep>", *SQUARE, "</poly>", "<poly>", *SQUARE[2:], "</poly>"]
    ours = polygons(["<s>", "<poly>", *words, "</s>"], (480, 640))
    assert [len(points) for points in ours] == [3, 4, 3]
    text = "<s><poly>" + "".join(words) + "</s>"
    task = "<REFERRING_EXPRESSION_SEGMENTATION>"
    parsed = referrer.processor.post_process_generation(text=text, task=task, image_size=(640, 480))[task][
        "polygons"
    ]
    theirs = [torch.tensor(flat).view(-1, 2) for region in parsed for flat in region]
    assert len(theirs) == len(ours)
    for mine, library in zip(ours, theirs, strict=True):
        # The library cuts to whole pixels.
        assert torch.equal(mine.floor().long(), library.long())


def crossings(x: float, y: float, points: torch.Tensor) -> bool:
    """Whether a ray to the right of (x, y) crosses a polygon's sides an odd number of times."""
    inside = False
    for (x0, y0), (x1, y1) in zip(points.tolist(), points.roll(-1, 0).tolist(), strict=True):
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0):
            inside = not inside
    return inside


@pytest.mark.parametrize("corners", [3, 5, 9])
def test_filling_against_every_pixels_middle(corners: int) -> None:
    make = torch.Generator().manual_seed(corners)
    # Some corners lie outside the picture, and sides may cross.
    outlines = [torch.rand(corners, 2, generator=make, dtype=torch.float64) * 40 - 5 for _ in range(2)]
    mask = filled(outlines, (23, 31))
    for y in range(23):
        for x in range(31):
            assert bool(mask[y, x]) == any(crossings(x + 0.5, y + 0.5, points) for points in outlines)
    assert 0 < int(mask.sum()) < 23 * 31
    assert not filled([], (23, 31)).any()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_wrong_folders(folder: Path, tmp_path: Path, fault: Callable[[Path], str]) -> None:
    check_refused(folder, tmp_path / "copy", fault, Florence2Referrer.from_folder)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"tokens": 0}, "tokens must be"), ({"beams": 0}, "beams must be"), ({"side": 1.5}, "side must be")],
)
def test_wrong_options(folder: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Florence2Referrer.from_folder(folder, **options)


def test_wrong_input(referrer: Florence2Referrer) -> None:
    with pytest.raises(ValueError, match="phrase is empty"):
        referrer.instances(picture(20, 20), "")
    with pytest.raises(ValueError, match="must hold 1 picture"):
        referrer.heat_maps(torch.zeros(2, 20, 20, 3), ["cat"])
    assert referrer.unknown_words("red 車") == ()
