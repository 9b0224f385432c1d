"""open_clip's models behind the `Scorer` protocol (Ilharco et al. 2021; timm/vit_base_patch16_clip_224.openai and its kin).

A folder says of itself what it holds. A single file does not: whoever names its model can name the wrong one, and then most
weights still fit. OpenAI's own were trained with QuickGELU, a cheaper curve than the GELU of the plain model names; taken
for the other, they load without a complaint and score worse (methods.md 0.4, trap 3).
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....tensors.checks import InputWarning
from ....tensors.normalisation import CLIP_MEAN, CLIP_STD
from ...differentiable import lent, normal
from ...phrases import unknown_words
from ..chunks import Tell, in_chunks
from ..files import ModelError, config_of, said
from ..loading import load_part, needs
from ..pictures import Look, look_of
from ..states import state_of
from .towers import (
    check_vocabulary,
    check_widths,
    chunk_for,
    outputs_of,
)

NAME = "open_clip"
PACKAGE, LEAST = "open_clip_torch", "2.24"
CONFIG = "open_clip_config.json"
WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
"""What the Hub calls the weights; the same repositories may hold a transformers model under other names."""
LENGTH = 77
"""Tokens of a text where the config says nothing (open_clip's own default)."""
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "attn_mask", "text.attn_mask")
"""Entries of older files that are no weights of today's classes."""


