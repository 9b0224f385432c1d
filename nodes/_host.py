"""The one bridge to ComfyUI for everything that is not a schema: devices, progress, interrupts, previews."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import ui
from torch import Tensor

from ..retouch_core.tensors import notes


def check_cancelled() -> None:
    """Raise the host's own interrupt where the artist has cancelled; never catch it."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def progress(total: int) -> Callable[[int, int], None]:
    """A bar on the node of `total` units: call it with (done, in all) after each chunk; it also notices a cancel."""
    bar = comfy.utils.ProgressBar(total)

    def tell(done: int, of: int) -> None:
        check_cancelled()
        bar.update_absolute(done, of)

    return tell


def to_wire(tensor: Tensor) -> Tensor:
    """A tensor where the host keeps what travels between nodes; its dtype stays."""
    return tensor.to(comfy.model_management.intermediate_device())


def to_work(tensor: Tensor) -> Tensor:
    """A tensor of the wire as the library takes it: float32 on the CPU (hosts may send fp16).

    Whole numbers, and what is no tensor at all, pass unchanged: the library's checks have the sentence for them.
    """
    if isinstance(tensor, Tensor):
        return tensor.to("cpu", torch.float32) if tensor.is_floating_point() else tensor.cpu()
    return tensor


def rgb(image: Tensor) -> Tensor:
    """IMAGE [B,H,W,C] without an alpha channel: what models look at."""
    if isinstance(image, Tensor) and image.ndim == 4 and image.shape[-1] == 4:
        return image[..., :3]
    return image


def preview(images: Tensor, node: Any) -> Any:
    """Pictures under the node, written into the host's temp folder; `images` is IMAGE [B,H,W,3]."""
    return ui.PreviewImage(images, cls=node)


def noted() -> AbstractContextManager[list[str]]:
    """Collect the library's warnings as sentences for the report; the log of the host stays quiet."""
    return notes.noted(quiet=True)
