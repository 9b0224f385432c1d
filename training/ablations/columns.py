"""The columns of the ablations' tables, and what the variants of one paper share."""

from __future__ import annotations

from typing import Any

from retouch_core.metrics.distribution import fid, named, sfid

from .design import Metric
from .perceptual import perceptual_name
from .referred import COVER
from .searching import IOU, JUST_IT

STRICT = Metric("strict", share=True)
LENIENT = Metric("class and colour", share=True)
LEAKED = Metric("old class or colour", higher=False, share=True)
REMNANT = Metric("remnant", higher=False, share=True)
GONE = Metric("gone", share=True)
FIT = Metric("silhouette IoU")
SSIM, PSNR, MSE = Metric("SSIM"), Metric("PSNR"), Metric("MSE", higher=False)
PERCEPTUAL = Metric(perceptual_name(), higher=False)
FID = Metric(named("FID"), higher=False, of_set=fid)
SFID = Metric(named("SFID"), higher=False, of_set=sfid)
OVERLAP = Metric(IOU)
COVERED = Metric(COVER, share=True)
RIGHT = Metric(JUST_IT, share=True)
BACKGROUND = Metric("background error", higher=False)

ROM: dict[str, Any] = {
    "inpaint_input": "unmasked",
    "shape": "mask",
    "dilate": 3,
    "change_min": 0.0,
    "scale": 15.0,
    "lam": 1.0,
}
"""ROM (S03): the whole picture into the inpainting model, a dilated silhouette, conditional guidance at 15."""
ROM_FULL = {"steps": 100, "candidates": 24}
S00_FULL = {"steps": 200, "candidates": 4}
RDM_FULL = {"steps": 100, "candidates": 12}
SCALES = (1.0, 2.0, 2.5, 5.0, 7.5, 10.0)
DILATIONS = (1, 3, 5, 7)
COUNTS = tuple(range(1, 25))
K_VALUES = (50, 100, 150, 200, 230)
LAMBDAS = (1, 100, 1_000, 10_000, 100_000, 1_000_000)
SWEEP = 0.3
"""Share of the scenes for sweeps in which nothing is ranked, with one candidate each: the whole report has an hour."""
