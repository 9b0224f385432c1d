"""The scorer gives the cosines that CLIP itself gives, with transformers 4 and 5."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from retouch_core.models.clip_scorer import ClipScorer, as_tensor
from retouch_core.models.protocols import Scorer
from retouch_core.tensors.checks import InputWarning

WORDS = ("<pad>", "<bos>", "<unk>", "<eos>", "a", "red", "car", "blue", "star", "the")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A tiny CLIP with random weights and a word tokenizer, saved to disk and loaded like a user's files."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

    folder: Path = tmp_path_factory.mktemp("clip")
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = tower | {
        "vocab_size": len(WORDS),
        "max_position_embeddings": 8,
        "bos_token_id": 1,
        "eos_token_id": 3,
    }
    vision = tower | {"image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_max_length=8,
    ).save_pretrained(folder)
    return CLIPModel.from_pretrained(folder), PreTrainedTokenizerFast.from_pretrained(folder)


@pytest.fixture
def scorer(parts: tuple[Any, Any]) -> ClipScorer:
    return ClipScorer(*parts, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


def test_fills_the_socket(scorer: ClipScorer) -> None:
    assert isinstance(scorer, Scorer)
    assert scorer.image_size == 32 and scorer.gate is None and scorer.rivals == ()


def test_cosines_are_those_of_the_models_own_forward(scorer: ClipScorer, parts: tuple[Any, Any]) -> None:
    """CLIP's `logits_per_image` is exp(logit_scale) times the cosine, by its own definition."""
    model, tokenizer = parts
    views = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    texts = ["a red car", "the blue star"]
    normal = (views - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / torch.tensor([0.2, 0.25, 0.3]).view(
        3, 1, 1
    )
    ids = tokenizer(texts, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        logits = model(input_ids=ids, pixel_values=normal).logits_per_image
    cosines = scorer.encode_images(views) @ scorer.encode_texts(texts).T
    assert torch.allclose(cosines * scorer.logit_scale, logits, atol=1e-4)
    assert torch.allclose(scorer.encode_images(views).norm(dim=-1), torch.ones(3), atol=1e-6)


def test_padding_and_company_do_not_change_a_text(scorer: ClipScorer) -> None:
    alone = scorer.encode_texts(["a car"])
    assert torch.allclose(scorer.encode_texts(["the blue star", "a car"])[1:], alone, atol=1e-6)


def test_long_text_is_cut_with_a_warning(scorer: ClipScorer) -> None:
    with pytest.warns(InputWarning, match="has 42 tokens and was cut to 8; say it in fewer words"):
        cut = scorer.encode_texts(["red " * 40])
    assert torch.equal(cut, scorer.encode_texts(["red " * 6]))


def test_unknown_words_are_named_once(scorer: ClipScorer) -> None:
    assert scorer.unknown_words("The RED zebra, a zebra's car") == ("zebra", "zebra's")
    assert scorer.unknown_words("a red car") == ()


def test_both_shapes_of_features() -> None:
    vector = torch.rand(2, 4)
    assert as_tensor(vector) is vector
    assert as_tensor(SimpleNamespace(pooler_output=vector)) is vector
    with pytest.raises(TypeError, match="pooler_output, got dict"):
        as_tensor({})


def test_features_are_the_models_own_hidden_states(scorer: ClipScorer, parts: tuple[Any, Any]) -> None:
    views = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    normal = (views - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / torch.tensor([0.2, 0.25, 0.3]).view(
        3, 1, 1
    )
    with torch.no_grad():
        states = parts[0].vision_model(pixel_values=normal, output_hidden_states=True).hidden_states
    found = scorer.features(views)
    assert len(found) == 2
    for mine, theirs in zip(found, states[1:], strict=True):
        torch.testing.assert_close(mine, theirs[:, 1:], rtol=1e-4, atol=1e-5)
    half = scorer.features(views, 0.5)
    assert len(half) == 1 and torch.equal(half[0], found[0])


@pytest.mark.parametrize("inference", [False, True])
def test_views_that_want_a_gradient_get_it(parts: tuple[Any, Any], inference: bool) -> None:
    """Along a random direction, against a central difference; also where everything was made in inference mode."""
    with torch.inference_mode(inference):
        mine = ClipScorer(*parts, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
        assert not mine.encode_images(torch.rand(1, 3, 32, 32)).requires_grad
        with torch.inference_mode(False), torch.enable_grad():
            generator = torch.Generator().manual_seed(4)
            views = torch.rand(2, 3, 32, 32, generator=generator).requires_grad_()
            way = torch.randn(views.shape, generator=generator) * 1e-2
            guided = mine.encode_images(views)
            torch.testing.assert_close(guided, mine.encode_images(views.detach()), rtol=1e-5, atol=1e-6)
            (slope,) = torch.autograd.grad(guided[:, 3].sum(), views)
            with torch.no_grad():
                ends = [
                    float(mine.encode_images(views + sign * way)[:, 3].double().sum()) for sign in (1, -1)
                ]
    assert float((slope * way).sum()) == pytest.approx((ends[0] - ends[1]) / 2, rel=2e-2, abs=1e-5)
