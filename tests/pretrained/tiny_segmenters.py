"""Real segmenter classes with a few thousand random weights, saved as their publishers save them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

CONTRAST = 6.0
"""Standard deviation that the mask logits of a promptable decoder are brought to, so that masks have edges."""


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    """IMAGE [1,H,W,3] of 8-bit colours: smooth blobs and some noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 5, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
    noisy = smooth + 0.1 * torch.rand(1, 3, height, width, generator=generator)
    return (noisy.clamp(0, 1) * 255).round().div(255).movedim(1, -1).contiguous()


def bytes_of(image: Tensor) -> Any:
    """uint8 [H,W,3] of an IMAGE of one picture."""
    return (image[0] * 255).round().to(torch.uint8).numpy()


def check_prepared(seen: Tensor, processor: Any, image: Tensor) -> None:
    """Raise unless the pixels [1,3,h,w] that a network saw are those that its published processor makes of the picture.

    From floats they are the same. From bytes the processor resizes in fixed point and rounds after each of the two
    directions: one and a half steps of 1/255 at most, over the smallest of ImageNet's deviations.
    """
    exact = processor(images=image[0].movedim(-1, 0), do_rescale=False, return_tensors="pt")["pixel_values"]
    assert torch.allclose(seen, exact, atol=1e-5)
    rounded = processor(images=bytes_of(image), return_tensors="pt")["pixel_values"]
    assert torch.allclose(seen, rounded, atol=1.5 / 255 / 0.224)


def processor_class(name: str) -> Any:
    """An image processor in the form that works on tensors, which transformers 4 calls `...Fast`."""
    if int(transformers.__version__.split(".")[0]) < 5:
        return getattr(transformers, f"{name}Fast")
    return getattr(transformers, name)


def with_contrast(model: Any, logits: Tensor) -> None:
    """Scale the decoder's last layers so that logits like these get a deviation of `CONTRAST`."""
    for head in model.mask_decoder.output_hypernetworks_mlps:
        for parameter in head.proj_out.parameters():
            parameter.data.mul_(CONTRAST / float(logits.std()))


def as_if_trained(model: Any) -> None:
    """Weights of a decoder large enough that points matter: with those of a new network all give one mask."""
    for parameter in model.mask_decoder.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(8)


def tiny_sam2(kind: str = "Sam2") -> Any:
    """A `Sam2Model`, or with "Sam2Video" the class whose folders are published, for inputs of 64 px."""
    torch.manual_seed(0)
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=8,
        image_size=[64, 64],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[8, 4, 14, 7],
        window_positional_embedding_background_size=[2, 2],
        global_attention_blocks=[3],
    )
    vision = transformers.Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
        fpn_hidden_size=32,
    )
    parts = {
        "vision_config": vision,
        "prompt_encoder_config": {
            "hidden_size": 32,
            "image_size": 64,
            "patch_size": 16,
            "mask_input_channels": 8,
        },
        "mask_decoder_config": {
            "hidden_size": 32,
            "mlp_dim": 32,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 32,
        },
    }
    if kind == "Sam2Video":
        config = transformers.Sam2VideoConfig(
            **parts,
            image_size=64,
            memory_attention_hidden_size=32,
            memory_attention_num_layers=1,
            memory_attention_feed_forward_hidden_size=32,
            memory_attention_rope_feat_sizes=[4, 4],
            memory_encoder_hidden_size=32,
            memory_encoder_output_channels=16,
            mask_downsampler_embed_dim=32,
            memory_fuser_num_layers=1,
            memory_fuser_embed_dim=32,
            memory_fuser_intermediate_dim=32,
        )
        return transformers.Sam2VideoModel(config).eval()
    model = transformers.Sam2Model(transformers.Sam2Config(**parts)).eval()
    with torch.no_grad():
        as_if_trained(model)
        with_contrast(model, model(pixel_values=torch.rand(1, 3, 64, 64)).pred_masks)
    return model


def sam2_processor() -> Any:
    """The image processor of SAM 2 for `tiny_sam2`."""
    return processor_class("Sam2ImageProcessor")(size={"height": 64, "width": 64})


