"""The real ComfyUI in this process, and our pack loaded as it loads it. Skips with a reason where there is none."""

from __future__ import annotations

import functools
import importlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch


@pytest.fixture(scope="session")
def comfy() -> Path:
    """The host's folder, with `import comfy` working on the CPU."""
    from training.host_pack import HostMissing, import_host

    level = logging.getLogger().level
    try:
        return import_host()
    except HostMissing as missing:
        pytest.skip(str(missing))
    finally:
        logging.getLogger().setLevel(level)


@pytest.fixture(scope="session")
def pack(comfy: Path) -> Callable[[str], ModuleType]:
    """`pack("nodes.composite")` imports that module of the pack; `pack("retouch_core.tensors.regions")` its library."""
    from training.host_pack import pack_module

    return pack_module


@pytest.fixture(scope="session")
def tiny(comfy: Path) -> ModuleType:
    """`small_models`: the host's own networks, small and with random weights, built anew by every call."""
    sys.path.insert(0, str(Path(__file__).parent))
    try:
        return importlib.import_module("small_models")
    finally:
        sys.path.pop(0)


@pytest.fixture(scope="session")
def small(tiny: ModuleType) -> Any:
    """The same with each model and VAE built once, for tests that leave them as they are."""
    return SimpleNamespace(
        **{name: value for name, value in vars(tiny).items() if not name.startswith("_")}
        | {
            "model": functools.cache(tiny.model),
            "vae": functools.cache(tiny.vae),
            "video_vae": tiny.VideoVAE(),
        }
    )


@pytest.fixture(scope="session")
def builders() -> Callable[[str], ModuleType]:
    """Tiny random networks in folders of the published layout: the modules of tests/pretrained by their names."""

    def module(name: str) -> ModuleType:
        sys.path.insert(0, str(Path(__file__).parents[1] / "pretrained"))
        try:
            return importlib.import_module(name)
        finally:
            sys.path.pop(0)

    return module


@pytest.fixture(scope="session")
def fill_shelf(builders: Callable[[str], ModuleType]) -> Callable[[Path], Path]:
    """`fill_shelf(folder)` puts one tiny model of each kind that is tried on a host into a folder of models."""

    def fill(root: Path) -> Path:
        refer, towers, segment, lpips = (
            builders(name) for name in ("tiny_referrers", "tiny_towers", "tiny_segmenters", "tiny_lpips")
        )
        with torch.inference_mode(False):
            for place in (root / "retouch_segmenters", root / "retouch_perceptual"):
                place.mkdir(parents=True, exist_ok=True)
            segment.saved(
                root / "retouch_segmenters" / "tiny-sam2", segment.tiny_sam2(), segment.sam2_processor()
            )
            refer.clipseg_folder(root / "retouch_referrers" / "tiny-clipseg")
            refer.grounding_dino_folder(root / "retouch_referrers" / "tiny-dino")
            towers.clip_folder(root / "retouch_scorers" / "tiny-clip")
            towers.dinov2_folder(root / "retouch_attention" / "tiny-dinov2")
            lpips.backbone(root / "retouch_perceptual", "squeeze")
        return root

    return fill


@pytest.fixture
def quiet_host(comfy: Path) -> Iterator[None]:
    """No progress bars, and none of the host's warnings: its Brownian noise warns of rounding."""
    import comfy.utils

    before = comfy.utils.PROGRESS_BAR_ENABLED
    comfy.utils.set_progress_bar_enabled(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    comfy.utils.set_progress_bar_enabled(before)
