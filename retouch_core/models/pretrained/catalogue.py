"""The pretrained models that fill a role: where each is published, which of its files are needed, under which licence.

Sizes and licences are those of methods.md 16, 1.4 and 5.3. An approximate size is counted from the number of parameters and
was not looked up; a model card has the last word about its licence. Nothing here reads a file or asks a server.
"""

from __future__ import annotations

from dataclasses import dataclass

OR = " | "
"""Between names of files of which one is enough, the preferred one first."""

HALF, PLAIN = ".fp16.safetensors", ".safetensors"
"""Diffusers looks for half-precision weights under the first ending only when told to, so they are kept under the second."""

FOLDERS = {
    "segmenter": "retouch_segmenters",
    "scorer": "retouch_scorers",
    "referrer": "retouch_referrers",
    "attention": "retouch_attention",
    "perceptual": "retouch_perceptual",
    "tiny_decoder": "retouch_tiny_decoders",
    "editor": "retouch_editors",
}
"""Role -> its folder below a folder of models; the same in a host's `models` folder and for the library alone."""

ROLES = tuple(FOLDERS)

_CONFIG = "config.json"
_WEIGHTS = (
    "model.safetensors | model.safetensors.index.json | pytorch_model.bin | pytorch_model.bin.index.json"
)
_OPEN_CLIP_WEIGHTS = (
    "open_clip_model.safetensors | open_clip_pytorch_model.safetensors | open_clip_pytorch_model.bin"
)
_PICTURES = "preprocessor_config.json | processor_config.json"
_WORDS = "tokenizer.json | vocab.json | vocab.txt | spiece.model"
_SEES = (_CONFIG, _PICTURES, _WEIGHTS)
_READS = (_CONFIG, _PICTURES, _WORDS, _WEIGHTS)


def _module(folder: str, name: str) -> tuple[str, str]:
    """A part of a diffusers folder, as configuration and weights."""
    stem = f"{folder}/{name}"
    return f"{folder}/config.json", f"{stem}.safetensors | {stem}{HALF}"


_STABLE_DIFFUSION = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    *_module("text_encoder", "model"),
    *_module("vae", "diffusion_pytorch_model"),
    *_module("unet", "diffusion_pytorch_model"),
)


@dataclass(frozen=True)
class Backend:
    """A way to fill a role.

    Attributes:
        title: for sentences, such as "SAM 2".
        kinds: what `config.json` says a folder holds: `model_type`, or `_class_name` for diffusers.
        files: what every folder needs; of the names between `OR` one is enough.
        single: beginnings of the names of lone files that hold such a model, where there are any.
    """

    role: str
    name: str
    title: str
    kinds: tuple[str, ...]
    files: tuple[str, ...]
    single: tuple[str, ...] = ()


BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend("segmenter", "eomt", "EoMT", ("eomt",), _SEES),
        Backend("segmenter", "sam2", "SAM 2", ("sam2", "sam2_video"), _SEES),
        Backend("segmenter", "segformer", "SegFormer", ("segformer",), _SEES),
        Backend("segmenter", "sam", "SAM", ("sam",), _SEES),
        Backend("segmenter", "mask2former", "Mask2Former", ("mask2former",), _SEES),
        Backend("segmenter", "oneformer", "OneFormer", ("oneformer",), _READS),
        Backend(
            "scorer",
            "open_clip",
            "open_clip",
            (),
            ("open_clip_config.json", _OPEN_CLIP_WEIGHTS),
        ),
        Backend("scorer", "clip", "CLIP", ("clip",), _READS),
        Backend("scorer", "siglip", "SigLIP", ("siglip", "siglip2"), _READS),
        Backend("referrer", "grounding_dino", "Grounding DINO", ("grounding-dino",), _READS),
        Backend("referrer", "clipseg", "CLIPSeg", ("clipseg",), _READS),
        Backend("referrer", "florence2", "Florence-2", ("florence2",), _READS),
        Backend("referrer", "owlv2", "OWLv2", ("owlv2",), _READS),
        Backend("referrer", "sam3", "SAM 3", ("sam3", "sam3_video"), _READS),
        Backend("attention", "dino", "DINO", ("vit",), (_CONFIG, _WEIGHTS)),
        Backend("attention", "dinov2", "DINOv2", ("dinov2", "dinov2_with_registers"), (_CONFIG, _WEIGHTS)),
        Backend("perceptual", "lpips", "LPIPS", (), (), single=("alexnet-owt-", "vgg16-", "squeezenet1_1-")),
        Backend(
            "tiny_decoder",
            "taesd",
            "AutoencoderTiny",
            ("AutoencoderTiny",),
            (_CONFIG, "diffusion_pytorch_model.safetensors | diffusion_pytorch_model.bin"),
        ),
        Backend("editor", "diffusers", "diffusers", (), ("model_index.json",)),
    )
}
"""By name; within a role the recommended ones first."""


