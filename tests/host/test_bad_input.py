"""What artists wire by mistake, into every input of every node: it works, or one sentence says what to do.

The host checks widget values only where they are typed, not where they are linked, and never checks tensors. So each
input is replaced by each value of its type that is wrong or odd, one at a time.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

pytestmark = pytest.mark.host

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "RetouchLoadEmbedded": "load_embedded",
    "RetouchScorerFromCLIP": "scorer_from_clip",
    "RetouchEntitySegment": "entity_segment",
    "RetouchMasksToRegions": "masks_to_regions",
    "RetouchRegionScores": "region_scores",
    "RetouchAdaptiveThreshold": "adaptive_threshold",
    "RetouchLocationFilter": "location_filter",
    "RetouchDilateMask": "dilate_mask",
    "RetouchCropRegion": "crop_region",
    "RetouchConditionalCFG": "conditional_cfg",
    "RetouchGuidance": "guidance",
    "RetouchRegionSampler": "region_sampler",
    "RetouchStitchRegion": "stitch_region",
    "RetouchComposite": "composite",
    "RetouchRankCandidates": "rank_candidates",
    "RetouchMeasure": "measure",
    "RetouchReferringSegment": "referring_segment",
    "RetouchNoiseContrastMask": "noise_contrast_mask",
}

SIDE = 128
MUST_FAIL = "must fail"
MAY = "may"
WORKS = "works"
"""What is expected of a value: a sentence, either, or a result."""


def images() -> dict[str, tuple[Any, str]]:
    """Odd IMAGEs."""
    good = torch.rand(1, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(0))
    nan = good.clone()
    nan[0, 3, 4, 1] = math.nan
    infinite = good.clone()
    infinite[0, 3, 4, 1] = math.inf
    return {
        "rank 3": (good[0], MAY),
        "rank 5": (good[None], MUST_FAIL),
        "one channel": (good[..., :1], MAY),
        "two channels": (good[..., :2], MUST_FAIL),
        "channels first": (good.movedim(-1, 1), MUST_FAIL),
        "RGBA": (torch.cat([good, torch.ones_like(good[..., :1])], -1), WORKS),
        "NaN": (nan, MUST_FAIL),
        "Inf": (infinite, MUST_FAIL),
        "no picture": (good[:0], MAY),
        "4x4": (good[:, :4, :4], MAY),
        "another size": (good[:, :96, :64], MAY),
        "whole numbers": ((good * 255).byte(), MUST_FAIL),
        "out of range": (good * 3 - 1, MAY),
        "half precision": (good.half(), WORKS),
        "batch of 3": (good.repeat(3, 1, 1, 1), MAY),
        "nothing": (None, MUST_FAIL),
    }


def masks() -> dict[str, tuple[Any, str]]:
    """Odd MASKs."""
    good = torch.zeros(1, SIDE, SIDE)
    good[:, 40:90, 30:70] = 1
    nan = good.clone()
    nan[0, 3, 4] = math.nan
    return {
        "rank 1": (good[0, 0], MUST_FAIL),
        "rank 2": (good[0], MAY),
        "rank 4": (good[:, None], MAY),
        "rank 5": (good[None, None], MUST_FAIL),
        "empty": (torch.zeros_like(good), WORKS),
        "full": (torch.ones_like(good), WORKS),
        "placeholder": (torch.zeros(1, 64, 64), WORKS),
        "another size, same aspect": (torch.nn.functional.interpolate(good[None], (64, 64))[0], WORKS),
        "another aspect": (good[:, :64], MAY),
        "no mask": (good[:0], MAY),
        "batch of 3": (good.repeat(3, 1, 1), MAY),
        "NaN": (nan, MUST_FAIL),
        "out of range": (good * 3 - 1, MAY),
        "bool": (good > 0, WORKS),
        "half precision": (good.half(), WORKS),
        "nothing": (None, MUST_FAIL),
    }


def numbers(kind: str) -> dict[str, tuple[Any, str]]:
    """Odd FLOATs and INTs; the host clips none that arrive over a link."""
    odd: dict[str, tuple[Any, str]] = {str(number): (number, MAY) for number in (-3, -1, 0, 2)}
    if kind == "FLOAT":
        odd |= {"NaN": (math.nan, MUST_FAIL), "Inf": (math.inf, MAY), "1e9": (1e9, MAY)}
    return odd


STRINGS: dict[str, tuple[Any, str]] = {
    "blank": ("", MAY),
    "spaces": (" \n ", MAY),
    "signs": ("??", MAY),
    "another alphabet": ("红色的车 🚗", MAY),
    "very long": ("a red car and " * 60, MAY),
}


class Bright:
    """A referrer that takes bright pixels for what is meant."""

    def heat_maps(self, image: torch.Tensor, phrases: Sequence[str]) -> torch.Tensor:
        return image.mean(-1).expand(len(phrases), -1, -1)

    def unknown_words(self, text: str) -> tuple[str, ...]:
        return ()


class Stage:
    """Good inputs of every node, by running the good graph once."""

    def __init__(self, pack: Callable[[str], ModuleType]) -> None:
        self.pack = pack
        self.nodes = {name: getattr(pack(f"nodes.{file}"), name) for name, file in FILES.items()}
        self.schemas = {name: node.GET_SCHEMA() for name, node in self.nodes.items()}
        picture = Image.open(ROOT / "retouch_core" / "demo_pictures" / "wood.png").convert("RGB")
        pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).reshape(1, SIDE, SIDE, 3)
        image = pixels.float() / 255
        model, clip, vae, segmenter, scorer, _ = (
            self.nodes["RetouchLoadEmbedded"].execute(denoiser="inpaint").result
        )
        shared = {
            "image": image,
            "segmenter": segmenter,
            "scorer": scorer,
            "model": model,
            "vae": vae,
            "clip": clip,
        }
        self.models = shared
        self.good: dict[str, dict[str, Any]] = {}
        self.good["RetouchLoadEmbedded"] = {"denoiser": "inpaint"}
        segmented = self.run("RetouchEntitySegment", image=image, segmenter=segmenter)
        regions = segmented[1]
        regions = regions[0] if isinstance(regions, list) else regions
        mask = torch.zeros(1, SIDE, SIDE)
        mask[:, 40:90, 30:70] = 1
        vision = pack("nodes._bundle").host_vision(ROOT / "retouch_core" / "models" / "embedded")
        self.run("RetouchScorerFromCLIP", clip=clip, clip_vision=vision)
        self.run("RetouchMasksToRegions", masks=mask, image=image)
        scored = self.run(
            "RetouchRegionScores", image=image, regions=regions, scorer=scorer, query="the pink car"
        )
        chosen = self.run("RetouchAdaptiveThreshold", regions=scored[0])
        self.run("RetouchLocationFilter", regions=chosen[0], query="")
        self.run("RetouchDilateMask", mask=mask, neighbours=regions)
        encode = lambda text: clip.encode_from_tokens_scheduled(clip.tokenize(text))  # noqa: E731
        target, referring, empty = encode("a blue fish"), encode("the pink car"), encode("")
        self.run("RetouchConditionalCFG", model=model, target=target, referring=referring, empty=empty)
        self.run("RetouchGuidance", scorer=scorer, prompt="a blue fish")
        made = self.run(
            "RetouchRegionSampler",
            **{"image": image, "mask": mask, "model": model, "vae": vae},
            **{"target": target, "referring": referring, "empty": empty, "steps": 2, "candidates": 2},
        )
        cut = self.run("RetouchCropRegion", image=image, mask=mask, size=SIDE)
        self.run("RetouchStitchRegion", edited=cut[0], crop=cut[2], source=image)
        self.run("RetouchComposite", edited=made[0][:1], source=image, mask=mask)
        self.run(
            "RetouchRankCandidates",
            **{"candidates": made[0], "source": image, "mask": mask, "scorer": scorer},
            **{"prompt": "a blue fish", "query": "the pink car"},
        )
        self.run("RetouchMeasure", source=image, result=made[0][:1], mask=mask)
        self.run(
            "RetouchReferringSegment", image=image, referrer=Bright(), query="the pink car", regions=regions
        )
        self.run(
            "RetouchNoiseContrastMask",
            **{"model": model, "latent": made[1], "referring": referring, "target": target, "draws": 1},
        )
        self.regions = regions

    def run(self, node: str, **given: Any) -> Any:
        """Run with defaults filled in, and remember what was given."""
        inputs = {
            entry.id: entry.default
            for entry in self.schemas[node].inputs
            if getattr(entry, "default", None) is not None
        }
        for entry in self.schemas[node].inputs:
            if entry.get_io_type() == "COMBO" and entry.id not in inputs:
                inputs[entry.id] = entry.options[0]
        self.good[node] = inputs | given
        return self.nodes[node].execute(**self.good[node]).result

    def odd(self, node: str, entry: Any) -> dict[str, tuple[Any, str]]:
        """Every odd value for one input."""
        kind = entry.get_io_type()
        regions = self.regions
        if kind == "IMAGE":
            values = images()
        elif kind == "MASK":
            values = masks()
        elif kind in ("INT", "FLOAT"):
            values = numbers(kind)
        elif kind == "STRING":
            values = dict(STRINGS)
        elif kind == "BOOLEAN":
            values = {}
        elif kind == "COMBO":
            values = {"no such option": ("no such option", MUST_FAIL)}
        elif kind == "RETOUCH_REGIONS":
            none = torch.zeros(len(regions), dtype=torch.bool)
            values = {
                "no regions": (regions.select(none), WORKS),
                "no regions, scored": (regions.with_scores(torch.zeros(len(regions))).select(none), WORKS),
                "no scores": (replace(regions, scores=None), MAY),
                "no picture": (replace(regions, picture=None), WORKS),
                "of another picture": (type(regions)(torch.ones(2, 40, 70) > 0, None, (40, 70)), MAY),
                "a mask": (torch.ones(1, SIDE, SIDE), MUST_FAIL),
                "nothing": (None, MUST_FAIL),
            }
        elif kind == "CONDITIONING":
            wide = [[torch.randn(1, 77, 768), {}]]
            values = {
                "an empty list": ([], MAY),
                "of another CLIP": (wide, MAY),
                "nothing": (None, MUST_FAIL),
            }
        elif kind == "LATENT":
            size = SIDE // 8
            values = {
                "another picture's": ({"samples": torch.zeros(1, 4, size * 2, size)}, MAY),
                "another model's": ({"samples": torch.zeros(1, 16, size, size)}, MAY),
                "NaN": ({"samples": torch.full((1, 4, size, size), math.nan)}, MUST_FAIL),
                "no samples": ({}, MUST_FAIL),
                "a tensor": (torch.zeros(1, 4, size, size), MUST_FAIL),
            }
        else:  # a model of some kind
            values = {"nothing": (None, MUST_FAIL)}
        if entry.optional and "nothing" in values:
            values["nothing"] = (None, MAY)
        return values


@pytest.fixture(scope="module", autouse=True)
def _temp_folder(comfy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Previews go into a folder of this test."""
    import folder_paths

    before = folder_paths.get_temp_directory()
    folder_paths.set_temp_directory(str(tmp_path_factory.mktemp("temp")))
    yield
    folder_paths.set_temp_directory(before)


