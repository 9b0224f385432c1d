"""RetouchRegionSampler against the host's own KSampler, and what must hold whatever the model and the sampler."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("quiet_host")]

Pack = Callable[[str], ModuleType]
HEIGHT, WIDE = 72, 64


@pytest.fixture
def run(pack: Pack, small: Any) -> Callable[..., Any]:
    """The node with a small plain model and few steps; gives its four outputs."""
    node = pack("nodes.region_sampler").RetouchRegionSampler

    def call(**given: Any) -> Any:
        defaults = {
            "image": small.picture(HEIGHT, WIDE),
            "mask": blot(),
            "model": small.model(),
            "vae": small.vae(),
            "target": small.conditioning(1),
            "empty": small.conditioning(2),
            "steps": 3,
            "candidates": 1,
        }
        return node.execute(**defaults | given).result

    return call


def blot(height: int = HEIGHT, width: int = WIDE) -> Tensor:
    """A mask whose border is neither on the grid nor convex, with a soft rim."""
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    away = ((x - width * 0.45) ** 2 + (y - height * 0.55) ** 2).sqrt()
    return ((17 - away) / 3).clamp(0, 1)[None]


def core(
    model: Any, latent: Tensor, conds: tuple[Any, Any], mask: Tensor | None = None, **given: Any
) -> Tensor:
    """What the host's KSampler makes of the same."""
    import comfy.sample

    numbers = {
        "seed": 0,
        "steps": 3,
        "cfg": 3.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "denoise": 1.0,
    }
    numbers |= {"noise_seed": given.get("seed", 0)} | given
    noise = comfy.sample.prepare_noise(latent, numbers["noise_seed"])
    with torch.no_grad():
        return comfy.sample.sample(  # type: ignore[no-any-return]
            model,
            noise,
            numbers["steps"],
            numbers["cfg"],
            numbers["sampler_name"],
            numbers["scheduler"],
            *conds,
            latent,
            denoise=numbers["denoise"],
            noise_mask=mask,
            disable_pbar=True,
            seed=numbers["seed"],
        )


def counted(model: Any) -> tuple[Any, list[tuple[Tensor, Tensor]]]:
    """A clone of the MODEL that notes (x, concat or nothing) of every call of its network."""
    calls: list[Any] = []
    clone = model.clone()

    def wrapper(apply: Callable[..., Tensor], args: dict[str, Any]) -> Tensor:
        calls.append((args["input"], args["c"].get("c_concat")))
        return apply(args["input"], args["timestep"], **args["c"])

    clone.set_model_unet_function_wrapper(wrapper)
    return clone, calls


@pytest.mark.parametrize("kind", ["plain", "flow", "sdxl"])
@pytest.mark.parametrize("denoise", [1.0, 0.6])
def test_full_mask_equals_the_hosts_ksampler(run: Any, small: Any, kind: str, denoise: float) -> None:
    model, latent = small.model(kind), small.vae().encode(small.picture(HEIGHT, WIDE))
    made = run(
        model=model, mask=torch.ones(1, HEIGHT, WIDE), latent={"samples": latent}, denoise=denoise, seed=5
    )
    conds = (small.conditioning(1), small.conditioning(2))
    expected = core(model, latent, conds, seed=5, denoise=denoise)
    assert (made[1]["samples"] - expected).abs().max() <= 1e-5
    picture = small.vae().decode(expected)[:, :HEIGHT, :WIDE]
    assert (made[0] - picture).abs().max() <= 1e-5


