"""Boxes of one picture repainted by the host's sampler, as the library's learnable regions ask for them."""

from __future__ import annotations

from typing import Any

import comfy.model_management
from torch import Tensor

from ..retouch_core.models.clip_attention import ClipTower, tower_of
from ..retouch_core.models.clip_scorer import ClipScorer
from ..retouch_core.regions.learnable.proposals import box_masks
from . import _host
from ._repaint import Widgets, paste, prepare, repaint


class BoxEditor:
    """(IMAGE [1,H,W,3], half-open pixel boxes [n,4]) -> IMAGE [n,H,W,3]: each box repainted with the same seed.

    The picture is encoded once; `notes` collects what the sampler had to say.
    """

    def __init__(
        self, model: Any, vae: Any, target: Any, empty: Any, widgets: Widgets, notes: list[str]
    ) -> None:
        self._model, self._vae, self._widgets, self._notes = model, vae, widgets, notes
        self._conds = [target, None, empty]
        self._latent: dict[str, Tensor] | None = None

    def __call__(self, image: Tensor, boxes: Tensor) -> Tensor:
        _host.check_cancelled()
        masks = box_masks(boxes, (image.shape[1], image.shape[2])).to(image)
        scene = prepare(image, masks, self._model, self._vae, self._latent, self._notes)
        self._latent = {"samples": scene.latents[:1]}
        done = repaint(scene, self._model, self._vae, self._conds, self._widgets, self._notes)
        made, _ = paste(scene, self._vae, done.samples, done.rows, done.size)
        return made


def tower_of_scorer(scorer: Any) -> ClipTower:
    """The image tower of a scorer on the wire, over the same memory.

    Raises:
        TypeError: a scorer without a CLIP image tower.
    """
    if isinstance(scorer, ClipScorer):
        return tower_of(scorer)
    if isinstance(getattr(scorer, "backend", None), ClipScorer):
        return tower_of(scorer.ready())
    vision: Any = getattr(scorer, "vision", None)
    config = getattr(vision, "config", None)
    if config is None or not hasattr(vision, "get_sd"):
        raise TypeError(
            f"scorer is a {type(scorer).__name__} without a CLIP image tower; connect Load Embedded Models, Scorer from CLIP, or Load Scorer with a CLIP"
        )
    comfy.model_management.load_model_gpu(scorer.patcher)
    # Where memory is short, or on a host that loads weights as they are used, some lie elsewhere.
    place = scorer.patcher.load_device
    return ClipTower(
        {name: value.to(place) for name, value in vision.get_sd().items()},
        heads=int(config["num_attention_heads"]),
        activation=str(config["hidden_act"]),
        mean=vision.image_mean,
        std=vision.image_std,
    )
