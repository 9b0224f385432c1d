"""The models that ship with the library: small, real, and read only from disk.

They know drawn scenes (16 kinds of thing in 8 colours, 128 px); `retouch_core/models/embedded/README.md` has the
measured table. Real photographs want real checkpoints.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .clip_scorer import ClipScorer
from .diffusers_editor import DiffusersEditor
from .protocols import Referrer, Segmenter
from .quiet import quiet_loading

FOLDER = Path(__file__).resolve().parent / "embedded"
MANIFEST = "manifest.json"
SCORER_NOTES = "scorer.json"
DENOISERS = {"inpaint": "unet_inpaint", "blended": "unet_blended"}
"""Denoisers of the bundle -> their folders: 9 channels with mask and masked picture, and 4 channels."""
PARTS = ("vae", "clip", *DENOISERS.values(), "scheduler", SCORER_NOTES)


class WeightsError(ValueError):
    """The embedded weights are missing or damaged."""


@dataclass(frozen=True)
class Embedded:
    """The three roles that the main job needs, and two that not every bundle has.

    `plain` is the editor for blended sampling, which sees no mask; `referrer` finds without a segmenter.
    """

    segmenter: Segmenter
    scorer: ClipScorer
    editor: DiffusersEditor
    plain: DiffusersEditor
    referrer: Referrer | None = None


def check_bundle(folder: Path = FOLDER) -> None:
    """Raise WeightsError unless every file that the manifest lists is there and unchanged."""
    advice = (
        "restore retouch_core/models/embedded from the repository, or make the models anew with make train"
    )
    manifest = folder / MANIFEST
    try:
        listed: dict[str, dict[str, Any]] = json.loads(manifest.read_text(encoding="utf-8"))
        wanted = {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in listed.items()}
    except FileNotFoundError:
        raise WeightsError(f"the embedded weights are missing: there is no {manifest}; {advice}") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(
            f"the embedded weights are damaged: {manifest} cannot be read ({error}); {advice}"
        ) from error
    for part in PARTS:
        if not any(name.split("/")[0] == part for name in wanted):
            raise WeightsError(
                f"the embedded weights are missing: {manifest} lists nothing for {part}; {advice}"
            )
    for name, (size, digest) in wanted.items():
        path = folder / name
        if not path.is_file():
            raise WeightsError(f"the embedded weights are missing: there is no {path}; {advice}")
        content = path.read_bytes()
        if len(content) != size or hashlib.sha256(content).hexdigest() != digest:
            raise WeightsError(
                f"the embedded weights are damaged: {path} has {len(content)} bytes where {size} with another checksum "
                f"are expected; {advice}"
            )


def load_text_parts(folder: Path = FOLDER) -> tuple[Any, Any]:
    """The scorer's `CLIPModel` in float32 and its tokenizer."""
    from transformers import CLIPModel, PreTrainedTokenizerFast

    model = CLIPModel.from_pretrained(
        folder / "clip", local_files_only=True, use_safetensors=True, torch_dtype="auto"
    )
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "clip", local_files_only=True)
    return model.float(), tokenizer


def load_scorer(folder: Path = FOLDER, parts: tuple[Any, Any] | None = None) -> ClipScorer:
    """The embedded scorer with its calibrated presence gate."""
    model, tokenizer = parts or load_text_parts(folder)
    notes = json.loads((folder / SCORER_NOTES).read_text(encoding="utf-8"))
    processor = json.loads((folder / "clip" / "preprocessor_config.json").read_text(encoding="utf-8"))
    return ClipScorer(
        model,
        tokenizer,
        mean=processor["image_mean"],
        std=processor["image_std"],
        gate=notes["gate"],
        rivals=notes["rivals"],
    )


def load_editor(
    folder: Path = FOLDER, parts: tuple[Any, Any] | None = None, denoiser: str = "inpaint"
) -> DiffusersEditor:
    """An embedded editor: autoencoder, frozen text tower of the scorer, and the denoiser of that name (`DENOISERS`)."""
    from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel

    model, tokenizer = parts or load_text_parts(folder)
    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "low_cpu_mem_usage": False}
    vae = AutoencoderTiny.from_pretrained(folder / "vae", **options).float()
    unet = UNet2DConditionModel.from_pretrained(folder / DENOISERS[denoiser], **options).float()
    scheduler = DDIMScheduler.from_pretrained(folder / "scheduler", local_files_only=True)
    return DiffusersEditor(vae, model.text_model, tokenizer, unet, scheduler)


def load_embedded(folder: Path = FOLDER, *, device: torch.device | str | None = None) -> Embedded:
    """All three roles, checked against the manifest; networks in float32.

    Raises:
        WeightsError: files missing or damaged.
    """
    from .graph_segmenter import GraphSegmenter
    from .referrer import PART, EmbeddedReferrer, load_network

    check_bundle(folder)
    with quiet_loading():
        parts = load_text_parts(folder)
        scorer, editor = load_scorer(folder, parts), load_editor(folder, parts)
        plain = load_editor(folder, parts, "blended")
    network = load_network(folder) if (folder / PART).is_dir() else None
    if device is not None:
        parts[0].to(device)
        if network is not None:
            network.to(device)
        editor.to(device)
        plain.to(device)
    referrer = EmbeddedReferrer(network, scorer) if network is not None else None
    return Embedded(GraphSegmenter(), scorer, editor, plain, referrer)
