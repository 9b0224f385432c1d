"""Metrics (methods.md 12) against torchmetrics, skimage and closed forms."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

from retouch_core.metrics.background import background_max_error, edited_area, mask_iou
from retouch_core.metrics.clip_score import clip_score
from retouch_core.metrics.fidelity import mse, psnr, ssim
from retouch_core.metrics.perceptual import backbone_file, load_lpips, lpips_distance
from retouch_core.tensors.frames import square_frames
from retouch_core.tensors.normalisation import CLIP_MEAN


def pair(height: int = 32, width: int = 40, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    a = torch.rand(count, height, width, 3, generator=generator)
    strength = torch.linspace(0.02, 0.4, count)[:, None, None, None]
    b = (a + strength * torch.randn(a.shape, generator=generator)).clamp(0, 1)
    return a, b


def test_equal_pictures():
    a, _ = pair()
    assert mse(a, a).tolist() == [0, 0, 0]
    assert ssim(a, a).tolist() == pytest.approx([1, 1, 1], abs=1e-12)
    assert psnr(a, a).tolist() == [math.inf] * 3


def test_mse_and_psnr_of_the_papers_table():
    a = torch.zeros(1, 16, 16, 3, dtype=torch.float64)
    b = torch.full_like(a, math.sqrt(0.0166636))
    assert mse(a, b).item() == pytest.approx(0.0166636, abs=1e-9)
    assert psnr(a, b).item() == pytest.approx(17.7823, abs=5e-5)


@pytest.mark.parametrize("size", [(32, 40), (11, 11), (12, 65)])
def test_fidelity_equals_skimage(size: tuple[int, int]):
    a, b = pair(*size)
    for k in range(3):
        x, y = a[k].double().numpy(), b[k].double().numpy()
        assert mse(a, b)[k].item() == pytest.approx(mean_squared_error(x, y), abs=1e-12)
        assert psnr(a, b)[k].item() == pytest.approx(peak_signal_noise_ratio(x, y, data_range=1), abs=1e-9)
        expected = structural_similarity(
            x, y, data_range=1, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert ssim(a, b)[k].item() == pytest.approx(expected, abs=1e-9)


def test_fidelity_equals_torchmetrics():
    image = pytest.importorskip("torchmetrics.image")
    a, b = pair()
    x, y = a.movedim(-1, 1).double(), b.movedim(-1, 1).double()
    for k in range(3):
        one = (y[k : k + 1], x[k : k + 1])
        _, places = image.StructuralSimilarityIndexMeasure(data_range=1.0, return_full_image=True)(*one)
        # torchmetrics also counts windows that hang over the border, on mirrored pixels; skimage and the paper do not
        assert ssim(a, b)[k].item() == pytest.approx(places[..., 5:-5, 5:-5].mean().item(), abs=1e-9)
        assert psnr(a, b)[k].item() == pytest.approx(
            image.PeakSignalNoiseRatio(data_range=1.0)(*one).item(), abs=1e-4
        )


def test_fidelity_is_symmetric_and_falls_with_noise():
    a, b = pair()
    for measure in (mse, psnr, ssim):
        torch.testing.assert_close(measure(a, b), measure(b, a), rtol=1e-9, atol=1e-12)
    assert (mse(a, b).diff() > 0).all()
    assert (psnr(a, b).diff() < 0).all()
    assert (ssim(a, b).diff() < 0).all()


def test_one_source_against_many_results():
    a, b = pair()
    many = torch.stack([ssim(a[:1], b[k : k + 1])[0] for k in range(3)])
    assert torch.equal(ssim(a[:1], b), many)


@pytest.mark.parametrize("measure", [mse, psnr, ssim])
def test_bad_pictures(measure):
    a, b = pair()
    with pytest.raises(ValueError, match="a must have shape"):
        measure(a[0], b)
    with pytest.raises(ValueError, match="compare pictures of one size"):
        measure(a, b[:, :-1])
    with pytest.raises(ValueError, match="compare pictures of one size"):
        measure(a, b[:2])


def test_ssim_needs_room_for_its_window():
    with pytest.raises(ValueError, match="40x10 px, but SSIM needs at least 11"):
        ssim(torch.zeros(1, 10, 40, 3), torch.zeros(1, 10, 40, 3))


# --- background, masks ---


def test_background_error_sees_one_wrong_bit_outside_and_nothing_inside():
    source = torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 16, 16)
    mask[:, 4:9, 4:9] = 0.2
    result = source.repeat(3, 1, 1, 1)
    result[:, 4:9, 4:9] = 7
    assert background_max_error(source, result, mask).tolist() == [0, 0, 0]
    result[1, 0, 0, 2] = torch.nextafter(source[0, 0, 0, 2], torch.tensor(2.0))
    result[2, 3, 4, 0] = math.nan
    error = background_max_error(source, result, mask)
    assert error[0] == 0
    assert 0 < error[1] < 1e-6
    assert error[2].isnan()
    assert background_max_error(source, result * math.nan, torch.ones_like(mask)).tolist() == [0, 0, 0]


def test_background_error_equals_brute_force():
    a, b = pair()
    mask = (torch.rand(3, 32, 40, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    for k in range(3):
        worst = max(
            abs(float(a[k, i, j, c]) - float(b[k, i, j, c]))
            for i in range(32)
            for j in range(40)
            for c in range(3)
            if mask[k, i, j] == 0
        )
        assert background_max_error(a, b, mask)[k].item() == pytest.approx(worst, abs=1e-7)


def test_bad_backgrounds():
    a, b = pair()
    with pytest.raises(ValueError, match="share one height and width"):
        background_max_error(a, b, torch.zeros(1, 32, 41))
    with pytest.raises(ValueError, match="mask holds NaN"):
        background_max_error(a, b, torch.full((1, 32, 40), math.nan))


def test_overlap_of_masks():
    a = torch.zeros(1, 4, 6)
    a[:, :, :3] = 1
    b = torch.zeros(1, 4, 6)
    b[:, :, 2:4] = 0.7
    assert mask_iou(a, b).item() == pytest.approx(4 / 16)
    assert mask_iou(a, a).item() == 1
    assert mask_iou(a, 1 - a).item() == 0
    assert mask_iou(a * 0, b * 0).item() == 1
    assert mask_iou(a * 0, b).item() == 0
    assert mask_iou(a, torch.cat([a, b])).tolist() == pytest.approx([1, 0.25])
    with pytest.raises(ValueError, match="compare masks of one size"):
        mask_iou(a, b[:, :3])


def test_edited_area():
    mask = torch.zeros(2, 10, 10)
    mask[1, :3] = 0.01
    assert edited_area(mask).tolist() == pytest.approx([0, 0.3])


# --- CLIP score ---


class BrightnessScorer:
    image_size = 16
    logit_scale = 20.0
    gate = None
    rivals = ()

    def encode_images(self, views: torch.Tensor) -> torch.Tensor:
        angle = views.mean((1, 2, 3)) * math.pi / 2
        return torch.stack([angle.cos(), angle.sin()], 1)

    def encode_texts(self, texts):
        return torch.tensor([[1.0, 0.0] if text == "dark" else [0.0, 1.0] for text in texts])

    def unknown_words(self, text):
        return ()


def test_clip_score_is_the_plain_cosine():
    levels = torch.tensor([0.0, 0.5, 1.0])
    images = levels[:, None, None, None].expand(3, 20, 20, 3)
    scorer = BrightnessScorer()
    expected = [1.0, math.sqrt(0.5), 0.0]
    assert clip_score(images, "dark", scorer).tolist() == pytest.approx(expected, abs=1e-6)
    assert clip_score(images, ["dark", "dark", "bright"], scorer).tolist() == pytest.approx(
        [1.0, math.sqrt(0.5), 1.0], abs=1e-6
    )
    many = images.repeat(30, 1, 1, 1)
    assert clip_score(many, "dark", scorer).tolist() == pytest.approx(expected * 30, abs=1e-6)


def test_clip_score_input():
    images = torch.zeros(3, 20, 20, 3)
    with pytest.raises(ValueError, match="text is empty"):
        clip_score(images, "", BrightnessScorer())
    with pytest.raises(ValueError, match="2 phrases for 3 pictures"):
        clip_score(images, ["dark", "dark"], BrightnessScorer())


# --- square frames ---


def test_frames_pad_with_clips_mean_colour_and_crop_nothing():
    image = torch.rand(2, 8, 24, 3, generator=torch.Generator().manual_seed(0))
    frames = square_frames(image, 24)
    assert frames.shape == (2, 3, 24, 24)
    assert torch.equal(frames[:, :, 8:16].movedim(1, -1), image)
    assert torch.equal(frames[0, :, 0, 0], torch.tensor(CLIP_MEAN))
    assert torch.equal(frames[1, :, 23, 5], torch.tensor(CLIP_MEAN))
    tall = square_frames(image.transpose(1, 2), 24, fill=(0, 0, 0))
    assert torch.equal(tall[:, :, :, 8:16].movedim(1, -1), image.transpose(1, 2))
    assert tall[:, :, :, :8].abs().max() == 0


def test_frames_squash_and_stay_in_range():
    image = torch.zeros(1, 10, 40, 3)
    image[:, :, 20:] = 1
    frames = square_frames(image, 16, fit="squash")
    assert frames.shape == (1, 3, 16, 16)
    assert frames.min() >= 0
    assert frames.max() <= 1
    assert frames[..., 0].max() < 0.001
    assert frames[..., -1].min() > 0.999
    with pytest.raises(ValueError, match="fit must be"):
        square_frames(image, 16, fit="crop")


def test_square_pictures_of_the_right_size_pass_through():
    image = torch.rand(1, 16, 16, 3)
    assert torch.equal(square_frames(image, 16).movedim(1, -1), image)


# --- LPIPS ---


@pytest.fixture
def hub(tmp_path: Path):
    """An empty torch hub, so that nothing on this machine plays a part."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path))
    yield tmp_path
    torch.hub.set_dir(before)


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_without_weights_is_an_error_and_never_a_download(hub: Path, net: str, monkeypatch):
    import socket

    def no_network(*args, **kwargs):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", no_network)
    with pytest.raises(FileNotFoundError, match=r"LPIPS \(" + net):
        lpips_distance(*pair(64, 64), net=net)
    assert not list(hub.rglob("*.pth"))


