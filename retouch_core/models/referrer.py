"""The embedded referrer: maps of drawn scenes for a phrase, out of the bundle's folder `referrer/`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tensors.convert import to_bchw
from .embedded import FOLDER, WeightsError
from .referring_network import ReferringNetwork, Shape, make_network

PART = "referrer"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
CLIP = Path("clip") / "model.safetensors"
ADVICE = (
    "make them with python -m training.referrer, or restore retouch_core/models/embedded from the repository"
)

PHRASES = 16
"""Phrases that are answered at once."""


class Words(Protocol):
    """What a referrer needs of a `Scorer`: phrases in its embedding space."""

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """T phrases -> unit embeddings [T,D]."""
        ...

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """The words that the tokenizer cannot represent."""
        ...


class EmbeddedReferrer:
    """A `Referrer` over the embedded network; pictures are squashed to the side it looks at, as CLIPSeg squashes them.

    Phrases come from the scorer whose tower the network was trained on; no other scorer's embeddings fit.
    """

    def __init__(self, network: ReferringNetwork | Callable[[], ReferringNetwork], words: Words) -> None:
        """Take the network, or a function that gives it ready to run whenever it is needed."""
        self._network = network
        self.words = words

    def network(self) -> ReferringNetwork:
        """The network, loaded where it has to run."""
        found = self._network if isinstance(self._network, ReferringNetwork) else self._network()
        return found.eval()

    @torch.no_grad()
    def heat_maps(self, image: Tensor, phrases: Sequence[str]) -> Tensor:
        """IMAGE [1,H,W,3] in 0..1 and T phrases -> probabilities float32 [T,H,W] on the CPU; T = 0 is legal.

        Raises:
            WeightsError: the weights are missing, damaged or of another scorer.
        """
        network = self.network()
        height, width = image.shape[1:3]
        weight = next(network.decoder.parameters())
        side = (network.side, network.side)
        pixels = to_bchw(image.float())
        if (height, width) != side:
            pixels = F.interpolate(pixels, size=side, mode="bilinear", antialias=True).clamp(0, 1)
        maps = []
        for start in range(0, len(phrases), PHRASES):
            told = self.words.encode_texts(list(phrases[start : start + PHRASES]))
            logits = network(pixels.to(weight), told.to(weight)).float()
            maps.append(F.interpolate(torch.sigmoid(logits)[None], (height, width), mode="bilinear")[0].cpu())
        return torch.cat(maps) if maps else torch.zeros(0, height, width)

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """Words of a phrase that the scorer's tokenizer does not know."""
        return self.words.unknown_words(text)


def clip_digest(folder: Path) -> str:
    """SHA-256 of the scorer's weights in a bundle, by which a referrer knows the tower it was trained on."""
    return hashlib.sha256((folder / CLIP).read_bytes()).hexdigest()


def save_network(network: ReferringNetwork, folder: Path) -> None:
    """Write the decoder in float16 and the shape into `folder / "referrer"`; the tower stays in `folder / "clip"`."""
    from safetensors.torch import save_file

    place = folder / PART
    place.mkdir(parents=True, exist_ok=True)
    state = {name: value.half().cpu().contiguous() for name, value in network.decoder.state_dict().items()}
    save_file(state, place / WEIGHTS)
    config = {"shape": network.shape.as_json(), "clip_sha256": clip_digest(folder)}
    (place / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def load_network(folder: Path = FOLDER) -> ReferringNetwork:
    """The trained network in float32, on the CPU, in eval mode.

    Raises:
        WeightsError: weights missing, damaged, or trained on another scorer than the bundle's.
    """
    from safetensors.torch import load_file

    place = folder / PART
    for path in (place / CONFIG, place / WEIGHTS, folder / CLIP):
        if not path.is_file():
            raise WeightsError(f"the embedded referrer's weights are missing: there is no {path}; {ADVICE}")
    try:
        config: dict[str, Any] = json.loads((place / CONFIG).read_text(encoding="utf-8"))
        trained_on = str(config["clip_sha256"])
        state = {name: value.float() for name, value in load_file(place / WEIGHTS).items()}
        network = make_network(Shape(**config["shape"]), load_file(folder / CLIP))
        network.decoder.load_state_dict(state)
    except Exception as error:  # whatever a library makes of a broken file becomes one sentence
        reason = " ".join(str(error).split()) or type(error).__name__
        raise WeightsError(
            f"the embedded referrer's weights are damaged: {place} cannot be read ({reason[:120]}); {ADVICE}"
        ) from error
    if trained_on != clip_digest(folder):
        raise WeightsError(
            f"the embedded referrer's weights in {place} belong to another scorer than {folder / CLIP}; {ADVICE}"
        )
    return network.eval().requires_grad_(False)


def load_referrer(words: Words, folder: Path = FOLDER) -> EmbeddedReferrer:
    """The embedded referrer over the embedded scorer; raises as `load_network`."""
    return EmbeddedReferrer(load_network(folder), words)
