"""Small decoders out of diffusers' folders and of TAESD's own files, against diffusers' decoding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from retouch_core.models.pretrained.loading import ModelError
from retouch_core.models.pretrained.tiny_decoder import TinyDecoder

try:
    from diffusers import AutoencoderTiny
except (
    ImportError,
    RuntimeError,
) as reason:  # an older huggingface_hub than diffusers takes, beside transformers 4
    pytest.skip(f"diffusers cannot be imported: {reason}", allow_module_level=True)


def tiny(channels: int = 4, **more: Any) -> Any:
    torch.manual_seed(channels)
    return AutoencoderTiny(latent_channels=channels, **more).eval()


def taesd(vae: Any, part: str) -> dict[str, torch.Tensor]:
    """As madebyollin's own files name it: the decoder's clamp is its layer 0."""
    own = {}
    for name, value in getattr(vae, part).layers.state_dict().items():
        layer, what = name.split(".", 1)
        own[f"{int(layer) + (part == 'decoder')}.{what}"] = value.contiguous()
    return own


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("taesd")
    tiny().save_pretrained(found)
    return found


@pytest.fixture
def latents() -> torch.Tensor:
    return 2 * torch.randn(2, 4, 5, 7, generator=torch.Generator().manual_seed(1))


def test_a_folder_decodes_as_diffusers_does(folder: Path, latents: torch.Tensor) -> None:
    own = TinyDecoder.from_folder(folder)
    with torch.no_grad():
        expected = tiny().decode(latents).sample
    pixels = own.decode_pixels(latents)
    assert pixels.shape == (2, 3, 40, 56) and own.channels == 4 and own.networks == (own.vae,)
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-6)
    assert own.half_decoder()(latents).shape == (2, 3, 20, 28)


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
@pytest.mark.parametrize("channels", [4, 16])
def test_taesds_own_files(tmp_path: Path, ending: str, channels: int) -> None:
    vae, paths = tiny(channels), []
    for part in ("decoder", "encoder"):
        paths.append(tmp_path / f"taesd_{part}.{ending}")
        (save_file if ending == "safetensors" else torch.save)(taesd(vae, part), paths[-1])
    own = TinyDecoder.from_files(*paths)
    z = torch.randn(1, channels, 4, 6, generator=torch.Generator().manual_seed(1))
    picture = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(2)) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(own.decode_pixels(z), vae.decode(z).sample, rtol=0, atol=1e-6)
        torch.testing.assert_close(
            own.vae.encode(picture).latents, vae.encode(picture).latents, rtol=0, atol=1e-6
        )
    alone = TinyDecoder.from_files(paths[0])
    assert torch.equal(alone.decode_pixels(z), own.decode_pixels(z)) and alone.vae.encoder is None


def test_scale_and_shift_of_the_config(tmp_path: Path, latents: torch.Tensor) -> None:
    tiny(scaling_factor=0.5, shift_factor=0.25).save_pretrained(tmp_path)
    own = TinyDecoder.from_folder(tmp_path)
    with torch.no_grad():
        expected = tiny().decode(latents / 0.5 + 0.25).sample
    torch.testing.assert_close(own.decode_pixels(latents), expected, rtol=0, atol=1e-6)
    whole, half = own.decode_pixels(latents), own.half_decoder()(latents)
    small = torch.nn.functional.avg_pool2d(whole, 2)
    plain = TinyDecoder(tiny(scaling_factor=0.5)).half_decoder()(latents)
    assert float((half - small).abs().mean()) < float((plain - small).abs().mean())


@pytest.mark.parametrize("inference", [False, True])
def test_gradients_reach_the_latents(folder: Path, latents: torch.Tensor, inference: bool) -> None:
    with torch.inference_mode(inference):
        own = TinyDecoder.from_folder(folder)
        with torch.inference_mode(False), torch.enable_grad():
            z = latents.clone().double().float().requires_grad_()
            (slope,) = torch.autograd.grad(own.decode_pixels(z).square().sum(), z)
    assert bool(torch.isfinite(slope).all()) and float(slope.abs().sum()) > 0


def test_half_precision_and_no_latents(folder: Path, latents: torch.Tensor) -> None:
    own = TinyDecoder.from_folder(folder)
    exact = own.decode_pixels(latents)
    own.networks[0].to(torch.bfloat16)
    rough = own.decode_pixels(latents)
    assert rough.dtype == torch.float32
    assert float((rough - exact).abs().mean()) < 0.05 * float(exact.std())
    assert own.decode_pixels(latents[:0]).shape == (0, 3, 40, 56)


def test_loading_leaves_the_random_numbers_alone(folder: Path) -> None:
    torch.manual_seed(9)
    expected = torch.rand(2)
    torch.manual_seed(9)
    TinyDecoder.from_folder(folder)
    assert torch.equal(torch.rand(2), expected)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    decoder, encoder, other = (tmp_path / f"{name}.safetensors" for name in ("decoder", "encoder", "other"))
    save_file(taesd(tiny(), "decoder"), decoder)
    save_file(taesd(tiny(), "encoder"), encoder)
    save_file(taesd(tiny(16), "encoder"), other)
    with pytest.raises(ModelError, match=r"encoder.safetensors is an encoder; give the file called decoder"):
        TinyDecoder.from_files(encoder)
    with pytest.raises(ModelError, match=r"decoder.safetensors is no TAESD encoder"):
        TinyDecoder.from_files(decoder, decoder)
    with pytest.raises(ModelError, match=r"makes latents of 16 channels but .* takes 4"):
        TinyDecoder.from_files(decoder, other)
    with pytest.raises(ModelError, match=r"none.pth does not exist"):
        TinyDecoder.from_files(tmp_path / "none.pth")
    lacking = taesd(tiny(), "decoder")
    lacking.pop("3.conv.0.weight")
    save_file(lacking, other)
    with pytest.raises(ModelError, match="does not fit an AutoencoderTiny"):
        TinyDecoder.from_files(other)
    save_file({"conv.weight": torch.zeros(1)}, other)
    with pytest.raises(ModelError, match="is no TAESD decoder"):
        TinyDecoder.from_files(other)
    other.write_bytes(decoder.read_bytes()[:-4])
    with pytest.raises(ModelError, match="is damaged"):
        TinyDecoder.from_files(other)


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"_class_name": "AutoencoderKL"}))
    with pytest.raises(ModelError, match="holds a model of class AutoencoderKL, but a small decoder needs"):
        TinyDecoder.from_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"latent_channels": 8}))
    with pytest.raises(ModelError, match="does not fit an AutoencoderTiny"):
        TinyDecoder.from_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no diffusion_pytorch_model.safetensors"):
        TinyDecoder.from_folder(tmp_path)
    with pytest.raises(TypeError, match="vae must be an AutoencoderTiny, got Linear"):
        TinyDecoder(torch.nn.Linear(2, 2))