class OpenClipScorer:
    """Cosines between views and phrases; attributes are those of `protocols.Scorer`.

    Attributes:
        networks: what must be on the device.
        quick_gelu: whether the towers use QuickGELU.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
        clean: str = "whitespace",
        length: int = LENGTH,
        strip_sep: bool = False,
        quick_gelu: bool = False,
        gate: float | None = None,
        rivals: Sequence[str] = (),
    ) -> None:
        """Take open_clip's model (`CLIP`, `CustomTextCLIP` or `CoCa`) and a tokenizer.

        Args:
            tokenizer: open_clip's `SimpleTokenizer`, or a transformers one.
            mean, std: of the views, three numbers each.
            clean, length, strip_sep: for a transformers tokenizer: how open_clip cleans texts for it, its tokens a text,
                and whether separators become padding.

        Raises:
            ModelError: views that are no squares.
        """
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.networks: tuple[nn.Module, ...] = (model,)
        size = model.visual.image_size
        sides = {int(size)} if isinstance(size, int) else {int(side) for side in size}
        if len(sides) != 1:
            raise ModelError(
                f"the image tower takes pictures of {tuple(size)} px, but a scorer needs squares; choose another model"
            )
        self.image_size = sides.pop()
        self.logit_scale = float(model.logit_scale.detach().float().exp())
        self.quick_gelu = quick_gelu
        self.gate, self.rivals = gate, tuple(rivals)
        self._mean, self._std = (torch.tensor(list(values)).view(3, 1, 1) for values in (mean, std))
        self._clean, self._length, self._strip_sep = clean, length, strip_sep

    @classmethod
    def from_folder(
        cls, folder: Path, *, gate: float | None = None, rivals: Sequence[str] = ()
    ) -> OpenClipScorer:
        """A folder as the Hub lays it out: open_clip_config.json beside the weights, and a tokenizer where it names one.

        Raises:
            ModelError: files that are missing or damaged, of another model or of two, or a package that is missing.
        """
        needs(PACKAGE, LEAST, NAME)
        config = _config_of(folder)
        network = config["model_cfg"]
        path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
        if path is None:
            raise ModelError(
                f"{folder} has no {WEIGHTS[0]}; copy the weights of the model's repository there"
            )
        if "openai" in folder.name.lower() and not _quick(network):
            warnings.warn(
                f"{folder / CONFIG} asks for GELU, but OpenAI's weights need QuickGELU; if these are OpenAI's, set "
                "quick_gelu to true there",
                InputWarning,
                stacklevel=2,
            )
        look = look_of(config.get("preprocess_cfg") or {}, folder / CONFIG, Look(CLIP_MEAN, CLIP_STD))
        return cls._loaded(network, path, folder, look, gate, rivals)

    @classmethod
    def from_checkpoint(
        cls,
        path: Path,
        name: str,
        *,
        tokenizer_folder: Path | None = None,
        quick_gelu: bool | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        gate: float | None = None,
        rivals: Sequence[str] = (),
    ) -> OpenClipScorer:
        """A single file of weights and the open_clip name of its model, such as ViT-B-16-quickgelu.

        Args:
            tokenizer_folder: for models that name a transformers tokenizer (SigLIP); the file's own folder if None.
            quick_gelu: overrides what the name says; None follows the name, and refuses a file whose own name is that of
                published weights which need the other curve.
            mean, std: None takes those of the published weights that the file is called after, or else the usual ones.

        Raises:
            ModelError: a name open_clip does not know, or a file that is missing, damaged, or of another model.
        """
        needs(PACKAGE, LEAST, NAME)
        import open_clip

        if name not in open_clip.list_models():  # a longer name could be an address to download from
            raise ModelError(
                f"open_clip knows no model {name!r}; choose one of open_clip.list_models(), such as ViT-B-16"
            )
        network = copy.deepcopy(open_clip.get_model_config(name))
        known = _published(name, path.stem)
        if quick_gelu is not None:
            network["quick_gelu"] = quick_gelu
        elif known is not None and bool(known.get("quick_gelu")) != _quick(network) and not _timm(network):
            curves = ("QuickGELU", "GELU") if known.get("quick_gelu") else ("GELU", "QuickGELU")
            plain = name.removesuffix("-quickgelu")
            other = f"{plain}-quickgelu" if known.get("quick_gelu") else plain
            raise ModelError(
                f"{path} is called after weights that were trained with {curves[0]}, but {name} has {curves[1]}; choose "
                f"{other}, or give quick_gelu if you know better"
            )
        about = known or _published(name, "") or {}
        usual = look_of(about, path, Look(CLIP_MEAN, CLIP_STD))
        look = look_of({"mean": mean, "std": std}, "what was given", usual)
        return cls._loaded(network, path, tokenizer_folder or path.parent, look, gate, rivals)

    @classmethod
    def _loaded(
        cls,
        network: dict[str, Any],
        path: Path,
        words: Path,
        look: Look,
        gate: float | None,
        rivals: Sequence[str],
    ) -> OpenClipScorer:
        with torch.inference_mode(False):
            model = _model(network, path)
        text = network["text_cfg"]
        length = int(text.get("context_length") or LENGTH)
        options = dict(text.get("tokenizer_kwargs") or {})
        clean = options.pop("clean", "")
        strip_sep = bool(options.pop("strip_sep_token", False))
        tokenizer: Any
        if text.get("hf_tokenizer_name"):
            if text.get("tokenizer_mode"):
                raise ModelError(
                    f"{path} is of a model with a tokenizer of its own kind ({text['tokenizer_mode']!r}), which cannot be "
                    "used here; choose another model"
                )
            from transformers import AutoTokenizer

            tokenizer = load_part(AutoTokenizer, words, NAME, **options)
            check_vocabulary(tokenizer, int(text.get("vocab_size", 49408)), words)
        else:
            from open_clip.tokenizer import SimpleTokenizer

            tokenizer = SimpleTokenizer(context_length=length, clean=clean or "lower", **options)
        return cls(
            model,
            tokenizer,
            mean=look.mean,
            std=look.std,
            clean=clean or "whitespace",
            length=length,
            strip_sep=strip_sep,
            quick_gelu=_quick(network),
            gate=gate,
            rivals=rivals,
        )

    def encode_images(self, views: Tensor, *, tell: Tell | None = None) -> Tensor:
        """Views [N,3,S,S] in 0..1 -> unit embeddings [N,D] float32 on the CPU, wherever the model is.

        Differentiable in the views where they want a gradient, also inside inference mode's tensors.

        Args:
            tell: called with the views done and all views after each chunk.
        """

        def run(some: Tensor) -> Tensor:
            with lent(self.model.visual) if some.requires_grad else nullcontext():
                seen = self.model.encode_image(self._pixels(some))
            return F.normalize(seen.float(), dim=-1).cpu()

        size = chunk_for(next(self.model.visual.parameters()).device, self._tokens())
        parts = in_chunks(run, views, size, name="views", tell=tell)
        return torch.cat(parts) if parts else self.encode_texts([""])[:0]

    @property
    def features(self) -> Callable[..., list[Tensor]]:
        """(views [N,3,S,S] in 0..1, depth in (0, 1]) -> patch tokens [N,P,D] after each of the first ceil(depth * L) layers.

        Differentiable too. Only plain vision transformers have it; others lack the attribute.
        """
        if type(self.model.visual).__name__ != "VisionTransformer":
            raise AttributeError(f"a {type(self.model.visual).__name__} shows no patch tokens of its layers")
        return self._features

    def _features(self, views: Tensor, depth: float = 1.0) -> list[Tensor]:
        tower = self.model.visual.transformer
        wanted = list(tower.resblocks[: math.ceil(depth * len(tower.resblocks))])
        with lent(self.model.visual) if views.requires_grad else nullcontext():
            found = outputs_of(wanted, lambda: self.model.encode_image(self._pixels(views)))
        if not getattr(tower, "batch_first", False):  # open_clip before 2.25 has tokens first
            found = [tokens.transpose(0, 1) for tokens in found]
        return [tokens[:, 1:].float() for tokens in found]

    def _tokens(self) -> int:
        """Tokens a view in the image tower; where it shows no patches, as many as a ViT-B/16 has."""
        patch = getattr(self.model.visual, "patch_size", None)
        patch = patch[0] if isinstance(patch, (tuple, list)) else patch
        return 197 if not patch else 1 + (self.image_size // int(patch)) ** 2

    def _pixels(self, views: Tensor) -> Tensor:
        """Views as the image tower takes them."""
        mean, std = (
            (normal(values) if views.requires_grad else values).to(views.device)
            for values in (self._mean, self._std)
        )
        return ((views.float() - mean) / std).to(next(self.model.visual.parameters()))

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """T phrases -> unit embeddings [T,D] float32 on the CPU; longer phrases than the tower holds are cut, with a warning."""
        ids = self._ids(list(texts) or [""])
        out = self.model.encode_text(ids.to(next(self.model.parameters()).device))
        return F.normalize(out.float(), dim=-1).cpu()[: len(texts)]

    def _ids(self, texts: list[str]) -> Tensor:
        """Tokens [T,L]."""
        simple = hasattr(self.tokenizer, "sot_token_id")
        if simple:
            counts = [2 + len(self.tokenizer.encode(text)) for text in texts]
        else:
            from open_clip.tokenizer import get_clean_fn

            clean = get_clean_fn(self._clean)
            cleaned = [clean(text) for text in texts]
            counts = [len(tokens) for tokens in self.tokenizer(cleaned).input_ids]
        for text, count in zip(texts, counts, strict=True):
            if count > self._length:
                warnings.warn(
                    f"{text!r} has {count} tokens and was cut to {self._length}; say it in fewer words",
                    InputWarning,
                    stacklevel=3,
                )
        if simple:
            found: Tensor = self.tokenizer(texts)
            return found
        ids: Tensor = self.tokenizer(
            cleaned, padding="max_length", max_length=self._length, truncation=True, return_tensors="pt"
        ).input_ids
        return torch.where(ids == self.tokenizer.sep_token_id, 0, ids) if self._strip_sep else ids

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """Words that turn into the tokenizer's unknown token; none where it has no such token or spells words out."""
        return unknown_words(self.tokenizer, text)


