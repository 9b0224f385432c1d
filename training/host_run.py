"""Make one edit on the real ComfyUI with our networks, through its own nodes, and compare with the library's.

    python -m training.host_run            # the embedded models
    python -m training.host_run --random   # the same networks with random weights

CLIPTextEncode, InpaintModelConditioning, KSampler and VAEDecode on one side; ``retouch_core`` with the host's
noise levels, the same noise and the same start on the other. Prints the largest absolute difference of every
stage, for several schedules; exit status 1 where decoded pictures differ by more than 1e-3.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.host_pack import HostMissing, import_host, pack_module
from training.random_bundle import save_random_bundle

TOLERANCE = 1e-3
# sgm_uniform with an even number of steps has a level halfway between two timesteps: see `tied_steps`.
SCHEDULES: tuple[dict[str, Any], ...] = (
    {"scheduler": "simple", "steps": 20},
    {"scheduler": "karras", "steps": 20},
    {"scheduler": "sgm_uniform", "steps": 25},
    {"scheduler": "sgm_uniform", "steps": 20},
)
EMBEDDED = Path(__file__).resolve().parent.parent / "retouch_core" / "models" / "embedded"


@dataclass(frozen=True)
class Edit:
    """One edit: IMAGE [1,H,W,3] and MASK [1,H,W] in 0..1, a prompt, and the sampler's numbers."""

    image: Tensor
    mask: Tensor
    prompt: str = "a blue fish"
    negative: str = ""
    seed: int = 7
    cfg: float = 4.0
    sampler: str = "euler"
    scheduler: str = "simple"
    steps: int = 20


@dataclass(frozen=True)
class Stages:
    """What one side computed: conditionings [1,T,D], latents [1,4,h,w], IMAGE [1,H,W,3].

    `sigmas` [S+1] are the levels of the run, `timesteps` [S] what the network was asked at,
    `grid` [T] the levels of the training timesteps.
    """

    positive: Tensor
    negative: Tensor
    source: Tensor
    noise: Tensor
    sigmas: Tensor
    timesteps: Tensor
    grid: Tensor
    sampled: Tensor
    picture: Tensor


def drawn_edit() -> Edit:
    """A red disc on a shaded ground, 128 px, and a mask around it whose border lies on the 8-px grid."""
    y, x = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    ground = torch.stack((0.4 + x / 400, 0.5 + y / 500, 0.45 + 0.05 * torch.sin(x / 3)), dim=-1)
    away = (x - 60) ** 2 + (y - 66) ** 2
    image = torch.where((away < 22**2)[..., None], torch.tensor([0.85, 0.15, 0.12]), ground)
    cells = torch.nn.functional.max_pool2d((away < 26**2).float()[None], 8)
    mask = cells.repeat_interleave(8, -1).repeat_interleave(8, -2)
    return Edit(image[None].clamp(0, 1), mask)


def on_the_host(bundle: Path, edit: Edit) -> Stages:
    """The edit by the host's own nodes on its own MODEL, CLIP and VAE."""
    import comfy.sample
    import comfy.samplers

    nodes = importlib.import_module("nodes")  # the host's own
    bundled = pack_module("nodes._bundle")

    model, clip, vae = bundled.host_model(bundle), bundled.host_clip(bundle), bundled.host_autoencoder(bundle)
    encode = nodes.CLIPTextEncode()
    (positive,), (negative,) = encode.encode(clip, edit.prompt), encode.encode(clip, edit.negative)
    masked_positive, masked_negative, latent = nodes.InpaintModelConditioning().encode(
        positive, negative, edit.image.clone(), vae, edit.mask.clone(), noise_mask=True
    )
    (result,) = nodes.KSampler().sample(
        model,
        edit.seed,
        edit.steps,
        edit.cfg,
        edit.sampler,
        edit.scheduler,
        masked_positive,
        masked_negative,
        latent,
        denoise=1.0,
    )
    (picture,) = nodes.VAEDecode().decode(vae, result)
    scaled = model.model.process_latent_in
    schedule = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(schedule, edit.scheduler, edit.steps)
    return Stages(
        positive=positive[0][0],
        negative=negative[0][0],
        source=scaled(latent["samples"]),
        noise=comfy.sample.prepare_noise(latent["samples"], edit.seed),
        sigmas=sigmas,
        timesteps=schedule.timestep(sigmas[:-1]),
        grid=schedule.sigmas.double(),
        sampled=scaled(result["samples"]),
        picture=picture,
    )


def library_editor(bundle: Path) -> Any:
    """The bundle behind the library's ``Editor`` protocol, in float32."""
    from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPModel, PreTrainedTokenizerFast

    from retouch_core.models.diffusers_editor import DiffusersEditor

    # Each class by its own name: the files are fp16, and a class left to choose may compute in that.
    vae: Any = AutoencoderTiny.from_pretrained(bundle / "vae")
    unet: Any = UNet2DConditionModel.from_pretrained(bundle / "unet_inpaint")
    clip: Any = CLIPModel.from_pretrained(bundle / "clip")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(bundle / "clip")
    scheduler = DDIMScheduler.from_pretrained(bundle / "scheduler")
    return DiffusersEditor(vae.float(), clip.text_model.float(), tokenizer, unet.float(), scheduler)


