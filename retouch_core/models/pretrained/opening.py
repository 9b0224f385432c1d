"""A backend by its name: looked up, read from disk, and brought to a precision, on the CPU."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import torch

from ..quiet import quiet_loading
from .catalogue import BACKENDS
from .loading import ModelError
from .lookup import Folders, candidates, check_backend, find
from .referrers.detector_referrer import DetectorReferrer

CLASSES = {
    "eomt": "segmenters.eomt.EomtSegmenter",
    "sam2": "segmenters.sam2.Sam2Segmenter",
    "segformer": "segmenters.segformer.SegformerSegmenter",
    "sam": "segmenters.sam.SamSegmenter",
    "mask2former": "segmenters.mask2former.Mask2FormerSegmenter",
    "oneformer": "segmenters.oneformer.OneFormerSegmenter",
    "open_clip": "scorers.open_clip_scorer.OpenClipScorer",
    "clip": "scorers.clip.PretrainedClipScorer",
    "siglip": "scorers.siglip.SiglipScorer",
    "clipseg": "referrers.clipseg.ClipSegReferrer",
    "grounding_dino": "referrers.grounding_dino.GroundingDinoDetector",
    "owlv2": "referrers.owlv2.Owlv2Detector",
    "florence2": "referrers.florence2.Florence2Referrer",
    "sam3": "referrers.sam3.Sam3Referrer",
    "dino": "dino.PretrainedDino",
    "dinov2": "dino.PretrainedDino",
    "taesd": "tiny_decoder.TinyDecoder",
}
"""Backend -> folder, file and class below this one."""
DETECTORS = ("grounding_dino", "owlv2")
"""Referrers that give boxes, for which a segmenter makes masks."""
BOX_MASKS = ("sam2", "sam")
"""Backends that do, the preferred one first."""
PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def class_of(backend: str) -> Any:
    """The class of a backend.

    Raises:
        ValueError: there is none of that name here.
    """
    if backend not in CLASSES:
        raise ValueError(f"there is no backend {backend!r}; choose one of {', '.join(CLASSES)}")
    module, name = CLASSES[backend].rsplit(".", 1)
    return getattr(importlib.import_module(f".{module}", __package__), name)


def open_model(
    role: str,
    backend: str,
    name: str = "",
    *,
    path: str | os.PathLike[str] | None = None,
    masks: str = "",
    folders: Folders | None = None,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> Any:
    """A segmenter, scorer, referrer, attention or tiny decoder out of the files on this machine; never the network.

    Editors come from `editors.load.load_editor`, LPIPS from `metrics.feature_distance`.

    Args:
        role: what it is for; backend: a key of `CLASSES` for that role.
        name: which model (`lookup.find`); empty takes the recommended one of those there are.
        path: its folder or file instead.
        masks: for detectors, the SAM or SAM 2 that turns boxes into masks; empty takes one that is there.
        folders: a host's own folders of models (`lookup.Folders`).
        dtype: of the weights.
        options: further arguments of the backend's `from_folder`.

    Raises:
        ValueError: no such role or backend, or an option out of its range.
        ModelError: files that are missing, damaged, or of another model.
    """
    check_backend(role, backend)
    made = class_of(backend).from_folder(find(role, backend, name, path=path, folders=folders), **options)
    if backend in DETECTORS:
        from .referrers.box_masks import BoxSegmenter

        made = DetectorReferrer(made, BoxSegmenter.from_folder(_mask_maker(masks, folders)))
    with quiet_loading():  # diffusers warns that half precision may be less exact
        for network in made.networks:
            network.to(dtype)
    return made


def _mask_maker(name: str, folders: Folders | None) -> Path:
    """The folder of a SAM 2 or SAM."""
    if os.path.isdir(name):
        return Path(name)
    error: ModelError | None = None
    for backend in BOX_MASKS:
        try:
            return find("segmenter", backend, name, folders=folders)
        except ModelError as failed:
            error = error or failed
    assert error is not None
    raise ModelError(f"boxes become masks by SAM 2 or SAM, but {error}") from error


def mask_makers(folders: Folders | None = None) -> list[str]:
    """Names of the models that can turn boxes into masks, SAM 2 first."""
    found = [one.name for backend in BOX_MASKS for one in candidates("segmenter", backend, folders)]
    return list(dict.fromkeys(found))


def backends_of(role: str) -> list[str]:
    """Names of the backends for a role that can be opened here, the recommended ones first."""
    return [way.name for way in BACKENDS.values() if way.role == role and way.name in CLASSES]
