"""Referring Segment: the library's search on the wire, a referrer in the host's patcher, and weights that are missing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

pytestmark = pytest.mark.host

Pack = Callable[[str], ModuleType]


class Squares:
    """Says 0.9 in a square whose place depends on the picture's first pixel, 0.05 elsewhere."""

    def heat_maps(self, image: Tensor, phrases: Sequence[str]) -> Tensor:
        heat = torch.full((len(phrases), *image.shape[1:3]), 0.05)
        left = int(image[0, 0, 0, 0] * 10)
        heat[:, 10:30, left : left + 20] = 0.9 if "star" in phrases[0] else 0.1
        return heat

    def unknown_words(self, text: str) -> tuple[str, ...]:
        return ("dragon",) if "dragon" in text else ()


@pytest.fixture(scope="module", autouse=True)
def _temp_folder(comfy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    import folder_paths

    before = folder_paths.get_temp_directory()
    folder_paths.set_temp_directory(str(tmp_path_factory.mktemp("temp")))
    yield
    folder_paths.set_temp_directory(before)


@pytest.fixture
def node(pack: Pack) -> Any:
    return pack("nodes.referring_segment").RetouchReferringSegment


def pictures() -> Tensor:
    images = torch.full((2, 40, 60, 3), 0.5)
    images[0, 0, 0], images[1, 0, 0] = 0.2, 1.0
    return images


def test_each_picture_is_searched_by_itself(node: Any) -> None:
    regions, mask, heat, report = node.execute(pictures(), Squares(), "a star").args
    expected = torch.zeros(2, 40, 60)
    expected[0, 10:30, 2:22] = expected[1, 10:30, 10:30] = 1
    assert torch.equal(mask, expected) and heat.shape == mask.shape
    assert [len(r) for r in regions] == [1, 1] and regions[0].labels == ("1",)
    assert torch.equal(regions[1].union(), expected[1:]) and regions[1].picture is not None
    assert report.count("16.7 %") == 2


def test_nothing_found_is_a_result(node: Any) -> None:
    regions, mask, heat, report = node.execute(pictures()[:1], Squares(), "a dragon").args
    assert len(regions[0]) == 0 and mask.shape == (1, 40, 60) and not mask.any()
    assert float(heat.max()) == pytest.approx(0.1) and "was not found" in report and "dragon" in report


def test_entities_are_taken_whole_and_keep_their_numbers(pack: Pack, node: Any) -> None:
    masks = torch.zeros(3, 40, 60)
    masks[0, :, 40:] = masks[1, 8:32, :24] = masks[2, 36:, :30] = 1
    entities = pack("nodes.masks_to_regions").RetouchMasksToRegions.execute(masks).args[0]
    image = pictures()[:1]
    (found,), mask, _, _ = node.execute(image, Squares(), "a star", regions=entities, pick="best").args
    assert found.labels == ("2",) and torch.equal(mask, masks[1:2])
    # The numbers still mean something to the nodes behind.
    placed = pack("nodes.location_filter").RetouchLocationFilter.execute(found, "the star on the left").args
    assert torch.equal(placed[1], masks[1:2])
    with pytest.raises(ValueError, match="image holds 2 pictures but regions are of one"):
        node.execute(pictures(), Squares(), "a star", regions=entities)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"k": 256.0}, r"k must be in \[0, 255\], got 256.0"),
        ({"k": -1.0}, r"k must be in \[0, 255\]"),
        ({"mode": "otsu"}, "mode must be one of inverted"),
        ({"pick": "some"}, "pick must be one of"),
        ({"query": " "}, "query is empty"),
        ({"referrer": None}, "referrer must be a referrer, got NoneType; connect Load Embedded Models"),
        ({"image": torch.zeros(0, 40, 60, 3)}, "image is a batch of no pictures"),
    ],
)
def test_bad_input_is_refused(node: Any, changes: dict[str, Any], sentence: str) -> None:
    good = {"image": pictures(), "referrer": Squares(), "query": "a star"}
    with pytest.raises((ValueError, TypeError), match=sentence):
        node.execute(**{**good, **changes})


def test_a_cancel_stops_between_pictures(node: Any) -> None:
    import comfy.model_management

    class Cancelling(Squares):
        calls = 0

        def heat_maps(self, image: Tensor, phrases: Sequence[str]) -> Tensor:
            self.calls += 1
            comfy.model_management.interrupt_current_processing(True)
            return super().heat_maps(image, phrases)

    referrer = Cancelling()
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            node.execute(pictures(), referrer, "a star")
    finally:
        comfy.model_management.interrupt_current_processing(False)
    assert referrer.calls == 1


@pytest.fixture
def bundle(pack: Pack, tmp_path: Path) -> Path:
    """The shipped scorer with a decoder of random weights."""
    from safetensors.torch import load_file

    shipped = pack("retouch_core.models.embedded").FOLDER
    shutil.copytree(shipped / "clip", tmp_path / "clip")
    torch.manual_seed(0)
    parts = pack("retouch_core.models.referring_network")
    network = parts.make_network(parts.Shape(), load_file(shipped / "clip" / "model.safetensors"))
    pack("retouch_core.models.referrer").save_network(network, tmp_path)
    return tmp_path


def test_the_host_computes_what_the_library_computes(pack: Pack, bundle: Path) -> None:
    import comfy.model_management
    import comfy.model_patcher

    library = pack("retouch_core.models.embedded")
    scorer = library.load_scorer(library.FOLDER)
    host = pack("nodes._referrer").HostReferrer(bundle, scorer)
    assert host.patcher is None
    image = torch.rand(1, 96, 128, 3, generator=torch.Generator().manual_seed(1))
    phrases = ["the red ball on the left", "a blue fish"]
    with torch.inference_mode():  # as the host runs nodes
        maps = host.heat_maps(image, phrases)
    expected = pack("retouch_core.models.referrer").load_referrer(scorer, bundle).heat_maps(image, phrases)
    assert torch.allclose(maps, expected, atol=1e-4)
    assert isinstance(host.patcher, comfy.model_patcher.ModelPatcher)
    held = [one.model for one in comfy.model_management.current_loaded_models]
    assert any(one is host.patcher for one in held)
    comfy.model_management.unload_all_models()
    assert not any(one.model is host.patcher for one in comfy.model_management.current_loaded_models)
    assert torch.allclose(host.heat_maps(image, phrases), expected, atol=1e-4)


def test_missing_weights_are_told_on_first_use(pack: Pack, node: Any, tmp_path: Path) -> None:
    referrer = pack("nodes._referrer").HostReferrer(tmp_path, Squares())
    with pytest.raises(
        ValueError, match="the embedded referrer's weights are missing: there is no"
    ) as caught:
        node.execute(pictures(), referrer, "a star")
    assert "\n" not in str(caught.value)
