"""Muon for matrices and convolutions, AdamW for everything else.

`torch.optim.Muon` takes 2-D weights only; here a convolution is the matrix [out, in * kernel].
Source: K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Quintic coefficients of the published iteration."""

ADAM_BETAS = (0.9, 0.99)


def orthogonalised(matrix: Tensor, steps: int = 5) -> Tensor:
    """The matrix [n,m] with its singular values pushed towards 1 by Newton-Schulz."""
    a, b, c = NEWTON_SCHULZ
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.T


class Muon(torch.optim.Optimizer):
    """`lr` is Muon's rate; the AdamW part runs at `lr * adam_ratio`.

    Args:
        named: named parameters; those whose name contains one of `plain` are left to AdamW whatever their shape.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        lr: float = 0.02,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.01,
        adam_ratio: float = 0.1,
        plain: tuple[str, ...] = (),
    ) -> None:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in named:
            if parameter.requires_grad:
                fits = parameter.ndim >= 2 and not any(word in name for word in plain)
                (matrices if fits else others).append(parameter)
        groups = [{"params": matrices, "matrix": True}, {"params": others, "matrix": False}]
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "adam_ratio": adam_ratio}
        super().__init__([g for g in groups if g["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            update = self._matrix if group["matrix"] else self._adam
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update(parameter, parameter.grad, self.state[parameter], group)

    @staticmethod
    def _matrix(weight: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state["momentum"] = torch.zeros_like(gradient)
        momentum = state["momentum"].mul_(group["momentum"]).add_(gradient)
        flat = (gradient + group["momentum"] * momentum).flatten(1)
        step = orthogonalised(flat) * max(1.0, flat.shape[0] / flat.shape[1]) ** 0.5
        weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(step.view_as(weight), alpha=-group["lr"])

    @staticmethod
    def _adam(weight: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state.update(first=torch.zeros_like(gradient), second=torch.zeros_like(gradient), count=0)
        state["count"] += 1
        first, second = ADAM_BETAS
        state["first"].lerp_(gradient, 1 - first)
        state["second"].lerp_(gradient.square(), 1 - second)
        mean = state["first"] / (1 - first ** state["count"])
        spread = (state["second"] / (1 - second ** state["count"])).sqrt_()
        weight.addcdiv_(mean, spread + 1e-8, value=-group["lr"] * group["adam_ratio"])
