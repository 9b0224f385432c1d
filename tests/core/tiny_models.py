"""Small random networks of real architectures, for tests that need an editor but no picture."""

from __future__ import annotations

from typing import Any

import torch

WORDS = [
    "a",
    "red",
    "blue",
    "green",
    "car",
    "star",
    "boat",
    "cat",
    "dog",
    "tree",
    "house",
    "on",
    "the",
    "left",
    "right",
    "of",
    "and",
    "with",
    "in",
    "one",
    "two",
    "three",
    "four",
    "five",
]


def scheduler(prediction: str = "v_prediction", **changes: Any) -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction,
        set_alpha_to_one=True,
        clip_sample=False,
        timestep_spacing="trailing",
        steps_offset=1,  # what the pipeline would set, with a warning; trailing spacing does not read it
        **changes,
    )


def unet(in_channels: int = 4, seed: int = 0) -> Any:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=32,
    ).eval()


def vae_kl(seed: int = 1) -> Any:
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    return AutoencoderKL(
        block_out_channels=(32, 32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=32,
        scaling_factor=0.7,
    ).eval()


def vae_tiny(seed: int = 1) -> Any:
    from diffusers import AutoencoderTiny

    torch.manual_seed(seed)
    return AutoencoderTiny(
        encoder_block_out_channels=(16, 16, 16, 16),
        decoder_block_out_channels=(16, 16, 16, 16),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
        scaling_factor=1.3,
    ).eval()


def text_encoder(seed: int = 2) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(WORDS) + 4,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=10,
            bos_token_id=1,
            eos_token_id=3,
            pad_token_id=0,
        )
    ).eval()


def tokenizer() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    vocabulary = {name: i for i, name in enumerate(["<pad>", "<bos>", "<unk>", "<eos>", *WORDS])}
    fast = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    fast.pre_tokenizer = Whitespace()
    fast.post_processor = TemplateProcessing(
        single="<bos> $A <eos>",
        special_tokens=[("<bos>", vocabulary["<bos>"]), ("<eos>", vocabulary["<eos>"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=fast,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<pad>",
        model_max_length=10,
    )


def parts(prediction: str = "v_prediction", in_channels: int = 4, tiny_vae: bool = False) -> dict[str, Any]:
    return {
        "vae": vae_tiny() if tiny_vae else vae_kl(),
        "text_encoder": text_encoder(),
        "tokenizer": tokenizer(),
        "unet": unet(in_channels),
        "scheduler": scheduler(prediction),
    }


def inpaint_pipeline(parts: dict[str, Any]) -> Any:
    """diffusers' own pipeline over the same parts, unmodified."""
    from diffusers import StableDiffusionInpaintPipeline

    pipe = StableDiffusionInpaintPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
