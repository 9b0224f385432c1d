"""Folders of tiny image-text models as the Hub lays them out: real classes, random weights, a tokenizer of a few words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

WORDS = ("<pad>", "<bos>", "<unk>", "<eos>", "a", "red", "car", "blue", "star", "the", "photo", "of")
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
LENGTH = 8
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
PIECES = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", SPACE, *"abcdefghijklmnopqrstuvwxyz")


def tokenizer(lower: bool = True, words: tuple[str, ...] = WORDS, side: str = "right") -> Any:
    """Whole words between <bos> and <eos>; `lower` False tells capitals from small letters."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    fast = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    if lower:
        fast.normalizer = normalizers.Lowercase()
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    fast.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=fast,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_max_length=LENGTH,
        padding_side=side,
    )


def letters() -> Any:
    """As Gemma's and so SigLIP 2's: pieces of words with a sign for the space, an end and no beginning, padding in front."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {piece: i for i, piece in enumerate(PIECES)}
    fast = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", fuse_unk=True))
    fast.normalizer = normalizers.Replace(" ", SPACE)
    fast.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    fast.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    names = {f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk", "mask")}
    return PreTrainedTokenizerFast(
        tokenizer_object=fast, model_max_length=LENGTH, padding_side="left", **names
    )


def clip_folder(folder: Path, size: int = 32) -> Path:
    from transformers import CLIPConfig, CLIPModel

    text = TOWER | {
        "vocab_size": len(WORDS),
        "max_position_embeddings": LENGTH,
        "bos_token_id": 1,
        "eos_token_id": 3,
    }
    torch.manual_seed(0)
    CLIPModel(
        CLIPConfig(
            text_config=text, vision_config=TOWER | {"image_size": size, "patch_size": 8}, projection_dim=16
        )
    ).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    write(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "CLIPImageProcessor",
            "crop_size": {"height": size, "width": size},
            "size": {"shortest_edge": size},
            "do_center_crop": True,
            "image_mean": [0.4, 0.5, 0.6],
            "image_std": [0.2, 0.25, 0.3],
        },
    )
    return folder


def siglip_folder(folder: Path, flexible: bool = False, projection: int = 32) -> Path:
    """SigLIP with views of 32 px, or SigLIP 2 with rows of 16 patches."""
    import transformers

    kind = "Siglip2" if flexible else "Siglip"
    text = TOWER | {
        "vocab_size": len(PIECES if flexible else WORDS),
        "max_position_embeddings": LENGTH,
        "projection_size": projection,
    }
    vision = TOWER | {"patch_size": 8} | ({"num_patches": 16} if flexible else {"image_size": 32})
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}Model")(
        getattr(transformers, f"{kind}Config")(text_config=text, vision_config=vision)
    )
    with torch.no_grad():
        model.logit_scale.fill_(2.3)
        model.logit_bias.fill_(-7.0)
    model.save_pretrained(folder)
    # Capitals matter, and padding comes first unless one says otherwise.
    (letters() if flexible else tokenizer(lower=False, side="left")).save_pretrained(folder)
    settings: dict[str, Any] = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.5, 0.5]}
    if not flexible:
        settings["size"] = {"height": 32, "width": 32}
    write(folder / "preprocessor_config.json", settings)
    return folder


def write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def drawn(count: int = 3, size: int = 32, seed: int = 1) -> torch.Tensor:
    """Views [N,3,S,S] in 0..1."""
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def normalised(views: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    return (views - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def dinov2_folder(folder: Path) -> Path:
    """A DINOv2 of 8 px patches."""
    import transformers

    torch.manual_seed(0)
    model = transformers.Dinov2Model(transformers.Dinov2Config(**TOWER, image_size=32, patch_size=8))
    model.save_pretrained(folder)
    return folder


def taesd_folder(folder: Path) -> Path:
    """A TAESD with random weights, as diffusers saves it."""
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    AutoencoderTiny(latent_channels=4).save_pretrained(folder)
    return folder