def in_the_library(bundle: Path, edit: Edit, sigmas: Tensor) -> Stages:
    """The edit by ``retouch_core``, with the host's ``sigmas`` [T+1] and its start."""
    from retouch_core.editing.guidance import conditional_cfg
    from retouch_core.editing.sampler import candidate_noise, retouch_latent
    from retouch_core.models.noise import nearest_timestep, training_sigmas
    from retouch_core.regions.morphology import to_latent

    editor = library_editor(bundle)
    grid = training_sigmas(editor.scheduler)
    positive, negative = editor.encode_prompts([edit.prompt]), editor.encode_prompts([edit.negative])
    source = editor.encode(edit.image)
    masked = editor.masked_latents(edit.image, edit.mask)
    cells = to_latent(edit.mask, editor.cell)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        target = editor.denoise(x, sigma, positive, cells, masked)
        empty = editor.denoise(x, sigma, negative, cells, masked)
        return conditional_cfg(target, None, empty, edit.cfg, 0.0)

    sampled = retouch_latent(denoise, source, cells, sigmas, seed=edit.seed, candidates=1, start="host")
    return Stages(
        positive=positive,
        negative=negative,
        source=source,
        noise=candidate_noise(tuple(source.shape[1:]), edit.seed, 1),
        sigmas=sigmas,
        timesteps=nearest_timestep(sigmas[:-1], grid),
        grid=grid,
        sampled=sampled,
        picture=editor.decode(sampled),
    )


def compare(host: Stages, library: Stages) -> dict[str, float]:
    """Largest absolute difference of each stage; infinite where shapes differ or a value is not finite."""
    found = {}
    for name in ("positive", "negative", "source", "noise", "sampled", "picture"):
        a, b = getattr(host, name), getattr(library, name)
        fit = a.shape == b.shape and bool(torch.isfinite(a).all() and torch.isfinite(b).all())
        found[name] = float((a.double() - b.double()).abs().max()) if fit else float("inf")
    return found


def tied_steps(host: Stages, library: Stages) -> list[int]:
    """Steps at which the sides asked for neighbouring timesteps, the level lying halfway between the two.

    Both are equally near there, and the last bit of float32 decides; neither side is wrong. Any other
    disagreement about timesteps is left for the pictures to show.
    """
    differ = (host.timesteps - library.timesteps).abs()
    level = host.sigmas[:-1].double().log()
    grid = library.grid.log()
    a, b = grid[host.timesteps], grid[library.timesteps]
    halfway = (level - (a + b) / 2).abs() < 1e-2 * (a - b).abs()
    return [int(step) for step in ((differ == 1) & halfway).nonzero()]


def run(bundle: Path, edit: Edit) -> float | None:
    """Both sides of one edit; prints every difference and returns the picture's, None for a tied level."""
    host = on_the_host(bundle, edit)
    library = in_the_library(bundle, edit, host.sigmas)
    inside = edit.mask[..., None].bool().expand_as(edit.image)
    change = float((host.picture - edit.image).abs()[inside].mean())
    found = compare(host, library)
    print(f'{edit.sampler}, {edit.scheduler}, {edit.steps} steps, cfg {edit.cfg:g}: "{edit.prompt}"')
    print("  " + ", ".join(f"{name} {value:.1e}" for name, value in found.items()))
    print(f"  the edit changed the picture by {change:.3f} on average inside the mask", flush=True)
    tied = tied_steps(host, library)
    if tied:
        print(f"  not judged: at step {tied} a level lies halfway between two timesteps; each side took one")
        return None
    return found["picture"]


def main(arguments: list[str] | None = None) -> int:
    """Print the differences; 0 where all pictures agree, 1 where not, 2 without a host or weights."""
    parser = argparse.ArgumentParser(prog="training.host_run", description="One edit on ComfyUI and here.")
    parser.add_argument("--random", action="store_true", help="random weights, not the embedded models")
    parser.add_argument(
        "--bundle", type=Path, default=EMBEDDED, help="folder laid out as the embedded models"
    )
    options = parser.parse_args(arguments)
    try:
        import_host()
        with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
            bundle = save_random_bundle(Path(scratch)) if options.random else options.bundle
            runs = [run(bundle, replace(drawn_edit(), **schedule)) for schedule in SCHEDULES]
            worst = max((value for value in runs if value is not None), default=float("inf"))
    except (HostMissing, FileNotFoundError) as missing:
        print(missing, file=sys.stderr)
        return 2
    print(f"largest difference of a picture {worst:.1e}, allowed {TOLERANCE:.0e}")
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