@dataclass(frozen=True)
class Pretrained:
    """A published model.

    Attributes:
        key: name on the command line and of its folder.
        role, backend: what it fills and how.
        repository: on the Hugging Face Hub, or the address of a folder of files elsewhere.
        files: those that are needed; of the names between `OR` one is enough.
        gigabytes: of the needed files, in 10^9 bytes; approximate: nobody looked it up.
        licence: as its publisher states it.
        gated: whether the publisher gives access on request only.
        note: what else one should know before choosing it; may be empty.
    """

    key: str
    role: str
    backend: str
    repository: str
    files: tuple[str, ...]
    gigabytes: float
    approximate: bool
    licence: str
    gated: bool
    note: str

    @property
    def size(self) -> str:
        """Such as "~1.3 GB" or "10 MB"."""
        about = "~" if self.approximate else ""
        if self.gigabytes < 0.1:
            return f"{about}{self.gigabytes * 1000:.0f} MB"
        return f"{about}{self.gigabytes:.2g} GB" if self.approximate else f"{self.gigabytes:.2f} GB"

    @property
    def folder(self) -> str:
        """Where it belongs below a folder of models."""
        return f"{FOLDERS[self.role]}/{self.key}"

    @property
    def page(self) -> str:
        """Address of its description."""
        return self.repository if self.elsewhere else f"https://huggingface.co/{self.repository}"

    @property
    def elsewhere(self) -> bool:
        """Whether it is published on a plain server and not on the Hub."""
        return "://" in self.repository


def alternatives(file: str) -> tuple[str, ...]:
    """The names in an entry of `files`, the preferred one first."""
    return tuple(file.split(OR))


def kept_as(name: str) -> str:
    """The name under which a published file is kept on disk, where a folder is read without naming a variant."""
    return name.removesuffix(HALF) + PLAIN if name.endswith(HALF) else name


_PICKLED = "published as a pickle alone, which transformers reads with torch 2.6 or later"


def _entry(
    backend: str,
    repository: str,
    gigabytes: float,
    licence: str,
    note: str = "",
    *,
    approximate: bool = True,
    gated: bool = False,
    files: tuple[str, ...] = (),
    key: str = "",
) -> Pretrained:
    way = BACKENDS[backend]
    return Pretrained(
        key or repository.rpartition("/")[2].lower(),
        way.role,
        backend,
        repository,
        files or way.files,
        gigabytes,
        approximate,
        licence,
        gated,
        note,
    )


_TORCHVISION = "https://download.pytorch.org/models"
_OPENAI_BY_TIMM = "OpenAI's weights in open_clip's layout"
_HALVES = "size in half precision"
_NO_COMMERCE = "NVIDIA source code licence: not for commercial use"

