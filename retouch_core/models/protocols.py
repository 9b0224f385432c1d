"""The sockets that models fit into; nothing here knows a concrete model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Scorer(Protocol):
    """An image-text model with a shared embedding space (CLIP and its kin).

    Attributes:
        image_size: side S in pixels of the square views that `encode_images` takes.
        logit_scale: the model's own multiplier of cosines (already exponentiated).
        gate: calibrated presence threshold (methods.md 3.5), or None where nobody calibrated one.
        rivals: phrases that compete with a query in the presence gate.
    """

    image_size: int
    logit_scale: float
    gate: float | None
    rivals: tuple[str, ...]

    def encode_images(self, views: Tensor) -> Tensor:
        """Views [N,3,S,S] in 0..1 -> unit embeddings [N,D]; normalisation by mean and std happens inside."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """T phrases -> unit embeddings [T,D]."""
        ...

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """The words of `text` that the tokenizer cannot represent; empty for open vocabularies."""
        ...


@runtime_checkable
class Segmenter(Protocol):
    """Finds entities without naming them."""

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """IMAGE [1,H,W,3] -> raw proposals: masks bool [N,H,W], which may overlap, and scores [N] in 0..1."""
        ...


@runtime_checkable
class Referrer(Protocol):
    """Says of every pixel how probably a phrase means it (CLIPSeg and its kin; methods.md 5)."""

    def heat_maps(self, image: Tensor, phrases: Sequence[str]) -> Tensor:
        """IMAGE [1,H,W,3] in 0..1 and T phrases -> probabilities [T,H,W] in 0..1, at the size of the picture."""
        ...

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """The words of `text` that the tokenizer cannot represent; empty for open vocabularies."""
        ...


@dataclass(frozen=True)
class Instances:
    """What a detector found: probabilities float [N,H,W] in 0..1, boxes xyxy in pixels [N,4], scores [N] in 0..1."""

    masks: Tensor
    boxes: Tensor
    scores: Tensor


@runtime_checkable
class InstanceReferrer(Referrer, Protocol):
    """A referrer that tells the things apart that a phrase means (MDETR, Grounding DINO with SAM; methods.md 5.3)."""

    def instances(self, image: Tensor, phrase: str) -> Instances:
        """Everything in IMAGE [1,H,W,3] that the phrase may mean; N = 0 is legal."""
        ...


@runtime_checkable
class Editor(Protocol):
    """A text-conditioned latent denoiser with its autoencoder and text encoder.

    Attributes:
        cell: pixels per latent cell side; channels: latent channels; size: native picture side in pixels.
        scheduler: a diffusers scheduler that carries the noise schedule (`alphas_cumprod`, `timesteps`).
        inpaint: whether the denoiser takes the mask and the masked picture as input.
    """

    cell: int
    channels: int
    size: int
    scheduler: Any
    inpaint: bool

    def encode(self, image: Tensor) -> Tensor:
        """IMAGE [B,H,W,3] -> scaled latents [B,C,h,w]."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents [B,C,h,w] -> IMAGE [B,H,W,3] in 0..1."""
        ...

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """B prompts -> conditioning [B,T,D]; the empty prompt is legal."""
        ...

    def denoise(
        self,
        x: Tensor,
        sigma: Tensor,
        conditioning: Tensor,
        mask: Tensor | None = None,
        masked_latents: Tensor | None = None,
    ) -> Tensor:
        """The denoised estimate D of x = z0 + sigma * n; x [B,C,h,w], sigma [B], mask [B,1,h,w] (1 = edit)."""
        ...


@runtime_checkable
class Attention(Protocol):
    """What a self-supervised image transformer looks at (DINO, or CLIP's image tower in its place)."""

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """IMAGE [1,H,W,3] -> attention [h,w] of CLS to the patches, and normed patch features [D,h,w]."""
        ...


@runtime_checkable
class Perception(Protocol):
    """An image tower that lets gradients through and shows its tokens, which `Scorer` does not.

    Attributes:
        image_size: side S in pixels of the square views.
    """

    image_size: int

    def perceive(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Views [N,3,S,S] in 0..1 -> unit embeddings [N,D], and the tokens [N,T,C] before the last block."""
        ...
