"""Attention, tokens and embeddings of image towers against transformers' own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from retouch_core.models.clip_attention import ClipTower
from retouch_core.models.dino_attention import DinoAttention
from retouch_core.models.protocols import Attention, Perception
from retouch_core.tensors.normalisation import IMAGENET_MEAN, IMAGENET_STD

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


def clip_model(activation: str = "quick_gelu") -> Any:
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "image_size": 32,
        "patch_size": 8,
        "hidden_act": activation,
    }
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    config._attn_implementation = "eager"
    model = CLIPModel(config).eval()
    for value in model.parameters():  # biases and the projection start as zero or small
        torch.nn.init.normal_(value, std=0.3)
    return model


def tower(model: Any, side: int | None = None) -> ClipTower:
    config = model.config.vision_config
    return ClipTower(model.state_dict(), heads=3, activation=config.hidden_act, mean=MEAN, std=STD, side=side)


def normalised(views: torch.Tensor, mean: Any = MEAN, std: Any = STD) -> torch.Tensor:
    return (views - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def pixels_of(image: torch.Tensor, size: int) -> torch.Tensor:
    """At this size nothing is resized."""
    assert image.shape[1] == image.shape[2] == size
    return image.movedim(-1, 1)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_embeddings_and_tokens_are_those_of_transformers(activation: str):
    model = clip_model(activation)
    views = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    own = tower(model)
    assert isinstance(own, Attention) and isinstance(own, Perception) and own.image_size == 32
    embeddings, tokens = own.perceive(views)
    with torch.no_grad():
        seen = model.vision_model(normalised(views), output_hidden_states=True)
        expected = torch.nn.functional.normalize(model.visual_projection(seen.pooler_output), dim=-1)
    torch.testing.assert_close(embeddings, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens, seen.hidden_states[-2], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("side", [32, 48])
def test_attention_and_features_are_those_of_transformers(side: int):
    model = clip_model()
    image = torch.rand(1, side, side, 3, generator=torch.Generator().manual_seed(2))
    attention, features = tower(model, side)(image)
    with torch.no_grad():
        seen = model.vision_model(
            normalised(pixels_of(image, side)), output_attentions=True, interpolate_pos_encoding=True
        )
        normed = model.vision_model.post_layernorm(seen.last_hidden_state)
    count = side // 8
    expected = seen.attentions[-1][0, :, 0, 1:].mean(0).view(count, count)
    torch.testing.assert_close(attention, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(features.flatten(1).T, normed[0, 1:], atol=1e-4, rtol=1e-4)


def test_gradients_pass_also_where_the_weights_come_from_inference_mode():
    with torch.inference_mode():
        model = clip_model()
        assert next(model.parameters()).is_inference()
        own = tower(model)
    views = torch.rand(1, 3, 32, 32).requires_grad_()
    embeddings, tokens = own.perceive(views)
    (embeddings[0, 0] + tokens.square().mean()).backward()
    assert views.grad is not None and bool(views.grad.abs().sum() > 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"side": 33}, "side must be a multiple of the patch of 8 px, got 33"),
        ({"activation": "relu"}, "activation must be one of"),
        ({"weights": {}}, "weights hold no vision_model"),
    ],
)
def test_bad_input(change: dict[str, Any], message: str):
    given = {"weights": clip_model().state_dict(), "activation": "gelu", **change}
    with pytest.raises(ValueError, match=message):
        ClipTower(given.pop("weights"), heads=3, mean=MEAN, std=STD, **given)


def dino(attention: str = "eager") -> Any:
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(3)
    config = ViTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
    )
    config._attn_implementation = attention
    return ViTModel(config, add_pooling_layer=False).eval()


def test_dino_gives_its_last_attention_and_its_normed_patches():
    model = dino()
    image = torch.rand(1, 48, 48, 3, generator=torch.Generator().manual_seed(4))
    own = DinoAttention(model, side=48)
    assert isinstance(own, Attention)
    attention, features = own(image)
    with torch.no_grad():
        seen = model(
            normalised(pixels_of(image, 48), IMAGENET_MEAN, IMAGENET_STD),
            output_attentions=True,
            interpolate_pos_encoding=True,
        )
    assert attention.shape == (6, 6) and features.shape == (24, 6, 6)
    torch.testing.assert_close(attention.flatten(), seen.attentions[-1][0, :, 0, 1:].mean(0))
    torch.testing.assert_close(features[:, 2, 5], seen.last_hidden_state[0, 1 + 2 * 6 + 5])


def test_dino_without_attentions_is_refused():
    with pytest.raises(ValueError, match="load it with attn_implementation='eager'"):
        DinoAttention(dino("sdpa"))
    with pytest.raises(ValueError, match="side must be a multiple of the patch"):
        DinoAttention(dino(), side=60)


def test_nine_anchors_of_the_embedded_tower_lie_on_things_more_often_than_not():
    """On the first shipped pictures; things are the entities that cover less than a quarter of the frame."""
    from pathlib import Path

    import retouch_core
    from retouch_core.models.clip_attention import tower_of
    from retouch_core.models.embedded import load_scorer
    from retouch_core.models.graph_segmenter import GraphSegmenter
    from retouch_core.pictures import read_picture
    from retouch_core.regions.learnable.anchors import top_anchors

    tower, segmenter = tower_of(load_scorer()), GraphSegmenter()
    pictures = Path(retouch_core.__file__).parent / "demo_pictures"
    hit, chance = [], []
    for name in ("grass.png", "wood.png"):
        image = read_picture(pictures / name)
        attention, _ = tower(image)
        masks, _ = segmenter(image)
        things = masks[masks.flatten(1).float().mean(1) < 0.25].any(0).float()
        share = torch.nn.functional.adaptive_avg_pool2d(things[None, None], attention.shape)[0, 0] > 0.3
        rows, columns = top_anchors(attention, 9).T
        hit.append(float(share[rows, columns].float().mean()))
        chance.append(float(share.float().mean()))
    assert sum(hit) / 2 > 0.5 > 0.3 > sum(chance) / 2
