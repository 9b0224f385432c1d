"""Learn Region over the host's own networks, small and random, and the embedded scorer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

pytestmark = pytest.mark.host

Pack = Callable[[str], ModuleType]


@pytest.fixture(scope="module", autouse=True)
def _temp_folder(comfy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    import folder_paths

    before = folder_paths.get_temp_directory()
    folder_paths.set_temp_directory(str(tmp_path_factory.mktemp("temp")))
    yield
    folder_paths.set_temp_directory(before)


@pytest.fixture(scope="module")
def scorer(pack: Pack) -> Any:
    folder = pack("retouch_core.models.embedded").FOLDER
    with torch.inference_mode():  # as the host loads it
        return pack("nodes.load_embedded").embedded_scorer(folder, pack("nodes._bundle").host_clip(folder))


@pytest.fixture(scope="module")
def models(tiny: ModuleType) -> dict[str, Any]:
    return {"model": tiny.model("inpaint"), "vae": tiny.vae(), "target": tiny.conditioning(1)}


def learn(pack: Pack, models: dict[str, Any], judge: Any, image: Tensor, **changes: Any) -> Any:
    node = pack("nodes.learn_region").RetouchLearnRegion
    given = {
        "prompt": "a red boat",
        "caption": "car",
        "steps": 1,
        "cfg": 1.0,
        "anchors": 2,
        "sizes": 2,
        "epochs": 1,
        "template": "{}",
        "scorer": judge,
        **models,
        **changes,
    }
    with torch.inference_mode():
        return node.execute(image, **given).args


def test_the_best_box_is_what_the_region_sampler_makes_of_it(
    pack: Pack, tiny: ModuleType, models: dict[str, Any], scorer: Any
) -> None:
    image = tiny.picture(60, 72)
    regions, mask, best, edits, report = learn(pack, models, scorer, image)
    assert len(regions) == len(edits) == 2 and regions.scores.shape == (2,)
    values = json.loads(report[report.index("{") :])
    assert values["edits"] <= 4 and len(values["losses"]) == 2 and values["mode"] == "exhaustive"
    outside = mask[..., None].expand_as(image) == 0
    assert outside.any() and torch.equal(best[outside], image[outside]) and not torch.equal(best, image)
    assert torch.equal(best, edits[values["winner"], None])
    assert torch.equal(mask[0] > 0, regions.masks[values["winner"]])
    sampler = pack("nodes.region_sampler").RetouchRegionSampler
    for box, edit in zip(regions.masks, edits, strict=True):
        with torch.inference_mode():
            same = sampler.execute(
                image, box[None].float(), **models, steps=1, cfg=1.0, candidates=1, sampler_name="euler"
            ).args[0]
        torch.testing.assert_close(edit[None], same, atol=1e-4, rtol=0)


@pytest.mark.parametrize("mode", ["reinforce", "gumbel_st"])
def test_training_works_in_the_hosts_inference_mode(
    pack: Pack, tiny: ModuleType, models: dict[str, Any], scorer: Any, mode: str
) -> None:
    image = tiny.picture(48, 48)
    regions, _, best, _, report = learn(pack, models, scorer, image, mode=mode, anchors=1)
    assert len(regions) == 1 and best.shape == image.shape and f'"mode": "{mode}"' in report
    again = learn(pack, models, scorer, image, mode=mode, anchors=1)
    assert torch.equal(again[2], best)


def test_the_hosts_tower_sees_what_the_librarys_does(pack: Pack, scorer: Any) -> None:
    library = pack("retouch_core.models.clip_attention").tower_of(
        pack("retouch_core.models.embedded").load_scorer()
    )
    own = pack("nodes._box_editor").tower_of_scorer(scorer)
    views = torch.rand(2, 3, own.image_size, own.image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for a, b in zip(own.perceive(views), library.perceive(views), strict=True):
            torch.testing.assert_close(a, b, atol=2e-3, rtol=2e-3)
        torch.testing.assert_close(own.perceive(views)[0], scorer.encode_images(views), atol=2e-3, rtol=0)
    image = views[:1].movedim(1, -1)
    torch.testing.assert_close(own(image)[0], library(image)[0], atol=1e-3, rtol=0)


def test_a_blank_caption_is_noted(pack: Pack, tiny: ModuleType, models: dict[str, Any], scorer: Any) -> None:
    report = learn(pack, models, scorer, tiny.picture(32, 32), caption="", anchors=1, sizes=1)[-1]
    assert "caption is empty" in report


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": " "}, "prompt is empty"),
        ({"scorer": 3}, "scorer must be a scorer, got int"),
        ({"anchors": 0}, "anchors must be a whole number"),
        ({"sizes": 0}, "sizes must be a whole number"),
        ({"mode": "best"}, "mode must be one of"),
        ({"template": "x"}, "template must hold {}"),
        ({"target": []}, "target is an empty list"),
        ({"steps": 0}, "steps must be in"),
    ],
)
def test_bad_input(
    pack: Pack, tiny: ModuleType, models: dict[str, Any], scorer: Any, change: dict[str, Any], message: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        learn(pack, models, scorer, tiny.picture(32, 32), **change)


def test_a_batch_is_refused_and_a_cancel_ends_it(
    pack: Pack, tiny: ModuleType, models: dict[str, Any], scorer: Any
) -> None:
    import comfy.model_management as host

    with pytest.raises(ValueError, match=r"image must hold 1 picture\(s\), got 2"):
        learn(pack, models, scorer, tiny.picture(32, 32, 2))
    host.interrupt_current_processing(True)
    with pytest.raises(host.InterruptProcessingException):
        learn(pack, models, scorer, tiny.picture(32, 32))
