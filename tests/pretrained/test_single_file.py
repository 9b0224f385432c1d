"""Single-file checkpoints: written by the reverse renaming, read back to the same networks, without asking any server."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytest.importorskip("open_clip")

import tiny_stable_diffusion as tiny

from retouch_core.models.diffusers_editor import DiffusersEditor
from retouch_core.models.pretrained.editors.ldm_layout import family_of
from retouch_core.models.pretrained.editors.load import load_editor
from retouch_core.models.pretrained.editors.single_file import (
    TELLTALE,
    check_complete,
    configs_of,
    shapes_of,
)
from retouch_core.models.pretrained.files import ModelError

KINDS = [("sd1", 4), ("sd1", 9), ("sd2", 4), ("sdxl", 4), ("sdxl", 9)]
TEXTS = ["a red car", "", "two blue boats on the left"]


class Saved:
    """A tiny model of each kind, and its file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: dict[tuple[str, int], tuple[dict[str, Any], Path]] = {}
        self.read: dict[tuple[str, int], DiffusersEditor] = {}

    def __call__(self, family: str, channels: int = 4) -> tuple[dict[str, Any], Path]:
        if (family, channels) not in self.made:
            parts = tiny.networks(family, channels)
            file = self.folder / f"{family}-{channels}.safetensors"
            tiny.save_checkpoint(file, tiny.checkpoint(family, parts))
            self.made[family, channels] = parts, file
        return self.made[family, channels]

    def editor(self, family: str, channels: int = 4) -> DiffusersEditor:
        """What is read from that file, once."""
        if (family, channels) not in self.read:
            self.read[family, channels] = load_editor(self(family, channels)[1], size=64)
        return self.read[family, channels]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return Saved(tmp_path_factory.mktemp("files"))


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a server was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def latents(rows: int = 2) -> torch.Tensor:
    return torch.randn(rows, 4, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(("family", "channels"), KINDS)
def test_the_networks_come_back_bit_for_bit(saved: Saved, family: str, channels: int) -> None:
    parts, _ = saved(family, channels)
    editor = saved.editor(family, channels)
    for name, network in parts.items():
        read = getattr(editor, name) if name != "text_encoder_2" else editor.networks[2]
        expected, found = network.state_dict(), read.state_dict()
        assert found.keys() == expected.keys(), name
        assert all(torch.equal(found[key], expected[key]) for key in expected), name
        assert not any(weight.requires_grad for weight in read.parameters())


@pytest.mark.parametrize(("family", "channels"), KINDS)
def test_they_compute_what_the_saved_ones_do(saved: Saved, family: str, channels: int) -> None:
    """So heads, activations, layers that are left out, scaling and marks are the published ones, not only the weights."""
    parts, _ = saved(family, channels)
    editor = saved.editor(family, channels)
    tokenizers = {"tokenizer": tiny_tokenizer("!" if family == "sd2" else tiny.END)}
    if family == "sdxl":
        tokenizers["tokenizer_2"] = tiny_tokenizer("!")
    from diffusers import DDIMScheduler

    table = {name: value for name, value in tiny.table().items() if name != "_class_name"}
    other = DiffusersEditor(
        **parts, **tokenizers, scheduler=DDIMScheduler(**table), zero_empty=family == "sdxl", size=64
    )
    assert editor.inpaint == other.inpaint == (channels == 9)
    assert editor.prediction == "epsilon"
    told = editor.encode_prompts(TEXTS)
    torch.testing.assert_close(told, other.encode_prompts(TEXTS), rtol=0, atol=1e-5)
    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(editor.encode(image), other.encode(image), rtol=0, atol=1e-5)
    x, sigma = latents(), torch.tensor([0.5, 9.0])
    extra = {"mask": torch.ones(1, 1, 8, 8), "masked_latents": latents(1)} if editor.inpaint else {}
    made = editor.denoise(x, sigma, told[:1], **extra)
    torch.testing.assert_close(made, other.denoise(x, sigma, told[:1], **extra), rtol=0, atol=1e-4)


def tiny_tokenizer(pad: str) -> Any:
    from retouch_core.models.pretrained.editors.clip_words import clip_tokenizer

    return clip_tokenizer(pad)


def test_native_sizes(saved: Saved) -> None:
    assert [load_editor(saved(family)[1]).size for family in ("sd1", "sd2", "sdxl")] == [512, 512, 1024]
    assert load_editor(saved("sd2")[1], prediction="v_prediction").size == 768
    assert load_editor(saved("sd1")[1], size=72).size == 72
    with pytest.raises(ValueError, match="size must be a multiple of 8 pixels, got 60"):
        load_editor(saved("sd1")[1], size=60)


PUBLISHED: dict[str, dict[str, Any]] = {
    "sd1": {
        "block_out_channels": [320, 640, 1280, 1280],
        "layers_per_block": 2,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    },
    "sd2": {
        "block_out_channels": [320, 640, 1280, 1280],
        "layers_per_block": 2,
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    },
    "sdxl": {
        "block_out_channels": [320, 640, 1280],
        "layers_per_block": 2,
        "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20],
        "use_linear_projection": True,
        "transformer_layers_per_block": [1, 2, 10],
        "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
        "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
"""unet/config.json of stable-diffusion-v1-5, stable-diffusion-2-1 and stable-diffusion-xl-base-1.0."""
OPENAI_L = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
OPENCLIP_H = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 23,
}
OPENCLIP_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
}
TOWERS = {
    "sd1": {"text_encoder": OPENAI_L},
    "sd2": {"text_encoder": OPENCLIP_H},
    "sdxl": {"text_encoder": OPENAI_L, "text_encoder_2": {**OPENCLIP_G, "projection_dim": 1280}},
}
"""The same models' text_encoder/config.json and text_encoder_2/config.json."""


@pytest.mark.parametrize("family", list(PUBLISHED))
def test_published_sizes_are_recognised(family: str) -> None:
    """Networks of the published configurations, without memory: their shapes lead back to those configurations."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    published = PUBLISHED[family]
    with torch.device("meta"):
        parts: dict[str, Any] = {
            "unet": UNet2DConditionModel(in_channels=9, **published),
            "vae": AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                layers_per_block=2,
                latent_channels=4,
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
            ),
        }
        for part, sizes in TOWERS[family].items():
            cls = CLIPTextModelWithProjection if part.endswith("2") else CLIPTextModel
            parts[part] = cls(CLIPTextConfig(vocab_size=49408, **sizes))
    shapes = {name: tuple(value.shape) for name, value in tiny.checkpoint(family, parts).items()}
    path = Path("published.safetensors")
    found = family_of(shapes, path)
    configs = configs_of(shapes, found, found.side, path)
    check_complete(shapes, found, configs, path)
    unet = configs["unet"]
    assert {name: unet[name] for name in published} == published
    assert (unet["in_channels"], unet["out_channels"], unet["sample_size"]) == (9, 4, found.side // 8)
    assert configs["vae"]["block_out_channels"] == [128, 256, 512, 512]
    assert (configs["vae"]["layers_per_block"], configs["vae"]["latent_channels"]) == (2, 4)
    for part, sizes in TOWERS[family].items():
        assert {name: configs[part][name] for name in sizes} == sizes


def rewritten(saved: Saved, tmp_path: Path, family: str, changes: dict[str, torch.Tensor | None]) -> Path:
    """The file with weights put in, or left out where a name is given None."""
    weights = load_file(saved(family)[1])
    for name, value in changes.items():
        if value is None:
            del weights[name]
        else:
            weights[name] = value
    return tiny.save_checkpoint(tmp_path / f"changed{len(list(tmp_path.iterdir()))}.safetensors", weights)


@pytest.mark.parametrize(("spread", "expected"), [(0.08, "epsilon"), (0.1, "v_prediction")])
def test_stable_diffusion_2_is_told_by_its_bias(
    saved: Saved, tmp_path: Path, spread: float, expected: str
) -> None:
    bias = torch.tensor([-spread, spread]).repeat(tiny.LEVELS["sd2"][0] // 2)
    file = rewritten(saved, tmp_path, "sd2", {TELLTALE: bias})
    assert load_editor(file).prediction == expected


def test_sdxl_is_told_by_its_marks(saved: Saved, tmp_path: Path) -> None:
    empty = torch.zeros(0)
    assert saved.editor("sdxl").prediction == "epsilon"
    editor = load_editor(rewritten(saved, tmp_path, "sdxl", {"v_pred": empty}))
    assert editor.prediction == "v_prediction"
    assert float(editor.scheduler.alphas_cumprod[-1]) > 0
    editor = load_editor(rewritten(saved, tmp_path, "sdxl", {"v_pred": empty, "ztsnr": empty}))
    assert editor.prediction == "v_prediction"
    assert float(editor.scheduler.alphas_cumprod[-1]) == 0
    assert editor.scheduler.config.timestep_spacing == "trailing"


def test_half_precision(saved: Saved) -> None:
    """SDXL's autoencoder overflows in float16, and in bfloat16 it does not."""
    kinds = {"sd1": torch.float16, "sdxl": torch.float32}
    for family, of_vae in kinds.items():
        editor = load_editor(saved(family)[1], dtype=torch.float16)
        dtypes = [next(network.parameters()).dtype for network in editor.networks]
        assert dtypes == [of_vae] + [torch.float16] * (len(dtypes) - 1)
    editor = load_editor(saved("sdxl")[1], dtype=torch.bfloat16, size=64)
    assert {weight.dtype for network in editor.networks for weight in network.parameters()} == {
        torch.bfloat16
    }
    exact = saved.editor("sdxl")
    x, sigma = latents(), torch.tensor([2.0, 2.0])
    rough = editor.denoise(x, sigma, editor.encode_prompts(TEXTS[:1]))
    assert rough.dtype == torch.float32
    assert (rough - exact.denoise(x, sigma, exact.encode_prompts(TEXTS[:1]))).std() < 0.1 * x.std()


def test_a_folder_with_one_checkpoint_is_that_checkpoint(saved: Saved, tmp_path: Path) -> None:
    shutil.copy(saved("sd1")[1], tmp_path / "one.safetensors")
    assert load_editor(tmp_path).size == 512
    shutil.copy(saved("sd1")[1], tmp_path / "two.safetensors")
    with pytest.raises(ModelError, match=r"holds 2 \.safetensors files, such as one\.safetensors; give one"):
        load_editor(tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale",
            "holds Flux, .*use it in ComfyUI",
        ),
        ("double_blocks.0.img_attn.norm.key_norm.scale", "holds Flux, "),
        ("model.diffusion_model.joint_blocks.0.context_block.mlp.fc1.weight", "holds Stable Diffusion 3, "),
        ("lora_unet_down_blocks_0_attentions_0.alpha", "holds a LoRA; give a whole checkpoint"),
        ("control_model.input_blocks.0.0.weight", "holds a ControlNet; "),
        ("down_blocks.0.resnets.0.conv1.weight", "one part of a diffusers folder"),
        ("first_stage_model.encoder.down.0.block.0.conv1.weight", "holds an autoencoder alone"),
        ("anything", "holds no Stable Diffusion 1.5, 2 or SDXL checkpoint"),
    ],
)
def test_other_models_are_refused_by_name(tmp_path: Path, name: str, said: str) -> None:
    file = tiny.save_checkpoint(tmp_path / "other.safetensors", {name: torch.zeros(4)})
    with pytest.raises(ModelError, match=said) as error:
        load_editor(file)
    assert "\n" not in str(error.value)


