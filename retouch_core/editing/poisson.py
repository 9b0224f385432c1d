"""Gradient-domain composite: the edit's gradients, the source's values at the rim (Pérez et al. 2003, equation 5).

Solved for the correction, which is a membrane through the differences at the rim: harmonic inside, and free (Neumann) at
the frame of the picture, so that nothing bleeds in from there. Conjugate gradients, preconditioned by one multigrid cycle.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .pyramid import doubled, halved

COARSEST = 8
"""Cells a side from which a grid is solved directly."""
SWEEPS = 2
DAMPING = 0.8
"""Jacobi sweeps before and after each coarser grid, and their weight, near the best for the five-point star."""
MAX_ITERATIONS = 100
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-6}
"""Residual over right-hand side at which the iteration ends."""


@dataclass(frozen=True)
class _Grid:
    """Five-point operator: weights to the right [H,W-1] and below [H-1,W], and their sum with what leaks to the rim."""

    right: Tensor
    below: Tensor
    leak: Tensor

    @property
    def centre(self) -> Tensor:
        total = self.leak.clone()
        total[:, :-1] += self.right
        total[:, 1:] += self.right
        total[:-1] += self.below
        total[1:] += self.below
        return total

    def apply(self, centre: Tensor, u: Tensor) -> Tensor:
        out = centre * u
        out[:, :, :-1] -= self.right * u[:, :, 1:]
        out[:, :, 1:] -= self.right * u[:, :, :-1]
        out[:, :-1] -= self.below * u[:, 1:]
        out[:, 1:] -= self.below * u[:, :-1]
        return out

    def coarser(self) -> _Grid:
        """Cells of 2 x 2: parallel edges add up, and twice the spacing halves them."""
        right = _even(F.pad(self.right, (0, 1)))
        below = _even(F.pad(self.below, (0, 0, 0, 1)))
        leak = _even(self.leak)
        return _Grid(
            (right[0::2, 1::2] + right[1::2, 1::2])[:, :-1] / 2,
            (below[1::2, 0::2] + below[1::2, 1::2])[:-1] / 2,
            (leak[0::2, 0::2] + leak[0::2, 1::2] + leak[1::2, 0::2] + leak[1::2, 1::2]) / 2,
        )


def membrane(values: Tensor, rim: Tensor, inside: Tensor) -> Tensor:
    """The harmonic surface through `values` [C,H,W] on `rim`, over `inside`; 0 elsewhere.

    Each pixel of `inside` is the mean of its 4-neighbours within the frame; all of them must be in `rim` or `inside`.

    Args:
        values: finite on the rim.
        rim, inside: bool [H,W], disjoint.

    Returns:
        [C,H,W]; all 0 where the rim is empty, for then any constant would do.
    """
    if not rim.any() or not inside.any():
        return torch.where(rim, values, torch.zeros_like(values))
    work = torch.float64 if values.dtype == torch.float64 else torch.float32
    known = torch.where(rim, values, torch.zeros_like(values)).to(work)
    free = inside.to(work)
    pinned = rim.to(work)
    leak = free * _neighbours(pinned[None])[0]
    fine = _Grid(free[:, 1:] * free[:, :-1], free[1:] * free[:-1], leak)
    grids = [fine]
    while max(grids[-1].leak.shape) > COARSEST:
        grids.append(grids[-1].coarser())
    cycle = _Cycle(grids)
    solved = _conjugate_gradients(cycle, free * _neighbours(known), TOLERANCE[work])
    # The surface of a membrane lies between the lowest and highest point of its frame.
    low = torch.where(rim, known, torch.inf).amin((1, 2), keepdim=True)
    high = torch.where(rim, known, -torch.inf).amax((1, 2), keepdim=True)
    solved = solved.maximum(low).minimum(high)
    return torch.where(inside, solved, known).to(values.dtype)


class _Cycle:
    """One V-cycle as an approximate inverse, symmetric up to rounding."""

    def __init__(self, grids: list[_Grid]) -> None:
        self.grids = grids
        self.centres = [grid.centre for grid in grids]
        self.inverses = [torch.where(c > 0, 1 / c.clamp(min=1e-30), 0) for c in self.centres]
        self.bottom = self._dense(grids[-1], self.centres[-1])

    def residual(self, u: Tensor, b: Tensor, level: int = 0) -> Tensor:
        return b - self.grids[level].apply(self.centres[level], u)

    def apply(self, u: Tensor) -> Tensor:
        return self.grids[0].apply(self.centres[0], u)

    def __call__(self, b: Tensor, level: int = 0) -> Tensor:
        if level == len(self.grids) - 1:
            return (b.flatten(1) @ self.bottom).view_as(b)
        step = DAMPING * self.inverses[level]
        u = step * b
        for _ in range(SWEEPS - 1):
            u = u + step * self.residual(u, b, level)
        rest = _even(self.residual(u, b, level))
        # Four cells' equations make one: their sum, where `halved` takes the mean.
        coarse = self(4 * halved(rest) * (self.centres[level + 1] > 0), level + 1)
        height, width = b.shape[-2:]
        u = u + doubled(coarse)[:, :height, :width] * (self.centres[level] > 0)
        for _ in range(SWEEPS):
            u = u + step * self.residual(u, b, level)
        return u

    @staticmethod
    def _dense(grid: _Grid, centre: Tensor) -> Tensor:
        height, width = centre.shape
        units = torch.eye(height * width, dtype=centre.dtype, device=centre.device)
        matrix = grid.apply(centre, units.view(-1, height, width)).flatten(1)
        # Cells without unknowns have an empty row; their value stays 0.
        idle = (centre.flatten() <= 0).to(centre.dtype)
        inverse = torch.linalg.inv(matrix + torch.diag(idle))
        return inverse * (1 - idle)


def _conjugate_gradients(cycle: _Cycle, b: Tensor, tolerance: float) -> Tensor:
    """Solution [C,H,W] for each right-hand side [C,H,W]."""
    u = torch.zeros_like(b)
    r = b.clone()
    target = tolerance * _dot(b, b).sqrt()
    direction = torch.zeros_like(b)
    before = torch.ones_like(target)
    for count in range(MAX_ITERATIONS):
        if bool((_dot(r, r).sqrt() <= target).all()):
            break
        z = cycle(r)
        now = _dot(r, z)
        direction = z if count == 0 else z + now / before.clamp(min=1e-300) * direction
        forced = cycle.apply(direction)
        length = now / _dot(direction, forced).clamp(min=1e-300)
        u = u + length * direction
        r = r - length * forced
        before = now
    return u


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((1, 2), keepdim=True)


def _neighbours(x: Tensor) -> Tensor:
    """Sum over the 4-neighbours within the frame, [C,H,W]."""
    out = torch.zeros_like(x)
    out[:, :, :-1] += x[:, :, 1:]
    out[:, :, 1:] += x[:, :, :-1]
    out[:, :-1] += x[:, 1:]
    out[:, 1:] += x[:, :-1]
    return out


def _even(x: Tensor) -> Tensor:
    """[...,H,W] with sides made even by zeros below and to the right."""
    height, width = x.shape[-2:]
    return F.pad(x, (0, width % 2, 0, height % 2)) if height % 2 or width % 2 else x
