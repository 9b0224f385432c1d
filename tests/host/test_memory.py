"""Every network of ours is known to the host: it loads them, it unloads them, and nothing of ours keeps them alive."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

pytestmark = pytest.mark.host

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _temp_folder(comfy: Path, tmp_path: Path) -> Iterator[None]:
    import folder_paths

    before = folder_paths.get_temp_directory()
    folder_paths.set_temp_directory(str(tmp_path))
    yield
    folder_paths.set_temp_directory(before)


def loaded() -> list[Any]:
    """The networks that the host holds as loaded."""
    import comfy.model_management

    models = [entry.model for entry in comfy.model_management.current_loaded_models]
    return [model.model for model in models if model is not None]


def modules_of(*parts: Any) -> list[torch.nn.Module]:
    """Every torch module that can be reached from the outputs of a loader, through attributes and containers."""
    found: dict[int, torch.nn.Module] = {}
    seen: set[int] = set()
    queue = list(parts)
    while queue:
        thing = queue.pop()
        if id(thing) in seen or isinstance(thing, (str, bytes, int, float, type, ModuleType, torch.Tensor)):
            continue
        seen.add(id(thing))
        if isinstance(thing, torch.nn.Module):
            found[id(thing)] = thing
            continue
        if isinstance(thing, dict):
            queue += thing.values()
        elif isinstance(thing, (list, tuple, set)):
            queue += thing
        elif hasattr(thing, "__dict__"):
            queue += vars(thing).values()
    return list(found.values())


def run_everything(pack: Callable[[str], ModuleType]) -> list[Any]:
    """Use every shipped network once; gives what the loader gave."""

    def run(file: str, name: str, **inputs: Any) -> Any:
        return getattr(pack(f"nodes.{file}"), name).execute(**inputs).result

    picture = Image.open(ROOT / "retouch_core" / "demo_pictures" / "wood.png").convert("RGB")
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).reshape(1, 128, 128, 3)
    image = pixels.float() / 255
    mask = torch.zeros(1, 128, 128)
    mask[:, 40:90, 30:70] = 1
    models = list(run("load_embedded", "RetouchLoadEmbedded", denoiser="inpaint"))
    model, clip, vae, segmenter, scorer, _ = models
    found = run(
        "entity_segment",
        "RetouchEntitySegment",
        **{"image": image, "segmenter": segmenter, "score_min": 0.2, "leftovers": "one_entity"},
    )
    regions = found[1][0] if isinstance(found[1], list) else found[1]
    run(
        "region_scores",
        "RetouchRegionScores",
        **{"image": image, "regions": regions, "scorer": scorer, "query": "the pink car"},
    )
    target = clip.encode_from_tokens_scheduled(clip.tokenize("a blue fish"))
    run(
        "region_sampler",
        "RetouchRegionSampler",
        **{"image": image, "mask": mask, "model": model, "vae": vae, "target": target},
        **{"seed": 0, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"},
        **{"denoise": 1.0, "lam": 0.0, "candidates": 1},
    )
    return models


def test_every_network_is_loaded_by_the_host_and_unloaded_with_it(pack: Callable[[str], ModuleType]) -> None:
    import comfy.model_management

    comfy.model_management.unload_all_models()
    models = run_everything(pack)
    held = loaded()
    inside = {id(part) for network in held for part in network.modules()}
    strangers = [
        type(m).__name__
        for m in modules_of(*models)
        if any(True for _ in m.parameters()) and id(m) not in inside
    ]
    assert held
    assert strangers == [], "networks that the host does not know of"

    comfy.model_management.unload_all_models()
    assert loaded() == []


def test_nothing_of_ours_keeps_a_network_alive(pack: Callable[[str], ModuleType]) -> None:
    import comfy.model_management

    models = run_everything(pack)
    alive = [weakref.ref(module) for module in modules_of(*models)]
    assert alive

    del models
    comfy.model_management.unload_all_models()
    comfy.model_management.cleanup_models_gc()
    gc.collect()

    left = [type(module()).__name__ for module in alive if module() is not None]
    assert left == []


def test_a_second_run_loads_nothing_again(
    pack: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a file is read again nor a network moved again, for as long as the loader's outputs are the same."""
    import comfy.model_patcher
    import comfy.utils

    models = run_everything(pack)
    node = pack("nodes.region_scores").RetouchRegionScores
    segment = pack("nodes.entity_segment").RetouchEntitySegment
    image = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(1))
    opened: list[str] = []
    import safetensors.torch

    def no_file(file: Any, *rest: Any, **named: Any) -> Any:
        opened.append(str(file))
        raise AssertionError(f"{file} is read again")

    monkeypatch.setattr(safetensors.torch, "load_file", no_file)
    monkeypatch.setattr(comfy.utils, "load_torch_file", no_file)
    found = segment.execute(image=image, segmenter=models[3], score_min=0.2, leftovers="one_entity").result
    regions = found[1][0] if isinstance(found[1], list) else found[1]
    node.execute(image=image, regions=regions, scorer=models[4], query="the pink car")
    assert opened == []
