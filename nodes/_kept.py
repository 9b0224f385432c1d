"""What an edit keeps of its mask: the thing itself, and else what it really changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..retouch_core.editing.changed import changed, detailed, tightened
from ..retouch_core.tensors.checks import check_batches, check_range, fit_mask

CHANGE_MIN = 0.2
"""The default recipe's."""


@dataclass(frozen=True)
class Keep:
    """`region` MASK [1,H,W] or [P,H,W], which is taken in any case, and the least difference of colour elsewhere."""

    region: Tensor
    least: float

    def of(
        self, mask: Tensor, edited: Tensor, before: Tensor, pictures: Sequence[int] | None = None
    ) -> Tensor:
        """The part of `mask` [1|N,H,W] that each of `edited` [N,H,W,3] takes over `before` [1|N,H,W,3]: MASK [N,H,W].

        pictures: which of the regions belongs to each edited one; None: they are as many, or one for all.
        """
        core = self.region if pictures is None or len(self.region) == 1 else self.region[list(pictures)]
        what = changed(edited, before.to(edited), self.least)
        return tightened(mask, what.to(mask.device), core.to(mask))

    def detailed(self, edited: Tensor, before: Tensor, source: Tensor) -> Tensor:
        """`edited` [N,H,W,3] without the VAE's own error where it shows what `before`, the source through it, shows."""
        return detailed(edited, before.to(edited), source[..., :3].to(edited), self.least)


def inputs() -> list[io.Input]:
    """The two inputs of a node that lays an edit over its picture."""
    return [
        io.Mask.Input(
            "region",
            optional=True,
            tooltip="The thing itself, before the mask was grown. Connected: what hardly changed around it stays the "
            "picture's, so that no faint box shows (see change_min).",
        ),
        io.Float.Input(
            "change_min",
            optional=True,
            default=CHANGE_MIN,
            min=0.0,
            max=1.0,
            step=0.01,
            advanced=True,
            tooltip="With region connected: least difference of colour that the edit keeps outside it. 0 keeps the whole "
            "mask.",
        ),
    ]


def keep_of(region: Any, least: Any, pictures: int, size: tuple[int, int], notes: list[str]) -> Keep | None:
    """The two inputs, checked against `pictures` pictures of `size` = (H, W); None where the whole mask is taken.

    Raises:
        TypeError, ValueError: one sentence that names the input and says what to do.
    """
    if not isinstance(least, (int, float)):
        raise TypeError(f"change_min must be a number, got {least!r}; 0.2 suits most pictures")
    check_range(least, "change_min", 0, 1, hint="0.2 suits most pictures, 0 takes the whole mask")
    if region is None or not least:
        return None
    fitted, note = fit_mask(region, size, "region", "the picture")
    if note:
        notes.append(note)
    if not len(fitted):
        raise ValueError("region is a batch of no masks; connect at least one, or leave it open")
    check_batches(pictures, len(fitted), "region")
    return Keep(fitted, float(least))
