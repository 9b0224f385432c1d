"""DINO and DINOv2 out of folders, against the models' own attentions and tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_towers import TOWER, normalised, write

from retouch_core.models.pretrained.dino import PretrainedDino
from retouch_core.models.pretrained.loading import ModelError
from retouch_core.models.protocols import Attention
from retouch_core.tensors.frames import square_frames

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
KINDS = {"vit": 0, "dinov2": 0, "dinov2_with_registers": 4}
"""Model type -> tokens between CLS and the patches."""


def saved(folder: Path, kind: str) -> Path:
    import transformers

    torch.manual_seed(0)
    sizes = TOWER | {"image_size": 32, "patch_size": 8}
    if kind == "vit":
        model = transformers.ViTModel(transformers.ViTConfig(**sizes), add_pooling_layer=False)
    elif kind == "dinov2":
        model = transformers.Dinov2Model(transformers.Dinov2Config(**sizes))
    else:
        config = transformers.Dinov2WithRegistersConfig(**sizes, num_register_tokens=4)
        model = transformers.Dinov2WithRegistersModel(config)
        with torch.no_grad():
            model.embeddings.register_tokens.normal_()
    model.save_pretrained(folder)
    write(folder / "preprocessor_config.json", {"image_mean": list(MEAN), "image_std": list(STD)})
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: saved(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


def picture() -> torch.Tensor:
    return torch.rand(1, 61, 83, 3, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("kind", KINDS)
def test_last_attention_and_normed_patches(folders: dict[str, Path], kind: str) -> None:
    own = PretrainedDino.from_folder(folders[kind], side=48)
    assert isinstance(own, Attention) and own.networks == (own.model,)
    attention, features = own(picture())
    assert attention.shape == (6, 6) and features.shape == (32, 6, 6)
    assert attention.dtype == features.dtype == torch.float32
    pixels = normalised(square_frames(picture(), 48, fit="squash"), MEAN, STD)
    more = {"interpolate_pos_encoding": True} if kind == "vit" else {}
    with torch.no_grad():
        seen = own.model(pixels, output_attentions=True, **more)
    first = 1 + KINDS[kind]
    assert seen.last_hidden_state.shape[1] == first + 36
    expected = seen.attentions[-1][0, :, 0, first:].mean(0)
    torch.testing.assert_close(attention.flatten(), expected)
    torch.testing.assert_close(features[:, 2, 5], seen.last_hidden_state[0, first + 2 * 6 + 5])
    again = own(picture())
    assert torch.equal(again[0], attention) and torch.equal(again[1], features)


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_and_the_usual_grid(folders: dict[str, Path], kind: str) -> None:
    own = PretrainedDino.from_folder(folders[kind])
    attention, features = own(picture())
    assert attention.shape == (32, 32)
    own.networks[0].to(torch.bfloat16)
    rough = own(picture())
    assert rough[0].dtype == rough[1].dtype == torch.float32
    # bfloat16 keeps 8 bits of each number.
    torch.testing.assert_close(rough[0], attention, rtol=0.1, atol=1e-4)
    assert float(torch.cosine_similarity(rough[1].flatten(), features.flatten(), 0)) > 0.99


def test_folders_that_cannot_be_used(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="side must be a multiple of the patch of 8 px, got 60"):
        PretrainedDino.from_folder(folders["dinov2"], side=60)
    place = saved(tmp_path / "own", "vit")
    config = json.loads((place / "config.json").read_text())
    write(place / "config.json", config | {"architectures": ["ViTForImageClassification"]})
    with pytest.raises(
        ModelError, match="holds a ViTForImageClassification, but DINO needs a backbone without a head"
    ):
        PretrainedDino.from_folder(place)
    write(place / "config.json", config | {"model_type": "clip"})
    with pytest.raises(ModelError, match="type 'clip', but DINO needs 'vit' or 'dinov2'"):
        PretrainedDino.from_folder(place)
    write(place / "config.json", config)
    path = place / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ModelError, match="is damaged: it has"):
        PretrainedDino.from_folder(place)
