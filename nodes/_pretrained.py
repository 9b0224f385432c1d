"""Pretrained networks of the library inside patchers of the host, and where the host keeps their files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import comfy.model_management
import folder_paths
import torch
from comfy_api.latest import io
from torch import Tensor

from ..retouch_core.models.pretrained.catalogue import BACKENDS, FOLDERS
from ..retouch_core.models.pretrained.lookup import Folders, candidates
from ..retouch_core.models.pretrained.opening import PRECISIONS, open_model
from ..retouch_core.models.protocols import Instances
from . import _host
from ._patchers import load_for_gradients, whole_patcher

ANY = "auto"
"""The recommended one of the models that are there."""
DTYPES = (ANY, *PRECISIONS)


def register_folders() -> None:
    """Tell the host our folders of models; what the artist's own configuration says of them stays in front."""
    for folder in FOLDERS.values():
        folder_paths.add_model_folder_path(folder, os.path.join(folder_paths.models_dir, folder))


def folders() -> Folders:
    """The host's folders of models for every role."""
    register_folders()
    return {role: folder_paths.get_folder_paths(folder) for role, folder in FOLDERS.items()}


def model_input(role: str, backend: str) -> io.Combo.Input:
    """The list of what is on disk for a backend."""
    names = [one.name for one in candidates(role, backend, folders())]
    title = BACKENDS[backend].title
    cache = "torch's cache" if role == "perceptual" else "the Hugging Face cache"
    return io.Combo.Input(
        "model",
        options=[ANY, *names],
        default=ANY,
        tooltip=f"Which {title} on disk, in models/{FOLDERS[role]} or {cache}. auto: the recommended one of "
        "those that are there. python -m retouch_core models says what to put where.",
    )


def dtype_input() -> io.Combo.Input:
    """The precision of the weights."""
    return io.Combo.Input(
        "dtype",
        options=list(DTYPES),
        default=ANY,
        optional=True,
        advanced=True,
        tooltip="Precision of the weights. auto: what the host takes for models on this device.",
    )


def precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype for a value of `dtype_input`.

    Raises:
        ValueError: another name.
    """
    if name not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {name!r}; auto is usual")
    if name != ANY:
        return PRECISIONS[name]
    if comfy.model_management.is_device_cpu(device):
        return torch.float32
    if comfy.model_management.should_use_bf16(device):
        return torch.bfloat16
    return torch.float16 if comfy.model_management.should_use_fp16(device) else torch.float32


def opened(role: str, backend: str, model: str, dtype: str, **options: Any) -> Any:
    """A backend read from disk, wrapped for its role.

    Raises:
        ValueError, ModelError: one sentence that says what is missing or wrong, and what to do.
    """
    device = comfy.model_management.get_torch_device()
    name = "" if model == ANY else model
    made = open_model(role, backend, name, folders=folders(), dtype=precision(dtype, device), **options)
    if role == "segmenter":
        return HostedSegmenter(made)
    if role == "scorer":
        return HostedScorer(made)
    if role == "attention":
        return HostedAttention(made)
    return HostedInstances(made) if hasattr(made, "instances") else HostedReferrer(made)


class Held(torch.nn.Module):
    """A network in a module of ours: the host's patchers set attributes that networks of transformers do not allow."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network


class Hosted:
    """A backend whose networks the host loads, moves and unloads as it does its own.

    Its layers are not the host's, so each network is loaded whole, never in parts.

    Attributes:
        backend: of `models.pretrained`; patchers: one for each of its networks; patcher: the first.
    """

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.patchers = [whole_patcher(Held(network)) for network in backend.networks]
        self.patcher = self.patchers[0]

    def ready(self) -> Any:
        """The backend with its networks where they run."""
        comfy.model_management.load_models_gpu(self.patchers)
        return self.backend


class HostedSegmenter(Hosted):
    """A `models.protocols.Segmenter`."""

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = self.ready()(image, tell=_host.progress(1))
        return found


class HostedScorer(Hosted):
    """A `models.protocols.Scorer`, with the features that losses look at where the backend has them."""

    def __init__(self, backend: Any) -> None:
        super().__init__(backend)
        self.image_size: int = backend.image_size
        self.logit_scale: float = backend.logit_scale
        self.gate: float | None = backend.gate
        self.rivals: tuple[str, ...] = backend.rivals

    def _ready_for(self, views: Tensor) -> Any:
        if not views.requires_grad:
            return self.ready()
        load_for_gradients(self.patchers)
        return self.backend

    def encode_images(self, views: Tensor) -> Tensor:
        """Views [N,3,S,S] in 0..1 -> unit embeddings [N,D] float32 on the CPU."""
        embeddings: Tensor = self._ready_for(views).encode_images(views, tell=_stopping)
        return embeddings

    @property
    def features(self) -> Callable[..., list[Tensor]]:
        """Views [N,3,S,S] in 0..1 -> patch tokens [N,P,D] after each of the first layers.

        Raises:
            AttributeError: the backend has none; losses then take its embedding.
        """
        own = self.backend.features

        def features(views: Tensor, depth: float = 1.0) -> list[Tensor]:
            self._ready_for(views)
            tokens: list[Tensor] = own(views, depth)
            return tokens

        return features

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """T phrases -> unit embeddings [T,D]."""
        embeddings: Tensor = self.ready().encode_texts(texts)
        return embeddings

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """The words that the tokenizer cannot represent."""
        words: tuple[str, ...] = self.backend.unknown_words(text)
        return words


class HostedAttention(Hosted):
    """A `models.protocols.Attention`."""

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = self.ready()(image)
        return found


class HostedReferrer(Hosted):
    """A `models.protocols.Referrer`."""

    def heat_maps(self, image: Tensor, phrases: Sequence[str]) -> Tensor:
        """IMAGE [1,H,W,3] and T phrases -> probabilities [T,H,W]."""
        maps: Tensor = self.ready().heat_maps(image, phrases, tell=_host.progress(1))
        return maps

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """The words that the tokenizer cannot represent."""
        words: tuple[str, ...] = self.backend.unknown_words(text)
        return words


class HostedInstances(HostedReferrer):
    """A `models.protocols.InstanceReferrer`."""

    def instances(self, image: Tensor, phrase: str) -> Instances:
        """Everything in IMAGE [1,H,W,3] that the phrase may mean."""
        found: Instances = self.ready().instances(image, phrase, tell=_host.progress(1))
        return found


def _stopping(_: int, __: int) -> None:
    _host.check_cancelled()