def _config_of(folder: Path) -> dict[str, Any]:
    """A folder's open_clip_config.json, with a `model_cfg` that has two towers."""
    config = config_of(folder, CONFIG)
    network = config.get("model_cfg")
    if not isinstance(network, dict) or not all(
        isinstance(network.get(tower), dict) for tower in ("vision_cfg", "text_cfg")
    ):
        raise ModelError(
            f"{folder / CONFIG} describes no model with an image and a text tower; copy the file there again"
        )
    return config


def _quick(network: dict[str, Any]) -> bool:
    return bool(network.get("quick_gelu"))


def _timm(network: dict[str, Any]) -> bool:
    return bool(network["vision_cfg"].get("timm_model_name"))


def _published(name: str, said: str) -> dict[str, Any] | None:
    """What open_clip knows of the published weights of model `name` whose tag or file `said` names.

    An empty `said` asks what all of them have in common; None where there is no answer.
    """
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    entries = {tag: get_pretrained_cfg(name, tag) for tag in list_pretrained_tags_by_model(name)}
    if not said:
        looks = {
            (tuple(e.get("mean") or CLIP_MEAN), tuple(e.get("std") or CLIP_STD)) for e in entries.values()
        }
        return dict(zip(("mean", "std"), looks.pop(), strict=True)) if len(looks) == 1 else None

    def plain(text: str) -> str:
        return text.lower().replace("-", "_")

    for tag, entry in sorted(entries.items(), key=lambda item: -len(item[0])):
        file = Path(str(entry.get("url") or "")).stem
        # OpenAI's own files are called after the model alone, which says nothing of who trained it.
        if plain(tag) in plain(said) or (file and plain(file) == plain(said) and plain(file) != plain(name)):
            return entry
    return None