@pytest.fixture(scope="module")
def stage(pack: Callable[[str], ModuleType]) -> Stage:
    return Stage(pack)


def fault_of(stage: Stage, node: str, inputs: dict[str, Any], expected: str) -> str | None:
    """Run the node; what is wrong with how it took its inputs, or None."""
    try:
        with torch.no_grad():
            stage.nodes[node].execute(**inputs)
    except (ValueError, TypeError) as refusal:
        if expected == WORKS:
            return f"refused: {refusal}"
        return unclear(str(refusal), *inputs)
    except Exception as crash:
        return f"{type(crash).__name__}: {str(crash)[:200]}"
    return "accepted" if expected == MUST_FAIL else None


def unclear(message: str, *names: str) -> str | None:
    """Whether a message is one sentence that names one of the inputs and says what to do."""
    if not message.strip() or "\n" in message.strip():
        return f"not one line: {message!r}"
    if len(message) > 320:
        return f"too long ({len(message)}): {message[:100]!r}"
    if not any(re.search(rf"\b{re.escape(name.rstrip('s'))}", message) for name in names):
        return f"names no input: {message!r}"
    if not re.search(r";|, but |: |use |choose |give |connect |run |write |make ", message):
        return f"does not say what to do: {message!r}"
    return None


@pytest.mark.parametrize("node", FILES)
def test_odd_values_work_or_are_refused_in_one_sentence(stage: Stage, node: str) -> None:
    faults = []
    for entry in stage.schemas[node].inputs:
        for what, (value, expected) in stage.odd(node, entry).items():
            inputs = dict(stage.good[node])
            inputs[entry.id] = copy.copy(value)
            fault = fault_of(stage, node, inputs, expected)
            if fault:
                faults.append(f"{entry.id} = {what}: {fault}")
    assert not faults, "\n".join(["", *faults])


