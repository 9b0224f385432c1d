"""Names on the command line become pretrained models, in the right role and on the right device."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_towers import clip_folder

from retouch_core.model_names import PretrainedSource, fingerprints, resolve, sources
from retouch_core.models.pretrained import lookup, opening
from retouch_core.models.pretrained.editors import load as editors


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What was asked of the openers, which open nothing."""
    asked: list[tuple[Any, ...]] = []

    def open_model(
        role: str, backend: str, name: str = "", *, path: Path | None = None, dtype: torch.dtype
    ) -> Any:
        assert dtype is torch.float32
        asked.append((role, backend, name, path))
        return SimpleNamespace(networks=(torch.nn.Linear(1, 1),), backend=backend)

    def load_editor(path: Path, *, device: str | None = None, dtype: torch.dtype) -> Any:
        asked.append(("editor", path, device, dtype))
        return SimpleNamespace(inpaint=False)

    monkeypatch.setattr(opening, "open_model", open_model)
    monkeypatch.setattr(editors, "load_editor", load_editor)
    monkeypatch.setattr(lookup, "find", lambda role, backend, name="": Path(f"/{role}/{backend}/{name}"))
    return asked


def folder(path: Path, kind: str) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": kind}))
    return path


def test_every_form_of_a_name(tmp_path: Path, opened: list[tuple[Any, ...]]):
    source, clip = PretrainedSource(), folder(tmp_path / "my clip", "clip")
    assert source("segmenter", "sam2").backend == "sam2"  # type: ignore[union-attr]
    source("segmenter", "sam2:facebook/sam2.1-hiera-tiny")
    source("scorer", str(clip))
    source("judge", "open_clip")
    source("referrer", "clipseg")
    assert opened == [
        ("segmenter", "sam2", "", None),
        ("segmenter", "sam2", "facebook/sam2.1-hiera-tiny", None),
        ("scorer", "clip", "", clip),
        ("scorer", "open_clip", "", None),
        ("referrer", "clipseg", "", None),
    ]
    assert source("segmenter", "nothing") is None and source("segmenter", "clip") is None


def test_editors(tmp_path: Path, opened: list[tuple[Any, ...]]):
    file = tmp_path / "checkpoint.safetensors"
    file.touch()
    found = PretrainedSource("cpu", "float16")("editor", str(file))
    assert found is not None and found.plain is None and not found.main.inpaint
    PretrainedSource()("editor", "diffusers:sd15")
    assert opened == [
        ("editor", file, "cpu", torch.float16),
        ("editor", Path("/editor/diffusers/sd15"), None, torch.float32),
    ]


def test_networks_go_to_the_device(opened: list[tuple[Any, ...]]):
    made = PretrainedSource("meta")("segmenter", "eomt")
    assert made is not None and {p.device.type for p in made.networks[0].parameters()} == {"meta"}


def test_a_model_for_another_role_is_refused(tmp_path: Path, opened: list[tuple[Any, ...]]):
    clip = folder(tmp_path / "clip", "clip")
    with pytest.raises(
        ValueError,
        match=r"clip holds no model for the role of a segmenter; give the folder of one for eomt, sam2",
    ):
        PretrainedSource()("segmenter", str(clip))
    assert not opened


def test_unknown_names_list_what_is_known():
    with pytest.raises(
        ValueError, match=r"^--scorer 'x' is not known; known are embedded, open_clip, clip, siglip \("
    ):
        resolve("scorer", "x", sources())
    with pytest.raises(ValueError, match="known are embedded, diffusers"):
        resolve("editor", "x:y", sources())


def test_what_is_not_on_this_machine_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TEXT_RETOUCH_MODELS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match="SAM 2") as caught:
        resolve("segmenter", "sam2", sources())
    assert "\n" not in str(caught.value)


def test_a_name_is_told_with_what_it_stands_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TEXT_RETOUCH_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "models" / "retouch_scorers").mkdir(parents=True)
    clip = clip_folder(tmp_path / "models" / "retouch_scorers" / "mine")
    names = {"editor": "embedded", "scorer": "clip", "judge": str(clip), "dtype": "float16"}
    told = fingerprints(names)
    assert told["editor"] == "embedded" and told["dtype"] == "float16"
    digest = re.fullmatch(r"clip \(([0-9a-f]{12})\)", told["scorer"])
    assert digest and told["judge"] == f"{clip} ({digest[1]})"
    clip.rename(clip.with_name("moved"))
    assert fingerprints({"scorer": "clip"})["scorer"] == told["scorer"], "the place does not count"
    weights = clip.with_name("moved") / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert fingerprints({"scorer": "clip"})["scorer"] != told["scorer"]
    with pytest.raises(ValueError, match="no EoMT model is in"):
        fingerprints({"segmenter": "eomt"})


def test_a_real_clip_as_judge(tmp_path: Path):
    """The tiny embedded CLIP as if it were somebody's: another object, the same embeddings."""
    from retouch_core.models.embedded import FOLDER, load_scorer

    clip = tmp_path / "clip"
    shutil.copytree(FOLDER / "clip", clip)
    told = json.loads((clip / "preprocessor_config.json").read_text())
    side = json.loads((clip / "config.json").read_text())["vision_config"]["image_size"]
    told |= {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    (clip / "preprocessor_config.json").write_text(json.dumps(told))
    judge, own = resolve("judge", str(clip), sources()), load_scorer()
    views = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        judge.encode_images(views).float(), own.encode_images(views), rtol=1e-4, atol=1e-5
    )
