"""DINO and DINOv2 out of a folder (Caron et al. 2021; Oquab et al. 2023; facebook/dino-vitb8, facebook/dinov2-base)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...tensors.normalisation import IMAGENET_MEAN, IMAGENET_STD
from ..dino_attention import DinoAttention
from .loading import ModelError, check_kind, config_of, load_model, needs
from .pictures import image_settings, look_of

NAME = "DINO"
PLAIN, SECOND, REGISTERS = "vit", "dinov2", "dinov2_with_registers"
CLASSES = {PLAIN: "ViTModel", SECOND: "Dinov2Model", REGISTERS: "Dinov2WithRegistersModel"}
GRID = 32
"""Patches a side: what the official code has with a ViT-B/8 at 256 px (methods.md 7.1)."""


class PretrainedDino(DinoAttention):
    """`DinoAttention` over a published backbone.

    Attributes:
        networks: what must be on the device.
    """

    def __init__(
        self,
        model: Any,
        side: int | None = None,
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        """Take a model; `side` None means 32 patches: 256 px for a patch of 8, 448 for DINOv2's 14.

        Raises:
            ValueError: as `DinoAttention` has them.
        """
        super().__init__(
            model, GRID * int(model.config.patch_size) if side is None else side, mean=mean, std=std
        )
        self.networks: tuple[torch.nn.Module, ...] = (model,)

    @classmethod
    def from_folder(cls, folder: Path, *, side: int | None = None) -> PretrainedDino:
        """The model and normalisation of a folder as the Hub lays it out; nothing is downloaded.

        Raises:
            ModelError: files that are missing or damaged, or of another model.
            ValueError: a side that does not fit the patches.
        """
        kind = check_kind(folder, tuple(CLASSES), NAME)
        options: dict[str, Any] = {"attn_implementation": "eager"}
        if kind == REGISTERS:
            needs("transformers", "4.48", "DINOv2 with registers")
        if kind == PLAIN:
            options["add_pooling_layer"] = False  # DINO has none
            for name in config_of(folder).get("architectures") or ():
                # A classifier's backbone loads just as well, but has learnt to look at its classes.
                if name != CLASSES[PLAIN]:
                    raise ModelError(
                        f"{folder} holds a {name}, but {NAME} needs a backbone without a head ({CLASSES[PLAIN]}); choose a "
                        "folder such as facebook/dino-vitb8"
                    )
        import transformers

        model = load_model(getattr(transformers, CLASSES[kind]), folder, (kind,), NAME, **options)
        look = look_of(image_settings(folder), folder)
        return cls(model, side, mean=look.mean, std=look.std)
