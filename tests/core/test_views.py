"""Views of regions against PIL and numpy (methods.md 2.2 and 2.4)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from retouch_core.regions.views import region_views
from retouch_core.tensors.checks import InputWarning

MEAN = (0.48145466, 0.4578275, 0.40821073)
KINDS = ["crop+fill", "crop", "full+fill", "full+black", "full+mean", "crop+blur"]


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(seed)) * 0.9 + 0.05


def block(height: int, width: int, top: int, left: int, bottom: int, right: int) -> torch.Tensor:
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    mask[0, top:bottom, left:right] = True
    return mask


def by_pil(array: np.ndarray, size: int) -> np.ndarray:
    """[L,L,3] -> [3,S,S], bicubic with antialiasing, channel by channel in float."""
    layers = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(array[..., c], dtype=np.float32)).resize(
                (size, size), Image.Resampling.BICUBIC
            )
        )
        for c in range(3)
    ]
    return np.clip(np.stack(layers), 0, 1)


@pytest.mark.parametrize(
    ("height", "width", "size"), [(40, 40, 16), (24, 60, 32), (61, 30, 24), (20, 20, 50)]
)
def test_a_full_mask_is_the_padded_picture(height: int, width: int, size: int) -> None:
    image = picture(height, width)
    side = max(height, width)
    square = np.zeros((side, side, 3), dtype=np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = image[0].numpy()
    views = region_views(image, torch.ones(1, height, width, dtype=torch.bool), size, "full+black")
    assert np.allclose(views[0].numpy(), by_pil(square, size), atol=1e-5)


@pytest.mark.parametrize("fill", ["black", "mean", "blur"])
@pytest.mark.parametrize("kind", ["crop+fill", "crop"])
def test_crops_agree_with_slices(kind: str, fill: str) -> None:
    image, mask = picture(50, 80), block(50, 80, 10, 20, 20, 60)
    mask[0, 12:15, 30:40] = False
    ground = np.zeros((50, 80, 3)) + (np.array(MEAN) if fill == "mean" else 0)
    if fill == "blur":
        blur = [
            ndimage.gaussian_filter(image[0, ..., c].double().numpy(), 0.02 * 80, mode="nearest", radius=5)
            for c in range(3)
        ]
        ground = np.stack(blur, -1)
    # Box x 20..60, y 10..20; margin 4; square of 48, whose rows reach from -9 to 38.
    rows, columns = np.arange(-9, 39), np.arange(16, 64)
    shown = (rows >= 0)[:, None] & np.ones(48, dtype=bool)
    if kind == "crop+fill":
        shown &= mask[0].numpy()[rows.clip(0)][:, columns]
    cut = np.where(
        shown[..., None], image[0].numpy()[rows.clip(0)][:, columns], ground[rows.clip(0)][:, columns]
    )
    views = region_views(image, mask, 16, kind, fill)
    assert np.allclose(views[0].numpy(), by_pil(cut, 16), atol=1e-5)


@pytest.mark.parametrize("fill", ["black", "mean"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_region_at_the_side_of_the_frame_is_seen_in_every_view(kind: str, fill: str) -> None:
    image = torch.ones(1, 200, 400, 3) * torch.tensor([1.0, 0.0, 1.0])
    for box in ((0, 0, 200, 20), (0, 380, 200, 400), (0, 0, 200, 1), (0, 0, 1, 400), (199, 399, 200, 400)):
        view = region_views(image, block(200, 400, *box), 224, kind, fill)[0]
        assert bool((view[0] - view[1] > 0.1).any()), box


def test_covering_follows_the_kind() -> None:
    image = torch.ones(1, 32, 32, 3)
    mask = block(32, 32, 12, 12, 20, 20)
    assert region_views(image, mask, 32, "full+black")[0, :, 0, 0].tolist() == [0, 0, 0]
    corner = region_views(image, mask, 32, "full+mean")[0, :, 0, 0]
    assert corner.tolist() == pytest.approx(MEAN)
    assert torch.equal(region_views(image, mask, 32, "full+fill", "mean")[0, :, 0, 0], corner)
    assert region_views(image, mask, 10, "crop").min() > 1 - 1e-5
    assert region_views(image, mask, 8, "crop+fill", margin=0).min() > 1 - 1e-5


def test_at_its_own_size_nothing_is_resampled() -> None:
    image, mask = picture(40, 40), block(40, 40, 10, 10, 20, 20)
    views = region_views(image, mask, 12, "crop")
    assert torch.equal(views[0], image[0, 9:21, 9:21].movedim(-1, 0))


def test_order_size_and_range() -> None:
    image = (picture(48, 40) > 0.5).float()
    masks = torch.cat(
        [block(48, 40, 0, 0, 30, 9), block(48, 40, 5, 5, 11, 39), block(48, 40, 47, 39, 48, 40)]
    )
    for kind in KINDS:
        views = region_views(image, masks, 24, kind)
        assert views.shape == (3, 3, 24, 24) and float(views.min()) >= 0 and float(views.max()) <= 1
        assert torch.equal(views.flip(0), region_views(image, masks.flip(0), 24, kind))
        assert torch.equal(views[1:2], region_views(image, masks[1:2], 24, kind))


def test_no_regions_no_views() -> None:
    assert region_views(picture(20, 20), torch.zeros(0, 20, 20, dtype=torch.bool), 16).shape == (0, 3, 16, 16)


def test_pixels_out_of_range_are_clamped_with_a_warning() -> None:
    image = torch.full((1, 20, 20, 3), 1.5)
    with pytest.warns(InputWarning, match="clamped"):
        assert region_views(image, block(20, 20, 2, 2, 9, 9), 8, "crop").min() > 1 - 1e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"masks": torch.zeros(2, 20, 20, dtype=torch.bool)}, r"masks \[0, 1\] are empty \(area 0\)"),
        ({"masks": block(20, 24, 0, 0, 5, 5)}, "24x20 px but the picture is 20x20"),
        ({"masks": torch.ones(1, 20, 20)}, "masks must be bool"),
        ({"kind": "box"}, "kind must be crop"),
        ({"kind": "full"}, "kind must be crop"),
        ({"kind": "crop+red"}, "kind must be crop"),
        ({"fill": "red"}, "fill must be one of"),
        ({"margin": -0.1}, "margin must be at least 0"),
        ({"size": 0}, "size must be at least 1"),
        ({"image": picture(20, 20).repeat(2, 1, 1, 1)}, r"image must hold 1 picture\(s\), got 2"),
        ({"image": picture(20, 20) * torch.nan}, "NaN"),
    ],
)
def test_bad_input_is_one_sentence(options, message) -> None:  # type: ignore[no-untyped-def]
    arguments = {"image": picture(20, 20), "masks": block(20, 20, 2, 2, 9, 9), "size": 16, **options}
    with pytest.raises(ValueError, match=message):
        region_views(**arguments)
