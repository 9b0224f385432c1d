"""The scripts that compare ComfyUI with the library, in their own processes: the host fills `sys.modules`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from training.host_pack import HostMissing, find_host

ROOT = Path(__file__).resolve().parents[2]
NO_HOST = 2


@pytest.fixture(scope="module")
def host() -> Path:
    try:
        return find_host()
    except HostMissing as missing:
        pytest.skip(str(missing))


def script(module: str, *arguments: str, host: Path) -> str:
    """Output of a script that must succeed; skips where the host does not start."""
    done = subprocess.run(
        [sys.executable, "-m", f"training.{module}", *arguments],
        cwd=ROOT,
        env={**os.environ, "COMFYUI_PATH": str(host)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    if done.returncode == NO_HOST:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.host
def test_the_host_computes_what_diffusers_and_transformers_compute(host: Path) -> None:
    table = script("host_parity", host=host)
    rows = re.findall(r"^\s*(\S+)\s+ok\s+(\w+)", table, re.MULTILINE)
    assert {name for _, name in rows} == {"denoiser", "autoencoder", "text"}
    assert all(float(value) <= 1e-4 for value, _ in rows)


@pytest.mark.host
def test_an_edit_through_the_hosts_nodes_gives_the_librarys_picture(host: Path) -> None:
    told = script("host_run", "--random", host=host)
    judged = [part for part in told.split("euler, ")[1:] if "not judged" not in part]
    assert len(judged) == 3
    for part in judged:
        # Random weights decode to a narrow range, so the latents are what shows a difference.
        assert float(re.search(r"sampled (\S+),", part)[1]) <= 1e-3
        assert float(re.search(r"picture (\S+)\n", part)[1]) <= 1e-5
        assert float(re.search(r"changed the picture by (\S+)", part)[1]) > 0.01


def test_a_named_folder_without_the_host_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(HostMissing, match=re.escape(str(tmp_path))):
        find_host()


@pytest.mark.host
def test_architectures_that_the_host_cannot_hold_are_refused(pack: Callable[[str], ModuleType]) -> None:
    networks = pack("nodes._networks")
    good = {
        "block_out_channels": [64, 128],
        "down_block_types": ["CrossAttnDownBlock2D"] * 2,
        "up_block_types": ["CrossAttnUpBlock2D"] * 2,
    }
    with pytest.raises(ValueError, match="DownBlock2D"):
        networks.unet_config({**good, "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"]})
    with pytest.raises(ValueError, match=r"\(64, 112\)"):
        networks.unet_config({**good, "block_out_channels": [64, 112]})
    with pytest.raises(ValueError, match="96 and 128"):
        networks.text_config({"projection_dim": 96, "hidden_size": 128})


@pytest.mark.host
def test_only_the_decoders_layers_move_by_one(pack: Callable[[str], ModuleType]) -> None:
    import torch

    keys = pack("nodes._networks").vae_state(
        {"encoder.layers.1.conv.0.bias": torch.zeros(1), "decoder.layers.0.weight": torch.ones(1)}
    )
    assert set(keys) == {"taesd_encoder.1.conv.0.bias", "taesd_decoder.1.weight", "vae_scale", "vae_shift"}
