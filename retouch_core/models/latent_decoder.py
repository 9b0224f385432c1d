"""The decoding half of a diffusers autoencoder as one module, for work that needs its gradients or its weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..tensors.convert import to_bhwc


class LatentDecoder(nn.Module):
    """Scaled latents [B,C,h,w] -> IMAGE [B,H,W,3], not clamped, so that gradients reach every pixel.

    Holds the autoencoder's own decoder, not a copy; AutoencoderKL and AutoencoderTiny fit.
    """

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.decoder = vae.decoder
        self.post_quant_conv = getattr(vae, "post_quant_conv", None)
        self.scale = float(getattr(vae.config, "scaling_factor", None) or 1.0)
        self.shift = float(getattr(vae.config, "shift_factor", None) or 0.0)

    def forward(self, latents: Tensor) -> Tensor:
        weight = next(self.decoder.parameters())
        raw = (latents / self.scale + self.shift).to(weight)
        if self.post_quant_conv is not None:
            raw = self.post_quant_conv(raw)
        return to_bhwc((self.decoder(raw) + 1) / 2)
