"""The loaders of pretrained networks: what they list, what stands behind their handles, and where the host keeps it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("quiet_host")]

Pack = Callable[[str], ModuleType]
BUILDERS = Path(__file__).parents[1] / "pretrained"
HEIGHT, WIDE = 60, 84


@pytest.fixture(scope="session")
def builders() -> Callable[[str], ModuleType]:
    """Tiny random networks in folders of the published layout."""

    def module(name: str) -> ModuleType:
        sys.path.insert(0, str(BUILDERS))
        try:
            return importlib.import_module(name)
        finally:
            sys.path.pop(0)

    return module


@pytest.fixture(scope="session")
def stored(comfy: Path, builders: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models with one of each kind that is tried here."""
    root = tmp_path_factory.mktemp("models")
    refer, towers, segment = (builders(f"tiny_{kind}") for kind in ("referrers", "towers", "segmenters"))
    with torch.inference_mode(False):
        segment.saved(
            root / "retouch_segmenters" / "tiny-sam2", segment.tiny_sam2(), segment.sam2_processor()
        )
        refer.clipseg_folder(root / "retouch_referrers" / "tiny-clipseg")
        refer.grounding_dino_folder(root / "retouch_referrers" / "tiny-dino")
        towers.clip_folder(root / "retouch_scorers" / "tiny-clip")
    return root


