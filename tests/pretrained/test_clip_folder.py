"""A published CLIP out of a folder gives the cosines that the model itself gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_towers import clip_folder, drawn, normalised, tokenizer, write

from retouch_core.models.pretrained.loading import ModelError
from retouch_core.models.pretrained.scorers import clip as module
from retouch_core.models.pretrained.scorers.clip import PretrainedClipScorer
from retouch_core.models.pretrained.scorers.towers import chunk_for
from retouch_core.models.protocols import Scorer
from retouch_core.tensors.checks import InputWarning

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip_folder(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.fixture(scope="module")
def scorer(folder: Path) -> PretrainedClipScorer:
    return PretrainedClipScorer.from_folder(folder, gate=0.3, rivals=("thing",))


def test_fills_the_socket(scorer: PretrainedClipScorer) -> None:
    assert isinstance(scorer, Scorer)
    assert scorer.image_size == 32 and scorer.gate == 0.3 and scorer.rivals == ("thing",)
    assert scorer.networks == (scorer.model,)
    assert not any(weight.requires_grad for weight in scorer.model.parameters()) and not scorer.model.training


def test_cosines_are_those_of_the_models_own_forward(folder: Path, scorer: PretrainedClipScorer) -> None:
    from transformers import CLIPModel

    views, texts = drawn(), ["a red car", "the blue star"]
    ids = tokenizer()(texts, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        logits = CLIPModel.from_pretrained(folder)(
            input_ids=ids, pixel_values=normalised(views, MEAN, STD)
        ).logits_per_image
    seen, read = scorer.encode_images(views), scorer.encode_texts(texts)
    assert seen.shape == (3, 16) and seen.dtype == read.dtype == torch.float32
    assert torch.allclose(seen @ read.T * scorer.logit_scale, logits, atol=1e-4)
    assert torch.equal(seen, scorer.encode_images(views))


def test_views_go_through_in_chunks(scorer: PretrainedClipScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    views, told = drawn(5), []
    whole = scorer.encode_images(views)
    monkeypatch.setattr(module, "chunk_for", lambda device, tokens: 2)
    parts = scorer.encode_images(views, tell=lambda done, of: told.append((done, of)))
    assert told == [(2, 5), (4, 5), (5, 5)]
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)
    assert scorer.encode_images(views[:0]).shape == (0, 16)


def test_too_little_memory_halves_the_chunks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, views = PretrainedClipScorer.from_folder(folder), drawn(4)
    expected, enough = scorer.encode_images(views), scorer.model.get_image_features

    def tight(pixel_values: torch.Tensor) -> object:
        if len(pixel_values) > 1:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return enough(pixel_values=pixel_values)

    monkeypatch.setattr(module, "chunk_for", lambda device, tokens: 2)
    monkeypatch.setattr(scorer.model, "get_image_features", tight)
    with pytest.warns(InputWarning, match="views go through 1 at a time"):
        found = scorer.encode_images(views)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_chunks_are_of_about_one_view_on_a_processor_and_many_elsewhere() -> None:
    assert chunk_for("cpu") == chunk_for(torch.device("cpu"), 257) == 1
    assert chunk_for("cpu", 50) == 5
    assert chunk_for("cuda") == chunk_for("cuda:1", 1025) == 32


def test_half_precision_weights(folder: Path) -> None:
    scorer = PretrainedClipScorer.from_folder(folder)
    views, texts = drawn(2), ["a red car"]
    full = scorer.encode_images(views), scorer.encode_texts(texts)
    scorer.networks[0].to(torch.bfloat16)
    half = scorer.encode_images(views), scorer.encode_texts(texts)
    for mine, exact in zip(half, full, strict=True):
        assert mine.dtype == torch.float32 and mine.device.type == "cpu"
        # bfloat16 keeps 8 bits of each number.
        assert float((mine * exact).sum(-1).min()) > 0.995


@pytest.mark.parametrize("inference", [False, True])
def test_gradients_reach_the_views_through_chunks(
    folder: Path, inference: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "chunk_for", lambda device, tokens: 2)
    with torch.inference_mode(inference):
        scorer = PretrainedClipScorer.from_folder(folder)
        with torch.inference_mode(False), torch.enable_grad():
            views = drawn(3).requires_grad_()
            way = torch.randn(views.shape, generator=torch.Generator().manual_seed(2)) * 1e-2
            (slope,) = torch.autograd.grad(scorer.encode_images(views)[:, 3].sum(), views)
            with torch.no_grad():
                up, down = (
                    float(scorer.encode_images(views + s * way)[:, 3].double().sum()) for s in (1, -1)
                )
    assert float((slope * way).sum()) == pytest.approx((up - down) / 2, rel=2e-2, abs=1e-5)
    assert bool((slope.flatten(1).abs().amax(1) > 0).all())


def test_settings_in_the_newer_file(copied: Path) -> None:
    settings = json.loads((copied / "preprocessor_config.json").read_text())
    (copied / "preprocessor_config.json").unlink()
    plain = PretrainedClipScorer.from_folder(copied).encode_images(drawn())
    write(copied / "processor_config.json", {"processor_class": "CLIPProcessor", "image_processor": settings})
    nested = PretrainedClipScorer.from_folder(copied).encode_images(drawn())
    write(copied / "preprocessor_config.json", settings)
    expected = PretrainedClipScorer.from_folder(copied).encode_images(drawn())
    assert torch.equal(nested, expected) and not torch.equal(plain, expected)


def test_towers_of_two_models_are_refused(copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    weights["visual_projection.weight"] = torch.zeros(24, 32)
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ModelError, match=r"text tower that gives vectors of 16 numbers .* image tower that gives 24"
    ):
        PretrainedClipScorer.from_folder(copied)


def test_settings_of_another_model_are_refused(copied: Path) -> None:
    settings = json.loads((copied / "preprocessor_config.json").read_text())
    settings["crop_size"] = 336
    write(copied / "preprocessor_config.json", settings)
    with pytest.raises(ModelError, match="views of 336 px but an image tower for 32 px"):
        PretrainedClipScorer.from_folder(copied)
    settings["crop_size"] = 32
    settings["image_std"] = [0.2, 0.2]
    write(copied / "preprocessor_config.json", settings)
    with pytest.raises(ModelError, match=r"std must be three numbers, one a channel, got \(0\.2, 0\.2\)"):
        PretrainedClipScorer.from_folder(copied)
    (copied / "preprocessor_config.json").write_text("[]")
    with pytest.raises(ModelError, match=r"preprocessor_config.json cannot be read"):
        PretrainedClipScorer.from_folder(copied)


def test_a_tokenizer_of_another_model_is_refused(copied: Path) -> None:
    tokenizer(words=(*tokenizer().get_vocab(), "one", "more")).save_pretrained(copied)
    with pytest.raises(ModelError, match="a tokenizer of 14 tokens but a text tower for 12"):
        PretrainedClipScorer.from_folder(copied)


def test_folders_that_cannot_be_used(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        PretrainedClipScorer.from_folder(tmp_path / "none")
    path = copied / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="is damaged: it has"):
        PretrainedClipScorer.from_folder(copied)
    torch.save({"a": torch.zeros(2)}, path)
    with pytest.raises(ModelError, match="a pickle under the name of a safetensors file"):
        PretrainedClipScorer.from_folder(copied)
    path.unlink()
    with pytest.raises(ModelError, match=r"has no model.safetensors"):
        PretrainedClipScorer.from_folder(copied)
    path.write_bytes(whole)
    config = json.loads((copied / "config.json").read_text())
    write(copied / "config.json", config | {"model_type": "siglip"})
    with pytest.raises(ModelError, match="type 'siglip', but CLIP needs 'clip'"):
        PretrainedClipScorer.from_folder(copied)
