"""Networks that are not the host's on a device that is no CPU; `meta`, which computes nothing, stands for a card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.host

Pack = Callable[[str], ModuleType]
CARD = torch.device("meta")


@pytest.fixture
def card(comfy: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A card with `free` bytes, of a host that loads in parts where it must."""
    import comfy.model_management as management

    told = SimpleNamespace(free=8e9)
    monkeypatch.setattr(management, "get_torch_device", lambda: CARD)
    monkeypatch.setattr(management, "unet_offload_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(management, "vram_state", management.VRAMState.NORMAL_VRAM)
    monkeypatch.setattr(management, "current_loaded_models", [])

    def free_memory(_device: Any = None, torch_free_too: bool = False) -> Any:
        return (told.free, 0) if torch_free_too else told.free

    monkeypatch.setattr(management, "get_free_memory", free_memory)
    yield told


def network() -> torch.nn.Module:
    """Layers as no host has patched them, larger than what hosts always load."""
    return torch.nn.Sequential(*[torch.nn.Linear(256, 256) for _ in range(8)])


def places(made: torch.nn.Module) -> Counter[str]:
    return Counter(value.device.type for value in made.parameters())


@pytest.mark.parametrize("short", ["much", "little at first", "little later", "none"])
def test_a_network_is_loaded_whole(
    pack: Pack, card: Any, monkeypatch: pytest.MonkeyPatch, short: str
) -> None:
    import comfy.model_management as management

    made = network()
    patcher = pack("nodes._patchers").whole_patcher(made)
    if short == "none":
        monkeypatch.setattr(management, "vram_state", management.VRAMState.NO_VRAM)
    if short == "little at first":
        card.free = management.minimum_inference_memory() + 100_000
    management.load_models_gpu([patcher])
    assert places(made) == {"meta": 16}
    if short == "little later":
        card.free = 5e8
        management.load_models_gpu([patcher])
        assert places(made) == {"meta": 16}
    assert patcher.partially_unload(torch.device("cpu"), 1000) == 0 and places(made) == {"meta": 16}


def test_the_hosts_own_patcher_would_leave_parts_behind(card: Any) -> None:
    import comfy.model_management as management
    import comfy.model_patcher

    made = network()
    patcher = comfy.model_patcher.ModelPatcher(made, CARD, torch.device("cpu"))
    card.free = management.minimum_inference_memory() + 100_000
    management.load_models_gpu([patcher])
    assert places(made)["cpu"] > 0


def test_what_is_there_is_not_asked_for_again_while_a_step_is_guided(
    pack: Pack, card: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.model_management as management

    module = pack("nodes._patchers")
    patcher = module.whole_patcher(network())
    asked: list[Any] = []
    honest = management.load_models_gpu

    def counted(models: Any, *args: Any, **named: Any) -> Any:
        asked.append(models)
        assert torch.is_inference_mode_enabled()
        return honest(models, *args, **named)

    monkeypatch.setattr(management, "load_models_gpu", counted)
    assert not module.is_ready(patcher)
    module.load_for_gradients([patcher])
    assert asked == [[patcher]] and module.is_ready(patcher)
    module.load_for_gradients([patcher])
    assert len(asked) == 1
    management.current_loaded_models.clear()
    module.load_for_gradients([patcher])
    assert len(asked) == 2


def test_the_tower_of_a_scorer_lies_on_one_device(pack: Pack) -> None:
    def weights() -> dict[str, torch.Tensor]:
        width, patch = 8, 4
        found = {
            "vision_model.embeddings.class_embedding": torch.zeros(width, device=CARD),
            "vision_model.embeddings.patch_embedding.weight": torch.zeros(width, 3, patch, patch),
            "vision_model.embeddings.position_embedding.weight": torch.zeros(5, width),
            "visual_projection.weight": torch.zeros(4, width, device=CARD),
        }
        return found

    vision = SimpleNamespace(
        config={"num_attention_heads": 2, "hidden_act": "gelu"},
        get_sd=weights,
        image_mean=(0.5,) * 3,
        image_std=(0.5,) * 3,
    )
    module = pack("nodes._box_editor")
    asked: list[Any] = []
    scorer = SimpleNamespace(vision=vision, patcher=SimpleNamespace(load_device=CARD))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.comfy.model_management, "load_model_gpu", asked.append)
        tower = module.tower_of_scorer(scorer)
    assert asked == [scorer.patcher]
    assert {value.device for value in tower._weights.values()} == {CARD}


def test_a_scorer_without_patch_tokens_has_no_features(pack: Pack) -> None:
    class Plain:
        networks = (torch.nn.Linear(1, 1),)
        image_size, logit_scale, gate, rivals = 8, 1.0, None, ()

        def encode_images(self, views: torch.Tensor, tell: Any = None) -> torch.Tensor:
            return torch.nn.functional.normalize(views.flatten(1)[:, :4], dim=-1)

    class Resnet(Plain):
        @property
        def features(self) -> Any:
            raise AttributeError("no patch tokens")

    hosted, library = pack("nodes._pretrained").HostedScorer, pack("retouch_core.metrics.feature_distance")
    for backend in (Plain(), Resnet()):
        scorer = hosted(backend)
        assert not hasattr(scorer, "features")
        distance = library.ScorerDistance(scorer)
        assert distance.name == "scorer embedding"
        pixels = torch.rand(2, 3, 8, 8)
        assert distance.against(pixels[:1])(pixels).shape == (2,)
