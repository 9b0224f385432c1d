"""Editors off the disk against diffusers' own pipelines over the same folder, and in the main job."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytest.importorskip("open_clip")

import tiny_stable_diffusion as tiny

from retouch_core.editing.guidance import guided_denoiser
from retouch_core.editing.sampler import sample, start_latent
from retouch_core.editing.schedule import sigmas_of
from retouch_core.models.diffusers_editor import DiffusersEditor
from retouch_core.models.pretrained.editors.load import load_editor
from retouch_core.models.pretrained.files import ModelError
from retouch_core.models.protocols import Editor

STEPS, SCALE = 4, 5.0
PROMPT = "a red car on the left"
ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
CASES = {
    "sd1": ("sd1", 4, tiny.table()),
    "sd1-inpaint": ("sd1", 9, tiny.table()),
    "sd2-v": ("sd2", 4, tiny.table("v_prediction", "DDIMScheduler")),
    "sd2-zero-snr": ("sd2", 4, tiny.table("v_prediction", "EulerDiscreteScheduler", **ZERO_SNR)),
    "sdxl": ("sdxl", 4, tiny.table(solver="EulerDiscreteScheduler")),
    "sdxl-inpaint": ("sdxl", 9, tiny.table(solver="EulerDiscreteScheduler")),
}


class Folders:
    """Tiny models as folders, each made when it is first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, name: str) -> Path:
        folder = self.root / name
        if not folder.exists():
            family, channels, table = CASES[name]
            tiny.save_folder(folder, family, tiny.networks(family, channels), table)
        return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return Folders(tmp_path_factory.mktemp("folders"))


