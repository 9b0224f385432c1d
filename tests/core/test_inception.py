"""Inception features, with random weights in the published file's layout: pooling, scale and refusals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from stub_scorer import StubScorer
from torch.nn import functional

from retouch_core.evaluation.measures import Gauges
from retouch_core.metrics.inception import InceptionFeatures, _pool_by, inception_file, load_inception


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A torch hub folder with a file of the right name and shapes."""
    from torchvision.models.inception import Inception3

    hub = tmp_path_factory.mktemp("hub")
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(hub))
    torch.manual_seed(0)
    network = Inception3(num_classes=1008, aux_logits=False, init_weights=False)
    for part in network.modules():
        if isinstance(part, torch.nn.Conv2d):  # so that something of the picture arrives at the end
            torch.nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
    inception_file().parent.mkdir()
    torch.save(network.state_dict(), inception_file())
    yield inception_file()
    torch.hub.set_dir(before)


def test_features_are_those_of_a_network_whose_means_leave_out_the_padding(
    weights: Path, monkeypatch: pytest.MonkeyPatch
):
    images = torch.rand(2, 40, 56, 3, generator=torch.Generator().manual_seed(1))
    found = load_inception()(images)
    assert found.shape == (2, 2048) and found.dtype == torch.float32
    assert torch.equal(found, load_inception()(images))

    from torchvision.models import inception

    network = inception.Inception3(num_classes=1008, aux_logits=False, init_weights=False).eval()
    network.load_state_dict(torch.load(weights, weights_only=True))
    network.fc = torch.nn.Identity()
    blocks = {"now": ""}
    for name, part in network.named_children():
        part.register_forward_pre_hook(lambda *_, name=name: blocks.update(now=name))

    def mean(x: torch.Tensor, kernel_size: int, stride: int, padding: int) -> torch.Tensor:
        """By unfolding: the mean of those of the nine neighbours that lie inside, or their maximum in the last block."""
        away = -torch.inf if blocks["now"] == "Mixed_7c" else torch.nan
        around = functional.pad(x, (1, 1, 1, 1), value=away).unfold(2, 3, 1).unfold(3, 3, 1).flatten(4)
        return around.amax(-1) if blocks["now"] == "Mixed_7c" else around.nanmean(-1)

    with monkeypatch.context() as patched, torch.no_grad():
        patched.setattr(inception.F, "avg_pool2d", mean)
        pixels = functional.interpolate(
            images.movedim(-1, 1), (299, 299), mode="bilinear", align_corners=False
        )
        expected = network(2 * pixels - 1)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    with torch.no_grad():
        other = network(2 * pixels - 1)
    assert (found - other).abs().max() > 0.01 * expected.abs().max(), "plain averages are something else"


def test_the_pooled_branch_is_the_last_one():
    class Block:
        def _forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [x, x + 1, x + 2]

        def branch_pool(self, x: torch.Tensor) -> torch.Tensor:
            return 10 * x

    block = Block()
    _pool_by(block, lambda x: x + 5)
    assert [float(out) for out in block._forward(torch.tensor(1.0))] == [1, 2, 60]


def test_they_are_used_where_the_weights_are(weights: Path):
    gauges = Gauges.of(StubScorer())
    assert isinstance(gauges.features, InceptionFeatures) and gauges.features_name == "Inception features"


def test_without_the_file(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"needs .*none\.pth, which is not there"):
        load_inception(tmp_path / "none.pth")
    (tmp_path / "bad.pth").write_bytes(b"bad")
    with pytest.raises(ValueError, match=r"bad\.pth does not hold pytorch-fid's Inception"):
        load_inception(tmp_path / "bad.pth")
    torch.save({"fc.bias": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth does not hold"):
        load_inception(tmp_path / "other.pth")