CATALOGUE: tuple[Pretrained, ...] = (
    # Segmenters
    _entry(
        "eomt", "tue-mps/coco_panoptic_eomt_large_640", 1.3, "MIT", "things and grounds in one pass, disjoint"
    ),
    _entry("eomt", "tue-mps/coco_panoptic_eomt_base_640_2x", 0.37, "MIT"),
    _entry("eomt", "tue-mps/coco_panoptic_eomt_small_640_2x", 0.1, "MIT"),
    _entry("sam2", "facebook/sam2.1-hiera-large", 0.9, "Apache-2.0", "masks of parts as well as of things"),
    _entry("sam2", "facebook/sam2.1-hiera-base-plus", 0.32, "Apache-2.0"),
    _entry("sam2", "facebook/sam2.1-hiera-small", 0.18, "Apache-2.0"),
    _entry("sam2", "facebook/sam2.1-hiera-tiny", 0.16, "Apache-2.0", "the quickest"),
    _entry(
        "segformer",
        "nvidia/segformer-b5-finetuned-ade-640-640",
        0.34,
        _NO_COMMERCE,
        "150 classes of ADE20K, one mask each",
    ),
    _entry("sam", "facebook/sam-vit-base", 0.38, "Apache-2.0"),
    _entry("sam", "facebook/sam-vit-huge", 2.6, "Apache-2.0"),
    _entry(
        "mask2former",
        "facebook/mask2former-swin-large-coco-panoptic",
        0.87,
        "other: see the model card",
        _PICKLED,
        approximate=False,
    ),
    _entry(
        "mask2former",
        "facebook/mask2former-swin-base-coco-panoptic",
        0.43,
        "other: see the model card",
        _PICKLED,
    ),
    _entry(
        "mask2former",
        "facebook/mask2former-swin-tiny-coco-panoptic",
        0.19,
        "other: see the model card",
        _PICKLED,
    ),
    _entry(
        "oneformer",
        "shi-labs/oneformer_coco_swin_large",
        1.64,
        "MIT or Apache-2.0, sources disagree: see the model card",
        _PICKLED,
        approximate=False,
    ),
    # Scorers
    _entry(
        "open_clip",
        "timm/vit_base_patch16_clip_224.openai",
        0.6,
        "MIT or Apache-2.0, sources disagree: see the model card",
        _OPENAI_BY_TIMM,
        key="open-clip-vit-b-16",
    ),
    _entry(
        "open_clip",
        "timm/vit_large_patch14_clip_224.openai",
        1.7,
        "MIT or Apache-2.0, sources disagree: see the model card",
        _OPENAI_BY_TIMM,
        key="open-clip-vit-l-14",
    ),
    _entry("clip", "openai/clip-vit-base-patch16", 0.6, "MIT", "to find and to rank"),
    _entry("clip", "openai/clip-vit-large-patch14", 1.7, "MIT", "to guide"),
    _entry("clip", "openai/clip-vit-base-patch32", 0.6, "MIT", "to measure with, as published numbers do"),
    _entry(
        "siglip",
        "google/siglip-base-patch16-224",
        0.8,
        "Apache-2.0",
        "its tokenizer needs pip install sentencepiece protobuf",
    ),
    # Referrers
    _entry(
        "grounding_dino",
        "IDEA-Research/grounding-dino-base",
        0.9,
        "Apache-2.0",
        "gives boxes; SAM 2 or SAM turns them into masks",
    ),
    _entry(
        "grounding_dino",
        "IDEA-Research/grounding-dino-tiny",
        0.7,
        "Apache-2.0",
        "gives boxes; SAM 2 or SAM turns them into masks",
    ),
    _entry(
        "clipseg",
        "CIDAS/clipseg-rd64-refined",
        0.6,
        "Apache-2.0 on the Hub; its authors' MIT licence covers the code, not the weights",
        approximate=False,
    ),
    _entry(
        "florence2",
        "florence-community/Florence-2-large-ft",
        1.6,
        "MIT",
        f"0.77 billion parameters; {_HALVES}; one region a phrase",
    ),
    _entry(
        "florence2",
        "florence-community/Florence-2-base-ft",
        0.5,
        "MIT",
        f"0.23 billion parameters; {_HALVES}; one region a phrase",
    ),
    _entry(
        "owlv2",
        "google/owlv2-base-patch16-ensemble",
        0.6,
        "Apache-2.0",
        "gives boxes; weak where a phrase relates things to each other",
    ),
    _entry(
        "sam3",
        "facebook/sam3",
        3.4,
        "SAM licence",
        "0.9 billion parameters; noun phrases only; access is often refused",
        gated=True,
    ),
    # Attention
    _entry("dino", "facebook/dino-vitb8", 0.34, "Apache-2.0", "what the published anchors come from"),
    _entry("dino", "facebook/dino-vitb16", 0.34, "Apache-2.0"),
    _entry("dinov2", "facebook/dinov2-base", 0.35, "Apache-2.0"),
    # Perceptual distance: torchvision's networks; the few weights on top of them come with the lpips package.
    _entry(
        "lpips", _TORCHVISION, 0.53, "BSD-2-Clause", "VGG-16", files=("vgg16-397923af.pth",), key="lpips-vgg"
    ),
    _entry(
        "lpips",
        _TORCHVISION,
        0.24,
        "BSD-2-Clause",
        "AlexNet",
        files=("alexnet-owt-7be5be79.pth",),
        key="lpips-alex",
    ),
    _entry(
        "lpips",
        _TORCHVISION,
        0.005,
        "BSD-2-Clause",
        "SqueezeNet 1.1",
        files=("squeezenet1_1-b8a52dc0.pth",),
        key="lpips-squeeze",
    ),
    # Tiny decoders
    _entry("taesd", "madebyollin/taesd", 0.01, "MIT", "for SD 1.x and 2.x"),
    _entry("taesd", "madebyollin/taesdxl", 0.01, "MIT", "for SDXL"),
    _entry("taesd", "madebyollin/taesd3", 0.01, "MIT", "for SD 3"),
    _entry("taesd", "madebyollin/taef1", 0.01, "MIT", "for Flux"),
    # Editors
    _entry(
        "diffusers",
        "stable-diffusion-v1-5/stable-diffusion-inpainting",
        4,
        "CreativeML OpenRAIL-M",
        "paints into a mask; half the size where only half-precision weights are published",
        files=_STABLE_DIFFUSION,
    ),
    _entry(
        "diffusers",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        4,
        "CreativeML OpenRAIL-M",
        files=_STABLE_DIFFUSION,
    ),
)
"""All models, role by role and backend by backend, the recommended ones first."""


def entry(key: str) -> Pretrained:
    """The model that a key names; a repository, a backend or a role names its first one.

    Raises:
        ValueError: none of these.
    """
    said = key.strip().lower()
    for chosen in CATALOGUE:
        if said in (chosen.key, chosen.repository.lower()):
            return chosen
    for chosen in CATALOGUE:
        if said in (chosen.backend, chosen.role):
            return chosen
    raise ValueError(f"there is no model {key!r}; choose one of {', '.join(one.key for one in CATALOGUE)}")


def check_role(role: str) -> str:
    """`role` if it is one.

    Raises:
        ValueError: it is none.
    """
    if role not in FOLDERS:
        raise ValueError(f"there is no role {role!r}; choose one of {', '.join(ROLES)}")
    return role
