"""Retouch Guidance around the host's own prediction: it leads, it keeps, it costs nothing where it is off."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("quiet_host")]

Pack = Callable[[str], ModuleType]
SIDE = 64


class Colours:
    """A scorer of mean colours, differentiable and without weights."""

    image_size = 16
    logit_scale = 20.0
    gate: float | None = None
    rivals: tuple[str, ...] = ()

    def encode_images(self, views: Tensor) -> Tensor:
        return torch.nn.functional.normalize(views.mean((2, 3)) + 0.05, dim=-1)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        return torch.nn.functional.normalize(torch.tensor([[1.0, 0.1, 0.1]] * len(texts)), dim=-1)

    def unknown_words(self, text: str) -> tuple[str, ...]:
        return ()


@pytest.fixture
def guidance(pack: Pack) -> Callable[..., Any]:
    """The node with a scorer of colours."""
    node = pack("nodes.guidance").RetouchGuidance

    def call(**given: Any) -> Any:
        defaults = {
            "scorer": Colours(),
            "prompt": "something red",
            "scale": 50.0,
            "clip": 1.0,
            "perceptual": 0.5,
            "l2": 0.5,
            "value_range": 0.0,
            "path": "detach_unet",
        }
        return node.execute(**defaults | given).result[0]

    return call


def blot() -> Tensor:
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, 16:42, 20:45] = 1
    return mask


@pytest.fixture
def run(pack: Pack, small: Any) -> Callable[..., Any]:
    node = pack("nodes.region_sampler").RetouchRegionSampler

    def call(**given: Any) -> Any:
        defaults = {
            "image": small.picture(SIDE, SIDE),
            "mask": blot(),
            "model": small.model(),
            "vae": small.vae(),
            "target": small.conditioning(1),
            "steps": 3,
            "cfg": 1.0,
            "candidates": 2,
        }
        return node.execute(**defaults | given).result

    return call


def redness(images: Tensor) -> Tensor:
    """Cosine of the mean colour of the region with the prompt's, as the scorer sees it."""
    inside = images[:, blot()[0] > 0]
    scorer = Colours()
    return scorer.encode_images(inside.movedim(-1, 1)[..., None]) @ scorer.encode_texts(["red"])[0]


def made_in(mode: Any, call: Callable[[], Any]) -> Any:
    with mode:
        return call()


@pytest.mark.parametrize("path", ["detach_unet", "full", "tiny", "linear", "tiny_half"])
@pytest.mark.parametrize("kind", ["plain", "flow", "inpaint"])
def test_region_goes_to_the_prompt_and_the_rest_stays(
    run: Any, small: Any, guidance: Any, path: str, kind: str
) -> None:
    image, model = small.picture(SIDE, SIDE), small.model(kind)
    plain = run(model=model)[0]
    made, _, _, report = run(model=model, guidance=guidance(path=path, perceptual=0.0, until=1.0, bound=0.3))
    outside = blot()[0] == 0
    assert torch.equal(made[:, outside], image.expand(2, -1, -1, -1)[:, outside])
    assert torch.isfinite(made).all() and not torch.equal(made, plain)
    if path not in ("linear", "tiny_half"):  # colours of random decoders are linear in nothing
        assert (redness(made) > redness(plain)).all()
    values = json.loads(report.split("\n", 1)[1])
    assert values["guidance"]["path"] == path
    assert values["guidance"]["terms"][0]["prompt"] == "something red"
    assert not values["notes"]


def test_weights_of_0_change_nothing_bit_for_bit(run: Any, guidance: Any) -> None:
    plain = run()
    for off in ({"scale": 0.0}, {"clip": 0.0, "perceptual": 0.0, "l2": 0.0}, {"until": 0.0}):
        found = run(guidance=guidance(**off))
        assert torch.equal(found[1]["samples"], plain[1]["samples"])
        assert torch.equal(found[0], plain[0])


@pytest.mark.parametrize("path", ["detach_unet", "full"])
def test_runs_in_inference_mode_with_models_that_were_loaded_there(
    pack: Pack, small: Any, guidance: Any, run: Any, path: str
) -> None:
    """As a graph of the host runs: everything made, loaded and sampled in inference mode."""
    import comfy.model_management

    def whole() -> Any:
        loaded = small.model.__wrapped__("plain"), small.vae.__wrapped__()
        return run(
            model=loaded[0], vae=loaded[1], image=small.picture(SIDE, SIDE), guidance=guidance(path=path)
        )

    expected = whole()
    with torch.inference_mode():
        found = whole()
        weights = [p for p in found[1].values() if isinstance(p, Tensor)]
    comfy.model_management.unload_all_models()
    assert weights
    assert not json.loads(found[3].split("\n", 1)[1])["notes"]
    size = expected[1]["samples"].abs().max().clamp(min=1)
    assert ((found[1]["samples"] - expected[1]["samples"]) / size).abs().max() <= 1e-5


def test_candidate_alone_is_that_of_the_batch_and_pictures_stay_apart(
    run: Any, small: Any, guidance: Any
) -> None:
    given = {"guidance": guidance(until=1.0)}
    both, alone = run(candidates=2, **given), run(candidates=1, seed=1, **given)
    size = alone[1]["samples"].abs().max().clamp(min=1)
    assert ((both[1]["samples"][1] - alone[1]["samples"][0]) / size).abs().max() <= 1e-4
    images = torch.cat([small.picture(SIDE, SIDE), small.picture(SIDE, SIDE).flip(1)])
    masks = torch.cat([blot(), blot().roll(-8, 2)])
    two = run(image=images, mask=masks, candidates=1, **given)[1]["samples"]
    for k in range(2):
        one = run(image=images[k : k + 1], mask=masks[k : k + 1], candidates=1, **given)[1]["samples"]
        assert ((two[k] - one[0]) / size).abs().max() <= 1e-4


