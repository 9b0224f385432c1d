"""LPIPS with each backbone from a file, against the lpips package itself over the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_lpips import NAMES, backbone

from retouch_core.metrics.feature_distance import LpipsDistance, ScorerDistance, lpips_of, perceptual_distance
from retouch_core.metrics.perceptual import BACKBONES, load_lpips, lpips_distance
from retouch_core.models.pretrained.lookup import ENVIRONMENT

lpips = pytest.importorskip("lpips")


@pytest.fixture
def hub(tmp_path: Path) -> Any:
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path))
    yield tmp_path / "checkpoints"
    torch.hub.set_dir(before)


def pictures(seed: int) -> torch.Tensor:
    return torch.rand(2, 64, 72, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("net", NAMES)
def test_distances_are_the_packages_own(hub: Path, net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = backbone(hub, net)
    with monkeypatch.context() as patch:
        patch.setattr(lpips.pretrained_networks.tv, NAMES[net], lambda pretrained: network)
        reference = lpips.LPIPS(net=net, verbose=False)
    a, b = pictures(1), pictures(2)
    with torch.no_grad():
        expected = reference(a.movedim(-1, 1), b.movedim(-1, 1), normalize=True).flatten()
    found = lpips_distance(a, b, net=net)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert bool((found > 0).all()) and lpips_distance(a, a, net=net).tolist() == [0, 0]
    elsewhere = hub.parent / "mine.pth"
    (hub / BACKBONES[net]).rename(elsewhere)
    assert torch.equal(lpips_distance(a, b, network=load_lpips(net, elsewhere)), found)


@pytest.mark.filterwarnings("ignore")
def test_the_file_that_models_get_fetched_is_found(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Scorer:
        image_size = 16

    place = hub.parent / "models" / "retouch_perceptual" / "lpips-squeeze"
    backbone(place, "squeeze")
    monkeypatch.setenv(ENVIRONMENT, str(hub.parent / "models"))
    assert isinstance(perceptual_distance(Scorer(), "alex"), ScorerDistance)  # type: ignore[arg-type]
    found = perceptual_distance(Scorer(), "squeeze")  # type: ignore[arg-type]
    assert isinstance(found, LpipsDistance) and found.name == "LPIPS (squeeze)"
    a, b = (pictures(k).movedim(-1, 1) * 2 - 1 for k in (1, 2))
    file = place / BACKBONES["squeeze"]
    expected = lpips_distance(pictures(1), pictures(2), network=load_lpips("squeeze", file))
    torch.testing.assert_close(found.against(b)(a), expected)
    with pytest.raises(
        ValueError, match=r"mine\.pth is no backbone of LPIPS; choose a file called alexnet-owt"
    ):
        lpips_of(hub / "mine.pth")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("net", NAMES)
@pytest.mark.parametrize("size", [(4, 4), (8, 20), (63, 80)])
def test_small_pictures_are_enlarged(hub: Path, net: str, size: tuple[int, int]) -> None:
    backbone(hub, net)
    distance = LpipsDistance(net)
    a, b = (torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(k)) * 2 - 1 for k in (1, 2))
    leaf = a.clone().requires_grad_()
    found = distance.against(b)(leaf)
    found.sum().backward()
    scale = 64 / min(size)
    large = [
        torch.nn.functional.interpolate(one, [round(s * scale) for s in size], mode="bilinear")
        for one in (a, b)
    ]
    torch.testing.assert_close(found.detach(), distance.network(*large).flatten())
    assert leaf.grad is not None and bool((leaf.grad.abs().amax((1, 2, 3)) > 0).all())
    assert distance.against(a)(a).tolist() == [0, 0]


def test_files_have_torchvisions_names() -> None:
    from torchvision.models import SqueezeNet1_1_Weights

    assert BACKBONES["squeeze"] == SqueezeNet1_1_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[1]


@pytest.mark.filterwarnings("ignore")
def test_files_that_cannot_be_used(hub: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"LPIPS \(squeeze\) needs .*squeezenet1_1-b8a52dc0.pth"):
        load_lpips("squeeze")
    backbone(hub, "alex")
    other = hub / BACKBONES["alex"]
    with pytest.raises(ValueError, match=r"does not hold the backbone of LPIPS \(squeeze\)"):
        load_lpips("squeeze", other)
    other.write_bytes(other.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"does not hold the backbone of LPIPS \(alex\)"):
        load_lpips("alex")
    with pytest.raises(ValueError, match="net must be one of alex, vgg, squeeze, got 'resnet'"):
        load_lpips("resnet")
