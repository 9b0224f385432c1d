"""SigLIP and SigLIP 2 out of folders, against the models' own forward passes and image processor."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_towers import LENGTH, PIECES, SPACE, WORDS, drawn, normalised, siglip_folder, tokenizer, write

from retouch_core.models.clip_scorer import as_tensor
from retouch_core.models.pretrained.loading import ModelError
from retouch_core.models.pretrained.scorers import siglip as module
from retouch_core.models.pretrained.scorers.siglip import SiglipScorer
from retouch_core.models.protocols import Scorer
from retouch_core.tensors.checks import InputWarning

TEXTS = ["a red", "car"]
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.5, 0.5)
KINDS = pytest.mark.parametrize("kind", ["fixed", "flexible"])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        kind: siglip_folder(tmp_path_factory.mktemp(kind), flexible=kind == "flexible")
        for kind in ("fixed", "flexible")
    }


@pytest.fixture(scope="module")
def scorers(folders: dict[str, Path]) -> dict[str, SiglipScorer]:
    return {kind: SiglipScorer.from_folder(folder) for kind, folder in folders.items()}


@pytest.fixture
def copied(folders: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders["fixed"], tmp_path / "copy"))


def ids_of(kind: str, *texts: str) -> torch.Tensor:
    """By hand: words between <bos> and <eos>, or letters before <eos>; then padding."""
    if kind == "fixed":
        rows = [[1, *(WORDS.index(word) for word in text.split()), 3] for text in texts]
    else:
        rows = [[*(PIECES.index(letter) for letter in text.replace(" ", SPACE)), 1] for text in texts]
    return torch.tensor([row + [0] * (LENGTH - len(row)) for row in rows])


@KINDS
def test_fills_the_socket(scorers: dict[str, SiglipScorer], kind: str) -> None:
    scorer = scorers[kind]
    assert isinstance(scorer, Scorer) and scorer.networks == (scorer.model,)
    assert scorer.image_size == 32 and scorer.gate is None and scorer.rivals == ()
    assert scorer.logit_scale == pytest.approx(np.exp(2.3), rel=1e-6) and scorer.logit_bias == -7


@KINDS
def test_logits_are_those_of_the_models_own_forward(scorers: dict[str, SiglipScorer], kind: str) -> None:
    """sigmoid of `logits_per_image` is the probability: scale times the cosine, plus the bias."""
    scorer, views = scorers[kind], drawn()
    pixels = normalised(views, MEAN, STD)
    if kind == "fixed":
        given = {"pixel_values": pixels}
    else:
        rows = [
            [
                pixel[:, y : y + 8, x : x + 8].movedim(0, -1).flatten()
                for y in range(0, 32, 8)
                for x in range(0, 32, 8)
            ]
            for pixel in pixels
        ]
        given = {
            "pixel_values": torch.stack([torch.stack(row) for row in rows]),
            "pixel_attention_mask": torch.ones(3, 16, dtype=torch.long),
            "spatial_shapes": torch.full((3, 2), 4),
        }
    with torch.no_grad():
        logits = scorer.model(input_ids=ids_of(kind, *TEXTS), **given).logits_per_image
    seen, read = scorer.encode_images(views), scorer.encode_texts(TEXTS)
    assert seen.shape == (3, 32) and seen.dtype == read.dtype == torch.float32
    assert torch.allclose(seen @ read.T * scorer.logit_scale + scorer.logit_bias, logits, atol=1e-4)
    assert torch.equal(seen, scorer.encode_images(views))
    assert scorer.encode_images(views[:0]).shape == scorer.encode_texts([]).shape == (0, 32)


def test_patches_are_those_of_the_published_processor(scorers: dict[str, SiglipScorer]) -> None:
    from transformers import Siglip2ImageProcessor

    picture = np.random.default_rng(3).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    processor = Siglip2ImageProcessor(patch_size=8, max_num_patches=16, image_mean=MEAN, image_std=STD)
    theirs = processor(images=picture, return_tensors="pt")
    mine = scorers["flexible"]._pixels(torch.from_numpy(picture).movedim(-1, 0)[None] / 255)
    torch.testing.assert_close(mine["pixel_values"], theirs["pixel_values"], rtol=0, atol=1e-5)
    assert mine["spatial_shapes"].tolist() == theirs["spatial_shapes"].tolist()
    assert mine["pixel_attention_mask"].tolist() == theirs["pixel_attention_mask"].tolist()


@KINDS
def test_texts_are_lower_cased_and_padded_behind(scorers: dict[str, SiglipScorer], kind: str) -> None:
    scorer = scorers[kind]
    given: list[torch.Tensor] = []
    hook = scorer.model.text_model.register_forward_pre_hook(
        lambda _, args, kwargs: given.append(kwargs["input_ids"]), with_kwargs=True
    )
    large = scorer.encode_texts(["A Red", "the"])
    hook.remove()
    assert given[0].tolist() == ids_of(kind, "a red", "the").tolist()
    assert torch.equal(large, scorer.encode_texts(["a red", "the"]))
    assert scorer.tokenizer.padding_side == "left"


def test_the_tokenizer_that_siglip_is_published_with(copied: Path) -> None:
    """Of sentencepiece, where the folders of the other tests have one that spells by hand."""
    pieces = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    written = io.BytesIO()
    pieces.SentencePieceTrainer.train(
        sentence_iterator=iter(["a red car"] * 20),
        model_writer=written,
        vocab_size=9,
        model_type="char",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    for file in (*copied.glob("tokenizer*"), *copied.glob("special_tokens*")):
        file.unlink()
    (copied / "spiece.model").write_bytes(written.getvalue())
    settings = {"tokenizer_class": "SiglipTokenizer", "model_max_length": LENGTH, "pad_token": "</s>"}
    write(copied / "tokenizer_config.json", settings)
    scorer = SiglipScorer.from_folder(copied)
    own = pieces.SentencePieceProcessor(model_proto=written.getvalue())
    rows = [[*own.encode(text), own.eos_id()] for text in TEXTS]
    ids = torch.tensor([row + [own.eos_id()] * (LENGTH - len(row)) for row in rows])
    with torch.no_grad():
        expected = as_tensor(scorer.model.get_text_features(input_ids=ids))
    found = scorer.encode_texts([text.upper() for text in TEXTS])
    torch.testing.assert_close(found, torch.nn.functional.normalize(expected, dim=-1))


def test_unknown_words(scorers: dict[str, SiglipScorer]) -> None:
    assert scorers["fixed"].unknown_words("The RED Zebra, a Zebra's car") == ("Zebra", "Zebra's")
    assert scorers["flexible"].unknown_words("the red zebra") == ()


def test_long_text_is_cut_with_a_warning(scorers: dict[str, SiglipScorer]) -> None:
    with pytest.warns(InputWarning, match="has 42 tokens and was cut to 8; say it in fewer words"):
        cut = scorers["fixed"].encode_texts(["red " * 40])
    assert torch.equal(cut, scorers["fixed"].encode_texts(["red " * 6]))


@KINDS
def test_features_are_the_models_own_hidden_states(scorers: dict[str, SiglipScorer], kind: str) -> None:
    scorer, views = scorers[kind], drawn(2)
    given, tower = scorer._pixels(views), scorer.model.vision_model
    shapes = [given["spatial_shapes"]] if kind == "flexible" else []
    states = [tower.embeddings(given["pixel_values"], *shapes)]
    for layer in tower.encoder.layers:
        out = layer(states[-1], None)
        states.append(out[0] if isinstance(out, tuple) else out)  # transformers 4 gives tuples
    found = scorer.features(views)
    assert len(found) == 3
    for mine, theirs in zip(found, states[1:], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    half = scorer.features(views, 0.5)
    assert len(half) == 2 and torch.equal(half[1], found[1])
    assert not any(layer._forward_hooks for layer in scorer.model.vision_model.encoder.layers)


@KINDS
@pytest.mark.parametrize("inference", [False, True])
def test_views_that_want_a_gradient_get_it(
    folders: dict[str, Path], kind: str, inference: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "chunk_for", lambda device, tokens: 2)
    with torch.inference_mode(inference):
        scorer = SiglipScorer.from_folder(folders[kind])
        with torch.inference_mode(False), torch.enable_grad():
            views = drawn(3).requires_grad_()
            way = torch.randn(views.shape, generator=torch.Generator().manual_seed(2)) * 3e-3
            (slope,) = torch.autograd.grad(scorer.encode_images(views)[:, 3].sum(), views)
            (deep,) = torch.autograd.grad(scorer.features(views, 0.5)[1].square().sum(), views)
            with torch.no_grad():
                up, down = (
                    float(scorer.encode_images(views + s * way)[:, 3].double().sum()) for s in (1, -1)
                )
    assert float((slope * way).sum()) == pytest.approx((up - down) / 2, rel=2e-2, abs=1e-5)
    assert bool((deep.flatten(1).abs().amax(1) > 0).all())


def test_chunks_and_half_precision(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, views, told = SiglipScorer.from_folder(folders["fixed"]), drawn(5), []
    whole = scorer.encode_images(views)
    monkeypatch.setattr(module, "chunk_for", lambda device, tokens: 2)
    parts = scorer.encode_images(views, tell=lambda done, of: told.append((done, of)))
    assert told == [(2, 5), (4, 5), (5, 5)]
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)
    words = scorer.encode_texts(["a red car"])
    scorer.networks[0].to(torch.bfloat16)
    for mine, exact in ((scorer.encode_images(views), whole), (scorer.encode_texts(["a red car"]), words)):
        assert mine.dtype == torch.float32
        # bfloat16 keeps 8 bits of each number.
        assert float((mine * exact).sum(-1).min()) > 0.995


def test_folders_that_cannot_be_used(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"text tower that gives vectors of 24 numbers .* image tower that gives 32"
    ):
        SiglipScorer.from_folder(siglip_folder(tmp_path / "other", projection=24))
    write(copied / "preprocessor_config.json", {"size": {"height": 384, "width": 384}})
    with pytest.raises(ModelError, match="views of 384 px but an image tower for 32 px"):
        SiglipScorer.from_folder(copied)
    tokenizer(words=(*WORDS, "one", "more")).save_pretrained(copied)
    with pytest.raises(ModelError, match="a tokenizer of 14 tokens but a text tower for 12"):
        SiglipScorer.from_folder(copied)
    path = copied / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="is damaged: it has"):
        SiglipScorer.from_folder(copied)
    config = json.loads((copied / "config.json").read_text())
    write(copied / "config.json", config | {"model_type": "clip"})
    with pytest.raises(ModelError, match="type 'clip', but SigLIP needs 'siglip' or 'siglip2'"):
        SiglipScorer.from_folder(copied)
