"""Our sampler and editor against diffusers' own inpaint pipeline: same parts, schedule, noise, mask, guidance."""

from __future__ import annotations

import copy
import shutil
import warnings

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import tiny_models

from retouch_core.editing.guidance import guided_denoiser
from retouch_core.editing.sampler import (
    candidate_noise,
    region_denoiser,
    retouch_latent,
    sample,
    start_latent,
)
from retouch_core.editing.schedule import sigmas_of
from retouch_core.models.diffusers_editor import DiffusersEditor
from retouch_core.models.noise import training_sigmas
from retouch_core.models.protocols import Editor
from retouch_core.tensors.checks import InputWarning

PREDICTIONS = ("v_prediction", "epsilon", "sample")
TEXTS = ("a red car", "a blue star", "")


def both(prediction: str, in_channels: int, dtype: torch.dtype):
    parts = tiny_models.parts(prediction, in_channels)
    for name in ("vae", "text_encoder", "unet"):
        parts[name].to(dtype)
    return DiffusersEditor(**parts), tiny_models.inpaint_pipeline(parts)


@pytest.fixture(scope="module", params=PREDICTIONS)
def plain(request):
    return both(request.param, 4, torch.float32)


@pytest.fixture(scope="module", params=PREDICTIONS)
def inpainting(request):
    return both(request.param, 9, torch.float32)


@pytest.fixture(scope="module", params=PREDICTIONS)
def exact(request):
    """Networks in float64: random ones reach latents of some hundreds, where float32 itself is coarser than 1e-5."""
    return both(request.param, 4, torch.float64)


@pytest.fixture(scope="module", params=PREDICTIONS)
def exact_inpainting(request):
    return both(request.param, 9, torch.float64)