@pytest.fixture
def shelf(pack: Pack, stored: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The host looks into `stored` for our roles, and nothing is cached elsewhere."""
    import folder_paths
    from huggingface_hub import constants

    known = dict(folder_paths.folder_names_and_paths)
    for folder in pack("retouch_core.models.pretrained.catalogue").FOLDERS.values():
        known[folder] = ([str(stored / folder)], set())
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", known)
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return stored


def options_of(node: Any, backend: str) -> dict[str, Any]:
    """The inputs that the host shows for a backend, by name."""
    inputs = node.INPUT_TYPES()["required"]["backend"][1]["options"]
    chosen = next(option for option in inputs if option["key"] == backend)["inputs"]
    return {**chosen.get("required", {}), **chosen.get("optional", {})}


def loaded() -> list[Any]:
    import comfy.model_management

    return [one.model for one in comfy.model_management.current_loaded_models]


@pytest.mark.parametrize(
    ("node", "backend", "name"),
    [
        ("load_segmenter.RetouchLoadSegmenter", "sam2", "tiny-sam2"),
        ("load_scorer.RetouchLoadScorer", "clip", "tiny-clip"),
        ("load_referrer.RetouchLoadReferrer", "clipseg", "tiny-clipseg"),
        ("load_referrer.RetouchLoadReferrer", "grounding_dino", "tiny-dino"),
    ],
)
def test_a_backend_lists_what_is_on_disk(pack: Pack, shelf: Path, node: str, backend: str, name: str) -> None:
    module, cls = node.split(".")
    found = options_of(getattr(pack(f"nodes.{module}"), cls), backend)
    assert found["model"][1]["options"] == ["auto", name]
    if backend == "grounding_dino":
        assert found["masks"][1]["options"] == ["auto", "tiny-sam2"]


def test_the_artists_own_folders_stay_in_front(pack: Pack, shelf: Path) -> None:
    import folder_paths

    pack("nodes._pretrained").register_folders()
    first, second = folder_paths.get_folder_paths("retouch_scorers")
    assert first == str(shelf / "retouch_scorers") and second.endswith("retouch_scorers") and second != first


def test_sam_2_finds_entities_and_lives_in_the_hosts_patchers(pack: Pack, shelf: Path) -> None:
    import comfy.model_management

    loader = pack("nodes.load_segmenter").RetouchLoadSegmenter
    told = {
        "backend": "sam2",
        "model": "auto",
        "points_per_side": 4,
        "pred_iou_min": 0.0,
        "stability_min": 0.0,
    }
    (segmenter,) = loader.execute(told).result
    assert isinstance(segmenter, pack("retouch_core.models.protocols").Segmenter)
    image = torch.rand(1, HEIGHT, WIDE, 3, generator=torch.Generator().manual_seed(1))
    node = pack("nodes.entity_segment").RetouchEntitySegment
    with torch.inference_mode():
        masks, scores = segmenter(image)
        again, _ = segmenter(image)
    assert masks.dtype == torch.bool and masks.shape[1:] == (HEIGHT, WIDE) and len(masks) == len(scores) > 0
    assert torch.equal(masks, again)
    assert segmenter.patcher in loaded()
    _, regions, _ = node.execute(image, segmenter, 0.0, "ignore").result
    assert regions[0].masks.sum(0).max() <= 1
    comfy.model_management.unload_all_models()
    assert segmenter.patcher not in loaded()
    with torch.inference_mode():
        assert torch.equal(segmenter(image)[0], masks)


def test_a_segmenter_stops_when_the_artist_cancels(pack: Pack, shelf: Path) -> None:
    import comfy.model_management

    loader = pack("nodes.load_segmenter").RetouchLoadSegmenter
    (segmenter,) = loader.execute({"backend": "sam2", "model": "auto", "points_per_side": 4}).result
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        segmenter(torch.rand(1, HEIGHT, WIDE, 3))


def test_clip_scores_regions_and_lets_gradients_through_in_the_hosts_mode(pack: Pack, shelf: Path) -> None:
    (scorer,) = (
        pack("nodes.load_scorer").RetouchLoadScorer.execute({"backend": "clip", "model": "tiny-clip"}).result
    )
    assert isinstance(scorer, pack("retouch_core.models.protocols").Scorer)
    direct = pack("retouch_core.models.pretrained.scorers.clip").PretrainedClipScorer.from_folder(
        shelf / "retouch_scorers" / "tiny-clip"
    )
    views = torch.rand(3, 3, scorer.image_size, scorer.image_size)
    with torch.inference_mode():
        seen, told = scorer.encode_images(views), scorer.encode_texts(["a photo"])
        with torch.inference_mode(False), torch.enable_grad():
            leaf = views.clone().requires_grad_()
            scorer.encode_images(leaf).sum().backward()
    assert torch.allclose(seen, direct.encode_images(views), atol=1e-6)
    assert torch.allclose(told, direct.encode_texts(["a photo"]), atol=1e-6)
    assert leaf.grad is not None and leaf.grad.abs().max() > 0


def test_referrers_find_by_a_phrase(pack: Pack, shelf: Path) -> None:
    loader, protocols = pack("nodes.load_referrer").RetouchLoadReferrer, pack("retouch_core.models.protocols")
    image = torch.rand(1, HEIGHT, WIDE, 3, generator=torch.Generator().manual_seed(2))
    node = pack("nodes.referring_segment").RetouchReferringSegment
    (soft,) = loader.execute({"backend": "clipseg", "model": "auto"}).result
    assert isinstance(soft, protocols.Referrer) and not isinstance(soft, protocols.InstanceReferrer)
    (boxes,) = loader.execute(
        {
            "backend": "grounding_dino",
            "model": "auto",
            "masks": "auto",
            "threshold": 0.0,
            "text_threshold": 0.0,
        }
    ).result
    assert isinstance(boxes, protocols.InstanceReferrer) and len(boxes.patchers) == 2
    for referrer in (soft, boxes):
        with torch.inference_mode():
            _, mask, heat, report = node.execute(image, referrer, "the red thing").result
        assert mask.shape == heat.shape == (1, HEIGHT, WIDE) and report
        assert all(patcher in loaded() for patcher in referrer.patchers)


def test_precision_is_the_hosts_unless_asked(pack: Pack, shelf: Path) -> None:
    module = pack("nodes._pretrained")
    assert module.precision("auto", torch.device("cpu")) is torch.float32
    loader = pack("nodes.load_scorer").RetouchLoadScorer
    (scorer,) = loader.execute({"backend": "clip", "model": "auto"}, "bfloat16").result
    assert next(scorer.patcher.model.parameters()).dtype is torch.bfloat16
    seen = scorer.encode_images(torch.rand(2, 3, scorer.image_size, scorer.image_size))
    assert seen.dtype is torch.float32 and torch.isfinite(seen).all()
    with pytest.raises(ValueError, match="dtype must be one of auto, float32, float16, bfloat16, got 'int8'"):
        loader.execute({"backend": "clip", "model": "auto"}, "int8")


def test_what_is_missing_says_where_it_was_looked_for_and_how_to_get_it(pack: Pack, shelf: Path) -> None:
    loader = pack("nodes.load_segmenter").RetouchLoadSegmenter
    with pytest.raises(ValueError, match=r"retouch_segmenters.*models get"):
        loader.execute({"backend": "eomt", "model": "auto", "threshold": 0.8, "overlap": 0.8})
    (stand_in,) = loader.execute({"backend": "embedded"}).result
    assert callable(stand_in)