def pipeline_of(folder: Path) -> Any:
    """diffusers' own, with a solver that steps as ours does, over the table of the folder."""
    from diffusers import DDIMScheduler, DiffusionPipeline

    extra = {} if "sdxl" in folder.name else {"safety_checker": None, "requires_safety_checker": False}
    pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True, **extra)
    table = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    settings = {name: value for name, value in table.items() if name != "_class_name"}
    pipe.scheduler = DDIMScheduler(**settings, clip_sample=False, set_alpha_to_one=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("name", list(CASES))
def test_noise_and_steps_are_the_pipelines(folders: Folders, name: str, tmp_path: Path) -> None:
    folder = folders(name)
    editor = load_editor(folder)
    assert isinstance(editor, Editor)
    pipe = pipeline_of(folder)
    words = dict(
        zip(
            (
                "prompt_embeds",
                "negative_prompt_embeds",
                "pooled_prompt_embeds",
                "negative_pooled_prompt_embeds",
            ),
            pipe.encode_prompt(
                PROMPT, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True
            ),
            strict=False,
        )
    )
    # The rest in float64: a level of 4500 costs float32 its last four digits.
    for network in (editor.unet, editor.vae, pipe.unet, pipe.vae):
        network.double()
    pipe.text_encoder = None  # whose dtype the pipeline would go by
    if "sdxl" in name:
        pipe.text_encoder_2 = None
    asked: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    pipe.unet.register_forward_hook(
        lambda _, given, out: asked.append((given[0], given[1], out[0])), with_kwargs=False
    )
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5)).double()
    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(6)).double()
    hole = torch.zeros(1, 1, 64, 64).double()
    hole[..., 16:48, 8:40] = 1
    extra: dict[str, Any] = {}
    more: dict[str, Any] = {}
    if editor.inpaint:
        shown = editor.masked_latents(image, hole[:, 0]).double()
        extra = {"mask": hole[..., ::8, ::8], "masked_latents": shown}
        more = {"image": image.movedim(-1, 1), "mask_image": hole, "masked_image_latents": shown}
        if "sdxl" in name:
            more |= {"strength": 1.0}
    expected = pipe(
        **{key: value.double() for key, value in words.items()},
        height=64,
        width=64,
        num_inference_steps=STEPS,
        guidance_scale=SCALE,
        latents=noise.clone(),
        output_type="latent",
        **more,
    ).images
    target, empty = editor.encode_prompts([PROMPT, ""]).split(1)

    def network(x: torch.Tensor, sigma: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        return editor.denoise(x, sigma, told, **extra)

    assert len(asked) == STEPS
    for given, timestep, out in asked:
        abar = pipe.scheduler.alphas_cumprod[int(timestep)].double().clamp(min=4.8973451890853435e-08)
        level = ((1 - abar) / abar).sqrt()
        x = given[:, :4] / abar.sqrt()
        estimate = network(x, level.repeat(2), torch.cat([empty, target]))
        if editor.prediction == "epsilon":
            found = (x - estimate) / level
        else:
            found = (x / (level**2 + 1) - estimate) * (level**2 + 1).sqrt() / level
        torch.testing.assert_close(found, out, rtol=0, atol=1e-4)
    sigmas = sigmas_of(editor.scheduler, STEPS)
    denoise = guided_denoiser(network, target, None, empty, SCALE, 0.0)
    ours = sample(denoise, start_latent(noise, noise, float(sigmas[0]), "noise"), sigmas)
    # Where the schedule ends without any signal, ours starts at a signal of 2e-4 (`noise.LEAST_ABAR`, the host's).
    near = 1e-3 if "zero-snr" in name else 1e-5
    torch.testing.assert_close(ours, expected, rtol=0, atol=near * max(1.0, float(expected.abs().max())))


def test_sdxl_is_told_what_the_pipeline_tells_it(folders: Folders) -> None:
    folder = folders("sdxl")
    editor, pipe = load_editor(folder), pipeline_of(folder)
    heard: list[dict[str, Any]] = []
    for unet in (pipe.unet, editor.unet):
        unet.register_forward_hook(lambda _, __, named, out: heard.append(named), with_kwargs=True)
    noise = torch.randn(1, 4, 6, 10, generator=torch.Generator().manual_seed(5))
    pipe(
        PROMPT,
        height=48,
        width=80,
        num_inference_steps=1,
        guidance_scale=SCALE,
        latents=noise,
        output_type="latent",
    )
    told = editor.encode_prompts(["", PROMPT])
    editor.denoise(noise.repeat(2, 1, 1, 1), torch.ones(2), told)
    theirs, ours = heard
    torch.testing.assert_close(
        ours["encoder_hidden_states"], theirs["encoder_hidden_states"], rtol=0, atol=1e-5
    )
    for name in ("text_embeds", "time_ids"):
        torch.testing.assert_close(
            ours["added_cond_kwargs"][name], theirs["added_cond_kwargs"][name], rtol=0, atol=1e-5
        )
    assert ours["added_cond_kwargs"]["time_ids"][0].tolist() == [48, 80, 0, 0, 48, 80]
    assert told.shape == (2, 77 + 2, 192)
    assert not told[0].any()


def test_an_empty_prompt_that_is_not_zeros(folders: Folders, tmp_path: Path) -> None:
    folder = tmp_path / "sdxl"
    shutil.copytree(folders("sdxl"), folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "force_zeros_for_empty_prompt": False}))
    editor, pipe = load_editor(folder), pipeline_of(folder)
    _, negative, _, pooled = pipe.encode_prompt("a car", device="cpu", negative_prompt="")
    told = editor.encode_prompts([""])
    torch.testing.assert_close(told[:, :77], negative, rtol=0, atol=1e-5)
    torch.testing.assert_close(told[:, 77:].flatten(1)[:, : tiny.PROJECTED], pooled, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["sdxl", "sd2-zero-snr", "sdxl-inpaint"])
def test_the_main_job(folders: Folders, name: str) -> None:
    from retouch_core.demo import PICTURES
    from retouch_core.models.embedded import load_embedded
    from retouch_core.pictures import read_picture
    from retouch_core.pipeline import Retoucher

    parts = load_embedded()
    retoucher = Retoucher(parts.segmenter, parts.scorer, load_editor(folders(name)))
    image = read_picture(PICTURES / "wood.png")[:, :, :120]
    result = retoucher.retouch(image, "the pink car", "a blue mushroom", candidates=2, steps=2)
    assert result.report.found
    assert result.image.shape == image.shape
    assert torch.isfinite(result.image).all()
    outside = result.mask[0] == 0
    assert 0 < float(outside.float().mean()) < 1
    assert torch.equal(result.image[0][outside], image[0][outside])
    assert not torch.equal(result.image, image)


def test_gradients_reach_the_latents(folders: Folders) -> None:
    editor = load_editor(folders("sdxl"))
    told = editor.encode_prompts([PROMPT])
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    editor.decode_pixels(editor.denoise(x, torch.tensor([1.0]), told)).square().sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def weights(editor: DiffusersEditor) -> list[torch.Tensor]:
    return [weight for network in editor.networks for weight in network.parameters()]


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """One SDXL as a plain folder, as one with fp16 files only, and as one in shards."""
    root = tmp_path_factory.mktemp("variants")
    parts = tiny.networks("sdxl")
    for network in parts.values():
        network.half()
    half = tiny.save_folder(root / "half", "sdxl", parts, variant="fp16")
    sharded = tiny.save_folder(root / "sharded", "sdxl", parts, max_shard_size="1MB")
    plain = tiny.save_folder(root / "plain", "sdxl", parts)
    return plain, half, sharded


