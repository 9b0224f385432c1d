"""Training views of regions: the library's kinds of view, but batched over scenes and jittered."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from retouch_core.tensors.regions import mask_boxes

KINDS = ("crop", "crop+fill", "full+black")
SIDE = 128


def window(pixels: Tensor, centre: Tensor, half: Tensor, size: int) -> Tensor:
    """Square windows of [B,C,H,W] around `centre` [B,2] (x, y in px) with half side [B] px -> [B,C,size,size].

    Outside the picture the border pixel is repeated. Sampling is bilinear on a picture smoothed to the output's scale.
    """
    extent = pixels.shape[-1] / 2
    theta = pixels.new_zeros(len(pixels), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = half / extent
    theta[:, :, 2] = centre / extent - 1
    grid = F.affine_grid(theta, [len(pixels), pixels.shape[1], size, size], align_corners=False)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)


def jittered_views(pixels: Tensor, masks: Tensor, kinds: Tensor, size: int) -> Tensor:
    """Views [B,3,size,size] in 0..1 of pixels [B,3,128,128] and masks bool [B,128,128]; `kinds` indexes KINDS.

    Masks are grown at random, crops are loose and off centre, brightness and sharpness vary.
    """
    count = len(pixels)
    cover = masks[:, None].float()
    chance = torch.rand(count, 1, 1, 1)
    grown = torch.where(chance < 0.15, F.max_pool2d(cover, 7, 1, 3), F.max_pool2d(cover, 3, 1, 1))
    cover = torch.where(chance < 0.45, grown, cover)
    fill = torch.where(torch.rand(count, 1, 1, 1) < 0.7, 0.0, 0.45)
    source = torch.where((kinds >= 1)[:, None, None, None], pixels * cover + fill * (1 - cover), pixels)
    blurred = F.interpolate(F.avg_pool2d(source, 2), scale_factor=2, mode="bilinear")
    source = torch.where(torch.rand(count, 1, 1, 1) < 0.2, blurred, source)
    boxes = mask_boxes(masks)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    longer = (boxes[:, 2:] - boxes[:, :2]).amax(1)
    loose = torch.where(kinds == 0, 0.6, 0.35)
    half = longer / 2 * (1.08 + loose * torch.rand(count)) + 1
    centre = centre + (torch.rand(count, 2) - 0.5) * (half - longer / 2 * 0.9)[:, None]
    whole = kinds == 2
    centre = torch.where(whole[:, None], torch.full_like(centre, SIDE / 2), centre)
    half = torch.where(whole, torch.full_like(half, SIDE / 2), half)
    views = window(source, centre, half, size)
    gain = 1 + 0.16 * (torch.rand(count, 1, 1, 1) - 0.5)
    return (views * gain + 0.012 * torch.randn_like(views)).clamp(0, 1)
