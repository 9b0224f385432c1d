"""CLIPSeg as a referrer: against the published processor and forward pass, and by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from folder_faults import FAULTS, check_refused
from tiny_referrers import clipseg_folder, eight_bit, picture

from retouch_core.models.pretrained.pictures import image_settings
from retouch_core.models.pretrained.referrers.clipseg import ClipSegReferrer
from retouch_core.models.protocols import InstanceReferrer, Referrer
from retouch_core.tensors.checks import InputWarning

PHRASES = ["red car", "the sky", "cat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clipseg_folder(tmp_path_factory.mktemp("models") / "clipseg")


@pytest.fixture()
def referrer(folder: Path) -> ClipSegReferrer:
    return ClipSegReferrer.from_folder(folder)


def published(
    referrer: ClipSegReferrer, folder: Path, image: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels and maps [T,H,W] by the published processor and the model's own forward pass."""
    from transformers import CLIPSegProcessor

    processor = CLIPSegProcessor.from_pretrained(folder)
    inputs = processor(
        text=PHRASES,
        images=[eight_bit(image)] * len(PHRASES),
        padding="max_length",
        max_length=16,
        return_tensors="pt",
    )
    with torch.no_grad():
        logits = referrer.model(**inputs).logits
    heat = torch.nn.functional.interpolate(torch.sigmoid(logits)[None], image.shape[1:3], mode="bilinear")[0]
    return inputs["pixel_values"], heat


def test_maps_are_those_of_the_published_forward_pass(referrer: ClipSegReferrer, folder: Path) -> None:
    image = picture(48, 48)  # the size the network sees, so that resizing has no part in it
    _, expected = published(referrer, folder, image)
    heat = referrer.heat_maps(image, PHRASES)
    assert float(expected.std()) > 0.01 and float((expected[0] - expected[1]).abs().max()) > 1e-3
    torch.testing.assert_close(heat, expected, atol=2e-4, rtol=0)