def tiny_sam() -> Any:
    """A `SamModel` for inputs of 64 px."""
    torch.manual_seed(0)
    config = transformers.SamConfig(
        vision_config={
            "hidden_size": 16,
            "output_channels": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 16,
            "window_size": 2,
            "global_attn_indexes": [0],
            "num_pos_feats": 8,
            "mlp_dim": 16,
            "initializer_range": 0.5,
        },
        prompt_encoder_config={
            "hidden_size": 16,
            "image_size": 64,
            "patch_size": 16,
            "mask_input_channels": 8,
        },
        mask_decoder_config={
            "hidden_size": 16,
            "mlp_dim": 16,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )
    model = transformers.SamModel(config).eval()
    with torch.no_grad():
        as_if_trained(model)
        points = torch.tensor([[[[20.0, 30.0]]]])
        logits = model(pixel_values=torch.rand(1, 3, 64, 64), input_points=points).pred_masks
        with_contrast(model, logits)
        # This head has no sigmoid: random weights would predict IoUs below 0.
        model.mask_decoder.iou_prediction_head.proj_out.bias.fill_(0.8)
    return model


def sam_processor() -> Any:
    """The image processor of SAM for `tiny_sam`."""
    return processor_class("SamImageProcessor")(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}
    )


def published_masks(
    model: Any,
    processor: Any,
    image: Tensor,
    points: Tensor,
    inner: tuple[int, int],
    *,
    padded: bool,
    stability_min: float,
) -> list[Tensor]:
    """Automatic masks of one picture by the published classes alone, before duplicates go: points [P,2] in its pixels.

    The pipeline's own steps, one after another: the pipeline of transformers 4.57 fails on a model at hand, and its
    quick processors name the size of the picture where that inside the padding, `inner` (h, w), is meant.
    """
    height, width = image.shape[1:3]
    # From floats, since rounding to 8 bits would move a few masks over a threshold.
    pixels = processor(images=image[0].movedim(-1, 0), do_rescale=False, return_tensors="pt")["pixel_values"]
    scaled = points * torch.tensor([inner[1] / width, inner[0] / height])
    with torch.no_grad():
        out = model(pixel_values=pixels, input_points=scaled[None, :, None], multimask_output=True)
    side = {"height": pixels.shape[2], "width": pixels.shape[3]}
    more = {"reshaped_input_sizes": [inner], "pad_size": side} if padded else {}
    large = processor.post_process_masks([out.pred_masks[0]], [[height, width]], binarize=False, **more)[0]
    rles, ious, boxes = processor.filter_masks(
        large, out.iou_scores[0], [height, width], [0, 0, width, height], 0.0, stability_min, 0, 1
    )
    masks, *_ = processor.post_process_for_mask_generation(rles, ious, boxes, 1.0)
    return [torch.as_tensor(mask) for mask in masks]


def saved(folder: Path, model: Any, processor: Any) -> Path:
    """The folder with both in it, the recipe under the name that publishers use."""
    model.save_pretrained(folder, safe_serialization=True)
    (folder / "preprocessor_config.json").write_text(
        json.dumps(processor.to_dict(), default=str), encoding="utf-8"
    )
    return folder


def tiny_eomt() -> Any:
    """An `EomtForUniversalSegmentation` for inputs of 64 px, 6 queries and 4 labels."""
    torch.manual_seed(0)
    config = transformers.EomtConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=64,
        patch_size=16,
        num_queries=6,
        num_blocks=1,
        num_register_tokens=1,
        num_upscale_blocks=2,
        id2label={number: f"label {number}" for number in range(4)},
    )
    model = transformers.EomtForUniversalSegmentation(config).eval()
    with torch.no_grad():
        # At the end of their training no attention is masked.
        model.attn_mask_probs.zero_()
        as_if_decided(model.class_predictor)
    return model


def as_if_decided(head: Any) -> None:
    """Weights of a class head large enough that queries are sure of something, and not all of "nothing"."""
    head.weight.data.mul_(50)
    head.bias.data[-1] = -1.0


def eomt_processor(**settings: Any) -> Any:
    """The image processor of panoptic EoMT for `tiny_eomt`."""
    size = {"shortest_edge": 64, "longest_edge": 64}
    return processor_class("EomtImageProcessor")(**{"size": size, "do_pad": True} | settings)


def tiny_segformer() -> Any:
    """A `SegformerForSemanticSegmentation` with 5 labels."""
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
        id2label={number: f"label {number}" for number in range(5)},
    )
    model = transformers.SegformerForSemanticSegmentation(config).eval()
    with torch.no_grad():
        logits = model(pixel_values=torch.rand(1, 3, 64, 64)).logits
        model.decode_head.classifier.weight.mul_(CONTRAST / float(logits.std()))
    return model


