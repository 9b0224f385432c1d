"""How a recipe paints: words, denoiser, guidance by prompts and by losses, and the latents of every candidate."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .editing.composite import composite
from .editing.decoder_opt import reconstruct_background
from .editing.guidance import guided_denoiser
from .editing.halving import cuts_of
from .editing.linear_decoder import fitted_factors, linear_decoder
from .editing.loss_guidance import with_losses
from .editing.loss_terms import SMALL, Guidance, LossTerms
from .editing.losses import Perceptual
from .editing.picture_losses import Decode
from .editing.sampler import Candidates, retouch_candidates
from .editing.schedule import sigmas_of
from .models.latent_decoder import LatentDecoder
from .models.protocols import Editor, Scorer
from .recipes import Recipe
from .recipes.recipe import DENOISER_KINDS, RECONSTRUCTIONS
from .regions.edit_mask import EditMask
from .regions.grid import cell_of
from .regions.location import CELL_PHRASES, parse_location
from .tensors.checks import InputWarning
from .tensors.convert import to_diffusion

BATCH = 8
"""Candidates that are sampled at once unless the caller says otherwise."""

Tell = Callable[[float], None]
"""(share of the painting that is done, 0..1); whatever it raises stops the run."""


@dataclass(frozen=True)
class Words:
    """What the networks are told: the prompt for the denoiser and for the losses, and what is there now."""

    target: str
    shown: str
    referring: str
    removal: bool


def words_of(prompt: str, referring: str, edit: EditMask, settings: Recipe) -> Words:
    """The words for one area; the denoiser also hears where it lies, where the recipe asks for that and they do not say."""
    shown = prompt or settings.removal_prompt
    target = shown if settings.prompted else ""
    if prompt and settings.prompted and settings.place_prompt and parse_location(prompt).kind == "none":
        target = f"{prompt} {CELL_PHRASES[cell_of(edit.painted[0] > 0)]}"
    return Words(target, shown, referring, not prompt)


def editor_for(settings: Recipe, editor: Editor, plain: Editor | None) -> Editor:
    """The editor that the recipe asks for, or the only one there is, with a warning.

    Raises:
        ValueError: an unknown kind of denoiser.
    """
    if settings.denoiser not in DENOISER_KINDS:
        raise ValueError(
            f"denoiser must be one of {', '.join(DENOISER_KINDS)}, got {settings.denoiser!r}; any suits every model"
        )
    if settings.denoiser == "any" or not editor.inpaint:
        return editor
    if plain is None:
        warnings.warn(
            "the recipe wants a denoiser without mask input, but only an inpainting one is there, which was used",
            InputWarning,
            stacklevel=3,
        )
    return plain or editor


def losses_of(
    settings: Recipe,
    shown: str,
    scorer: Scorer,
    perceptual: Callable[[], Perceptual],
    seed: int,
    decoder: Any = None,
) -> Guidance | None:
    """The losses that guide the recipe's sampler towards `shown`, or None.

    Args:
        perceptual: gives the picture distance where the recipe weighs one.
        seed: of the cut-outs.
        decoder: a small decoder for the paths `tiny` and `tiny_half`; None leaves them to the editor.

    Raises:
        ValueError: a value that means nothing.
    """
    if not settings.loss_scale:
        return None
    terms = LossTerms(
        shown,
        scorer,
        perceptual() if settings.loss_perceptual else None,
        scale=settings.loss_scale,
        clip=settings.loss_clip,
        perceptual=settings.loss_perceptual,
        l2=settings.loss_l2,
        value_range=settings.loss_range,
        distance=settings.loss_distance,
        cutouts=settings.loss_cutouts,
        cutting=settings.loss_cutting,
    )
    made = Guidance(
        (terms,),
        path=settings.loss_path,
        estimate=settings.loss_estimate,
        bound=settings.loss_bound,
        every=settings.loss_every,
        until=settings.loss_until,
        update=settings.loss_update,
        window=settings.loss_window,
        seed=seed,
        decoder=decoder,
    )
    return made if made.active else None


def _decoding(editor: Any, guidance: Guidance, work: Tensor, z0: Tensor) -> Decode:
    """What decodes for the losses, on the guidance's path."""
    if guidance.path == "linear":
        return linear_decoder(*fitted_factors(z0, to_diffusion(work).to(z0)), editor.cell)
    if guidance.decoder is not None and guidance.path in SMALL:
        editor = _small(guidance.decoder, z0)
    if guidance.path == "tiny_half":
        try:
            half: Decode = editor.half_decoder()
            return _in_place(half)
        except (AttributeError, ValueError) as error:
            warnings.warn(
                f"loss_path tiny_half cannot be taken ({error}); the whole decoder was",
                InputWarning,
                stacklevel=4,
            )
    if not hasattr(editor, "decode_pixels"):
        raise ValueError(
            f"editor is a {type(editor).__name__} without decode_pixels, which losses need; use path linear"
        )
    return _in_place(editor.decode_pixels)