def _model(network: dict[str, Any], path: Path) -> Any:
    """The model that a config describes, with the weights of a file, on the CPU in float32."""
    state = {name: value for name, value in state_of(path).items() if name not in NOT_WEIGHTS}
    _check_state(state, path)
    text = network["text_cfg"]
    if text.get("hf_model_name"):
        raise ModelError(
            f"{path} has the text tower {text['hf_model_name']!r}, which open_clip would have to download; choose a "
            "model with open_clip's own text tower"
        )
    try:
        # Weights drawn at random only to be overwritten must not move anyone's generator on.
        with torch.random.fork_rng(devices=[]):
            model = _built(network)
        if not hasattr(model, "positional_embedding"):
            from open_clip.model import convert_to_custom_text_state_dict

            if "positional_embedding" in state:
                state = convert_to_custom_text_state_dict(state)
        for scalar in ("logit_scale", "logit_bias"):
            if scalar in state and isinstance(getattr(model, scalar, None), Tensor):
                state[scalar] = state[scalar].reshape(getattr(model, scalar).shape)
        model.load_state_dict(state, strict=True)
    except (MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:
        raise ModelError(
            f"{path} does not fit the model that was named for it ({said(error)}); use the config and the weights of one "
            "repository"
        ) from error
    return model.float().eval().requires_grad_(False)


def _built(network: dict[str, Any]) -> Any:
    """open_clip's own choice of class (`create_model`), without its search for weights."""
    from open_clip.coca_model import CoCa
    from open_clip.model import CLIP, CustomTextCLIP

    config = copy.deepcopy(network)
    config["vision_cfg"]["timm_model_pretrained"] = False
    if not config.pop("custom_text", False):
        return CLIP(**config)
    return (CoCa if "multimodal_cfg" in config else CustomTextCLIP)(**config)


def _check_state(state: dict[str, Tensor], path: Path) -> None:
    """Raise ModelError where the last layers of the two towers give vectors of different lengths."""
    ends = {
        "text": (("text_projection", 1), ("text.text_projection", 1), ("text.text_projection.weight", 0)),
        "image": (("visual.proj", 1), ("visual.attnpool.c_proj.weight", 0), ("visual.head.proj.weight", 0)),
    }
    widths = [
        next((state[name].shape[axis] for name, axis in names if name in state), None)
        for names in ends.values()
    ]
    if widths[0] is not None and widths[1] is not None:
        check_widths(widths[0], widths[1], path)