def latent_setting(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    z0 = torch.randn(1, 4, 8, 8, generator=generator).to(dtype)
    mask = torch.zeros(1, 1, 8, 8, dtype=dtype)
    mask[..., 2:6, 1:5] = 1
    mask[..., 6, 4] = 1
    return z0, mask, mask.repeat_interleave(8, -1).repeat_interleave(8, -2)


def guided(editor: DiffusersEditor, scale: float, lam: float = 0.0, **extra):
    target, referring, empty = editor.encode_prompts(TEXTS).split(1)

    def call(x, sigma, conditioning):
        return editor.denoise(x, sigma, conditioning, **extra)

    return guided_denoiser(call, target, referring if lam else None, empty, scale, lam)


def pipeline_latents(
    pipe, z0, pixel_mask, *, scale: float, steps: int, strength: float = 1.0, negative="", **noise
):
    # a fresh scheduler: the pipeline leaves its step counter behind
    pipe.scheduler = copy.deepcopy(pipe.scheduler)
    return pipe(
        prompt=TEXTS[0],
        negative_prompt=negative,
        image=z0,
        mask_image=pixel_mask,
        masked_image_latents=torch.zeros_like(z0),
        height=64,
        width=64,
        num_inference_steps=steps,
        guidance_scale=scale,
        strength=strength,
        output_type="latent",
        **noise,
    ).images


@pytest.mark.parametrize(("scale", "steps"), [(1.0, 10), (5.0, 10), (7.5, 20)])
def test_equals_the_inpaint_pipeline_from_pure_noise(exact, scale: float, steps: int):
    editor, pipe = exact
    z0, mask, pixel_mask = latent_setting(torch.float64)
    noise = candidate_noise((4, 8, 8), 21, 1).double()
    expected = pipeline_latents(pipe, z0, pixel_mask, scale=scale, steps=steps, latents=noise.clone())
    ours = retouch_latent(
        guided(editor, scale),
        z0,
        mask,
        sigmas_of(editor.scheduler, steps),
        seed=21,
        candidates=1,
        start="diffusers",
    )
    assert expected.abs().max() > 0.5
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    closed = (mask == 0).expand_as(z0)
    assert torch.equal(ours[closed], z0[closed])


@pytest.mark.parametrize(("strength", "steps"), [(0.75, 20), (0.5, 10), (0.3, 10)])
def test_equals_the_inpaint_pipeline_with_strength(exact, strength: float, steps: int):
    editor, pipe = exact
    z0, mask, pixel_mask = latent_setting(torch.float64)
    expected = pipeline_latents(
        pipe,
        z0,
        pixel_mask,
        scale=4.0,
        steps=steps,
        strength=strength,
        generator=torch.Generator().manual_seed(8),
    )
    noise = torch.randn(z0.shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    sigmas = sigmas_of(editor.scheduler, steps, strength)
    held = region_denoiser(guided(editor, 4.0), z0, noise, mask, sigmas)
    ours = sample(held, start_latent(z0, noise, float(sigmas[0]), "source"), sigmas)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("strength", [1.0, 0.75])
def test_equals_the_inpaint_pipeline_in_float32(plain, strength: float):
    editor, pipe = plain
    z0, mask, pixel_mask = latent_setting()
    expected = pipeline_latents(
        pipe,
        z0,
        pixel_mask,
        scale=5.0,
        steps=20,
        strength=strength,
        generator=torch.Generator().manual_seed(8),
    )
    ours = retouch_latent(
        guided(editor, 5.0),
        z0,
        mask,
        sigmas_of(editor.scheduler, 20, strength),
        seed=8,
        candidates=1,
        start="source" if strength < 1 else "diffusers",
    )
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5 * max(1.0, float(expected.abs().max())))


def test_full_mix_equals_the_pipeline_with_the_referring_prompt_as_the_negative_one(exact):
    editor, pipe = exact
    z0, mask, pixel_mask = latent_setting(torch.float64)
    noise = candidate_noise((4, 8, 8), 3, 1).double()
    expected = pipeline_latents(
        pipe, z0, pixel_mask, scale=5.0, steps=10, negative=TEXTS[1], latents=noise.clone()
    )
    ours = retouch_latent(
        guided(editor, 5.0, lam=1.0),
        z0,
        mask,
        sigmas_of(editor.scheduler, 10),
        seed=3,
        candidates=1,
        start="diffusers",
    )
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_the_inpaint_model_equals_its_pipeline(exact_inpainting):
    """Nine channels: diffusers blends nothing there, so the plain sampler is the counterpart."""
    editor, pipe = exact_inpainting
    assert editor.inpaint
    _, mask, pixel_mask = latent_setting(torch.float64)
    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(6)).double()
    noise = candidate_noise((4, 8, 8), 5, 1).double()
    pipe.scheduler = copy.deepcopy(pipe.scheduler)
    shown = editor.masked_latents(image, pixel_mask[:, 0]).double()
    expected = pipe(
        prompt=TEXTS[0],
        negative_prompt="",
        image=image.movedim(-1, 1),
        mask_image=pixel_mask,
        masked_image_latents=shown,
        height=64,
        width=64,
        num_inference_steps=10,
        guidance_scale=4.0,
        latents=noise.clone(),
        output_type="latent",
    ).images
    sigmas = sigmas_of(editor.scheduler, 10)
    denoise = guided(editor, 4.0, mask=mask, masked_latents=shown)
    ours = sample(denoise, start_latent(torch.zeros_like(noise), noise, float(sigmas[0]), "noise"), sigmas)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    whole = retouch_latent(denoise, shown, torch.ones_like(mask), sigmas, seed=5, candidates=1)
    torch.testing.assert_close(whole, expected, rtol=0, atol=1e-5)


def test_masked_latents_are_the_pipelines(inpainting):
    """The pipeline multiplies the picture in -1..1 by (mask < 0.5), then encodes; with one noise-free posterior."""
    editor, pipe = inpainting
    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(6))
    _, _, pixel_mask = latent_setting()
    hidden = (image.movedim(-1, 1) * 2 - 1) * (pixel_mask < 0.5)
    expected = pipe.vae.encode(hidden).latent_dist.mode() * pipe.vae.config.scaling_factor
    torch.testing.assert_close(editor.masked_latents(image, pixel_mask[:, 0]), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        editor.masked_latents(image, pixel_mask[:, 0], fill="unmasked"), editor.encode(image), rtol=0, atol=0
    )
    assert not torch.allclose(expected, editor.encode(image))
    with pytest.raises(ValueError, match="fill must be"):
        editor.masked_latents(image, pixel_mask[:, 0], fill="pink")