def test_referring_prompt_at_lam_1_equals_it_as_the_negative(run: Any, small: Any) -> None:
    latent = small.vae().encode(small.picture(HEIGHT, WIDE))
    made = run(mask=torch.ones(1, HEIGHT, WIDE), referring=small.conditioning(7), empty=None, lam=1.0)
    expected = core(small.model(), latent, (small.conditioning(1), small.conditioning(7)))
    assert (made[1]["samples"] - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("scheduler", ["simple", "karras"])
def test_mask_equals_ksampler_with_a_noise_mask_and_costs_as_many_calls(
    run: Any, small: Any, scheduler: str
) -> None:
    latent = small.vae().encode(small.picture(HEIGHT, WIDE))
    model, ours = counted(small.model())
    made = run(model=model, cfg=1.0, scheduler=scheduler, seed=3)
    model, theirs = counted(small.model())
    conds = (small.conditioning(1), small.conditioning(2))
    expected = core(model, latent, conds, made[1]["noise_mask"], cfg=1.0, scheduler=scheduler, seed=3)
    assert len(ours) == len(theirs) == 3
    assert (made[1]["samples"] - expected).abs().max() <= 1e-5


def test_noise_mask_opens_every_cell_with_a_pixel_above_0(run: Any) -> None:
    mask = blot()
    opened = run()[1]["noise_mask"]
    assert opened.shape == (1, 1, HEIGHT, WIDE)
    for row in range(0, HEIGHT, 8):
        for column in range(0, WIDE, 8):
            inside = (slice(row, row + 8), slice(column, column + 8))
            assert (opened[0, 0][inside] == (mask[0][inside] > 0).any()).all()


def test_empty_mask_returns_the_source_without_a_call(run: Any, small: Any) -> None:
    model, calls = counted(small.model())
    image = small.picture(HEIGHT, WIDE)
    for mask in (torch.zeros(1, HEIGHT, WIDE), torch.zeros(1, 64, 64)):
        made = run(model=model, image=image, mask=mask, candidates=4)
        assert torch.equal(made[0], image)
        assert torch.equal(made[1]["samples"], small.vae().encode(image))
        assert made[2].shape == (1, HEIGHT, WIDE)
        assert not made[2].any()
        assert "mask is empty" in made[3]
    assert calls == []


def test_every_sampler_of_the_host_runs_and_keeps_the_rest(run: Any, small: Any) -> None:
    import comfy.samplers

    image, mask = small.picture(HEIGHT, WIDE), blot()
    outside = mask[0] == 0
    faults = []
    for name in comfy.samplers.KSampler.SAMPLERS:
        both = run(sampler_name=name, candidates=2, cfg=2.0)
        alone = run(sampler_name=name, seed=1, cfg=2.0)
        # Relative: a random network drives some latents to a hundred, where float32 itself is worth 1e-5.
        size = alone[1]["samples"].abs().max().clamp(min=1)
        change = (both[1]["samples"][1] - alone[1]["samples"][0]).abs().max() / size
        if not torch.equal(both[0][:, outside], image.expand(2, -1, -1, -1)[:, outside]):
            faults.append(f"{name} changed the rest")
        if not change <= 1e-4:
            faults.append(f"{name}: candidate 1 alone differs by {change:g}")
        if not torch.isfinite(both[0]).all() or torch.equal(both[0][0], both[0][1]):
            faults.append(f"{name}: candidates are alike or not finite")
    assert faults == []


def test_samplers_that_are_called_with_a_batch_draw_no_noise(pack: Pack, small: Any) -> None:
    """The named set, against what the host's samplers do to the generator of all."""
    import comfy.samplers

    batched = pack("nodes._sampling").BATCHED
    latent = small.vae().encode(small.picture(HEIGHT, WIDE))
    mask = torch.ones(1, 1, 9, 8)
    mask[..., :3] = 0
    conds = (small.conditioning(1), small.conditioning(2))
    for name in comfy.samplers.KSampler.SAMPLERS:
        first, second = (
            core(small.model(), latent, conds, mask, sampler_name=name, seed=seed, noise_seed=0, steps=4)
            for seed in (1, 2)
        )
        # An adaptive step follows the whole batch, so that it is called for one at a time without drawing anything.
        assert torch.equal(first, second) == (name in batched or name == "dpm_adaptive"), name


def test_seeds_wrap_around(run: Any) -> None:
    made = run(seed=2**64 - 1, candidates=2, sampler_name="euler_ancestral")
    alone = run(seed=0, sampler_name="euler_ancestral")
    assert (made[1]["samples"][1] - alone[1]["samples"][0]).abs().max() <= 1e-4


@pytest.mark.parametrize("scheduler", ["simple", "karras"])
@pytest.mark.parametrize("own", [False, True])
def test_closed_cells_hold_the_source_at_every_step(
    run: Any, small: Any, monkeypatch: pytest.MonkeyPatch, scheduler: str, own: bool
) -> None:
    """Also with the host's differential diffusion, which opens everything at the last step."""
    import latent_preview

    model = small.model()
    if own:
        from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion

        model = DifferentialDiffusion.execute(model).result[0]
        before = model.model_options["denoise_mask_function"]
    seen: list[Tensor] = []
    monkeypatch.setattr(
        latent_preview, "prepare_callback", lambda *_: lambda step, x0, x, total: seen.append(x0.clone())
    )
    made = run(model=model, scheduler=scheduler, steps=4)
    latent = small.vae().encode(small.picture(HEIGHT, WIDE))
    source = model.model.process_latent_in(latent)
    closed = (made[1]["noise_mask"][:, :, ::8, ::8] == 0).expand_as(latent)
    assert closed.any()
    assert not closed.all()
    assert len(seen) == 4
    for estimate in seen:
        assert torch.equal(estimate[closed], source[closed])
    assert torch.equal(made[1]["samples"][closed], latent[closed])
    if own:
        assert model.model_options["denoise_mask_function"] is before


def test_masks_of_a_batch_stay_separate_on_5d_latents(run: Any, small: Any) -> None:
    masks = torch.zeros(2, HEIGHT, WIDE)
    masks[0, :24, :24] = 1
    masks[1, 40:, 32:] = 1
    given = {"model": small.model("video"), "vae": small.video_vae, "candidates": 2, "cfg": 1.0}
    images = small.picture(HEIGHT, WIDE, batch=2)
    for image in (images, images[:1]):
        both = run(image=image, mask=masks, **given)
        assert both[1]["samples"].shape == (4, 4, 1, HEIGHT // 8, WIDE // 8)
        assert both[0].shape == (4, HEIGHT, WIDE, 3)
        for k in range(2):
            one = run(image=image[k : k + 1] if len(image) == 2 else image, mask=masks[k : k + 1], **given)
            part = slice(2 * k, 2 * k + 2)
            assert (both[0][part] - one[0]).abs().max() <= 1e-5
            source = image[k if len(image) == 2 else 0]
            assert torch.equal(
                both[0][part][:, masks[k] == 0], source.expand(2, -1, -1, -1)[:, masks[k] == 0]
            )
            assert not torch.equal(both[0][part][0], source)


def test_inpaint_model_sees_our_mask_and_the_masked_picture(run: Any, small: Any) -> None:
    image = small.picture(HEIGHT, WIDE)
    for how in ("masked", "unmasked"):
        model, calls = counted(small.model("inpaint"))
        made = run(model=model, inpaint_input=how, candidates=2, cfg=1.0)
        opened = made[1]["noise_mask"][:1]
        shown = image if how == "unmasked" else torch.where(opened[:, 0, :, :, None] > 0, 0.5, image)
        expected = model.model.process_latent_in(small.vae().encode(shown))
        assert len(calls) == 3
        for x, concat in calls:
            assert len(x) == 2
            assert torch.equal(concat[:, :1], opened[:, :, ::8, ::8].expand(2, -1, -1, -1))
            assert (concat[:, 1:] - expected).abs().max() <= 1e-5


def test_picture_of_the_artists_own_is_left(run: Any, small: Any) -> None:
    import node_helpers

    own = torch.rand(1, 4, HEIGHT // 8, WIDE // 8)
    target = node_helpers.conditioning_set_values(
        small.conditioning(1), {"concat_latent_image": own, "concat_mask": torch.ones(1, 1, HEIGHT, WIDE)}
    )
    model, calls = counted(small.model("inpaint"))
    report = run(model=model, target=target, cfg=1.0)[3]
    assert "bring a picture" in report
    assert (calls[0][1][:, 1:] - model.model.process_latent_in(own)).abs().max() <= 1e-6


@pytest.mark.parametrize("size", [(64, 64), (75, 66), (97, 131), (17, 16)])
def test_sizes_that_are_no_whole_cells_are_padded_and_never_shifted(
    run: Any, small: Any, size: tuple[int, int]
) -> None:
    """A denoise of 0 decodes the encoded picture: it lies where it lay."""
    image = small.picture(*size)
    made = run(image=image, mask=torch.ones(1, *size), denoise=0.0)
    height, width = (-(-side // 8) * 8 for side in size)
    grown = torch.nn.functional.pad(
        image.movedim(-1, 1), (0, width - size[1], 0, height - size[0]), mode="replicate"
    )
    whole = small.vae().decode(small.vae().encode(grown.movedim(1, -1)))
    assert torch.equal(made[0], whole[:, : size[0], : size[1]])


def test_tokens_of_a_transformer_open_whole(pack: Pack) -> None:
    latents = pack("nodes._latents")
    mask = torch.zeros(1, 40, 40)
    mask[0, 17, 38] = 0.25
    opened = latents.cell_values(mask, 8, 2)[0, 0]
    expected = torch.zeros(5, 5)
    expected[2:4, 4:] = 0.25
    assert torch.equal(opened, expected)


def test_cancelling_stops_within_a_step(run: Any, small: Any) -> None:
    import comfy.model_management as management

    clone = small.model().clone()
    calls = []

    def wrapper(apply: Callable[..., Tensor], args: dict[str, Any]) -> Tensor:
        calls.append(1)
        if len(calls) == 2:
            management.interrupt_current_processing(True)
        return apply(args["input"], args["timestep"], **args["c"])

    clone.set_model_unet_function_wrapper(wrapper)
    try:
        with pytest.raises(management.InterruptProcessingException):
            run(model=clone, steps=6, cfg=1.0, candidates=3)
    finally:
        management.interrupt_current_processing(False)
    assert len(calls) == 2
    assert torch.isfinite(run()[0]).all()


def test_no_memory_halves_the_batch(run: Any, small: Any) -> None:
    clone = small.model().clone()
    sizes = []

    def wrapper(apply: Callable[..., Tensor], args: dict[str, Any]) -> Tensor:
        sizes.append(len(args["input"]))
        if len(args["input"]) > 2:
            raise torch.cuda.OutOfMemoryError("no room")
        return apply(args["input"], args["timestep"], **args["c"])

    clone.set_model_unet_function_wrapper(wrapper)
    made = run(model=clone, candidates=5, steps=2, cfg=1.0)
    assert sizes == [5, 2, 2, 2, 2, 1, 1]
    assert json.loads(made[3].split("\n", 1)[1])["batch_size"] == 2
    assert (made[1]["samples"] - run(candidates=5, steps=2, cfg=1.0)[1]["samples"]).abs().max() <= 1e-4


def test_same_again_is_the_same_bit_for_bit(run: Any) -> None:
    first, second = run(candidates=3), run(candidates=3)
    assert torch.equal(first[0], second[0])
    assert first[3] == second[3]


def test_half_precision_and_alpha(run: Any, small: Any) -> None:
    image, mask = small.picture(HEIGHT, WIDE).half(), blot()
    made = run(image=torch.cat([image, image[..., :1]], -1), mask=mask)[0]
    assert made.dtype == torch.float16
    assert torch.equal(made[:, mask[0] == 0], image[:, mask[0] == 0])


def refused(run: Any, *parts: str, **given: Any) -> None:
    with pytest.raises((ValueError, TypeError)) as error:
        run(**given)
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def test_what_does_not_fit_is_refused_in_one_sentence(run: Any, small: Any) -> None:
    refused(run, "vae", "16", "4", vae=small.vae(16))
    refused(run, "latent", "64x72", latent={"samples": torch.zeros(1, 4, 5, 5)})
    refused(run, "target", "CLIP", target=small.conditioning(1, width=64), cfg=1.0)
    refused(run, "empty", "connect", empty=None)
    refused(run, "mask", "image", mask=torch.ones(1, 30, 90))
    refused(run, "denoise", "1.5", denoise=1.5)


def test_nan_is_refused_and_names_the_cure(run: Any, small: Any) -> None:
    clone = small.model().clone()
    clone.set_model_unet_function_wrapper(lambda apply, args: torch.full_like(args["input"], torch.nan))
    refused(run, "NaN", "lower cfg", "float32", model=clone)


def test_nodes_and_library_make_the_same_picture(run: Any, pack: Pack, tmp_path: Path) -> None:
    """The embedded layout with random weights: the host's classes here, diffusers' there; one noise, one schedule."""
    import comfy.samplers

    from training.host_run import drawn_edit, in_the_library
    from training.random_bundle import save_random_bundle

    bundle, edit = save_random_bundle(tmp_path), drawn_edit()
    made = pack("nodes._bundle")
    model, clip, vae = made.host_model(bundle), made.host_clip(bundle), made.host_autoencoder(bundle)
    target, empty = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (edit.prompt, ""))
    out = run(
        image=edit.image,
        mask=edit.mask,
        model=model,
        vae=vae,
        target=target,
        empty=empty,
        seed=edit.seed,
        steps=edit.steps,
        cfg=edit.cfg,
    )
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", edit.steps)
    with torch.inference_mode():
        library = in_the_library(bundle, edit, sigmas)
    composite = pack("retouch_core.editing.composite").composite
    expected = composite(edit.image, library.picture, edit.mask)
    assert (expected - edit.image).abs().max() > 0.05
    assert (out[0] - expected).abs().max() <= 1e-3


def test_region_takes_what_changed_and_no_more(run: Callable[..., Any], small: Any, pack: Pack) -> None:
    whole, _, mask, _ = run(candidates=2)
    image = small.picture(HEIGHT, WIDE)
    region = torch.zeros(1, HEIGHT, WIDE)
    region[:, 36:42, 26:32] = 1
    made, latent, own, report = run(candidates=2, region=region, change_min=1.0)
    assert latent["samples"].shape[0] == len(made) == 2 and own.shape == mask.shape
    assert (own <= mask + 1e-6).all() and 0 < int((own > 0).sum()) < int((mask > 0).sum())
    assert (own[:, 36:42, 26:32] == mask[:, 36:42, 26:32]).all()
    closed = own[0] == 0
    assert torch.equal(made[:, closed], image.expand(2, -1, -1, -1)[:, closed])
    # Nothing differs by 1 from the picture, so only the region is taken, and there as without it.
    assert not own[:, :33].any() and not own[:, 45:].any()
    both = (made == whole).all(-1)
    assert both[:, 36:42, 26:32].all()
    assert json.loads(report.split("\n", 1)[1])["mask_share"] == pytest.approx(
        float((own > 0).float().mean())
    )
    assert torch.equal(run(candidates=2, region=region, change_min=0.0)[0], whole)


def test_with_a_region_the_error_of_the_vae_is_taken_back_where_nothing_changed(
    run: Callable[..., Any], small: Any, pack: Pack
) -> None:
    image, vae = small.picture(HEIGHT, WIDE), small.vae()
    region = torch.zeros(1, HEIGHT, WIDE)
    region[:, 36:42, 26:32] = 1
    # Without noise the sampler gives the picture's own latents back.
    same, _, own, _ = run(denoise=0.0, region=region)
    assert (same - image).abs().max() <= 1e-5 and own[:, 36:42, 26:32].all()
    bare, _, _, _ = run(denoise=0.0)
    assert (bare - image).abs().max() > 0.05
    little, _, own, _ = run(denoise=0.05, region=region, change_min=1.0)
    whole, _, _, _ = run(denoise=0.05)
    before = vae.decode(vae.encode(image))
    expected = pack("retouch_core.editing.changed").detailed(whole, before, image, 1.0)
    inner = (slice(None), slice(36, 42), slice(26, 32))
    assert (little[inner] - expected[inner]).abs().max() <= 1e-5


def test_each_picture_of_a_batch_has_its_region(run: Callable[..., Any], small: Any) -> None:
    image = torch.cat([small.picture(HEIGHT, WIDE), small.picture(HEIGHT, WIDE).flip(1)])
    region = torch.zeros(2, HEIGHT, WIDE)
    region[0, 36:42, 26:32] = region[1, 40:46, 22:28] = 1
    made, _, own, _ = run(image=image, candidates=2, region=region, change_min=1.0)
    assert len(made) == len(own) == 4
    for row, picture in enumerate((0, 0, 1, 1)):
        taken = own[row] > 0
        assert taken[region[picture] > 0].all() and int(taken.sum()) < 200
        assert torch.equal(made[row][~taken], image[picture][~taken])


def test_a_region_of_another_shape_is_named(run: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"region is .* but the picture is"):
        run(region=torch.ones(1, 5, WIDE))
    with pytest.raises(ValueError, match=r"change_min must be in \[0, 1\], got -0\.1"):
        run(change_min=-0.1)