def test_files_are_torchvisions(hub: Path):
    from torchvision.models import AlexNet_Weights, VGG16_Weights

    assert backbone_file("alex").name == AlexNet_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[1]
    assert backbone_file("vgg").name == VGG16_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[1]


def test_an_unknown_lpips_net():
    with pytest.raises(ValueError, match="net must be one of alex, vgg"):
        lpips_distance(*pair(64, 64), net="resnet")


@pytest.mark.filterwarnings("ignore")
def test_lpips_equals_the_package_with_the_same_weights(hub: Path, monkeypatch):
    lpips = pytest.importorskip("lpips")
    from torchvision import models

    torch.manual_seed(0)
    backbone = models.alexnet(weights=None)
    target = backbone_file("alex")
    target.parent.mkdir(parents=True)
    features = {f"features.{k}": v for k, v in backbone.features.state_dict().items()}
    torch.save(features, target)
    with monkeypatch.context() as patch:
        patch.setattr(lpips.pretrained_networks.tv, "alexnet", lambda pretrained: backbone)
        reference = lpips.LPIPS(net="alex", verbose=False)
    a, b = pair(64, 64)
    expected = reference(a.movedim(-1, 1), b.movedim(-1, 1), normalize=True).flatten()
    network = load_lpips("alex")
    ours = lpips_distance(a, b, network=network)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)
    assert (ours > 0).all()
    assert lpips_distance(a, a, network=network).tolist() == [0, 0, 0]
    torch.testing.assert_close(lpips_distance(a[:1], b, network=network)[0], expected[0], rtol=0, atol=1e-6)
    shutil.rmtree(target.parent)


def test_lpips_pictures_of_two_sizes():
    a, b = pair(64, 64)
    with pytest.raises(ValueError, match="compare pictures of one size"):
        lpips_distance(a, b[:, :-1])


def test_numbers_do_not_depend_on_the_dtype_or_layout():
    a, b = pair()
    np.testing.assert_allclose(ssim(a.double(), b.double()), ssim(a, b), atol=1e-12)
    np.testing.assert_allclose(ssim(a.transpose(1, 2), b.transpose(1, 2)), ssim(a, b), atol=1e-12)
