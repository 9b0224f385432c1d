"""Decoders stopped at half size: exact where what is left out is linear, and differentiable."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from retouch_core.models.half_decoder import half_decoder, half_decoder_of
from tests.core.tiny_models import vae_kl, vae_tiny


def layers(last: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    grow = nn.Upsample(scale_factor=2)
    return nn.Sequential(
        nn.Conv2d(4, 12, 3, padding=1), nn.Tanh(), grow, nn.Conv2d(12, 8, 3, padding=1), grow, last
    )


def test_exact_where_the_last_stage_is_linear():
    torch.manual_seed(1)
    network = layers(nn.Conv2d(8, 3, 1))
    decode = half_decoder(network, lambda z: z, 4)
    latents = torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = nn.functional.avg_pool2d(network(latents) * 2 - 1, 2)
        found = decode(latents)
    assert found.shape == (2, 3, 12, 10)
    assert (found - expected).abs().max() < 5e-3


def test_gradient_is_that_of_the_stopped_network_also_in_inference_mode():
    with torch.inference_mode():
        decode = half_decoder(layers(nn.Conv2d(8, 3, 3, padding=1)), lambda z: torch.tanh(z / 3) * 3, 4)
        with torch.inference_mode(False), torch.enable_grad():
            at = torch.randn(1, 4, 3, 3, requires_grad=True)
            (slope,) = torch.autograd.grad(decode(at).square().sum(), at)
            step = torch.randn(at.shape) * 1e-3
            with torch.no_grad():
                ends = [float(decode(at + sign * step).double().square().sum()) for sign in (1, -1)]
    assert float((slope * step).sum()) == pytest.approx((ends[0] - ends[1]) / 2, rel=2e-2)


def test_autoencoders_without_a_row_of_layers_are_named():
    vae = vae_tiny()
    vae.eval().requires_grad_(False)
    latents = torch.randn(1, 4, 4, 4)
    assert half_decoder_of(vae, 1.3)(latents).shape == (1, 3, 16, 16)
    with pytest.raises(ValueError, match="vae is a AutoencoderKL without a row of decoder layers"):
        half_decoder_of(vae_kl())
    with pytest.raises(ValueError, match=r"decoder of 1 layers has no plain row of them with nn\.Upsample"):
        half_decoder(nn.Sequential(nn.Conv2d(4, 3, 1)), lambda z: z, 4)