def test_pictures_are_squashed_as_the_processor_does_it(
    referrer: ClipSegReferrer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = picture(61, 97)
    pixels, expected = published(referrer, folder, image)
    seen: list[torch.Tensor] = []
    run = referrer._activations
    monkeypatch.setattr(referrer, "_activations", lambda given: (seen.append(given), run(given))[1])
    heat = referrer.heat_maps(image, PHRASES)
    # The processor rounds to 8 bits after resizing, once an axis: 1/255 over a std of 0.224.
    assert float((seen[0][0] - pixels[0]).abs().max()) < 1 / 255 / 0.224 + 1e-3
    assert heat.shape == (3, 61, 97) and heat.dtype == torch.float32 and heat.device.type == "cpu"
    # A random network makes much of that here and there.
    assert float((heat - expected).abs().mean()) < 0.01


def test_same_bits_again_and_chunks_change_nothing(referrer: ClipSegReferrer, folder: Path) -> None:
    image, told = picture(33, 70), []
    heat = referrer.heat_maps(image, PHRASES, tell=lambda done, of: told.append((done, of)))
    assert torch.equal(heat, referrer.heat_maps(image, PHRASES))
    assert told == [(3, 3)]
    one_by_one = ClipSegReferrer.from_folder(folder, chunk=1).heat_maps(
        image, PHRASES, tell=lambda done, of: told.append((done, of))
    )
    torch.testing.assert_close(heat, one_by_one, atol=1e-5, rtol=0)
    assert told[1:] == [(1, 3), (2, 3), (3, 3)]
    assert float(heat.min()) >= 0 and float(heat.max()) <= 1


def test_whatever_tell_raises_stops_the_work(folder: Path) -> None:
    def stop(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ClipSegReferrer.from_folder(folder, chunk=1).heat_maps(picture(20, 20), PHRASES, tell=stop)


def test_no_phrase_gives_no_map(referrer: ClipSegReferrer) -> None:
    assert referrer.heat_maps(picture(20, 30), []).shape == (0, 20, 30)


def test_sigmoid_comes_before_resizing(referrer: ClipSegReferrer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two columns of logits -40 and 40 are 0 and 1; at x of 16 the centre lies at (x + 0.5) / 8 - 0.5 of the two."""
    two = torch.tensor([[-40.0, 40.0], [-40.0, 40.0]])

    def forward(activations: Any, meant: torch.Tensor) -> SimpleNamespace:
        # As in early versions, a single phrase loses its axis.
        return SimpleNamespace(logits=two if len(meant) == 1 else two.expand(len(meant), 2, 2))

    monkeypatch.setattr(referrer.model.decoder, "forward", forward)
    expected = [min(max((x + 0.5) / 8 - 0.5, 0.0), 1.0) for x in range(16)]
    for phrases in (["cat"], ["cat", "dog"]):
        heat = referrer.heat_maps(picture(16, 16), phrases)
        assert heat.shape == (len(phrases), 16, 16)
        torch.testing.assert_close(heat, torch.tensor(expected).expand_as(heat), atol=1e-6, rtol=0)


def test_bfloat16_weights(referrer: ClipSegReferrer, folder: Path) -> None:
    image = picture(40, 50)
    full = referrer.heat_maps(image, PHRASES)
    for network in referrer.networks:
        network.bfloat16()
    half = referrer.heat_maps(image, PHRASES)
    assert half.dtype == torch.float32 and torch.isfinite(half).all()
    assert float((half - full).abs().mean()) < 0.03


def test_inside_inference_mode(referrer: ClipSegReferrer) -> None:
    with torch.inference_mode():
        assert referrer.heat_maps(picture(20, 20), ["cat"]).shape == (1, 20, 20)


def test_long_phrases_are_cut_with_a_warning(referrer: ClipSegReferrer) -> None:
    with pytest.warns(InputWarning, match="was cut to 16"):
        referrer.heat_maps(picture(16, 16), ["a phrase of very many letters"])
    assert referrer.unknown_words("red 車") == ()


def test_it_is_a_referrer_without_instances(referrer: ClipSegReferrer) -> None:
    assert isinstance(referrer, Referrer) and not isinstance(referrer, InstanceReferrer)
    assert len(referrer.networks) == 1 and not any(p.requires_grad for p in referrer.model.parameters())


def test_settings_of_either_generation(folder: Path, tmp_path: Path) -> None:
    both = {}
    for name, nested in (("preprocessor_config.json", False), ("processor_config.json", True)):
        copy = tmp_path / name.split("_")[0]
        shutil.copytree(folder, copy)
        settings = image_settings(folder) | {"size": 64, "image_mean": [0.1, 0.2, 0.3]}
        for other in ("preprocessor_config.json", "processor_config.json"):
            (copy / other).unlink(missing_ok=True)
        (copy / name).write_text(json.dumps({"image_processor": settings} if nested else settings))
        both[nested] = ClipSegReferrer.from_folder(copy)
    assert both[True].side == both[False].side == 64
    assert both[True].look == both[False].look and both[True].look.mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_wrong_folders(folder: Path, tmp_path: Path, fault: Any) -> None:
    check_refused(folder, tmp_path / "copy", fault, ClipSegReferrer.from_folder)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"side": 50}, "multiple of the patch of 8"),
        ({"side": 0}, "side must be a whole number"),
        ({"chunk": 0}, "chunk must be"),
    ],
)
def test_wrong_options(folder: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ClipSegReferrer.from_folder(folder, **options)


def test_wrong_input(referrer: ClipSegReferrer) -> None:
    with pytest.raises(ValueError, match="must hold 1 picture"):
        referrer.heat_maps(torch.zeros(2, 20, 20, 3), ["cat"])
    with pytest.raises(ValueError, match="phrase is empty"):
        referrer.heat_maps(picture(20, 20), ["cat", " "])
    with pytest.raises(ValueError, match="NaN"):
        referrer.heat_maps(torch.full((1, 20, 20, 3), float("nan")), ["cat"])
    referrer.model.decoder.film_add.bias.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="CLIPSeg gave NaN"):
        referrer.heat_maps(picture(20, 20), ["cat"])