def test_prompts_are_encoded_as_the_pipeline_does(plain):
    editor, pipe = plain
    ours = editor.encode_prompts(TEXTS)
    for k, text in enumerate(TEXTS[:2]):
        expected, negative = pipe.encode_prompt(text, "cpu", 1, True, "")
        torch.testing.assert_close(ours[k : k + 1], expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(ours[2:], negative, rtol=0, atol=1e-6)
    assert ours.shape == (3, 10, 16)


def test_a_prompt_that_is_too_long_is_cut_with_a_warning(plain):
    editor, _ = plain
    with pytest.warns(InputWarning, match="has 14 tokens and was cut to 10"):
        editor.encode_prompts(["one two three four five one two three four five one two"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        editor.encode_prompts(["one two three four five one two three"])


def test_candidates_alone_and_in_a_batch(plain):
    editor, _ = plain
    z0, mask, _ = latent_setting()
    sigmas = sigmas_of(editor.scheduler, 6)
    denoise = guided(editor, 4.0, lam=0.5)
    together = retouch_latent(denoise, z0, mask, sigmas, seed=0, candidates=4)
    parts = retouch_latent(denoise, z0, mask, sigmas, seed=0, candidates=4, batch=3)
    torch.testing.assert_close(parts, together, rtol=0, atol=1e-4)
    for k in range(4):
        alone = retouch_latent(denoise, z0, mask, sigmas, seed=k, candidates=1)
        torch.testing.assert_close(alone[0], together[k], rtol=0, atol=1e-4)


def test_denoised_estimate_in_float64_by_hand(plain):
    """D from x_vp and the network's output, by the definitions of the three prediction types."""
    editor, _ = plain
    z0, _, _ = latent_setting()
    cond = editor.encode_prompts(["a cat"])
    abar = editor.scheduler.alphas_cumprod.double()
    for t in (0, 17, 500, 999):
        a, b = abar[t].sqrt(), (1 - abar[t]).sqrt()
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(t))
        x_vp = a * z0 + b * noise
        out = editor.unet(x_vp.float(), torch.tensor(t), encoder_hidden_states=cond).sample.double()
        expected = {"epsilon": (x_vp - b * out) / a, "v_prediction": a * x_vp - b * out, "sample": out}
        ours = editor.denoise((x_vp / a).float(), (b / a).float().reshape(1), cond)
        scale = float(expected[editor.prediction].abs().max())
        torch.testing.assert_close(
            ours.double(), expected[editor.prediction], rtol=0, atol=2e-5 * max(scale, 1)
        )


def test_sigmas_between_levels_go_to_the_nearest_timestep(plain):
    editor, _ = plain
    levels = training_sigmas(editor.scheduler)
    asked = []
    original = editor.unet.forward

    def spy(sample, timestep, **kwargs):
        asked.extend(timestep.tolist())
        return original(sample, timestep, **kwargs)

    editor.unet.forward = spy
    try:
        middle = (levels[100] * levels[101]).sqrt()
        sigma = torch.stack([middle * 0.9999, middle * 1.0001, levels[-1] * 3, levels[0] / 3]).float()
        editor.denoise(torch.zeros(4, 4, 8, 8), sigma, editor.encode_prompts(["a cat"]))
    finally:
        del editor.unet.forward
    assert asked == [100, 101, 999, 0]


@pytest.mark.parametrize("tiny", [False, True])
def test_encode_and_decode(tiny: bool):
    parts = tiny_models.parts(tiny_vae=tiny)
    editor = DiffusersEditor(**parts)
    vae = parts["vae"]
    assert (editor.cell, editor.channels, editor.size, editor.inpaint) == (8, 4, 64, False)
    assert isinstance(editor, Editor)
    image = torch.rand(2, 32, 48, 3, generator=torch.Generator().manual_seed(0))
    pixels = image.movedim(-1, 1) * 2 - 1
    latents = editor.encode(image)
    assert latents.shape == (2, 4, 4, 6)
    raw = vae.encode(pixels).latents if tiny else vae.encode(pixels).latent_dist.mean
    torch.testing.assert_close(latents, raw * vae.config.scaling_factor, rtol=0, atol=1e-5)
    assert torch.equal(latents, editor.encode(image))
    decoded = editor.decode(latents)
    expected = ((vae.decode(raw).sample + 1) / 2).clamp(0, 1).movedim(1, -1)
    torch.testing.assert_close(decoded, expected, rtol=0, atol=1e-5)
    assert decoded.shape == image.shape
    assert editor.decode(latents * 100).min() >= 0
    assert editor.decode(latents * 100).max() <= 1


def test_a_picture_that_the_cells_do_not_divide_is_refused():
    editor = DiffusersEditor(**tiny_models.parts())
    with pytest.raises(ValueError, match="image is 50x32 px, but both sides must be multiples of 8"):
        editor.encode(torch.zeros(1, 32, 50, 3))


def test_no_gradients_and_inference_mode(plain):
    editor, _ = plain
    z0, _, _ = latent_setting()
    cond = editor.encode_prompts(["a cat"])
    outside = editor.denoise(z0, torch.tensor([2.0]), cond)
    assert not outside.requires_grad
    assert not any(p.requires_grad for p in editor.unet.parameters())
    with torch.inference_mode():
        assert torch.equal(editor.denoise(z0, torch.tensor([2.0]), editor.encode_prompts(["a cat"])), outside)


def test_half_precision_networks_take_and_give_float32():
    parts = tiny_models.parts()
    expected = DiffusersEditor(**parts)
    z0, _, _ = latent_setting()
    cond = expected.encode_prompts(["a cat"])
    exact = expected.denoise(z0, torch.tensor([2.0]), cond)
    for name in ("vae", "text_encoder", "unet"):
        parts[name].to(torch.bfloat16)
    editor = DiffusersEditor(**parts)
    rough = editor.denoise(z0, torch.tensor([2.0]), editor.encode_prompts(["a cat"]))
    assert rough.dtype == torch.float32
    assert F.mse_loss(rough, exact) < 1e-2
    assert editor.encode(torch.rand(1, 16, 16, 3)).dtype == torch.float32
    assert editor.decode(z0).dtype == torch.float32


def test_inputs_that_do_not_belong_to_the_network(plain, inpainting):
    z0, mask, _ = latent_setting()
    sigma = torch.tensor([1.0])
    for editor, extra in (
        (plain[0], {"mask": mask, "masked_latents": z0}),
        (inpainting[0], {}),
        (inpainting[0], {"mask": mask}),
    ):
        with pytest.raises(ValueError, match="this denoiser of"):
            editor.denoise(z0, sigma, editor.encode_prompts(["a cat"]), **extra)


def test_parts_that_do_not_fit_are_refused():
    parts = tiny_models.parts()
    with pytest.raises(ValueError, match="unet takes 5 channels"):
        DiffusersEditor(**{**parts, "unet": tiny_models.unet(5)})
    from diffusers import FlowMatchEulerDiscreteScheduler

    flow = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(TypeError, match="has no alphas_cumprod"):
        DiffusersEditor(**{**parts, "scheduler": flow})
    with pytest.raises(ValueError, match="text_encoder gives 16 numbers a token, but unet takes 24"):
        parts["unet"].register_to_config(cross_attention_dim=24)
        DiffusersEditor(**parts)
    parts["unet"].register_to_config(cross_attention_dim=16)
    odd = tiny_models.scheduler("flow")
    with pytest.raises(ValueError, match="prediction_type must be one of"):
        DiffusersEditor(**{**parts, "scheduler": odd})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    for name, part in tiny_models.parts("epsilon", in_channels=9, tiny_vae=True).items():
        part.save_pretrained(path / name)
    return path


def test_a_saved_folder_gives_the_same_editor(folder):
    saved = DiffusersEditor(**tiny_models.parts("epsilon", in_channels=9, tiny_vae=True))
    read = DiffusersEditor.from_folder(str(folder))
    z0, mask, _ = latent_setting()
    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(read.encode(image), saved.encode(image), rtol=0, atol=2e-5)
    cond = read.encode_prompts(TEXTS)
    torch.testing.assert_close(cond, saved.encode_prompts(TEXTS), rtol=0, atol=2e-5)
    ours, theirs = (e.denoise(z0, torch.tensor([3.0]), cond[:1], mask, z0) for e in (read, saved))
    torch.testing.assert_close(
        ours, theirs, rtol=0, atol=2e-5
    )  # kernels round by how the weights lie in memory
    torch.testing.assert_close(sigmas_of(read.scheduler, 10), sigmas_of(saved.scheduler, 10))


def test_a_folder_that_lacks_or_breaks_something_is_one_sentence(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lacks vae/config\.json, text_encoder/config\.json"):
        DiffusersEditor.from_folder(tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"unet.* is damaged: .*; copy or download it again") as error:
        DiffusersEditor.from_folder(broken)
    assert "\n" not in str(error.value)
    (broken / "vae" / "config.json").write_text('{"_class_name": "AutoencoderDC"}')
    with pytest.raises(ValueError, match="class 'AutoencoderDC' is none of AutoencoderKL, AutoencoderTiny"):
        DiffusersEditor.from_folder(broken)


def test_pickled_weights_are_never_read(folder, tmp_path):
    pickled = tmp_path / "pickled"
    shutil.copytree(folder, pickled)
    weights = pickled / "unet" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    torch.save(tiny_models.unet(9).state_dict(), pickled / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match="unet cannot be read"):
        DiffusersEditor.from_folder(pickled)
