"""Crops on the wire: what the crop nodes and the sampler share of cutting regions out and putting them back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.latent_formats
import torch
from torch import Tensor

from ..retouch_core.editing.crop import CropPlan, crop, crop_mask, placed, stitch_parts, uncrop_mask
from ..retouch_core.editing.crop_plans import WorkSize, plan_crops, tight, work_side
from ..retouch_core.tensors.checks import check_batches, check_image, fit_mask
from . import _host, _latents
from ._kept import Keep

Piece = tuple[Tensor, CropPlan, Tensor]

FULL = "full"
WORK_SIZES = [FULL, "auto", "256", "384", "512", "640", "768", "896", "1024", "1280", "1536", "2048"]
SD15_SIDE, SD21_SIDE, LATER_SIDE = 512, 768, 1024
"""Sides that Stable Diffusion 1.x, 2.x with v-prediction, and everything since were trained on."""


@dataclass(frozen=True)
class Crops:
    """RETOUCH_CROP: P pictures and the crops of each, all on a canvas of one size.

    source: IMAGE [P,H,W,C] as it came; mask: MASK [P,H,W] in 0..1, float32; plans: the crops of each picture.
    """

    source: Tensor
    mask: Tensor
    plans: tuple[tuple[CropPlan, ...], ...]

    @property
    def rows(self) -> list[tuple[int, CropPlan]]:
        """The crops in the order of their batch, with the picture that each is of."""
        return [(k, plan) for k, plans in enumerate(self.plans) for plan in plans]

    @property
    def work(self) -> tuple[int, int]:
        """(h, w) of every crop."""
        return self.rows[0][1].work

    def images(self) -> Tensor:
        """IMAGE [R,h,w,3] of all crops."""
        colours = self.source[..., :3]
        return torch.cat([crop(colours[k : k + 1], plan) for k, plan in self.rows])

    def masks(self, planes: Tensor | None = None) -> Tensor:
        """MASK [R,h,w] of all crops; of other planes [1,H,W] or [P,H,W] where they are given."""
        planes = self.mask if planes is None else planes.expand(len(self.source), -1, -1)
        return torch.cat([crop_mask(planes[k : k + 1], plan, part_only=True) for k, plan in self.rows])

    def told(self) -> str:
        """What was cut out, as one line a crop."""
        return "\n".join(
            f"picture {k + 1}: {plan}" if len(self.plans) > 1 else str(plan) for k, plan in self.rows
        )


def cut(image: Any, mask: Any, want: WorkSize, apart: bool, notes: list[str]) -> Crops:
    """Check what came, fit it together and plan the crops.

    Raises:
        TypeError, ValueError: one sentence that names the input and says what to do.
    """
    colours = check_image(_host.rgb(image))
    size = (colours.shape[1], colours.shape[2])
    fitted, note = fit_mask(mask, size, picture="image")
    if note:
        notes.append(note)
    if not (len(colours) and len(fitted)):
        empty = "mask" if len(colours) else "image"
        raise ValueError(f"{empty} is a batch of no pictures; connect at least one")
    check_batches(len(colours), len(fitted))
    pictures = max(len(colours), len(fitted))
    fitted = fitted.clamp(0, 1).float().to(image.device)
    plans = tuple(tuple(group) for group in plan_crops(fitted, want, apart=apart))
    plans = plans if len(plans) == pictures else plans * pictures
    return Crops(image.expand(pictures, -1, -1, -1), fitted.expand(pictures, -1, -1), plans)


def stitched(crops: Crops, edited: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """The edited crops [R*c,h,w,3] in their pictures [1|P,H,W,C]: IMAGE [P*c,H,W,C] and MASK [1,H,W] or [P*c,H,W].

    c follow each other for every crop, as the Region Sampler gives them.
    """
    rows = crops.rows
    each = len(edited) // len(rows)
    source = source.expand(len(crops.plans), -1, -1, -1)
    made = []
    for k in range(len(crops.plans)):
        mask = crops.mask[k : k + 1].to(source.device)
        pieces = [
            (edited[r * each : (r + 1) * each].to(source.device), plan, mask)
            for r, (of, plan) in enumerate(rows)
            if of == k
        ]
        one = stitch_parts(source[k : k + 1, ..., :3], pieces)
        alpha = source[k : k + 1, ..., 3:].expand(len(one), -1, -1, -1)
        made.append(torch.cat([one, alpha], -1) if alpha.shape[-1] else one)
    mask = crops.mask if len(crops.mask) == 1 else crops.mask.repeat_interleave(each, 0)
    return torch.cat(made), mask


def native_side(model: Any) -> int:
    """Side in px of the square pictures that a MODEL of the host was trained on."""
    # The host's own configs log a warning for every attribute that they lack.
    own = getattr(getattr(model.model, "model_config", None), "__dict__", {}).get("native_side")
    if isinstance(own, int):
        return own
    if isinstance(model.get_model_object("latent_format"), comfy.latent_formats.SD15):
        kind = getattr(getattr(model.model, "model_type", None), "name", "")
        return SD21_SIDE if kind == "V_PREDICTION" else SD15_SIDE
    return LATER_SIDE


def for_sampler(
    image: Any, mask: Any, work_size: Any, model: Any, vae: Any, notes: list[str]
) -> Crops | None:
    """The crops that a sampler works on for that `work_size`; None where it works on whole pictures."""
    if work_size == FULL:
        return None
    _latents.check_model(model)
    _latents.check_vae(vae)
    multiple = _latents.cell_of(vae) * _latents.patch_of(model)
    side = work_side(work_size, native_side(model), multiple)
    crops = cut(image, mask, WorkSize(side, multiple), True, notes)
    crops = Crops(crops.source, crops.mask, tight(crops.plans, multiple))
    notes.append(f"worked on {len(crops.rows)} crops: {', '.join(str(plan) for _, plan in crops.rows)}")
    return crops


def paste_crops(
    crops: Crops, vae: Any, latents: Tensor, samples: Tensor, rows: list[int], size: int, keep: Keep | None
) -> tuple[Tensor, Tensor, list[int]]:
    """Decode the latents [N,C,...] of crops and lay them over their pictures.

    Args:
        crops: what was cut out.
        vae: the VAE.
        latents: [R,C,...], the crops before they were repainted.
        samples: the candidates, crop after crop.
        rows: the crop of each candidate.
        size: how many to decode at once.
        keep: what is kept of each, at the size of the crops.

    Returns:
        IMAGE [M,H,W,3], the MASK [1,H,W] or [P,H,W] they were laid over with, and the picture of each.
    """
    of = crops.rows
    decoded = []
    for first in range(0, len(samples), size):
        _host.check_cancelled()
        decoded.append(_latents.decode(vae, samples[first : first + size], crops.work).to(crops.source))
    every = torch.cat(decoded)
    frames = len(every) // len(samples)
    pieces: dict[int, list[Piece]] = {}
    taken = crops.mask.clone() if keep is None else torch.zeros_like(crops.mask)
    for row in dict.fromkeys(rows):
        picture, plan = of[row]
        first, mine = rows.index(row) * frames, rows.count(row) * frames
        painted = every[first : first + mine]
        mask = crops.mask[picture : picture + 1]
        if keep is not None:
            before = _latents.decode(vae, latents[row : row + 1], plan.work).to(painted)
            whole = mask.new_ones(1, *plan.work)
            own = keep.of(whole, painted, before, [row] * len(painted))
            mask = torch.minimum(mask, placed(uncrop_mask(own, plan), plan).to(mask))
            painted = keep.detailed(painted, before, crop(crops.source[picture : picture + 1], plan))
            down, across = plan.part.slices
            seen = taken[picture, down, across]
            taken[picture, down, across] = torch.maximum(seen, mask.amax(0)[down, across])
        pieces.setdefault(picture, []).append((painted, plan, mask))
    made = {k: stitch_parts(crops.source[k : k + 1, ..., :3], some) for k, some in pieces.items()}
    per = rows.count(rows[0])
    return torch.cat(list(made.values())), taken, [k for k in made for _ in range(per)]
