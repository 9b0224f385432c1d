"""Conditionings as one tensor: packing is exact, goes through guidance unharmed, and holds what the towers say."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")

import tiny_models

from retouch_core.editing.guidance import guided_denoiser
from retouch_core.models.prompts import PromptEncoder, packed, unpacked
from retouch_core.tensors.checks import InputWarning

PROMPTS = ["a red car", "", "a blue star on the left"]


def projected(width: int = 16, vector: int = 40, seed: int = 7):
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    torch.manual_seed(seed)
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tiny_models.WORDS) + 4,
            hidden_size=width,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            max_position_embeddings=10,
            projection_dim=vector,
            bos_token_id=1,
            eos_token_id=3,
            pad_token_id=0,
        )
    ).eval()


def two(zero_empty: bool = False) -> PromptEncoder:
    words = tiny_models.tokenizer()
    return PromptEncoder((tiny_models.text_encoder(), projected()), (words, words), zero_empty=zero_empty)


@pytest.mark.parametrize("pooled", [1, 5, 6, 7, 12, 13])
def test_packing_is_exact(pooled: int) -> None:
    tokens, vector = torch.randn(2, 4, 6), torch.randn(2, pooled)
    made = packed(tokens, vector)
    assert made.shape == (2, 4 + -(-pooled // 6), 6)
    back = unpacked(made, pooled)
    assert torch.equal(back[0], tokens)
    assert torch.equal(back[1], vector)
    assert made.flatten(1)[:, 24 + pooled :].abs().sum() == 0


def test_a_conditioning_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="conditioning has 2 rows, but this model's has more than 2"):
        unpacked(torch.zeros(1, 2, 6), 12)


def test_every_pass_of_guidance_gets_its_own_vector() -> None:
    encoder = two()
    target, empty, referring = encoder(PROMPTS).split(1)
    heard: list[torch.Tensor] = []

    def network(x: torch.Tensor, sigma: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        heard.append(unpacked(told, encoder.pooled)[1])
        return x

    guided_denoiser(network, target, referring, empty, 5.0, 0.5)(torch.zeros(2, 4, 3, 3), torch.ones(2))
    each = [unpacked(told, encoder.pooled)[1] for told in (target, referring, empty)]
    assert torch.equal(heard[0], torch.cat([vector.repeat(2, 1) for vector in each]))


def test_two_towers_against_their_layers_by_hand() -> None:
    """The state before the last layer is what a tower without its last layer and norm gives."""
    encoder = two()
    made, vector = unpacked(encoder(PROMPTS), encoder.pooled)
    assert (encoder.width, encoder.pooled, encoder.length) == (32, 40, 10)
    assert made.shape == (3, 10, 32)
    ids = tiny_models.tokenizer()(PROMPTS, padding="max_length", max_length=10, return_tensors="pt").input_ids
    first, second = encoder.networks
    torch.testing.assert_close(vector, second(ids).text_embeds, rtol=0, atol=1e-6)
    expected = []
    for tower in (first, second):
        inner = getattr(tower, "text_model", tower)
        layers, norm = inner.encoder.layers, inner.final_layer_norm
        inner.encoder.layers, inner.final_layer_norm = layers[:-1], torch.nn.Identity()
        try:
            expected.append(inner(ids).last_hidden_state)
        finally:
            inner.encoder.layers, inner.final_layer_norm = layers, norm
    torch.testing.assert_close(made, torch.cat(expected, -1), rtol=0, atol=1e-6)


def test_an_empty_prompt_is_zeros_where_the_model_wants_it() -> None:
    plain, zeroed = two()(PROMPTS), two(zero_empty=True)(PROMPTS)
    assert plain[1].abs().sum() > 0
    assert not zeroed[1].any()
    assert torch.equal(zeroed[[0, 2]], plain[[0, 2]])


def test_a_long_prompt_is_cut_with_one_warning() -> None:
    with pytest.warns(InputWarning, match="has 12 tokens and was cut to 10") as caught:
        two()(["one two three four five one two three four five"])
    assert len(caught) == 1


def test_towers_without_tokenizers_are_refused() -> None:
    tower, words = tiny_models.text_encoder(), tiny_models.tokenizer()
    with pytest.raises(ValueError, match="2 text encoders with 1 tokenizers were given"):
        PromptEncoder((tower, tower), (words,))
    with pytest.raises(ValueError, match="3 text encoders with 3 tokenizers were given"):
        PromptEncoder((tower,) * 3, (words,) * 3)