def test_conditional_cfg_takes_it_too(pack: Pack, small: Any, guidance: Any, run: Any) -> None:
    """The same latents as the region sampler's, by the artist's own sampler graph."""
    import comfy.sample
    import comfy.samplers

    node = pack("nodes.conditional_cfg").RetouchConditionalCFG
    image, model, vae = small.picture(SIDE, SIDE), small.model(), small.vae()
    led = guidance()
    made = run(candidates=1, guidance=led)
    latent = vae.encode(image)
    mask = made[1]["noise_mask"][:, :, ::8, ::8]
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 3)

    def sampled(guider: Any) -> Tensor:
        return guider.sample(
            comfy.sample.prepare_noise(latent, 0),
            latent,
            comfy.samplers.sampler_object("euler"),
            sigmas,
            denoise_mask=mask,
            disable_pbar=True,
            seed=0,
        )

    given = {"model": model, "target": small.conditioning(1), "cfg": 1.0, "lam": 0.0}
    (guider,) = node.execute(**given, guidance=led, vae=vae, image=image, mask=blot()).args
    (plain,) = node.execute(**given).args
    first = sampled(guider)
    assert torch.equal(sampled(guider), first)
    size = first.abs().max().clamp(min=1)
    assert ((first - made[1]["samples"]) / size).abs().max() <= 1e-5
    assert not torch.allclose(first, sampled(plain))
    with pytest.raises(ValueError, match=r"^image is not connected, but guidance needs it"):
        node.execute(**given, guidance=led, vae=vae, mask=blot())
    with pytest.raises(ValueError, match=r"^mask is empty, so guidance has no region"):
        node.execute(**given, guidance=led, vae=vae, image=image, mask=torch.zeros(1, SIDE, SIDE))
    (other,) = node.execute(**given, guidance=led, vae=vae, image=small.picture(24, 24), mask=blot()).args
    with pytest.raises(ValueError, match="image is 24x24 px but the latent"):
        sampled(other)


def test_what_it_cannot_do_is_said_in_one_sentence(run: Any, small: Any, guidance: Any) -> None:
    with pytest.raises(ValueError, match="guidance works on latents of pictures") as refusal:
        run(model=small.model("video"), vae=small.video_vae, guidance=guidance())
    assert "\n" not in str(refusal.value)
    with pytest.raises(TypeError, match="guidance must be of Retouch Guidance, got dict"):
        run(guidance={})
    with pytest.raises(ValueError, match="prompt is empty"):
        guidance(prompt=" ")
    with pytest.raises(ValueError, match=r"scale must be in \[0, 1e\+06\], got -1.0"):
        guidance(scale=-1.0)
    with pytest.raises(TypeError, match="scorer must be a scorer, got NoneType"):
        guidance(scorer=None)


def test_a_network_without_gradients_falls_back_with_a_sentence(run: Any, small: Any, guidance: Any) -> None:
    clone = small.model().clone()

    def wrapper(apply: Callable[..., Tensor], args: dict[str, Any]) -> Tensor:
        with torch.no_grad():
            return apply(args["input"], args["timestep"], **args["c"])

    clone.set_model_unet_function_wrapper(wrapper)
    found = run(model=clone, guidance=guidance(path="full"))
    notes = json.loads(found[3].split("\n", 1)[1])["notes"]
    assert len(notes) == 1 and notes[0].startswith("path full needs gradients through the model")
    expected = run(model=clone, guidance=guidance())
    assert torch.equal(found[1]["samples"], expected[1]["samples"])


def test_terms_chain_and_the_last_node_decides_the_path(guidance: Any, small: Any) -> None:
    first = guidance(prompt="one", path="tiny", decoder=small.vae())
    both = guidance(prompt="two", path="tiny", guidance=first)
    assert [terms.prompt for terms in both.terms] == ["one", "two"]
    assert both.decoder is first.decoder
    assert guidance(bound=0.0).bound is None


def test_embedded_models_guide_in_inference_mode(pack: Pack, small: Any) -> None:
    """The shipped scorer's own gradients, and its networks beside the model."""
    load = pack("nodes.load_embedded").RetouchLoadEmbedded
    with torch.inference_mode():
        model, clip, vae, _, scorer, *_ = load.execute(denoiser="inpaint").result
        cond = clip.encode_from_tokens_scheduled(clip.tokenize("a blue fish"))
        led = (
            pack("nodes.guidance")
            .RetouchGuidance.execute(scorer, "a blue fish", 150.0, 1.0, 0.5, 0.5, 0.0, "tiny")
            .result[0]
        )
        made = (
            pack("nodes.region_sampler")
            .RetouchRegionSampler.execute(
                small.picture(SIDE, SIDE),
                blot(),
                model,
                vae,
                cond,
                steps=2,
                cfg=1.0,
                candidates=1,
                guidance=led,
            )
            .result
        )
    assert torch.isfinite(made[0]).all()
    values = json.loads(made[3].split("\n", 1)[1])
    assert values["notes"] == []
    assert values["guidance"]["terms"][0]["perceptual_distance"] == "scorer features"
    views = torch.rand(2, 3, 64, 64, requires_grad=True)
    library = pack("retouch_core.models.embedded").load_scorer()
    slopes = []
    for one in (scorer, library):
        slopes.append(torch.autograd.grad(one.encode_images(views)[:, :9].sum(), views)[0])
        layers = one.features(views)
        slopes.append(torch.autograd.grad(sum(tokens[..., :9].mean() for tokens in layers), views)[0])
    for mine, theirs in zip(slopes[:2], slopes[2:], strict=True):
        assert (mine - theirs).norm() <= 1e-3 * theirs.norm()