IN_LAYER = "conditioner.embedders.1.model.transformer.resblocks.1.ln_2.bias"
IN_UNET = "model.diffusion_model.middle_block.0.emb_layers.1.bias"
IN_VAE = "first_stage_model.post_quant_conv.bias"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (IN_LAYER, f"lacks 1 weights of its text encoder, such as {IN_LAYER}"),
        (IN_UNET, "numbers for the unet where SDXL of its shape has"),
        (IN_VAE, "numbers for the vae where SDXL of its shape has"),
        ("model.diffusion_model.out.2.weight", "lacks weights that tell its layers"),
    ],
)
def test_a_file_that_lacks_a_weight_is_refused(saved: Saved, tmp_path: Path, name: str, said: str) -> None:
    """Left to itself diffusers would leave that weight random."""
    with pytest.raises(ModelError, match=said):
        load_editor(rewritten(saved, tmp_path, "sdxl", {name: None}))


def test_files_that_are_no_whole_checkpoint(saved: Saved, tmp_path: Path) -> None:
    weights = load_file(saved("sd1")[1])
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(saved("sd1")[1].read_bytes()[:-100])
    pickled = tmp_path / "pickled.safetensors"
    torch.save({"state_dict": {}}, pickled)
    old = tmp_path / "old.ckpt"
    torch.save({"state_dict": {}}, old)

    def without(prefix: str) -> Path:
        left = {name: value for name, value in weights.items() if not name.startswith(prefix)}
        return tiny.save_checkpoint(tmp_path / f"without_{prefix[:4]}.safetensors", left)

    refiner = {"conditioner.embedders.0.model.ln_final.bias": torch.zeros(4)}
    packed = {"model.diffusion_model.out.2.scale_weight": torch.ones(1)}
    edm = {"edm_mean": torch.zeros(4)}
    for file, said in (
        (cut, "is damaged: it has"),
        (pickled, "is a pickle under the name of a safetensors file"),
        (old, r"is no \.safetensors file, and checkpoints of other kinds are not read"),
        (tmp_path / "nothing.safetensors", "does not exist"),
        (without("first_stage_model."), "without its autoencoder"),
        (without("cond_stage_model."), "holds a UNet without the text encoder"),
        (rewritten(saved, tmp_path, "sd1", refiner), "holds the SDXL refiner"),
        (rewritten(saved, tmp_path, "sd1", edm), r"continuous noise levels \(EDM\)"),
        (rewritten(saved, tmp_path, "sd1", packed), "is not packed, or use it in ComfyUI"),
    ):
        with pytest.raises(ModelError, match=said) as error:
            load_editor(file)
        assert "\n" not in str(error.value)


def test_layers_that_are_arranged_otherwise_are_refused(saved: Saved, tmp_path: Path) -> None:
    """Distilled relatives leave out transformer layers in the middle."""
    weights = load_file(saved("sdxl")[1])
    names = [name for name in weights if ".middle_block.1.transformer_blocks.1." in name]
    with pytest.raises(ModelError, match="numbers for the unet where SDXL of its shape has"):
        load_editor(rewritten(saved, tmp_path, "sdxl", dict.fromkeys(names)))


def test_shapes_are_read_without_weights(saved: Saved) -> None:
    _, file = saved("sd1")
    assert shapes_of(file) == {name: tuple(value.shape) for name, value in load_file(file).items()}
