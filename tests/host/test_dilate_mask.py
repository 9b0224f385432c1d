"""From a mask to the area to repaint: whole cells, nothing shifted, neighbours closed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytestmark = pytest.mark.host

Pack = Callable[[str], ModuleType]


@pytest.fixture(scope="module", autouse=True)
def _temp_folder(comfy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Previews go into a folder of this test."""
    import folder_paths

    before = folder_paths.get_temp_directory()
    folder_paths.set_temp_directory(str(tmp_path_factory.mktemp("temp")))
    yield
    folder_paths.set_temp_directory(before)


def run(pack: Pack, mask: Tensor, **options: Any) -> Tensor:
    (area,) = pack("nodes.dilate_mask").RetouchDilateMask.execute(mask, **options).args
    return area


def block(rows: tuple[int, int], columns: tuple[int, int], size: tuple[int, int] = (128, 128)) -> Tensor:
    mask = torch.zeros(1, *size)
    mask[:, slice(*rows), slice(*columns)] = 1
    return mask


def regions_of(pack: Pack, *masks: Tensor) -> Any:
    return pack("nodes.masks_to_regions").RetouchMasksToRegions.execute(torch.cat(masks)).args[0]


def test_dilation_pads_and_never_shifts(pack: Pack) -> None:
    mask = block((50, 60), (66, 74), (61, 75))
    assert torch.equal(run(pack, mask, shape="mask", dilate=1, feather=0, cell=1), mask)
    snapped = run(pack, mask, shape="mask", dilate=1, feather=0)
    expected = torch.zeros_like(mask)
    expected[0, 48:, 64:] = 1
    assert torch.equal(snapped, expected)


@pytest.mark.parametrize("size", [(128, 128), (96, 250), (131, 77)])
@pytest.mark.parametrize("dilate", [1, 5, 9])
def test_outline_grows_like_grey_dilation(pack: Pack, size: tuple[int, int], dilate: int) -> None:
    """scipy's dilation by the square of the same radius: half the kernel, in 64ths of the longer side."""
    from scipy.ndimage import grey_dilation

    mask = block((20, 60), (30, 70), size)
    radius = int((dilate - 1) / 2 * max(size) / 64 + 0.5)
    expected = grey_dilation(mask[0].numpy(), size=(2 * radius + 1, 2 * radius + 1))
    area = run(pack, mask, shape="mask", dilate=dilate, feather=0, cell=1)
    assert np.array_equal(area[0].numpy(), expected)


@pytest.mark.parametrize("cell", [1, 8, 16])
def test_area_is_whole_cells_and_fades_only_inside_them(pack: Pack, cell: int) -> None:
    mask = block((33, 60), (41, 77))
    hard, soft = (run(pack, mask, feather=feather, cell=cell) for feather in (0, 3))
    cells = hard[0].reshape(128 // cell, cell, 128 // cell, cell)
    assert torch.equal(cells.amax((1, 3)), cells.amin((1, 3)))
    assert not soft[hard == 0].any() and soft.max() == 1 and ((soft > 0) & (soft < 1)).any()


def test_auto_boxes_things_and_follows_the_outline_of_ground(pack: Pack) -> None:
    thing = block((30, 70), (30, 40)).maximum(block((60, 70), (30, 90)))
    assert torch.equal(run(pack, thing), run(pack, thing, shape="box"))
    ground = block((90, 128), (0, 128)).maximum(block((60, 128), (50, 60)))
    assert torch.equal(run(pack, ground), run(pack, ground, shape="mask"))
    assert not torch.equal(run(pack, ground, shape="mask"), run(pack, ground, shape="box"))


def test_two_things_get_a_box_each(pack: Pack) -> None:
    first, second = block((8, 24), (0, 16)), block((100, 116), (112, 128))
    both = first.maximum(second)
    area = run(pack, both, neighbours=regions_of(pack, first, second), feather=0)
    assert not area[0, 40:90].any() and (area[both > 0] == 1).all()


def test_neighbours_stay_closed_and_masks_of_a_batch_stay_apart(pack: Pack) -> None:
    corners = [block((y, y + 12), (x, x + 12), (90, 90)) for y in (5, 70) for x in (5, 70)]
    entities = regions_of(pack, *corners)
    area = run(pack, corners[0], neighbours=entities, dilate=63, feather=0)
    assert (area[corners[0] > 0] == 1).all()
    assert not area[0][entities.masks[1:].any(0)].any()
    both = run(pack, torch.cat([corners[0], corners[3]]), shape="box")
    assert torch.equal(both[:1], run(pack, corners[0], shape="box")) and not (both[0] * both[1]).any()


def test_what_a_thing_stands_on_is_painted_over(pack: Pack) -> None:
    thing = block((40, 80), (40, 80))
    wall = 1 - thing
    with_wall, alone = run(pack, thing, neighbours=regions_of(pack, thing, wall)), run(pack, thing)
    assert torch.equal(with_wall, alone)


def test_holes_are_filled_on_demand(pack: Pack) -> None:
    mask = block((16, 48), (16, 48), (64, 64))
    mask[0, 24:40, 24:40] = 0
    options = {"shape": "mask", "dilate": 1, "feather": 0, "cell": 1}
    assert torch.equal(run(pack, mask, **options), mask)
    assert run(pack, mask, fill_holes=True, **options).sum() == 32 * 32


def test_a_fade_wider_than_the_area_leaves_some_of_it(pack: Pack) -> None:
    line = block((60, 62), (20, 100))
    area = run(pack, line, shape="mask", dilate=1, feather=64, cell=1)
    assert area.any() and not area[line == 0].any()


@pytest.mark.parametrize("mask", [torch.zeros(1, 128, 128), torch.zeros(1, 64, 64), torch.zeros(0, 128, 128)])
def test_nothing_stays_nothing(pack: Pack, mask: Tensor) -> None:
    """Also the host's placeholder of 64x64 px, which takes the size of the picture."""
    area = run(pack, mask, neighbours=regions_of(pack, block((3, 30), (3, 30))))
    assert area.shape == (len(mask), 128, 128) and not area.any()
    assert run(pack, mask).shape == mask.shape


def test_masks_that_do_not_fit_the_neighbours_are_refused(pack: Pack) -> None:
    entities = regions_of(pack, block((3, 30), (3, 30)))
    with pytest.raises(ValueError, match="mask is 128x64 px but the picture"):
        run(pack, block((3, 30), (3, 30), (64, 128)), neighbours=entities)
    with pytest.raises(ValueError, match="dilate must be an odd number from 1 up, got 4"):
        run(pack, block((3, 30), (3, 30)), dilate=4)
