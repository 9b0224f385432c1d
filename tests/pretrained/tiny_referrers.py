"""Small random networks of the referrers' real architectures in folders of the published layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

CLIP_WORDS = 515
"""Tokens of `clip_words`: 256 bytes, the same at a word's end, one merge, start and end."""
BERT_WORDS = 1030
"""Tokens of `bert_words`: as many as Grounding DINO's fixed numbers of [CLS], [SEP], "." and "?" need."""
LENGTH = 16


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """IMAGE [1,H,W,3] of 8-bit values: smooth colours with a little noise, so that resizing can be compared."""
    make = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 5, 6, generator=make)
    fine = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)
    fine = (fine + 0.05 * torch.randn(1, 3, height, width, generator=make)).clamp(0, 1)
    return (fine * 255).round().movedim(1, -1) / 255


def eight_bit(image: torch.Tensor) -> Any:
    """The picture as a numpy array [H,W,3] of bytes, as processors take it."""
    return (image[0] * 255).round().to(torch.uint8).numpy()


def stirred(model: Any, seed: int, scale: float = 0.1) -> Any:
    """The model with larger random matrices than it starts with, so that every input shows in its output."""
    make = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim > 1:
                value.add_(scale * torch.randn(value.shape, generator=make))
    return model.eval()


def byte_signs() -> list[str]:
    """One printable sign for each byte, as GPT-2's byte-level tokenizer has them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    signs = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(rest)}
    return [signs[byte] for byte in [*printable, *rest]]


def clip_words(folder: Path) -> None:
    """The files of a CLIP tokenizer that spells words out."""
    folder.mkdir(parents=True, exist_ok=True)
    signs = byte_signs()
    words = [*signs, *(sign + "</w>" for sign in signs), "re", "<|startoftext|>", "<|endoftext|>"]
    assert len(words) == CLIP_WORDS
    (folder / "vocab.json").write_text(
        json.dumps({word: i for i, word in enumerate(words)}), encoding="utf-8"
    )
    (folder / "merges.txt").write_text("#version: 0.2\nr e\n", encoding="utf-8")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def bert_words(folder: Path) -> None:
    """The files of a BERT tokenizer that spells words out and knows no sign but small letters, "." and "?"."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [f"[unused{i}]" for i in range(BERT_WORDS)]
    fixed = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
    for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz"):
        fixed |= {200 + i: letter, 300 + i: "##" + letter}
    for i, word in fixed.items():
        words[i] = word
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def tokenizer_of(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def clip_towers(image_size: int, patch: int, layers: int = 4) -> dict[str, Any]:
    """The configurations of a text and an image tower."""
    size = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    text = {"vocab_size": CLIP_WORDS, "num_hidden_layers": 2, "max_position_embeddings": LENGTH}
    text |= {"bos_token_id": CLIP_WORDS - 2, "eos_token_id": CLIP_WORDS - 1, "pad_token_id": CLIP_WORDS - 1}
    image = {"num_hidden_layers": layers, "image_size": image_size, "patch_size": patch}
    return {"text_config": size | text, "vision_config": size | image, "projection_dim": 32}


def clipseg_folder(folder: Path, side: int = 48) -> Path:
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, CLIPSegProcessor, ViTImageProcessor

    torch.manual_seed(0)
    config = CLIPSegConfig(
        **clip_towers(32, 8),
        extract_layers=[1, 2, 3],
        reduce_dim=32,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=64,
    )
    stirred(CLIPSegForImageSegmentation(config), 1).save_pretrained(folder)
    clip_words(folder)
    seen = ViTImageProcessor(
        size={"height": side, "width": side},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    CLIPSegProcessor(image_processor=seen, tokenizer=tokenizer_of(folder)).save_pretrained(folder)
    return folder


def owlv2_folder(folder: Path, side: int = 64) -> Path:
    from transformers import Owlv2Config, Owlv2ForObjectDetection, Owlv2Processor

    torch.manual_seed(0)
    config = Owlv2Config(**clip_towers(side, 16, layers=2))
    stirred(Owlv2ForObjectDetection(config), 2).save_pretrained(folder)
    clip_words(folder)
    Owlv2Processor(image_processor=owlv2_images(side), tokenizer=tokenizer_of(folder)).save_pretrained(folder)
    return folder


def owlv2_images(side: int) -> Any:
    """The processor that works on tensors, which has another name in transformers 4."""
    import transformers

    cls = getattr(transformers, "Owlv2ImageProcessorFast", None) or transformers.Owlv2ImageProcessor
    return cls(size={"height": side, "width": side})


def grounding_dino_folder(folder: Path, shortest: int = 32, longest: int = 64) -> Path:
    from transformers import (
        BertConfig,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SwinConfig,
    )

    torch.manual_seed(0)
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            image_size=32,
            window_size=4,
            embed_dim=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 1, 1],
            out_features=["stage2", "stage3", "stage4"],
        ),
        text_config=BertConfig(
            vocab_size=BERT_WORDS,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=64,
        ),
        d_model=64,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=12,
        num_feature_levels=4,
        max_text_len=64,
        disable_custom_kernels=True,
    )
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    bert_words(folder)
    seen = GroundingDinoImageProcessor(size={"shortest_edge": shortest, "longest_edge": longest})
    GroundingDinoProcessor(image_processor=seen, tokenizer=tokenizer_of(folder)).save_pretrained(folder)
    return folder


