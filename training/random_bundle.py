"""A bundle laid out as the embedded models, with random weights: for checks that ask how, not how well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

WORDS = ("a", "the", "red", "green", "blue", "yellow", "fish", "star", "car", "house", "left", "right")


def randomise(network: torch.nn.Module, seed: int) -> None:
    """Give every parameter a random value: zero-initialised layers and unit norms would hide a difference."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if value.ndim > 1:
                value.copy_(noise / max(value[0].numel(), 1) ** 0.5)
            else:
                value.copy_(0.1 * noise + (1.0 if name.endswith("weight") and "norm" in name else 0.0))
    network.eval()


def random_autoencoder(seed: int) -> Any:
    """``AutoencoderTiny`` in its default layout whose decoder stays inside 0..1.

    Random weights decode far outside, where the clamp at the end would hide every difference.
    """
    from diffusers import AutoencoderTiny

    # Not 1, so that a side that forgets to scale its latents shows.
    network: Any = AutoencoderTiny(scaling_factor=1.16)
    randomise(network, seed)
    with torch.no_grad():
        network.decoder.layers[-1].weight.mul_(0.02)
        network.decoder.layers[-1].bias.fill_(0.5)
    return network


def random_denoiser(seed: int, channels: int = 9, widths: tuple[int, ...] = (64, 128)) -> Any:
    """``UNet2DConditionModel`` with cross-attention on every level."""
    from diffusers import UNet2DConditionModel

    network: Any = UNet2DConditionModel(
        sample_size=16,
        in_channels=channels,
        out_channels=4,
        block_out_channels=widths,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * len(widths),
        up_block_types=("CrossAttnUpBlock2D",) * len(widths),
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=32,
    )
    randomise(network, seed)
    return network


def random_clip(seed: int, act: str = "quick_gelu") -> Any:
    """``CLIPModel`` with a 16-position text tower, a square projection and a vocabulary of 128."""
    from transformers import CLIPConfig, CLIPModel

    numbers = {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_attention_heads": 4,
        "hidden_act": act,
        "projection_dim": 128,
    }
    text = {"num_hidden_layers": 3, "max_position_embeddings": 16, "vocab_size": 128}
    special = {"bos_token_id": 1, "eos_token_id": 3, "pad_token_id": 0}
    vision = {"num_hidden_layers": 4, "image_size": 64, "patch_size": 8}
    config = CLIPConfig(
        text_config={**numbers, **text, **special}, vision_config={**numbers, **vision}, projection_dim=128
    )
    network: Any = CLIPModel(config)
    randomise(network, seed)
    return network


def word_tokenizer() -> Any:
    """A fast tokenizer of whole words: pad 0, begin 1, unknown 2, end 3, then WORDS."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = ["<pad>", "<start>", "<unk>", "<end>", *WORDS]
    raw = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    raw.normalizer = normalizers.Lowercase()
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<start>",
        unk_token="<unk>",
        eos_token="<end>",
        model_max_length=16,
    )


def save_random_bundle(folder: Path, seed: int = 0) -> Path:
    """Write ``vae``, ``clip``, ``unet_inpaint`` and ``scheduler`` under ``folder`` and return it."""
    from diffusers import DDIMScheduler

    random_autoencoder(seed + 1).save_pretrained(folder / "vae")
    random_clip(seed + 2).save_pretrained(folder / "clip")
    word_tokenizer().save_pretrained(folder / "clip")
    random_denoiser(seed + 3).save_pretrained(folder / "unet_inpaint")
    scheduler: Any = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        timestep_spacing="trailing",
    )
    scheduler.save_pretrained(folder / "scheduler")
    return folder
