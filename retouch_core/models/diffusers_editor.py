"""Any text-to-image or inpainting model that diffusers can hold, behind the `Editor` protocol."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..tensors.checks import InputWarning
from ..tensors.convert import from_diffusion, to_diffusion
from .differentiable import lent
from .half_decoder import half_decoder_of
from .noise import nearest_timestep, per_sample, training_sigmas

PREDICTIONS = ("epsilon", "v_prediction", "sample")
MASK_CHANNELS = 1
FILLS = ("masked", "unmasked")
GREY = 0.5
"""Colour of what an inpainting model must not see: 0 in -1..1, as StableDiffusionInpaintPipeline fills it."""

NETWORK_CLASSES = {"vae": ("AutoencoderKL", "AutoencoderTiny"), "unet": ("UNet2DConditionModel",)}
"""diffusers classes that a folder may name; anything else is refused before it is looked up."""
PART_CONFIGS = {
    "vae": "config.json",
    "text_encoder": "config.json",
    "tokenizer": "tokenizer_config.json",
    "unet": "config.json",
    "scheduler": "scheduler_config.json",
}
"""The file by which each part of a diffusers folder is known."""


class DiffusersEditor:
    """A latent diffusion model out of its diffusers parts.

    Attributes:
        cell: pixels per latent cell side.
        channels: latent channels C.
        size: native picture side in pixels.
        inpaint: whether the network takes 2 C + 1 channels: noisy latents, mask, latents of the masked picture.
        scheduler: the scheduler it was given; never changed.
        prediction: what the network predicts, one of `PREDICTIONS`.
    """

    def __init__(
        self,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        unet: Any,
        scheduler: Any,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        """Take the parts of a diffusers folder.

        Args:
            vae: AutoencoderKL or AutoencoderTiny.
            text_encoder: CLIPTextModel; its last hidden state is the conditioning.
            tokenizer: the tokenizer that belongs to it.
            unet: UNet2DConditionModel with C or 2 C + 1 input channels.
            scheduler: one with `alphas_cumprod` and a `prediction_type`.
            device: where the networks go; None leaves them where they are.

        Raises:
            TypeError: a scheduler without `alphas_cumprod`.
            ValueError: channel counts that fit neither layout, or an unknown prediction type.
        """
        self.vae, self.text_encoder, self.tokenizer, self.unet = vae, text_encoder, tokenizer, unet
        self.scheduler = scheduler
        self._levels = training_sigmas(scheduler)
        for network in (vae, text_encoder, unet):
            network.eval().requires_grad_(False)
            if device is not None:
                network.to(device)
        self.channels = int(vae.config.latent_channels)
        blocks = getattr(vae.config, "block_out_channels", None) or vae.config.decoder_block_out_channels
        self.cell = int(2 ** (len(blocks) - 1))
        taken, plain, inpaint = unet.config.in_channels, self.channels, 2 * self.channels + MASK_CHANNELS
        if taken not in (plain, inpaint):
            raise ValueError(
                f"unet takes {taken} channels, but {self.channels}-channel latents need {plain}, or {inpaint} for "
                "inpainting; use the unet and the vae of one model"
            )
        self.inpaint = taken == inpaint
        width, wanted = int(text_encoder.config.hidden_size), unet.config.cross_attention_dim
        if width != wanted:
            raise ValueError(
                f"text_encoder gives {width} numbers a token, but unet takes {wanted}; use the parts of one model "
                "(models with two text encoders, such as SDXL, are not supported)"
            )
        side = unet.config.sample_size
        if side is None:
            raise ValueError(
                "unet has no sample_size in its config, so its native size is unknown; set it there"
            )
        self.size = int(side if isinstance(side, int) else max(side)) * self.cell
        self.prediction = str(scheduler.config.prediction_type)
        if self.prediction not in PREDICTIONS:
            raise ValueError(
                f"prediction_type must be one of {', '.join(PREDICTIONS)}, got {self.prediction!r}; "
                "use the scheduler that came with the model"
            )
        self._scale = float(getattr(vae.config, "scaling_factor", None) or 1.0)
        self._shift = float(getattr(vae.config, "shift_factor", None) or 0.0)

    @classmethod
    def from_folder(cls, folder: str | Path, *, device: torch.device | str | None = None) -> DiffusersEditor:
        """Read a diffusers folder (vae, text_encoder, tokenizer, unet, scheduler); safetensors only, never the network.

        Raises:
            FileNotFoundError: the folder or one of its parts is missing.
            ValueError: a part of a class that does not fit, or a file that cannot be read.
        """
        folder = Path(folder)
        absent = [name for name, file in PART_CONFIGS.items() if not (folder / name / file).is_file()]
        if absent:
            raise FileNotFoundError(
                f"{folder} lacks {', '.join(f'{name}/{PART_CONFIGS[name]}' for name in absent)}; "
                "give a model folder as diffusers saves it"
            )
        import diffusers
        import transformers

        parts: dict[str, Any] = {}
        for name, file in PART_CONFIGS.items():
            path = folder / name
            try:
                config = json.loads((path / file).read_text(encoding="utf-8"))
                if name == "tokenizer":
                    parts[name] = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
                elif name == "text_encoder":
                    parts[name] = transformers.CLIPTextModel.from_pretrained(
                        path, local_files_only=True, use_safetensors=True
                    )
                elif name == "scheduler":
                    parts[name] = getattr(diffusers, config["_class_name"]).from_pretrained(
                        path, local_files_only=True
                    )
                else:
                    made = config.get("_class_name")
                    if made not in NETWORK_CLASSES[name]:
                        raise ValueError(f"class {made!r} is none of {', '.join(NETWORK_CLASSES[name])}")
                    parts[name] = getattr(diffusers, made).from_pretrained(
                        path, local_files_only=True, use_safetensors=True
                    )
            except Exception as error:  # whatever a library makes of a broken file becomes one sentence
                reason = " ".join(str(error).split()) or type(error).__name__
                raise ValueError(
                    f"{path} cannot be read ({reason[:200]}); copy the model there again"
                ) from error
        return cls(**parts, device=device)

    @property
    def device(self) -> torch.device:
        """Where the denoiser lives."""
        return next(self.unet.parameters()).device

    def to(self, device: torch.device | str) -> DiffusersEditor:
        """Move all three networks; returns itself."""
        for network in (self.vae, self.text_encoder, self.unet):
            network.to(device)
        return self

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """IMAGE [B,H,W,3] -> scaled latents [B,C,H/cell,W/cell], the mode of the distribution where there is one.

        Raises:
            ValueError: sides that `cell` does not divide.
        """
        height, width = image.shape[1:3]
        if height % self.cell or width % self.cell:
            raise ValueError(
                f"image is {width}x{height} px, but both sides must be multiples of {self.cell}; pad the picture first"
            )
        weight = next(self.vae.parameters())
        out = self.vae.encode(to_diffusion(image).to(weight))
        latents = out.latent_dist.mode() if hasattr(out, "latent_dist") else out.latents
        return (latents.float() - self._shift) * self._scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents [B,C,h,w] -> IMAGE [B,H,W,3] float32, clamped to 0..1."""
        weight = next(self.vae.parameters())
        return from_diffusion(self.vae.decode((latents / self._scale + self._shift).to(weight)).sample)

    def decode_pixels(self, latents: Tensor) -> Tensor:
        """Scaled latents [B,C,h,w] -> pixels [B,3,H,W] float32 around -1..1, not clamped and differentiable."""
        with lent(self.vae) if latents.requires_grad else nullcontext():
            weight = next(self.vae.parameters())
            return self.vae.decode((latents / self._scale + self._shift).to(weight)).sample.float()

    def half_decoder(self) -> Callable[[Tensor], Tensor]:
        """`decode_pixels` at half the picture's side, for less than half of the work; AutoencoderTiny only."""
        return half_decoder_of(self.vae, self._scale)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """B prompts -> last hidden states [B,T,D], every prompt padded to the text encoder's T tokens.

        A prompt that is longer is cut, with a warning.
        """
        prompts = list(prompts)
        length = min(
            int(self.tokenizer.model_max_length), int(self.text_encoder.config.max_position_embeddings)
        )
        tokens = self.tokenizer(
            prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        whole = self.tokenizer(prompts, padding=False, truncation=False).input_ids
        for prompt, ids in zip(prompts, whole, strict=True):
            if len(ids) > length:
                warnings.warn(
                    f"prompt {prompt!r} has {len(ids)} tokens and was cut to {length}; say it in fewer words",
                    InputWarning,
                    stacklevel=2,
                )
        device = next(self.text_encoder.parameters()).device
        takes_mask = getattr(self.text_encoder.config, "use_attention_mask", False)
        attention = tokens.attention_mask.to(device) if takes_mask else None
        out = self.text_encoder(tokens.input_ids.to(device), attention_mask=attention)
        return out.last_hidden_state.float()

    def masked_latents(self, image: Tensor, mask: Tensor, *, fill: str = "masked") -> Tensor:
        """What an inpainting network sees of the picture, scaled latents [B,C,h,w].

        Args:
            image: IMAGE [B,H,W,3].
            mask: MASK [B,H,W] or [1,H,W]; pixels of at least 0.5 are hidden.
            fill: `masked` paints the hidden pixels grey, as the models were trained; `unmasked` shows everything
                (methods.md 9.3).

        Raises:
            ValueError: an unknown `fill`.
        """
        if fill not in FILLS:
            raise ValueError(f"fill must be 'masked' or 'unmasked', got {fill!r}; masked is usual")
        if fill == "masked":
            hidden = (mask >= 0.5)[..., None].to(image.device)
            image = torch.where(hidden, torch.full_like(image, GREY), image)
        return self.encode(image)

    def denoise(
        self,
        x: Tensor,
        sigma: Tensor,
        conditioning: Tensor,
        mask: Tensor | None = None,
        masked_latents: Tensor | None = None,
    ) -> Tensor:
        """The denoised estimate D [B,C,h,w] of x = z0 + sigma * n, in the dtype of x; differentiable in x.

        Args:
            x: [B,C,h,w].
            sigma: [B], above 0; the network is asked at the training timestep with the nearest log sigma.
            conditioning: [B,T,D] or [1,T,D].
            mask: [B,1,h,w] or [1,1,h,w], 1 = edit; inpainting networks only.
            masked_latents: [B,C,h,w] or [1,C,h,w]; inpainting networks only.

        Raises:
            ValueError: an inpainting network without mask or masked latents, or a plain one with them.
        """
        given = mask is not None and masked_latents is not None
        if given != self.inpaint or (mask is None) != (masked_latents is None):
            takes = (
                "needs mask and masked_latents" if self.inpaint else "takes neither mask nor masked_latents"
            )
            raise ValueError(
                f"this denoiser of {self.unet.config.in_channels} channels {takes}; see editor.inpaint"
            )
        rows = len(x)
        weight = next(self.unet.parameters())
        level = per_sample(sigma.to(x), x.ndim)
        norm = (level**2 + 1).sqrt()
        parts = [x / norm]
        if mask is not None and masked_latents is not None:
            parts += [extra.to(x).expand(rows, *extra.shape[1:]) for extra in (mask, masked_latents)]
        with lent(self.unet) if x.requires_grad else nullcontext():
            out = self.unet(
                torch.cat(parts, 1).to(weight),
                nearest_timestep(sigma.detach().cpu(), self._levels).to(weight.device),
                encoder_hidden_states=conditioning.to(weight).expand(rows, *conditioning.shape[1:]),
            ).sample.to(x)
        if self.prediction == "epsilon":
            return x - level * out
        if self.prediction == "v_prediction":
            return x / norm**2 - out * level / norm
        return out
