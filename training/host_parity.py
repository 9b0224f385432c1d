"""Show that ComfyUI's own classes compute what diffusers and transformers compute, for all that we train.

    python -m training.host_parity

builds each network with random weights in both libraries, renames the keys and prints the largest absolute
difference of their outputs; exit status 1 where one exceeds 1e-4. It wants a ComfyUI (``COMFYUI_PATH``, else
``~/comfy/ComfyUI``) and no weights. Run it before training: a network that the host cannot hold is not worth
an hour of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch

from training.host_pack import HostMissing, import_host, pack_module
from training.random_bundle import random_autoencoder, random_clip, random_denoiser

TOLERANCE = 1e-4

Row = tuple[str, float]


def difference(ours: torch.Tensor, host: torch.Tensor) -> float:
    """Largest absolute difference; infinite where shapes differ or a value is not finite."""
    if ours.shape != host.shape or not bool(torch.isfinite(ours).all() and torch.isfinite(host).all()):
        return float("inf")
    return float((ours.double() - host.double()).abs().max())


def denoiser(widths: tuple[int, ...], channels: int) -> Iterator[Row]:
    """``UNet2DConditionModel`` against the host's ``UNetModel``."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    ours = random_denoiser(1, channels, widths)
    networks = pack_module("nodes._networks")
    config = networks.unet_config(dict(ours.config))
    host = UNetModel(**config, dtype=torch.float32, operations=comfy.ops.manual_cast).eval()
    host.load_state_dict(networks.unet_state(ours.state_dict(), config), strict=True)

    generator = torch.Generator().manual_seed(2)
    x = torch.randn(3, channels, 16, 16, generator=generator)
    text = torch.randn(3, 16, 128, generator=generator)
    t = torch.tensor([0, 417, 999])
    with torch.no_grad():
        a = ours(x, t, encoder_hidden_states=text).sample
        b = host(x, t, context=text)
    millions = sum(value.numel() for value in ours.parameters()) / 1e6
    yield f"denoiser {channels} -> 4 channels, widths {widths}, {millions:.2f} M", difference(a, b)


def autoencoder() -> Iterator[Row]:
    """``AutoencoderTiny`` against ``comfy.sd.VAE``, on pictures in 0..1 as the host's nodes have them."""
    ours = random_autoencoder(3)
    host = pack_module("nodes._networks").host_vae(ours.state_dict())
    generator = torch.Generator().manual_seed(4)
    image = torch.rand(2, 128, 96, 3, generator=generator)
    with torch.no_grad():
        z = ours.encode(image.movedim(-1, 1) * 2 - 1).latents
        yield "autoencoder, encode", difference(z, host.encode(image))
        z = torch.randn(2, 4, 16, 12, generator=generator) * 2
        picture = ours.decode(z).sample.movedim(1, -1) / 2 + 0.5
        inside = float(((picture > 0) & (picture < 1)).float().mean())
        yield (
            f"autoencoder, decode ({inside:.0%} of values inside 0..1)",
            difference(picture.clamp(0, 1), host.decode(z)),
        )


def text_tower(act: str) -> Iterator[Row]:
    """The text half of ``CLIPModel`` against the host's text model behind its ``SDClipModel``."""
    ours = random_clip(5, act)
    networks = pack_module("nodes._networks")
    encoder = networks.text_encoder_class(networks.text_config(ours.config.text_config.to_dict()))
    host = encoder(dtype=torch.float32)
    missing, unexpected = host.load_sd(networks.text_state(ours.state_dict()))
    if missing or unexpected:
        raise RuntimeError(f"the host's text model misses {missing} and does not know {unexpected}.")

    # Empty, short, and full length (no padding left); the id 0 occurs only as padding, 3 only as the end.
    words = [[], [17, 99], list(range(20, 34))]
    rows = [[1, *w, 3] + [0] * (14 - len(w)) for w in words]
    with torch.no_grad():
        # No attention_mask: the host has none either, so padding positions differ where one is given here.
        out = ours.text_model(input_ids=torch.tensor(rows))
        hidden, pooled = host.encode(rows)
        yield f"text tower ({act}), all 16 hidden states", difference(out.last_hidden_state, hidden)
        yield (
            f"text tower ({act}), projected pooled",
            difference(ours.text_projection(out.pooler_output), pooled),
        )


def rows() -> Iterator[Row]:
    """Every architecture's differences."""
    yield from denoiser((64, 128), 9)
    yield from denoiser((64, 128), 4)
    yield from denoiser((64, 128, 192), 9)
    yield from autoencoder()
    yield from text_tower("quick_gelu")
    yield from text_tower("gelu")


def main() -> int:
    """Print the table; 0 where all agree, 1 where one does not, 2 without a host."""
    try:
        place = import_host()
    except HostMissing as missing:
        print(missing, file=sys.stderr)
        return 2
    import comfyui_version
    import diffusers
    import transformers

    versions = (diffusers.__version__, transformers.__version__)
    print("ComfyUI {}, diffusers {}, transformers {}".format(comfyui_version.__version__, *versions))
    worst = 0.0
    for name, value in rows():
        worst = max(worst, value)
        print(f"{value:9.1e}  {'ok ' if value <= TOLERANCE else 'BAD'}  {name}", flush=True)
    print(f"largest {worst:.1e}, allowed {TOLERANCE:.0e} ({place.name})")
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
