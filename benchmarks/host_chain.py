"""RetouchRegionSampler beside the chain of core nodes that it stands for: VAEEncode, SetLatentNoiseMask, KSampler,
VAEDecode, ImageCompositeMasked.

MODEL and VAE have Stable Diffusion 1.5's own classes and random weights, the MODEL with fewer channels unless asked
otherwise. Both sides get the same picture, mask, words, seed and steps; that their pictures agree is asserted. Pairs are interleaved in
changing order, after one uncounted run each.

    python -m benchmarks.host_chain
    python -m benchmarks.host_chain --channels 320 --side 512 --steps 4 --pairs 3
"""

from __future__ import annotations

import argparse
import importlib
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from training.host_pack import import_host, pack_module

from .host_sampler_time import SEED, model_of
from .pairs import interleaved, ratios, told

GOAL = 1.03
"""Largest median ratio of times, ours to the chain's."""
SAME = 2e-3
"""Largest difference of a pixel: the core blends a float mask where ours selects, and rounds otherwise."""


def vae_of() -> Any:
    """SD 1.5's autoencoder with random weights, as a VAE."""
    import comfy.ldm.models.autoencoder
    import comfy.sd

    layout = {
        "double_z": True,
        "z_channels": 4,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 128,
        "ch_mult": [1, 2, 4, 4],
        "num_res_blocks": 2,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    network = comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=layout, embed_dim=4)
    generator = torch.Generator().manual_seed(SEED)
    for name, value in network.named_parameters():
        noise = torch.randn(value.shape, generator=generator)
        plain = 0.1 * noise + (1.0 if name.endswith("weight") else 0.0)
        value.data = noise / max(value[0].numel(), 1) ** 0.5 if value.ndim > 1 else plain
    return comfy.sd.VAE(sd=network.state_dict())


def sides(model: Any, vae: Any, side: int, steps: int, cfg: float) -> dict[str, Callable[[], Tensor]]:
    """Both ways to repaint one square picture of `side` px, each as a function to time."""
    core = importlib.import_module("nodes")
    masks = importlib.import_module("comfy_extras.nodes_mask")
    node = pack_module("nodes.region_sampler").RetouchRegionSampler
    generator = torch.Generator().manual_seed(SEED)
    image = torch.rand(1, side, side, 3, generator=generator)
    mask = torch.zeros(1, side, side)
    mask[:, side // 4 : side // 2, side // 4 : side * 3 // 4] = 1
    target, empty = ([[torch.randn(1, 77, 768, generator=generator), {}]] for _ in range(2))
    numbers = {"seed": SEED, "steps": steps, "cfg": cfg, "sampler_name": "euler", "scheduler": "simple"}

    def ours() -> Tensor:
        made: Tensor = node.execute(
            image, mask, model, vae, target, empty=empty, candidates=1, denoise=1.0, **numbers
        ).args[0]
        return made

    def chain() -> Tensor:
        (latent,) = core.VAEEncode().encode(vae, image)
        (latent,) = core.SetLatentNoiseMask().set_mask(latent, mask)
        (latent,) = core.KSampler().sample(
            model, positive=target, negative=empty, latent_image=latent, denoise=1.0, **numbers
        )
        (painted,) = core.VAEDecode().decode(vae, latent)
        made: Tensor = masks.ImageCompositeMasked.execute(image, painted, 0, 0, False, mask).args[0]
        return made

    return {"ours": ours, "chain": chain}


def main() -> int:
    """Print times and ratio; 1 where the ratio is above the goal."""
    parser = argparse.ArgumentParser(prog="benchmarks.host_chain")
    parser.add_argument("--pairs", type=int, default=11)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--cfg", type=float, default=3.0)
    options = parser.parse_args()
    place = import_host()
    import comfy.utils
    import comfyui_version

    comfy.utils.set_progress_bar_enabled(False)
    vae = vae_of()
    run = sides(model_of(options.channels), vae, options.side, options.steps, options.cfg)
    with torch.inference_mode():
        results = {name: chain() for name, chain in run.items()}
        difference = float((results["ours"] - results["chain"]).abs().max())
        if difference > SAME:
            raise AssertionError(f"the two pictures differ by {difference:.1e}")
        seconds = interleaved(run, options.pairs)
    ratio = statistics.median(ratios(seconds["ours"], seconds["chain"]))
    print(
        f"ComfyUI {comfyui_version.__version__} ({place.name}), {torch.get_num_threads()} threads: {options.channels} "
        f"channels, {options.side} px, {options.steps} steps, cfg {options.cfg:g}; pictures differ by {difference:.1e}"
    )
    print(
        f"ours {statistics.median(seconds['ours']):.3f} s, chain {statistics.median(seconds['chain']):.3f} s, "
        f"{told(seconds['ours'], seconds['chain'])}, goal {GOAL}"
    )
    return 0 if ratio <= GOAL else 1


if __name__ == "__main__":
    raise SystemExit(main())