def _in_place(decode: Decode) -> Decode:
    """The same with pixels where the latents are: a small decoder may lie elsewhere than the editor."""
    return lambda latents: decode(latents).to(latents.device)


def _small(decoder: Any, z0: Tensor) -> Any:
    """The small decoder, if it takes latents like `z0`.

    Raises:
        ValueError: it takes others.
    """
    if decoder.channels != z0.shape[1]:
        raise ValueError(
            f"tiny_decoder takes latents of {decoder.channels} channels, but editor makes {z0.shape[1]}; give the one that "
            "belongs to the editor, such as taesdxl for SDXL"
        )
    return decoder


def paint(
    editor: Editor,
    work: Tensor,
    z0: Tensor,
    edit: EditMask,
    words: Words,
    settings: Recipe,
    guidance: Guidance | None,
    *,
    seed: int,
    batch: int | None = None,
    judge: Callable[[Tensor], Tensor] | None = None,
    tell: Callable[[int, int, int], None] | None = None,
) -> Candidates:
    """Latents of the candidates.

    Args:
        work: the canvas, IMAGE [1,S,S,3]; z0: its latents [1,C,h,w]; edit: what of it may change.
        guidance: of `losses_of`.
        batch: candidates at once.
        judge: (canvases IMAGE [b,S,S,3], laid over the source) -> scores [b]; chooses where the recipe prunes.
        tell: called after each step with the steps done, the steps in all, and how many candidates took it.
    """
    scale = settings.removal_scale if words.removal else settings.scale
    target, old, empty = editor.encode_prompts([words.target, words.referring, ""]).split(1)
    extra: dict[str, Any] = {}
    if editor.inpaint:
        masked = settings.inpaint_input == "masked" or words.removal
        hole = edit.painted[..., None] if masked else torch.zeros(1)
        extra = {"mask": edit.latent, "masked_latents": editor.encode(torch.where(hole > 0, 0.5, work))}
    denoise = guided_denoiser(
        lambda x, sigma, told: editor.denoise(x, sigma, told, **extra),
        target,
        old if settings.lam > 0 else None,
        empty,
        scale,
        0.0 if words.removal else settings.lam,
    )
    sigmas = sigmas_of(editor.scheduler, settings.steps, settings.strength)
    cells = edit.latent.to(z0)
    if guidance is not None:
        denoise = with_losses(
            denoise,
            guidance,
            decode=_decoding(editor, guidance, work, z0),
            source=work,
            mask=edit.painted,
            sigmas=sigmas,
            held=z0 if settings.hold else None,
            cells=cells,
        )

    def step(done: int, steps: int, _: Tensor, which: Sequence[int]) -> None:
        if tell is not None:
            tell(done, steps, len(which))

    def judged(estimates: Tensor, _: Sequence[int]) -> Tensor:
        assert judge is not None
        seen = torch.cat([editor.decode(z[None]) for z in estimates])
        return judge(composite(work.to(seen), seen, edit.composite.to(seen)).clamp(0, 1))

    return retouch_candidates(
        denoise,
        z0,
        cells if settings.hold else torch.ones_like(cells),
        sigmas,
        seed=seed,
        candidates=settings.candidates,
        start=settings.start,
        noise_mode=settings.noise_mode,
        progressive=settings.progressive if settings.hold else 0,
        batch=batch or BATCH,
        cuts=cuts_of(settings.prune, len(sigmas) - 1, settings.candidates) if judge is not None else (),
        judge=judged,
        callback=step,
    )


def decoded(editor: Editor, work: Tensor, latents: Tensor, edit: EditMask, settings: Recipe) -> Tensor:
    """The candidates as pictures IMAGE [m,S,S,3] of the canvas, before anything is laid over the source.

    Raises:
        ValueError: an unknown reconstruction, or one that the editor cannot do.
    """
    made = torch.cat([editor.decode(z[None]) for z in latents])
    if settings.reconstruct == "none":
        return made
    if settings.reconstruct not in RECONSTRUCTIONS:
        raise ValueError(
            f"reconstruct must be one of {', '.join(RECONSTRUCTIONS)}, got {settings.reconstruct!r}; none is usual"
        )
    vae = getattr(editor, "vae", None)
    if vae is None:
        raise ValueError(
            f"editor is a {type(editor).__name__} without a vae, which reconstruct {settings.reconstruct!r} needs; use none"
        )
    area = edit.painted.to(made)
    pasted = composite(work.to(made), made, area)
    return reconstruct_background(
        LatentDecoder(vae), editor.encode(pasted), made, work.to(made), area, mode=settings.reconstruct
    ).image
