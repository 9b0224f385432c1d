"""The sockets that models fit into; nothing here knows a concrete model."""

from __future__ import annotations

from collections.abc import Sequence
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