def segformer_processor(**settings: Any) -> Any:
    """The image processor of SegFormer at 64x64, in its settings that of ADE20K."""
    return processor_class("SegformerImageProcessor")(
        **{"size": {"height": 64, "width": 64}, "do_reduce_labels": True} | settings
    )


def _swin() -> dict[str, Any]:
    return {
        "model_type": "swin",
        "image_size": 64,
        "patch_size": 4,
        "embed_dim": 8,
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 1, 2, 2],
        "window_size": 4,
        "drop_path_rate": 0.0,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    }


def tiny_mask2former() -> Any:
    """A `Mask2FormerForUniversalSegmentation` with 6 queries and 4 labels."""
    torch.manual_seed(0)
    config = transformers.Mask2FormerConfig(
        backbone_config=transformers.SwinConfig(**_swin()),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=6,
        id2label={number: f"label {number}" for number in range(4)},
    )
    model = transformers.Mask2FormerForUniversalSegmentation(config).eval()
    with torch.no_grad():
        as_if_decided(model.class_predictor)
    return model


def mask2former_processor(**settings: Any) -> Any:
    """The image processor of Mask2Former, for inputs of 64 to 96 px."""
    size = {"shortest_edge": 64, "longest_edge": 96}
    return processor_class("Mask2FormerImageProcessor")(**{"size": size, "ignore_index": 255} | settings)


def tiny_oneformer(**settings: Any) -> Any:
    """A `OneFormerForUniversalSegmentation` with 7 queries and 4 labels."""
    torch.manual_seed(0)
    config = transformers.OneFormerConfig(
        **{
            "backbone_config": transformers.SwinConfig(**_swin()),
            "conv_dim": 32,
            "mask_dim": 32,
            "hidden_dim": 32,
            "encoder_feedforward_dim": 16,
            "dim_feedforward": 16,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "query_dec_layers": 1,
            "num_attention_heads": 2,
            "num_queries": 7,
            "task_seq_len": 10,
            "text_encoder_width": 64,
            "text_encoder_context_length": 10,
            "text_encoder_num_layers": 1,
            "text_encoder_vocab_size": 64,
            "text_encoder_n_ctx": 2,
            "id2label": {number: f"label {number}" for number in range(4)},
        }
        | settings
    )
    model = transformers.OneFormerForUniversalSegmentation(config).eval()
    with torch.no_grad():
        as_if_decided(model.model.transformer_module.decoder.class_embed)
    return model


def words_for_oneformer(folder: Path) -> list[int]:
    """A CLIP tokenizer that spells, written to the folder; the numbers it gives "the task is panoptic" of length 10."""
    letters = "acehiknopst"
    vocabulary = [*letters, *(letter + "</w>" for letter in letters)]
    merges = [
        "t h",
        "th e</w>",
        "i s</w>",
        "t a",
        "ta s",
        "tas k</w>",
        "p a",
        "pa n",
        "pan o",
        "pano p",
        "panop t",
    ]
    merges += ["panopt i", "panopti c</w>"]
    vocabulary += [merge.replace(" ", "") for merge in merges] + ["<|startoftext|>", "<|endoftext|>"]
    numbers = {word: number for number, word in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(numbers), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}), encoding="utf-8"
    )
    words = ["<|startoftext|>", "the</w>", "task</w>", "is</w>", "panoptic</w>", "<|endoftext|>"]
    return [numbers[word] for word in words] + [0] * 4


def oneformer_processor() -> Any:
    """The image processor of OneFormer, for inputs of 64 to 96 px."""
    return processor_class("OneFormerImageProcessor")(size={"shortest_edge": 64, "longest_edge": 96})


def oneformer_folder(folder: Path, **settings: Any) -> Path:
    """A folder as published: its image processor names a list of classes that lies elsewhere."""
    saved(folder, tiny_oneformer(**settings), oneformer_processor())
    path = folder / "preprocessor_config.json"
    away = {"class_info_file": "coco_panoptic.json", "repo_path": "shi-labs/oneformer_demo"}
    path.write_text(json.dumps(json.loads(path.read_text()) | away))
    words_for_oneformer(folder)
    return folder