def sam_folder(folder: Path, side: int = 64) -> Path:
    from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

    torch.manual_seed(0)
    config = SamConfig(
        vision_config={
            "hidden_size": 24,
            "output_channels": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": side,
            "patch_size": 8,
            "window_size": 4,
            "global_attn_indexes": [1],
            "num_pos_feats": 16,
            "mlp_dim": 48,
        },
        prompt_encoder_config={
            "hidden_size": 32,
            "image_size": side,
            "patch_size": 8,
            "mask_input_channels": 8,
        },
        mask_decoder_config=mask_decoder(),
    )
    stirred(SamModel(config), 3, 0.3).save_pretrained(folder)
    seen = SamImageProcessor(size={"longest_edge": side}, pad_size={"height": side, "width": side})
    SamProcessor(image_processor=seen).save_pretrained(folder)
    return folder


def sam2_folder(folder: Path, side: int = 64) -> Path:
    import transformers
    from transformers import Sam2Config, Sam2Model, Sam2Processor

    torch.manual_seed(0)
    levels = [side // 4, side // 8, side // 16]
    config = Sam2Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": 8,
                "image_size": [side, side],
                "blocks_per_stage": [1, 1, 2, 1],
                "embed_dim_per_stage": [8, 16, 32, 64],
                "num_attention_heads_per_stage": [1, 2, 4, 8],
                "window_size_per_stage": [8, 4, 4, 2],
                "global_attention_blocks": [3],
                "window_positional_embedding_background_size": [4, 4],
            },
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": [[level, level] for level in levels],
            "fpn_hidden_size": 32,
        },
        prompt_encoder_config={
            "hidden_size": 32,
            "image_size": side,
            "patch_size": 16,
            "mask_input_channels": 8,
        },
        mask_decoder_config=mask_decoder(),
    )
    stirred(Sam2Model(config), 4, 0.15).save_pretrained(folder)
    cls = getattr(transformers, "Sam2ImageProcessorFast", None) or transformers.Sam2ImageProcessor
    Sam2Processor(image_processor=cls(size={"height": side, "width": side})).save_pretrained(folder)
    return folder


def mask_decoder() -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "mlp_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "iou_head_hidden_dim": 32,
        "iou_head_depth": 2,
    }


def bart_words(folder: Path) -> None:
    """The files of a BART tokenizer that spells words out, with Florence-2's own tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["<s>", "<pad>", "</s>", "<unk>", *byte_signs(), "re", "<mask>"]
    (folder / "vocab.json").write_text(
        json.dumps({word: i for i, word in enumerate(words)}), encoding="utf-8"
    )
    (folder / "merges.txt").write_text("#version: 0.2\nr e\n", encoding="utf-8")
    settings = {
        "tokenizer_class": "BartTokenizer",
        "model_max_length": 1024,
        "extra_special_tokens": {"image_token": "<image>"},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    tokenizer = tokenizer_of(folder)
    own = [*(f"<loc_{i}>" for i in range(1000)), "<sep>", "<poly>", "</poly>"]
    tokenizer.add_tokens(own, special_tokens=True)
    tokenizer.save_pretrained(folder)


def florence2_folder(folder: Path, side: int = 64) -> Path:
    from transformers import (
        CLIPImageProcessor,
        Florence2Config,
        Florence2ForConditionalGeneration,
        Florence2Processor,
    )

    torch.manual_seed(0)
    bart_words(folder)
    tokenizer = tokenizer_of(folder)
    config = Florence2Config(
        vision_config={
            "model_type": "florence_vision",
            "embed_dim": [16, 16, 32, 32],
            "num_heads": [1, 1, 2, 2],
            "num_groups": [1, 1, 2, 2],
            "depths": [1, 1, 1, 1],
            "window_size": 4,
            "projection_dim": 32,
            "drop_path_rate": 0.0,
        },
        text_config={
            "model_type": "bart",
            "vocab_size": len(tokenizer),
            "d_model": 32,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32,
            "max_position_embeddings": 128,
            "bos_token_id": 0,
            "pad_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 2,
            "forced_eos_token_id": 2,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
    stirred(Florence2ForConditionalGeneration(config), 5).save_pretrained(folder)
    seen = CLIPImageProcessor(
        size={"height": side, "width": side},
        do_center_crop=False,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    # The mean of all places and the places themselves, each a 32nd of the side.
    seen.image_seq_length = 1 + (side // 32) ** 2
    rules = {"polygons": {}, "pure_text": {}}
    Florence2Processor(
        image_processor=seen, tokenizer=tokenizer, post_processor_config=rules
    ).save_pretrained(folder)
    return folder


def sam3_config(side: int = 56) -> Any:
    from transformers import Sam3Config

    part = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 32}
    cells = side // 14
    return Sam3Config(
        vision_config={
            "backbone_config": part
            | {
                "model_type": "sam3_vit_model",
                "num_hidden_layers": 2,
                "image_size": side,
                "pretrain_image_size": 28,
                "patch_size": 14,
                "window_size": 2,
                "global_attn_indexes": [1],
            },
            "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[cells * 4, cells * 4], [cells * 2, cells * 2], [cells, cells]],
        },
        text_config=clip_towers(32, 8)["text_config"] | {"max_position_embeddings": 32, "projection_dim": 32},
        geometry_encoder_config=part | {"num_layers": 1},
        detr_encoder_config=part | {"num_layers": 1},
        detr_decoder_config=part | {"num_layers": 2, "num_queries": 10},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 4, "num_upsampling_stages": 2},
    )


def sam3_folder(folder: Path, side: int = 56) -> Path:
    from transformers import Sam3ImageProcessor, Sam3Model, Sam3Processor

    torch.manual_seed(0)
    stirred(Sam3Model(sam3_config(side)), 6).save_pretrained(folder)
    clip_words(folder)
    seen = Sam3ImageProcessor(size={"height": side, "width": side})
    Sam3Processor(image_processor=seen, tokenizer=tokenizer_of(folder)).save_pretrained(folder)
    return folder