def test_half_precision_files_and_shards(variants: tuple[Path, Path, Path]) -> None:
    plain, half, sharded = variants
    assert (half / "unet" / "diffusion_pytorch_model.fp16.safetensors").is_file()
    assert (half / "text_encoder" / "model.fp16.safetensors").is_file()
    assert len(list((sharded / "unet").glob("*.safetensors"))) > 1
    expected = weights(load_editor(plain))
    assert {weight.dtype for weight in expected} == {torch.float32}
    for folder in (half, sharded):
        found = weights(load_editor(folder))
        assert {weight.dtype for weight in found} == {torch.float32}
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_weights_under_their_old_names(folders: Folders, tmp_path: Path) -> None:
    """Stable Diffusion 1.5 as it is published: the autoencoder's attention has other names, and the text a buffer more."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "sd1"
    shutil.copytree(folders("sd1"), folder)
    vae = folder / "vae" / "diffusion_pytorch_model.safetensors"
    states = load_file(vae)
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        states = {name.replace(f".{new}.", f".{old}."): value for name, value in states.items()}
    assert any(".proj_attn." in name for name in states)
    save_file(states, vae, {"format": "pt"})
    text = folder / "text_encoder" / "model.safetensors"
    states = load_file(text)
    prefix = "text_model." if any(name.startswith("text_model.") for name in states) else ""
    states = {f"text_model.{name.removeprefix(prefix)}": value for name, value in states.items()}
    save_file(
        {**states, "text_model.embeddings.position_ids": torch.arange(77)[None]}, text, {"format": "pt"}
    )
    found, expected = weights(load_editor(folder)), weights(load_editor(folders("sd1")))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_half_precision_on_demand(variants: tuple[Path, Path, Path], folders: Folders) -> None:
    plain, _, _ = variants
    editor = load_editor(plain, dtype=torch.float16)
    dtypes = [{weight.dtype for weight in network.parameters()} for network in editor.networks]
    assert dtypes == [{torch.float32}, {torch.float16}, {torch.float16}, {torch.float16}]
    editor = load_editor(folders("sd1"), dtype=torch.float16)
    assert {weight.dtype for weight in weights(editor)} == {torch.float16}
    config = plain / "vae" / "config.json"
    told = config.read_text()
    try:
        config.write_text(json.dumps({**json.loads(told), "force_upcast": False}))
        editor = load_editor(plain, dtype=torch.float16)
    finally:
        config.write_text(told)
    assert {weight.dtype for weight in weights(editor)} == {torch.float16}
    editor = load_editor(plain, dtype=torch.bfloat16)
    assert {weight.dtype for weight in weights(editor)} == {torch.bfloat16}
    image = torch.rand(1, 64, 64, 3)
    assert editor.encode(image).dtype == torch.float32


def test_a_lacking_shard_and_a_lacking_weight(variants: tuple[Path, Path, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    plain, _, sharded = variants
    broken = tmp_path / "broken"
    shutil.copytree(sharded, broken)
    sorted((broken / "unet").glob("*.safetensors"))[0].unlink()
    with pytest.raises(ModelError, match=r"unet lacks diffusion_pytorch_model-00001-of-.*copy it there too"):
        load_editor(broken)
    for part, name in (("text_encoder_2", "model"), ("unet", "diffusion_pytorch_model")):
        shutil.rmtree(broken)
        shutil.copytree(plain, broken)
        file = broken / part / f"{name}.safetensors"
        left = load_file(file)
        gone = sorted(left)[-1]
        del left[gone]
        save_file(left, file, {"format": "pt"})
        with pytest.raises(ModelError, match=rf"{part} lacks 1 weights, such as .*{gone.split('.')[-1]}"):
            load_editor(broken)


FLUX = {
    "_class_name": "FluxPipeline",
    "transformer": ["diffusers", "FluxTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
}
SD3 = {"_class_name": "StableDiffusion3Pipeline", "transformer": ["diffusers", "SD3Transformer2DModel"]}
CASCADE = {"_class_name": "StableCascadePriorPipeline", "prior": ["diffusers", "StableCascadeUNet"]}
REFINER = {
    "_class_name": "StableDiffusionXLImg2ImgPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "text_encoder": [None, None],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
}
VIDEO = {"_class_name": "TextToVideoSDPipeline", "unet": ["diffusers", "UNet3DConditionModel"]}


@pytest.mark.parametrize(
    ("index", "said"),
    [
        (FLUX, "holds a FluxPipeline, whose denoiser is the transformer .*; use it in ComfyUI"),
        (SD3, "holds a StableDiffusion3Pipeline, .*; use it in ComfyUI"),
        (CASCADE, "holds a StableCascadePriorPipeline without a UNet"),
        (REFINER, "holds the SDXL refiner"),
        (VIDEO, "whose unet is a UNet3DConditionModel"),
    ],
)
def test_other_models_are_refused_by_name(tmp_path: Path, index: dict[str, Any], said: str) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=said) as error:
        load_editor(tmp_path)
    assert "\n" not in str(error.value)


def changed(folders: Folders, tmp_path: Path, file: str, **changes: Any) -> Path:
    """A folder of SDXL with settings in one of its files changed, without its weights."""
    folder = tmp_path / "changed"
    shutil.copytree(folders("sdxl"), folder)
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        ("scheduler/scheduler_config.json", {"_class_name": "EDMEulerScheduler"}, r"\(EDM\)"),
        (
            "text_encoder/config.json",
            {"model_type": "t5"},
            "holds a text encoder of type 't5' and not CLIP's",
        ),
        (
            "unet/config.json",
            {"_class_name": "UNet3DConditionModel"},
            "class 'UNet3DConditionModel' is none of",
        ),
        ("vae/config.json", {"latents_mean": [0, 0, 0, 0]}, r"vae has latents_mean .*Playground 2\.5"),
    ],
)
def test_parts_of_other_kinds_are_refused(
    folders: Folders, tmp_path: Path, file: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelError if "vae" not in file else ValueError, match=said):
        load_editor(changed(folders, tmp_path, file, **changes))


def test_parts_that_do_not_go_together(folders: Folders) -> None:
    xl, one = load_editor(folders("sdxl")), load_editor(folders("sd1"))
    first, second = xl.networks[1:3]
    shared = {"vae": xl.vae, "scheduler": xl.scheduler, "unet": xl.unet}
    words = {"text_encoder": first, "tokenizer": xl.tokenizer}
    both = {**words, "text_encoder_2": second, "tokenizer_2": xl.tokenizer}
    with pytest.raises(ValueError, match="text_encoder gives 64 numbers a token, but unet takes 192"):
        DiffusersEditor(**shared, **words)
    with pytest.raises(ValueError, match="gives 192 numbers a token, but unet takes 64"):
        DiffusersEditor(**{**shared, "unet": one.unet}, **both)
    try:
        xl.unet.register_to_config(projection_class_embeddings_input_dim=tiny.PROJECTED + 5 * 8)
        with pytest.raises(
            ValueError, match="unet takes 264 numbers beside the prompt's tokens, but SDXL has 272"
        ):
            DiffusersEditor(**shared, **both)
        xl.unet.register_to_config(addition_embed_type=None)
        with pytest.raises(ValueError, match="addition_embed_type None in its config, but there are two"):
            DiffusersEditor(**shared, **both)
        xl.unet.register_to_config(time_cond_proj_dim=256)
        with pytest.raises(ValueError, match="wants the guidance scale as an input"):
            DiffusersEditor(**shared, **both)
    finally:
        xl.unet.register_to_config(time_cond_proj_dim=None, addition_embed_type="text_time")


def test_nothing_there_and_options_that_mean_nothing(folders: Folders, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist; give a diffusers folder or a checkpoint's"):
        load_editor(tmp_path / "nothing")
    with pytest.raises(ModelError, match=r"lacks vae/config\.json"):
        load_editor(tmp_path)
    with pytest.raises(ValueError, match=r"dtype must be one of torch\.float32.*got torch\.int8"):
        load_editor(folders("sd1"), dtype=torch.int8)
    with pytest.raises(ValueError, match=r"prediction must be one of epsilon, .*got 'flow'"):
        load_editor(folders("sd1"), prediction="flow")
    assert load_editor(folders("sd1"), prediction="v_prediction").prediction == "v_prediction"
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ModelError, match=r"model_index\.json cannot be read"):
        load_editor(tmp_path)


def test_networks_stay_where_they_are(folders: Folders) -> None:
    editor = load_editor(folders("sdxl"))
    assert len(editor.networks) == 4
    assert {weight.device.type for weight in weights(editor)} == {"cpu"}
    assert editor.to("meta") is editor
    assert {weight.device.type for weight in weights(editor)} == {"meta"}
