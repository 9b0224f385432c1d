"""The loaders of pretrained networks: what they list, what stands behind their handles, and where the host keeps it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("quiet_host")]

Pack = Callable[[str], ModuleType]
HEIGHT, WIDE = 60, 84


@pytest.fixture(scope="session")
def stored(comfy: Path, fill_shelf: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models with one of each kind that is tried here."""
    folder: Path = fill_shelf(tmp_path_factory.mktemp("models"))
    return folder


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


def test_attention_says_where_learn_region_looks(pack: Pack, shelf: Path, tiny: Any) -> None:
    (attention,) = pack("nodes.load_attention").RetouchLoadAttention.execute({"backend": "dinov2"}).result
    (scorer,) = pack("nodes.load_scorer").RetouchLoadScorer.execute({"backend": "clip"}).result
    image = tiny.picture(60, 72)
    direct = pack("retouch_core.models.pretrained.dino").PretrainedDino.from_folder(
        shelf / "retouch_attention" / "tiny-dinov2"
    )
    with torch.inference_mode():
        seen = attention(image)
    for mine, theirs in zip(seen, direct(image), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
    assert attention.patcher in loaded()
    node, asked = pack("nodes.learn_region").RetouchLearnRegion, []

    class Watched:
        def __call__(self, picture: Any) -> Any:
            asked.append(tuple(picture.shape))
            return attention(picture)

    given = {"steps": 1, "cfg": 1.0, "anchors": 1, "sizes": 1, "prompt": "a photo", "template": "{}"}
    models = {"model": tiny.model("inpaint"), "vae": tiny.vae(), "target": tiny.conditioning(1)}
    with torch.inference_mode():
        node.execute(image, scorer=scorer, attention=Watched(), **models, **given)
    assert asked == [tuple(image.shape)]
    with pytest.raises(TypeError, match="attention must be of Load Attention, got str; connect that node"):
        node.execute(image, scorer=scorer, attention="dino", **models, **given)


def test_lpips_from_the_hosts_folder_weighs_the_background(pack: Pack, shelf: Path, tiny: Any) -> None:
    (lpips,) = pack("nodes.load_perceptual").RetouchLoadPerceptual.execute().result
    (scorer,) = pack("nodes.load_scorer").RetouchLoadScorer.execute({"backend": "clip"}).result
    assert lpips.name == "LPIPS (squeeze)"
    library = pack("retouch_core.metrics.perceptual")
    a, b = torch.rand(2, 64, 72, 3, generator=torch.Generator().manual_seed(1)).split(1)
    file = shelf / "retouch_perceptual" / library.BACKBONES["squeeze"]
    expected = library.lpips_distance(a, b, network=library.load_lpips("squeeze", file))
    pixels = [one.movedim(-1, 1) * 2 - 1 for one in (a, b)]
    torch.testing.assert_close(lpips.against(pixels[1])(pixels[0]), expected)
    node = pack("nodes.guidance").RetouchGuidance
    (guidance,) = node.execute(
        scorer, "a", 1.0, 1.0, 1.0, 0.0, 0.0, "detach_unet", perceptual_distance=lpips
    ).result
    assert guidance.terms[0].perceptual_distance is lpips
    with pytest.raises(TypeError, match="perceptual_distance must be of Load LPIPS, got int"):
        node.execute(scorer, "a", 1.0, 1.0, 1.0, 0.0, 0.0, "detach_unet", perceptual_distance=3)


def test_vgg_in_the_hosts_folder_is_taken_by_itself(
    pack: Pack, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, library = pack("nodes._perceptual"), pack("retouch_core.metrics.perceptual")
    scorer = pack("nodes.load_scorer").RetouchLoadScorer.execute({"backend": "clip"}).result[0]
    assert module.host_perceptual(scorer).name == "scorer features"
    monkeypatch.setitem(library.BACKBONES, "vgg", library.BACKBONES["squeeze"])
    monkeypatch.delitem(library.BACKBONES, "squeeze")
    asked: list[Path] = []

    def load_lpips(net: str, file: Path) -> Any:
        asked.append(file)
        return torch.nn.Linear(1, 1)

    monkeypatch.setattr(pack("retouch_core.metrics.feature_distance"), "load_lpips", load_lpips)
    assert module.host_perceptual(scorer).name == "LPIPS (vgg)"
    assert asked == [shelf / "retouch_perceptual" / library.BACKBONES["vgg"]]


def test_what_memory_did_not_suffice_for_is_done_in_smaller_chunks_and_said(
    pack: Pack, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = pack("nodes.load_segmenter").RetouchLoadSegmenter
    told = {"backend": "sam2", "points_per_side": 4, "pred_iou_min": 0.0, "stability_min": 0.0}
    (segmenter,) = loader.execute(told).result
    image = torch.rand(1, HEIGHT, WIDE, 3, generator=torch.Generator().manual_seed(1))
    node, model = pack("nodes.entity_segment").RetouchEntitySegment, segmenter.backend.model
    _, (plain,), _ = node.execute(image, segmenter, 0.0, "ignore").result
    honest, most = type(model).forward, 3

    def forward(self: Any, *args: Any, input_points: Any = None, **named: Any) -> Any:
        if input_points is not None and input_points.shape[1] > most:
            raise torch.OutOfMemoryError("no more")
        return honest(self, *args, input_points=input_points, **named)

    monkeypatch.setattr(type(model), "forward", forward)
    _, (halved,), _ = node.execute(image, segmenter, 0.0, "ignore").result
    assert torch.equal(halved.masks, plain.masks)
    (said,) = [trace["warning"] for trace in halved.trace if "warning" in trace]
    assert "not enough memory, so points go through" in said and "at a time; that is slower" in said


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
