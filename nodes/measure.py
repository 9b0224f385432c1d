"""RetouchMeasure: how well an edit kept the rest, in numbers (methods.md 12)."""

from __future__ import annotations

import math

from comfy_api.latest import io
from torch import Tensor

from ..retouch_core.metrics.background import background_max_error, edited_area
from ..retouch_core.metrics.fidelity import WINDOW, psnr, ssim
from ..retouch_core.metrics.seam import seam
from ..retouch_core.tensors.checks import check_batches, check_image, fit_mask
from . import _host
from ._types import schema

IDENTICAL_DB = 100.0
"""PSNR of equal pictures on the wire, where infinity would not survive JSON; 8-bit pictures that differ stay below 97 dB
up to one level in one value of 16 megapixels."""


class RetouchMeasure(io.ComfyNode):
    """The worst picture of a batch decides each number."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RetouchMeasure",
            display_name="Measure Edit",
            description="Says how much of the picture was edited, whether anything changed outside the mask, and how close "
            "the result is to the source.",
            search_aliases=["seam", "ssim", "psnr", "difference", "compare", "text retouch"],
            inputs=[
                io.Image.Input("source", tooltip="The picture before the edit."),
                io.Image.Input("result", tooltip="The picture after it; one or several."),
                io.Mask.Input("mask", tooltip="Where it was allowed to change."),
            ],
            outputs=[
                io.String.Output("report", tooltip="Everything as text."),
                io.Float.Output(
                    "background_max_error", tooltip="Largest change of a value outside the mask; 0 is exact."
                ),
                io.Float.Output("ssim", tooltip="Structural similarity of the whole picture; 1 is equal."),
                io.Float.Output(
                    "psnr",
                    tooltip=f"Peak signal to noise ratio in dB; {IDENTICAL_DB:g} stands for equal pictures.",
                ),
                io.Float.Output("edited_area", tooltip="Share of the picture that the mask opens, 0 to 1."),
                io.Float.Output(
                    "seam_step",
                    tooltip="Mean difference of neighbouring pixels across which the mask changes; 0 without an outline.",
                ),
                io.Float.Output(
                    "natural_step",
                    tooltip="The same in the source, there and around it: a seam step well above it is a visible edge.",
                ),
                io.Float.Output(
                    "colour_shift",
                    tooltip="Largest mean change of a channel just inside the mask's outline.",
                ),
            ],
        )

    @classmethod
    def execute(cls, source: Tensor, result: Tensor, mask: Tensor) -> io.NodeOutput:
        source = check_image(_host.to_work(_host.rgb(source)), "source")
        result = check_image(_host.to_work(_host.rgb(result)), "result")
        if source.shape[1:] != result.shape[1:]:
            raise ValueError(
                f"result is {result.shape[2]}x{result.shape[1]} px but source {source.shape[2]}x{source.shape[1]}; "
                "compare pictures of one size"
            )
        if not (len(source) and len(result)):
            raise ValueError(
                f"source holds {len(source)} pictures and result {len(result)}; connect at least one"
            )
        if len(source) != len(result) and 1 not in (len(source), len(result)):
            raise ValueError(
                f"result has batch {len(result)} but source has batch {len(source)}; make them equal or one of them 1"
            )
        fitted, note = fit_mask(_host.to_work(mask), (source.shape[1], source.shape[2]))
        if not len(fitted):
            raise ValueError("mask is a batch of no masks; connect at least one")
        count = max(len(source), len(result))
        check_batches(count, len(fitted))
        source, result = (each.expand(count, -1, -1, -1) for each in (source, result))
        outside = float(background_max_error(source, result, fitted).max())
        noise = min(float(psnr(source, result).min()), IDENTICAL_DB)
        likeness = float(ssim(source, result).min()) if min(source.shape[1:3]) >= WINDOW else math.nan
        share = float(edited_area(fitted).max())
        # The picture whose seam stands out most against what is natural there.
        seams = seam(source, result, fitted)
        worst = max(seams, key=lambda one: one.step - one.natural)
        shift = max(one.colour_shift for one in seams)
        lines = [
            f"largest change outside the mask: {outside:g}" + (" (none at all)" if outside == 0 else ""),
            f"share of the picture that may change: {100 * share:.1f} %",
            f"SSIM of the whole picture: {likeness:.4f}",
            "PSNR of the whole picture: "
            + ("the pictures are equal" if noise == IDENTICAL_DB else f"{noise:.2f} dB"),
            f"step across the seam: {255 * worst.step:.2f} levels of 255, natural there: {255 * worst.natural:.2f}"
            if worst.pairs
            else "step across the seam: the mask has no outline",
            f"colour shift just inside the outline: {255 * shift:.2f} levels of 255",
        ]
        if count > 1:
            lines.append(f"worst of {count} pictures")
        lines += [note] if note else []
        return io.NodeOutput(
            "\n".join(lines), outside, likeness, noise, share, worst.step, worst.natural, shift
        )
