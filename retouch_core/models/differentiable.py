"""Gradients where a host computes without them: ComfyUI runs its nodes in `torch.inference_mode()`.

Tensors that were made in that mode cannot be saved for a backward pass (methods.md 0.4, trap 9), and weights that a
host loaded in it are such tensors. A second tensor over the same memory can.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def normal(tensor: Tensor) -> Tensor:
    """The same values as a tensor that autograd may save: itself, or another one over the same memory.

    Call it outside inference mode. Kinds of tensors that have no memory of their own are copied.
    """
    if not tensor.is_inference():
        return tensor
    if type(tensor) not in (Tensor, torch.nn.Parameter):
        return tensor.clone()
    empty = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return empty.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())


@contextmanager
def gradients() -> Iterator[None]:
    """A block in which autograd works, whatever surrounds it."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def lent(*modules: Any, device: torch.device | None = None) -> Iterator[None]:
    """A block in which the weights of `modules` can be saved for a backward pass and want no gradient themselves.

    Stand-ins over the same memory take their places and give them back at the end of the block, also after an error;
    what was computed keeps hold of the stand-ins. Anything that is no `torch.nn.Module` is passed over.

    Args:
        device: where stand-ins lie; those of weights that lie elsewhere are copies. A host that brings weights to the device
            layer by layer may overwrite them before the backward pass. None leaves them where they are.
    """
    taken: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for module in modules:
            if not isinstance(module, torch.nn.Module):
                continue
            for part in module.modules():
                stores: tuple[dict[str, Any], ...] = (part._parameters, part._buffers)
                for store in stores:
                    for name, value in list(store.items()):
                        if value is None:
                            continue
                        away = device is not None and value.device != device
                        if not (away or value.is_inference() or value.requires_grad):
                            continue
                        taken.append((store, name, value))
                        stand_in = normal(value).detach()
                        if away:
                            # A weight that a file lacked has no values; hosts take it for zeros.
                            empty = stand_in.is_meta
                            stand_in = (
                                torch.zeros_like(stand_in, device=device) if empty else stand_in.to(device)
                            )
                        is_weight = isinstance(value, torch.nn.Parameter)
                        store[name] = torch.nn.Parameter(stand_in, False) if is_weight else stand_in
        yield
    finally:
        for store, name, value in taken:
            store[name] = value
