"""Scores on the host against the library's scorer and against transformers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.host

PHRASES = ["the red car", "moon", "a blue thing on the grass", "zebra"]
Pack = Callable[[str], ModuleType]


@pytest.fixture(scope="module")
def loaded(pack: Pack) -> dict[str, Any]:
    names = ("model", "clip", "vae", "segmenter", "scorer", "referrer")
    made = pack("nodes.load_embedded").RetouchLoadEmbedded.execute("inpaint").args
    return dict(zip(names, made, strict=True))


def test_the_embedded_scorer_is_the_librarys(pack: Pack, loaded: dict[str, Any]) -> None:
    library, host = pack("retouch_core.models.embedded").load_scorer(), loaded["scorer"]
    assert isinstance(host, pack("retouch_core.models.protocols").Scorer)
    views = torch.rand(40, 3, host.image_size, host.image_size, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(host.encode_images(views), library.encode_images(views), atol=1e-5)
    assert torch.allclose(host.encode_texts(PHRASES), library.encode_texts(PHRASES), atol=1e-5)
    assert host.logit_scale == pytest.approx(library.logit_scale, rel=1e-4)
    assert (host.gate, host.rivals) == (library.gate, library.rivals)
    assert (
        host.unknown_words("a red zebra, a car") == library.unknown_words("a red zebra, a car") == ("zebra",)
    )


def test_brackets_are_part_of_a_phrase(pack: Pack, loaded: dict[str, Any]) -> None:
    """The host reads them as emphasis in prompts; a query is no prompt."""
    library = pack("retouch_core.models.embedded").load_scorer()
    phrases = ["(the red car:1.4)", "the (red) car", "((moon))", ""]
    assert torch.allclose(loaded["scorer"].encode_texts(phrases), library.encode_texts(phrases), atol=1e-5)


def test_a_phrase_that_is_cut_is_noted(pack: Pack, loaded: dict[str, Any]) -> None:
    library = pack("retouch_core.models.embedded").load_scorer()
    long = "the red car " * 20
    with pack("nodes._host").noted() as notes:
        host = loaded["scorer"].encode_texts([long])
        assert len(notes) == 1 and "was cut" in notes[0]
        assert torch.allclose(host, library.encode_texts([long]), atol=1e-5)


def test_no_views_and_a_cancelled_run(
    loaded: dict[str, Any],
) -> None:
    import comfy.model_management as management

    scorer = loaded["scorer"]
    side, width = scorer.image_size, scorer.encode_texts(["moon"]).shape[-1]
    assert scorer.encode_images(torch.zeros(0, 3, side, side)).shape == (0, width)

    management.interrupt_current_processing()
    with pytest.raises(management.InterruptProcessingException):
        scorer.encode_images(torch.rand(1, 3, side, side))
    management.interrupt_current_processing()
    with pytest.raises(management.InterruptProcessingException):
        scorer.encode_texts(["moon"])
    management.interrupt_current_processing(False)


@pytest.fixture(scope="module")
def pair(comfy: Path) -> tuple[Any, Any]:
    """A tiny random CLIP of transformers' class, and its two halves as the host loads them from files."""
    import comfy.clip_vision
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    text = {"vocab_size": 49408, "hidden_size": 64, "num_hidden_layers": 12, "num_attention_heads": 4}
    text |= {
        "intermediate_size": 128,
        "max_position_embeddings": 77,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
    }
    image = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    image |= {"image_size": 64, "patch_size": 16}
    whole = CLIPModel(CLIPConfig(text_config=text, vision_config=image, projection_dim=64)).eval()
    for value in whole.parameters():
        torch.nn.init.normal_(value, std=0.2)
    vision = comfy.clip_vision.ClipVisionModel(
        {
            **whole.config.vision_config.to_dict(),
            "projection_dim": 64,
            "model_type": "clip_vision_model",
        }
    )
    missing, _ = vision.load_sd(
        {k: v for k, v in whole.state_dict().items() if k.startswith(("vision", "visual"))}
    )
    assert not missing
    return whole, vision


def text_half(whole: Any, projection: torch.Tensor | None = None) -> Any:
    """The text tower as a host CLIP with the tokenizer of SD1; `projection` [D,D] in place of its own."""
    import comfy.sd
    import comfy.sd1_clip
    import comfy.supported_models_base

    config = {**whole.config.text_config.to_dict(), "hidden_act": "quick_gelu"}

    class Tower(comfy.sd1_clip.SDClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
            super().__init__(
                device=device, dtype=dtype, textmodel_json_config=config, model_options=model_options or {}
            )

    class Words(comfy.sd1_clip.SD1ClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
            super().__init__(device, dtype, model_options or {}, clip_model=Tower)

    target = comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, Words)
    clip = comfy.sd.CLIP(target, model_options={"dtype": torch.float32})
    state = {k: v for k, v in whole.state_dict().items() if k.startswith("text_")}
    if projection is not None:
        state["text_projection.weight"] = projection
    clip.load_sd(state)
    return clip


def test_a_pair_of_the_host_scores_as_transformers_does(pack: Pack, pair: tuple[Any, Any]) -> None:
    whole, vision = pair
    clip = text_half(whole)
    (scorer,) = pack("nodes.scorer_from_clip").RetouchScorerFromCLIP.execute(clip, vision).args
    views = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    # The host keeps some weights of a CLIP vision model in fp16 and some in fp32: compare for the ones it kept.
    kept = copy.deepcopy(whole)
    weights = {key: value.float() for key, value in vision.model.state_dict().items()}
    assert kept.load_state_dict(weights, strict=False).unexpected_keys == []
    with torch.no_grad():
        seen = kept.visual_projection(kept.vision_model(pixel_values=(views - mean) / std).pooler_output)
    assert torch.allclose(scorer.encode_images(views), torch.nn.functional.normalize(seen, dim=-1), atol=1e-5)
    ids = torch.tensor([[t[0] for t in clip.tokenize("the red car")["l"][0]]])
    with torch.no_grad():
        hidden = whole.text_model(input_ids=ids).pooler_output
    expected = torch.nn.functional.normalize(whole.text_projection(hidden), dim=-1)
    assert torch.allclose(scorer.encode_texts(["the red car"]), expected, atol=1e-4)
    assert scorer.gate is None and scorer.unknown_words("zebra") == ()


def test_halves_that_do_not_belong_together_are_refused(
    pack: Pack, pair: Any, loaded: dict[str, Any]
) -> None:
    whole, vision = pair
    node = pack("nodes.scorer_from_clip").RetouchScorerFromCLIP
    with pytest.raises(ValueError, match="clip gives vectors of 128 numbers but clip_vision of 64"):
        node.execute(loaded["clip"], vision)
    # What the host leaves where a file has no projection: nothing, the identity, or what the memory held.
    junk = torch.randint(0, 2**31 - 2**24, (64, 64), generator=torch.Generator().manual_seed(5)).int()
    for projection in (torch.zeros(64, 64), torch.eye(64), junk.view(torch.float32).nan_to_num()):
        with pytest.raises(ValueError, match="clip has no text projection"):
            node.execute(text_half(whole, projection), vision)
    with pytest.raises(ValueError, match="clip_vision is a"):
        node.execute(loaded["clip"], loaded["vae"])
    with pytest.raises(ValueError, match="clip is a"):
        node.execute(loaded["vae"], vision)