@pytest.mark.parametrize("node", FILES)
def test_inputs_are_not_changed(stage: Stage, node: str) -> None:
    """A node that writes into its inputs spoils the cache of the host."""
    tensors = {name: value for name, value in stage.good[node].items() if isinstance(value, torch.Tensor)}
    before = {name: value.clone() for name, value in tensors.items()}
    stage.nodes[node].execute(**stage.good[node])
    for name, value in tensors.items():
        assert torch.equal(value, before[name]), name


def test_model_whose_latent_does_not_fit_the_vae(stage: Stage) -> None:
    import comfy.sd
    import comfy.taesd.taesd

    wide = comfy.taesd.taesd.TAESD(latent_channels=16).state_dict()
    vae = comfy.sd.VAE(sd=wide)
    node = "RetouchRegionSampler"
    with pytest.raises(ValueError) as refusal:
        stage.nodes[node].execute(**stage.good[node] | {"vae": vae})
    message = str(refusal.value)
    assert unclear(message, "vae") is None
    assert "4" in message and "16" in message


def test_batches_that_do_not_match(stage: Stage) -> None:
    pairs = {
        "RetouchRegionSampler": ("image", "mask"),
        "RetouchComposite": ("edited", "mask"),
        "RetouchComposite ": ("edited", "source"),
        "RetouchMeasure": ("result", "mask"),
    }
    faults = []
    for name, (one, other) in pairs.items():
        node = name.strip()
        good = stage.good[node]
        inputs = good | {one: good[one][:1].repeat(2, 1, 1, 1)}
        inputs[other] = good[other][:1].repeat(3, *[1] * (good[other].ndim - 1))
        try:
            stage.nodes[node].execute(**inputs)
        except ValueError as refusal:
            fault = unclear(str(refusal), one, other)
            if fault or not {"2", "3"} <= set(re.findall(r"\d+", str(refusal))):
                faults.append(f"{node}: {refusal}")
        except Exception as crash:
            faults.append(f"{node}: {type(crash).__name__} {crash}")
        else:
            faults.append(f"{node} accepted 2 {one} with 3 {other}")
    assert not faults, "\n".join(["", *faults])


def test_missing_model_files_are_named(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Callable[[str], ModuleType]
) -> None:
    for module in ("retouch_core.models.embedded", "nodes.load_embedded"):
        if hasattr(pack(module), "FOLDER"):
            monkeypatch.setattr(pack(module), "FOLDER", tmp_path)
    with pytest.raises(ValueError) as refusal:
        stage.nodes["RetouchLoadEmbedded"].execute(denoiser="inpaint")
    message = str(refusal.value)
    assert "\n" not in message
    assert str(tmp_path) in message
