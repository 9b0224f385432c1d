"""What RetouchComposite and RetouchMeasure gained: modes, colour match, registration, seam numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytestmark = pytest.mark.host

HEIGHT, WIDTH = 150, 190


@pytest.fixture(scope="module")
def run(pack: Callable[[str], ModuleType]) -> Any:
    node = pack("nodes.composite").RetouchComposite
    return lambda *given, **named: node.execute(*given, **named).result


@pytest.fixture(scope="module")
def measure(pack: Callable[[str], ModuleType]) -> Any:
    node = pack("nodes.measure").RetouchMeasure
    return lambda *given: node.execute(*given).result


def waves(
    seed: int, scale: float = 1, dx: float = 0, dy: float = 0, size: tuple[int, int] = (HEIGHT, WIDTH)
) -> Tensor:
    """IMAGE of waves in all directions, as it looks zoomed and shifted."""
    draw = np.random.default_rng(seed)
    height, width = size
    x = ((np.arange(width) + 0.5) * WIDTH / width - WIDTH / 2 - dx) / scale
    y = ((np.arange(height) + 0.5) * HEIGHT / height - HEIGHT / 2 - dy) / scale
    grid_y, grid_x = np.meshgrid(y, x, indexing="ij")
    out = np.zeros((height, width, 3))
    for _ in range(40):
        length, angle, phase = draw.uniform(6, 40), draw.uniform(0, math.pi), draw.uniform(0, 7)
        along = grid_x * math.cos(angle) + grid_y * math.sin(angle)
        out += draw.uniform(0.2, 1, 3) * np.sin(2 * math.pi * along / length + phase)[..., None]
    return torch.from_numpy(0.5 + 0.1 * out / out.std()).float().clamp(0, 1)[None]


def hole() -> Tensor:
    mask = torch.zeros(1, HEIGHT, WIDTH)
    mask[:, 50:100, 60:110] = 1
    return mask


def test_saved_workflows_get_what_they_had(run: Any) -> None:
    source, edited, mask = waves(1), waves(2), hole()
    old = run(edited, source, mask)
    assert torch.equal(old[0], run(edited, source, mask, None, 0.2, "feather", "none", False)[0])
    assert len(old[1].splitlines()) == 1


@pytest.mark.parametrize("mode", ["feather", "laplacian", "poisson"])
@pytest.mark.parametrize("colour_match", ["none", "shift", "contrast", "local"])
def test_every_mode_keeps_the_rest(run: Any, measure: Any, mode: str, colour_match: str) -> None:
    source, mask = waves(1), hole()
    edited = torch.cat([waves(2), waves(1) + 0.05])
    made, _ = run(edited, source, mask, mode=mode, colour_match=colour_match)
    outside = mask[0] == 0
    assert torch.equal(made[:, outside], source.expand_as(made)[:, outside])
    numbers = measure(source, made, mask)
    assert numbers[1] == 0 and len(numbers) == 8
    if mode != "feather" or colour_match != "none":
        # The second edit only changed the colour of everything, and that is taken back.
        *_, step, natural, shift = measure(source, made[1:], mask)
        assert step <= 1.2 * natural and (shift <= 1 / 255 or mode == "laplacian")


def test_an_edit_that_moved_is_moved_back(run: Any, measure: Any) -> None:
    source, mask = waves(1), hole()
    edited = waves(1, 1.02, 6.4, -4.2)
    made, report = run(edited, source, mask, register=True)
    assert "moved back by -6.4" in report and "across and +4.2" in report
    assert (made - source).abs().mean() < 0.2 * (run(edited, source, mask)[0] - source).abs().mean()
    assert measure(source, made, mask)[1] == 0


def test_another_size_of_the_same_aspect_is_resized_first(run: Any) -> None:
    source, mask = waves(1), hole()
    made, report = run(waves(1, 1.01, 3, 2, (165, 209)), source, mask, register=True)
    assert "edited was resized from 209x165 to 190x150 px" in report and "moved back" in report
    assert (made - source).abs().max() < 0.05


def test_what_does_not_fit_gives_the_source_and_says_why(run: Any) -> None:
    source, mask = waves(1), hole()
    made, report = run(torch.cat([waves(1, 1, 2, 0), waves(7)]), source, mask, register=True)
    assert torch.equal(made[1], source[0]) and not torch.equal(made[0], source[0])
    assert "picture 2: the edit was refused" in report and "the source is given back" in report


def test_seam_numbers_of_a_hard_step(measure: Any) -> None:
    source, mask = torch.full((1, 64, 64, 3), 0.5), torch.zeros(1, 64, 64)
    mask[:, 20:40, 20:40] = 1
    report, *_, step, natural, shift = measure(source, source + 0.2 * mask[..., None], mask)
    assert (step, natural, shift) == (pytest.approx(0.2), 0, pytest.approx(0.2))
    assert "step across the seam: 51.00 levels of 255, natural there: 0.00" in report
    assert "the mask has no outline" in measure(source, source, torch.ones(1, 64, 64))[0]
