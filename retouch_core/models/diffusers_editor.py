"""Any text-to-image or inpainting model that diffusers can hold, behind the `Editor` protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..tensors.convert import from_diffusion, to_diffusion
from .differentiable import lent
from .half_decoder import half_decoder_of
from .noise import nearest_timestep, per_sample, training_sigmas
from .prompts import PromptEncoder, unpacked

PREDICTIONS = ("epsilon", "v_prediction", "sample")
MASK_CHANNELS = 1
FILLS = ("masked", "unmasked")
GREY = 0.5
"""Colour of what an inpainting model must not see: 0 in -1..1, as StableDiffusionInpaintPipeline fills it."""

SIZES = 6
"""Numbers SDXL is told beside the prompt: the picture's height and width before training cropped it, the crop's top and
left, and the height and width aimed at (Podell et al. 2023, section 2.2). Its refiner takes five."""
TEXT_TIME = "text_time"
"""What diffusers calls that (`addition_embed_type`)."""
FOREIGN = {
    "time_cond_proj_dim": "the guidance scale as an input, as latent consistency models do",
    "class_embed_type": "a class or picture embedding",
    "num_class_embeds": "a class label",
    "encoder_hid_dim_type": "a prompt projected by a layer of its own",
}
"""Settings of a UNet2DConditionModel with which it wants what this editor does not give."""


class DiffusersEditor:
    """A latent diffusion model out of its diffusers parts.

    Attributes:
        cell: pixels per latent cell side.
        channels: latent channels C.
        size: native picture side in pixels.
        inpaint: whether the network takes 2 C + 1 channels: noisy latents, mask, latents of the masked picture.
        scheduler: the scheduler it was given; never changed.
        prediction: what the network predicts, one of `PREDICTIONS`.
        networks: everything that must be on the device; `to` moves them, and nothing else does.
    """

    def __init__(
        self,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        unet: Any,
        scheduler: Any,
        *,
        text_encoder_2: Any = None,
        tokenizer_2: Any = None,
        zero_empty: bool = False,
        size: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        """Take the parts of a diffusers folder.

        Args:
            vae: AutoencoderKL or AutoencoderTiny.
            text_encoder: CLIPTextModel; its last hidden state is the conditioning where it is the only one.
            tokenizer: the tokenizer that belongs to it.
            unet: UNet2DConditionModel with C or 2 C + 1 input channels.
            scheduler: one with `alphas_cumprod` and a `prediction_type`.
            text_encoder_2, tokenizer_2: SDXL's CLIPTextModelWithProjection and its tokenizer.
            zero_empty: whether the empty prompt is all zeros (`force_zeros_for_empty_prompt` of SDXL).
            size: native picture side in pixels, a multiple of `cell`; None takes the one in the unet's config.
            device: where the networks go; None leaves them where they are.

        Raises:
            TypeError: a scheduler without `alphas_cumprod`.
            ValueError: parts that do not go together, or that want more than this editor gives.
        """
        self.vae, self.text_encoder, self.tokenizer, self.unet = vae, text_encoder, tokenizer, unet
        self.scheduler = scheduler
        self._levels = training_sigmas(scheduler)
        second = text_encoder_2 is not None
        self._prompts = PromptEncoder(
            (text_encoder, text_encoder_2) if second else (text_encoder,),
            (tokenizer, tokenizer_2) if second else (tokenizer,),
            zero_empty=zero_empty,
        )
        self.networks: tuple[torch.nn.Module, ...] = (vae, *self._prompts.networks, unet)
        for network in self.networks:
            network.eval().requires_grad_(False)
            if device is not None:
                network.to(device)
        self.channels = int(vae.config.latent_channels)
        blocks = getattr(vae.config, "block_out_channels", None) or vae.config.decoder_block_out_channels
        self.cell = int(2 ** (len(blocks) - 1))
        self.inpaint = self._checked_channels()
        self._check_told()
        self.size = self._native(size)
        self.prediction = str(scheduler.config.prediction_type)
        if self.prediction not in PREDICTIONS:
            raise ValueError(
                f"prediction_type must be one of {', '.join(PREDICTIONS)}, got {self.prediction!r}; "
                "use the scheduler that came with the model"
            )
        if getattr(vae.config, "latents_mean", None) is not None:
            raise ValueError(
                "vae has latents_mean in its config, so its channels are scaled one by one (Playground 2.5), which is not "
                "supported; use it in ComfyUI"
            )
        self._scale = float(getattr(vae.config, "scaling_factor", None) or 1.0)
        self._shift = float(getattr(vae.config, "shift_factor", None) or 0.0)

    def _checked_channels(self) -> bool:
        """Whether the unet inpaints, by its input channels."""
        taken, plain, inpaint = (
            self.unet.config.in_channels,
            self.channels,
            2 * self.channels + MASK_CHANNELS,
        )
        if taken not in (plain, inpaint):
            raise ValueError(
                f"unet takes {taken} channels, but {self.channels}-channel latents need {plain}, or {inpaint} for "
                "inpainting; use the unet and the vae of one model"
            )
        return bool(taken == inpaint)

    def _check_told(self) -> None:
        """Raise ValueError unless the unet is told what the text encoders and this editor tell it."""
        config = self.unet.config
        for name, wanted in FOREIGN.items():
            if getattr(config, name, None) is not None:
                raise ValueError(
                    f"unet has {name} {getattr(config, name)!r} in its config, so it wants {wanted}, which is not "
                    "supported; use it in ComfyUI"
                )
        width = self._prompts.width
        if width != config.cross_attention_dim:
            raise ValueError(
                f"text_encoder gives {width} numbers a token, but unet takes {config.cross_attention_dim}; "
                "use the parts of one model, both text encoders of it where it has two"
            )
        added, pooled = getattr(config, "addition_embed_type", None), self._prompts.pooled
        if added != (TEXT_TIME if pooled else None):
            raise ValueError(
                f"unet has addition_embed_type {added!r} in its config, but there {'are two' if pooled else 'is one'} "
                f"text encoder{'s' if pooled else ''}; use the parts of one model"
            )
        if not pooled:
            return
        taken = int(config.projection_class_embeddings_input_dim)
        wanted_there = pooled + SIZES * int(config.addition_time_embed_dim)
        if taken != wanted_there:
            raise ValueError(
                f"unet takes {taken} numbers beside the prompt's tokens, but SDXL has {wanted_there}; "
                "its refiner and other relatives are not supported"
            )

    def _native(self, size: int | None) -> int:
        """The picture side that was asked for, or the one that the unet was trained on."""
        if size is not None:
            if not isinstance(size, int) or size < self.cell or size % self.cell:
                raise ValueError(
                    f"size must be a multiple of {self.cell} pixels, got {size!r}; leave it out for the model's own"
                )
            return size
        side = self.unet.config.sample_size
        if side is None:
            raise ValueError(
                "unet has no sample_size in its config, so its native size is unknown; set it there"
            )
        return int(side if isinstance(side, int) else max(side)) * self.cell

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        size: int | None = None,
    ) -> DiffusersEditor:
        """Read a folder as diffusers saves it; safetensors only, never the network.

        Args:
            folder: with vae, text_encoder, tokenizer, unet and scheduler, and for SDXL text_encoder_2 and tokenizer_2.
            dtype: of the weights; None is float32. SDXL's autoencoder stays float32 instead of float16 where its config
                asks for it (`force_upcast`): it overflows there.
            device, size: as in the constructor.

        Raises:
            FileNotFoundError: the folder or one of its parts is missing.
            ValueError: a part of a class that does not fit, or a file that cannot be read.
        """
        from .pretrained.editors.diffusers_folder import read_folder

        return cls(**read_folder(Path(folder), dtype), device=device, size=size)

    @property
    def device(self) -> torch.device:
        """Where the denoiser lives."""
        return next(self.unet.parameters()).device

    def to(self, device: torch.device | str) -> DiffusersEditor:
        """Move all networks; returns itself."""
        for network in self.networks:
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

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """B prompts -> conditioning [B,T,D], every prompt padded to the text encoder's T tokens.

        With two text encoders the vector of the whole prompt follows as further rows (`prompts.packed`).
        A prompt that is longer is cut, with a warning.
        """
        return self._prompts(prompts)

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
            conditioning: [B,T,D] or [1,T,D], of `encode_prompts`.
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
                **self._told(conditioning.to(weight).expand(rows, *conditioning.shape[1:]), x),
            ).sample.to(x)
        if self.prediction == "epsilon":
            return x - level * out
        if self.prediction == "v_prediction":
            return x / norm**2 - out * level / norm
        return out

    def _told(self, conditioning: Tensor, x: Tensor) -> dict[str, Any]:
        """What the unet is told beside the noisy latents: the prompt's tokens, and SDXL the rest."""
        if not self._prompts.pooled:
            return {"encoder_hidden_states": conditioning}
        tokens, pooled = unpacked(conditioning, self._prompts.pooled)
        sides = [self.cell * side for side in x.shape[-2:]]
        # As StableDiffusionXLPipeline does unless told otherwise: the picture was never cropped nor scaled.
        sizes = conditioning.new_tensor([*sides, 0, 0, *sides]).expand(len(tokens), -1)
        return {
            "encoder_hidden_states": tokens,
            "added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes},
        }
