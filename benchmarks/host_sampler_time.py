"""Sampling time of RetouchRegionSampler beside the host's own KSampler with a noise mask, on the same MODEL.

The MODEL is SD 1.5's network with its own shape and fewer channels, with random weights. Both sides get the same
latent, mask, seed, steps and batch, and make the same number of denoiser calls, which is asserted. What is timed is the
sampling alone: no encoding, no decoding. Pairs are interleaved in changing order, after one uncounted run each.

    python -m benchmarks.host_sampler_time
    COMFYUI_PATH=~/comfy/ComfyUI-0.25 python -m benchmarks.host_sampler_time --pairs 11
"""

from __future__ import annotations

import argparse
import importlib
import statistics
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from training.host_pack import import_host, pack_module

from .pairs import interleaved, ratios, told

GOAL = 1.03
"""Largest median ratio of times, ours to the host's, without guidance."""
SEED = 11


def model_of(channels: int) -> Any:
    """SD 1.5's layout with `channels` (320 in the original) and random weights, as a MODEL."""
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models

    class Narrow(comfy.supported_models.SD15):
        unet_extra_config: ClassVar[dict[str, Any]] = {"num_heads": 8, "num_head_channels": -1}

    config = Narrow(
        {
            "image_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "model_channels": channels,
            "channel_mult": [1, 2, 4, 4],
            "num_res_blocks": [2, 2, 2, 2],
            "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
            "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
            "transformer_depth_middle": 1,
            "context_dim": 768,
            "use_spatial_transformer": True,
            "use_linear_in_transformer": False,
            "adm_in_channels": None,
            "legacy": False,
        }
    )
    config.set_inference_dtype(torch.float32, None)
    network = config.get_model({}, "", device=None)
    generator = torch.Generator().manual_seed(SEED)
    for value in network.diffusion_model.parameters():
        fan = max(value[0].numel(), 1) if value.ndim > 1 else 100
        value.data = torch.randn(value.shape, generator=generator) / fan**0.5
    offload = comfy.model_management.unet_offload_device()
    return comfy.model_patcher.CoreModelPatcher(network, comfy.model_management.get_torch_device(), offload)


class Counter:
    """Counts the denoiser calls of a MODEL through the host's own hook."""

    def __init__(self, model: Any) -> None:
        self.calls = 0
        self.model = model.clone()
        self.model.set_model_unet_function_wrapper(self._call)

    def _call(self, apply: Callable[..., Tensor], args: dict[str, Any]) -> Tensor:
        self.calls += 1
        return apply(args["input"], args["timestep"], **args["c"])


def sides(model: Any, side: int, steps: int, batch: int, cfg: float) -> dict[str, Callable[[], Tensor]]:
    """Both samplings of one square picture of `side` px, each as a function to time."""
    import comfy.sample

    region = pack_module("nodes._repaint")
    generator = torch.Generator().manual_seed(SEED)
    cells = side // 8
    latent = torch.randn(1, 4, cells, cells, generator=generator)
    pixels = torch.zeros(1, side, side)
    pixels[:, side // 4 : side // 2, side // 4 : side * 3 // 4] = 1
    conds = [[[torch.randn(1, 77, 768, generator=generator), {}]] for _ in range(2)]
    soft = torch.nn.functional.max_pool2d(pixels[:, None], 8)
    image = torch.zeros(1, side, side, 3)
    scene = region.Scene(image, pixels, (side, side), 8, latent, soft)
    widgets = region.Widgets(SEED, steps, cfg, "euler", "simple", 1.0, 0.0, batch, "masked")
    (masked,) = (
        importlib.import_module("nodes")
        .SetLatentNoiseMask()
        .set_mask({"samples": latent.repeat(batch, 1, 1, 1)}, pixels)
    )
    noise = torch.cat([comfy.sample.prepare_noise(latent, SEED + k) for k in range(batch)])

    def ours() -> Tensor:
        made: Tensor = region.repaint(scene, model, None, [conds[0], None, conds[1]], widgets, [])[0]
        return made

    def host() -> Tensor:
        # What `nodes.common_ksampler` does, but for the noise, of which it draws one for the whole batch.
        import latent_preview

        made: Tensor = comfy.sample.sample(
            model,
            noise,
            steps,
            cfg,
            "euler",
            "simple",
            *conds,
            masked["samples"],
            denoise=1.0,
            noise_mask=masked["noise_mask"],
            callback=latent_preview.prepare_callback(model, steps),
            disable_pbar=True,
            seed=SEED,
        )
        return made

    return {"ours": ours, "host": host}


def main() -> int:
    """Print times and ratio; 1 where results or calls differ or the ratio is above the goal."""
    parser = argparse.ArgumentParser(prog="benchmarks.host_sampler_time")
    parser.add_argument("--pairs", type=int, default=11)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--cfg", type=float, default=1.0)
    options = parser.parse_args()
    place = import_host()
    import comfy.utils
    import comfyui_version

    comfy.utils.set_progress_bar_enabled(False)
    counter = Counter(model_of(options.channels))
    run = sides(counter.model, options.side, options.steps, options.batch, options.cfg)
    with torch.inference_mode():
        calls, results = {}, {}
        for name, sampling in run.items():
            counter.calls = 0
            results[name] = sampling()
            calls[name] = counter.calls
        assert calls["ours"] == calls["host"], calls
        difference = float((results["ours"] - results["host"]).abs().max())
        seconds = interleaved(run, options.pairs)
    ratio = statistics.median(ratios(seconds["ours"], seconds["host"]))
    print(
        f"ComfyUI {comfyui_version.__version__} ({place.name}), torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads: {options.steps} steps, batch {options.batch}, {options.side} px, "
        f"cfg {options.cfg:g}, {calls['ours']} denoiser calls each, results differ by {difference:.1e}"
    )
    print(
        f"ours {statistics.median(seconds['ours']):.3f} s, host {statistics.median(seconds['host']):.3f} s, "
        f"{told(seconds['ours'], seconds['host'])}, goal {GOAL}"
    )
    return 0 if ratio <= GOAL else 1


if __name__ == "__main__":
    raise SystemExit(main())
