"""Small autoencoders that see a diffusion model's latents: TAESD and its kin (madebyollin/taesd, taesdxl, taesd3, taef1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..differentiable import lent
from ..half_decoder import half_decoder_of
from ..quiet import quiet_loading
from .files import ModelError, config_of, said
from .states import state_of

NAME = "AutoencoderTiny"
WEIGHTS = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
)
CLAMP = 1
"""TAESD's own decoder counts the clamp before its layers as the first of them; diffusers' does not."""


class TinyDecoder:
    """Decodes for guidance, under an editor's own names for it: `decode_pixels`, `half_decoder`.

    Attributes:
        vae: diffusers' `AutoencoderTiny`; without an encoder where none was given.
        channels: of the latents.
        networks: what must be on the device.
    """

    def __init__(self, vae: Any) -> None:
        """Take an `AutoencoderTiny`.

        Raises:
            TypeError: another autoencoder.
        """
        if type(vae).__name__ != NAME:
            raise TypeError(f"vae must be an {NAME}, got {type(vae).__name__}; load TAESD or its kin")
        self.vae = vae.eval().requires_grad_(False)
        self.channels = int(vae.config.latent_channels)
        self.networks: tuple[nn.Module, ...] = (vae,)
        self._scale = float(vae.config.scaling_factor or 1.0)
        self._shift = float(getattr(vae.config, "shift_factor", None) or 0.0)

    @classmethod
    def from_folder(cls, folder: Path) -> TinyDecoder:
        """A folder as diffusers lays it out; nothing is downloaded.

        Raises:
            ModelError: files that are missing or damaged, or of another model.
        """
        from diffusers import AutoencoderTiny

        config = config_of(folder)
        kind = config.get("_class_name")
        if kind != NAME:
            raise ModelError(
                f"{folder} holds {f'a model of class {kind}' if kind else 'no diffusers model'}, but a small decoder needs "
                f"{NAME}; choose a folder such as madebyollin/taesd"
            )
        path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
        if path is None:
            raise ModelError(
                f"{folder} has no {WEIGHTS[0]}; copy the weights of the model's repository there"
            )
        try:
            vae = _unmoved(lambda: AutoencoderTiny.from_config(config))
        except Exception as error:
            raise ModelError(
                f"{folder} describes no {NAME} ({said(error)}); copy its config.json there again"
            ) from error
        _fill(vae, state_of(path), path)
        return cls(vae)

    @classmethod
    def from_files(cls, decoder: Path, encoder: Path | None = None) -> TinyDecoder:
        """TAESD's own files, such as taesd_decoder.pth (or .safetensors) and taesd_encoder.pth beside it.

        Args:
            encoder: None leaves it out; only `vae.encode` needs it.

        Raises:
            ModelError: files that are missing or damaged, swapped, or of another model or of two.
        """
        from diffusers import AutoencoderTiny

        stored = state_of(decoder)
        first = stored.get(f"{CLAMP}.weight")
        if first is None or first.ndim != 4 or "0.weight" in stored:
            swapped = "an encoder" if "0.weight" in stored else "no TAESD decoder"
            raise ModelError(
                f"{decoder} is {swapped}; give the file called decoder, such as taesd_decoder.pth"
            )
        channels = first.shape[1]
        named = _renamed(stored, "decoder", CLAMP, decoder)
        if encoder is not None:
            stored = state_of(encoder)
            if "0.weight" not in stored:
                raise ModelError(
                    f"{encoder} is no TAESD encoder; give the file called encoder, such as taesd_encoder.pth"
                )
            ends = _renamed(stored, "encoder", 0, encoder)
            last = max(int(name.partition(".")[0]) for name in stored)
            given = stored[f"{last}.weight"].shape[0] if f"{last}.weight" in stored else 0
            if given != channels:
                raise ModelError(
                    f"{encoder} makes latents of {given} channels but {decoder} takes {channels}; give a pair of one model"
                )
            named |= ends
        vae = _unmoved(lambda: AutoencoderTiny(latent_channels=channels))
        if encoder is None:
            vae.encoder = None
        _fill(vae, named, decoder)
        return cls(vae)

    def decode_pixels(self, latents: Tensor) -> Tensor:
        """Scaled latents [B,C,h,w] -> pixels [B,3,H,W] float32 in about -1..1, not clamped, differentiable in the latents.

        The result lies where the network does.
        """
        with lent(self.vae.decoder):
            raw = (latents / self._scale + self._shift).to(next(self.vae.decoder.parameters()))
            pixels: Tensor = self.vae.decoder(raw)
        return pixels.float()

    def half_decoder(self) -> Callable[[Tensor], Tensor]:
        """`decode_pixels` at half the picture's side, for less than half of the work."""
        half, moved = half_decoder_of(self.vae, self._scale), self._shift * self._scale
        return (lambda latents: half(latents + moved)) if moved else half


def _renamed(stored: Mapping[str, Tensor], part: str, shift: int, path: Path) -> dict[str, Tensor]:
    """TAESD's names (layer.what) in diffusers' words."""
    named = {}
    for name, value in stored.items():
        layer, _, what = name.partition(".")
        if not layer.isdigit():
            raise ModelError(f"{path} holds {name}, which is no layer of TAESD; give TAESD's own {part} file")
        named[f"{part}.layers.{int(layer) - shift}.{what}"] = value
    return named


def _unmoved(make: Callable[[], Any]) -> Any:
    """What `make` makes, outside inference mode, without moving anyone's random generator on."""
    with quiet_loading(), torch.inference_mode(False), torch.random.fork_rng(devices=[]):
        return make()


def _fill(vae: Any, state: Mapping[str, Tensor], path: Path) -> None:
    try:
        with torch.inference_mode(False):
            vae.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        raise ModelError(
            f"{path} does not fit an {NAME} ({said(error)}); give the files of one model"
        ) from error
