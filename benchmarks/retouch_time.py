"""Seconds for one retouch, beside diffusers' own inpainting pipeline with the same weights.

The two do not do the same work, and that is the point of showing both: the pipeline is handed the finished mask and
returns its candidates unsorted and with every pixel re-encoded; the retouch finds the region by text, samples as many
candidates with as many steps, pastes them back and ranks them. Both run in the same process on the same networks,
alternately and in changing order, after one uncounted run each.

    make bench
    python -m benchmarks.retouch_time --pairs 20 --threads 2
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from retouch_core.demo import PICTURES, read_cases
from retouch_core.pictures import read_picture
from retouch_core.pipeline import Retoucher
from retouch_core.recipes import DEFAULT, recipe
from retouch_core.report import package_versions
from retouch_core.result import Result

CANDIDATES, STEPS = 4, 20
PAIRS = 9
GUIDANCE = recipe(DEFAULT).scale


def inpaint_pipeline(editor: Any) -> Any:
    """`StableDiffusionInpaintPipeline` around the very networks that the editor holds."""
    from diffusers import DDIMScheduler, StableDiffusionInpaintPipeline

    pipeline: Any = StableDiffusionInpaintPipeline(
        vae=editor.vae,
        text_encoder=editor.text_encoder,
        tokenizer=editor.tokenizer,
        unet=editor.unet,
        scheduler=DDIMScheduler.from_config(editor.scheduler.config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Wall time of one run, with a GPU's queue drained at both ends."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    begun = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - begun


def spread(values: list[float]) -> str:
    """Median, and the fastest and slowest run."""
    return f"{statistics.median(values):6.2f} s   ({min(values):.2f} to {max(values):.2f})"


def measure(retoucher: Retoucher, pairs: int) -> dict[str, list[float]]:
    """Seconds per run of both, and of each stage of ours, over `pairs` interleaved pairs.

    Raises:
        RuntimeError: the shipped case is not found, so that there would be nothing to time.
    """
    case = read_cases()[0]
    image = read_picture(PICTURES / case.picture)
    editor: Any = retoucher.editor
    device = editor.device

    def ours() -> Result:
        return retoucher.retouch(
            image, case.query, case.prompt, candidates=CANDIDATES, seed=case.seed, steps=STEPS
        )

    result = ours()
    if not result.report.found:
        raise RuntimeError(f"the case “{case.query}” was not found: {result.report.message}")
    side = editor.size
    hole = torch.nn.functional.interpolate((result.mask > 0).float()[None], size=(side, side))
    pixels = torch.nn.functional.interpolate(image.movedim(-1, 1), size=(side, side), mode="area")
    pipeline = inpaint_pipeline(editor)

    def theirs() -> Any:
        generators = [torch.Generator().manual_seed(case.seed + k) for k in range(CANDIDATES)]
        return pipeline(
            prompt=case.prompt,
            image=pixels,
            mask_image=hole,
            height=side,
            width=side,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            strength=1.0,
            num_images_per_prompt=CANDIDATES,
            generator=generators,
            output_type="pt",
        ).images

    theirs()
    times: dict[str, list[float]] = {"retouch": [], "pipeline": []}
    for pair in range(pairs):
        for name in ("retouch", "pipeline") if pair % 2 == 0 else ("pipeline", "retouch"):
            if name == "pipeline":
                times[name].append(seconds(theirs, device))
                continue
            made: list[Result] = []
            times[name].append(seconds(lambda made=made: made.append(ours()), device))  # type: ignore[misc]
            for stage, value in made[0].report.timings.items():
                times.setdefault(f"  {stage}", []).append(value)
    return times


def processor() -> str:
    """The CPU's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=PAIRS, help="timed runs of each (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="torch's threads (default: torch's choice)")
    parser.add_argument("--device", help="where the networks run, such as cuda (default: cpu)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    begun = time.perf_counter()
    retoucher = Retoucher.embedded(device=options.device)
    loading = time.perf_counter() - begun
    times = measure(retoucher, options.pairs)

    versions = package_versions()
    gpu = f", {torch.cuda.get_device_name()}" if options.device and options.device.startswith("cuda") else ""
    used = ", ".join(
        f"{name} {versions[name]}" for name in ("torch", "diffusers", "transformers") if name in versions
    )
    print(f"{processor()}, {torch.get_num_threads()} threads{gpu}; {used}")
    print(f"{CANDIDATES} candidates, {STEPS} steps, guidance {GUIDANCE:g}, {options.pairs} interleaved pairs")
    print(f"models loaded in {loading:.2f} s, not counted below; median (fastest to slowest)\n")
    ours, theirs = times.pop("retouch"), times.pop("pipeline")
    print(f"one retouch, from words to ranked candidates  {spread(ours)}")
    for stage, values in times.items():
        print(f"{stage:<44}  {spread(values)}")
    print(f"diffusers inpainting, mask given, no ranking  {spread(theirs)}")
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    low, high = min(ratios), max(ratios)
    print(
        f"\nretouch / diffusers, pair by pair: median {statistics.median(ratios):.2f}, {low:.2f} to {high:.2f}"
    )


if __name__ == "__main__":
    main()
