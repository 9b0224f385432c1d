"""`models get` against a Hub on the loopback device that breaks off, refuses, and sends damaged files."""

from __future__ import annotations

import errno
import hashlib
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_stub import Hub, safetensors
from huggingface_hub import constants
from huggingface_hub.utils import WeakFileLock

from retouch_core import cli, download
from retouch_core.models.pretrained.catalogue import entry
from retouch_core.models.pretrained.files import ModelError
from retouch_core.models.pretrained.lookup import ENVIRONMENT, find

KEY, REPOSITORY = "sam2.1-hiera-tiny", "facebook/sam2.1-hiera-tiny"
WEIGHTS = safetensors(1_000_000)
FILES = {
    "README.md": b"# SAM 2.1",
    "LICENSE": b"Apache-2.0",
    "config.json": json.dumps({"model_type": "sam2_video"}).encode(),
    "model.safetensors": WEIGHTS,
    "preprocessor_config.json": b"{}",
    "processor_config.json": b'{"a": 1}',
    "sam2.1_hiera_tiny.pt": b"P" * 20_000,
    "onnx/config.json": b"{}",
}
WANTED = {"LICENSE", "config.json", "model.safetensors", "preprocessor_config.json", "processor_config.json"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # waiting between tries, in huggingface_hub too
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "models"))
    with Hub({REPOSITORY: dict(FILES)}) as started:
        monkeypatch.setenv("HF_ENDPOINT", started.endpoint)
        yield started


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models" / "retouch_segmenters" / KEY


def get(*more: str, key: str = KEY) -> int:
    return cli.main(["models", "get", key, "--quiet", *more])


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """The last line of stderr, which has to be the only one that complains."""
    streams = capsys.readouterr()
    lines = [line for line in streams.err.splitlines() if line.strip()]
    assert lines and "Traceback" not in streams.err and not streams.out, streams
    return lines[-1]


def names_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# -------------------------------------------------------------------------------------------- all is well


def test_all_files_arrive_and_are_found(hub: Hub, folder: Path, capsys: pytest.CaptureFixture[str]):
    assert get() == 0
    assert str(folder) in capsys.readouterr().out
    assert names_in(folder) == WANTED and not (folder / download.WORKSHOP).exists()
    assert all((folder / name).read_bytes() == FILES[name] for name in WANTED)
    assert hub.sent("model.safetensors") == len(WEIGHTS)
    assert find("segmenter", "sam2") == folder


def test_to_names_a_folder_of_models(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert get("--to", str(tmp_path / "host")) == 0
    assert names_in(tmp_path / "host" / "retouch_segmenters" / KEY) == WANTED
    assert f"{ENVIRONMENT}={tmp_path / 'host'}" in capsys.readouterr().err


def test_what_is_there_is_not_downloaded_again(hub: Hub, folder: Path, capsys: pytest.CaptureFixture[str]):
    assert get() == 0
    (folder / "config.json").write_bytes(b"{}")
    capsys.readouterr()
    assert get() == 0 and hub.sent("model.safetensors") == len(WEIGHTS)
    assert (folder / "config.json").read_bytes() == FILES["config.json"]
    assert "1 files" in capsys.readouterr().out
    assert get() == 0 and "there already" in capsys.readouterr().out


def test_progress_counts_every_byte_once(hub: Hub, folder: Path):
    hub.breaks["model.safetensors"] = [700_000, 100_000]
    moved: list[int] = []
    made = download.plan(entry(KEY), folder)
    download.download(made, moved.append)
    assert sum(moved) == made.size == sum(len(FILES[name]) for name in WANTED)


def test_progress_is_drawn_on_stderr(hub: Hub, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["models", "get", KEY]) == 0
    streams = capsys.readouterr()
    assert KEY in streams.err and "%|" in streams.err and "%|" not in streams.out


def test_the_token_stays_with_the_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert get() == 0
    tokens = {(request.storage, request.token) for request in hub.requests}
    assert tokens == {(False, "Bearer hf_secret"), (True, None)}


# ---------------------------------------------------------------------------------------------- resumption


def test_a_broken_connection_is_resumed(hub: Hub, folder: Path):
    hub.breaks["model.safetensors"] = [700_000]
    assert get() == 0
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    first, second = hub.gets("model.safetensors")
    # What was on the way when it broke off comes again: less than a chunk.
    assert first.start == 0 and 700_000 - download.CHUNK <= second.start <= 700_000
    assert hub.sent("model.safetensors") <= len(WEIGHTS) + download.CHUNK


def test_another_run_goes_on_where_one_broke_off(hub: Hub, folder: Path, capsys: pytest.CaptureFixture[str]):
    hub.breaks["model.safetensors"] = [600_000]
    hub.always_break = 0
    assert get() == 2
    told = sentence(capsys)
    assert "broke off" in told and "same command" in told
    assert not (folder / "config.json").exists() and not (folder / "model.safetensors").exists()
    hub.always_break = None
    before = hub.sent("model.safetensors")
    assert before == 600_000 and get() == 0
    assert hub.gets("model.safetensors")[-1].start >= 600_000 - download.CHUNK
    assert hub.sent("model.safetensors") <= len(WEIGHTS) + download.CHUNK
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert "earlier" in capsys.readouterr().err


def test_a_line_that_always_breaks_off_gets_there(hub: Hub, folder: Path):
    hub.always_break = download.CHUNK + 10_000
    assert get() == 0
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS and len(hub.gets("model.safetensors")) >= 4


def test_a_server_without_ranges_starts_anew(hub: Hub, folder: Path):
    hub.breaks["model.safetensors"], hub.deaf = [700_000], True
    moved: list[int] = []
    made = download.plan(entry(KEY), folder)
    download.download(made, moved.append)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS and sum(moved) == made.size


def test_a_part_of_an_older_version_is_not_gone_on_with(hub: Hub, folder: Path):
    hub.breaks["model.safetensors"], hub.always_break = [600_000], 0
    assert get() == 2
    newer = safetensors(1_000_000, seed=1)
    hub.repositories[REPOSITORY]["model.safetensors"], hub.always_break = newer, None
    assert get() == 0
    assert (folder / "model.safetensors").read_bytes() == newer and hub.gets("model.safetensors")[
        -1
    ].start == 0


def test_a_busy_server_is_asked_again(hub: Hub, folder: Path):
    hub.failures = [503, 503]
    assert get() == 0 and names_in(folder) == WANTED


# ------------------------------------------------------------------------------------------ what was there


@pytest.mark.parametrize("fault", ["breaks off", "damaged", "pickle", "full disk"])
def test_the_previous_file_is_never_lost(
    hub: Hub, folder: Path, fault: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    honest = download._Counted.write
    old = {"model.safetensors": safetensors(500, seed=2), "config.json": b'{"model_type": "sam2"}'}
    folder.mkdir(parents=True)
    for name, data in old.items():
        (folder / name).write_bytes(data)
    if fault == "breaks off":
        hub.breaks["model.safetensors"], hub.always_break = [300_000], 0
    elif fault == "damaged":
        hub.damage = True
    elif fault == "pickle":
        hub.repositories[REPOSITORY]["model.safetensors"] = b"PK\x03\x04" + b"x" * 20_000
    else:

        def full(self: object, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(download._Counted, "write", full)
    assert get() == 2
    words = {
        "breaks off": "broke off",
        "damaged": "checksum",
        "pickle": "pickle",
        "full disk": "disk is full",
    }
    assert words[fault] in sentence(capsys)
    assert {name: (folder / name).read_bytes() for name in old} == old
    monkeypatch.setattr(download._Counted, "write", honest)
    hub.damage, hub.always_break = False, None
    hub.repositories[REPOSITORY]["model.safetensors"] = WEIGHTS
    assert get() == 0
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert (folder / "config.json").read_bytes() == FILES["config.json"]


def test_a_damaged_part_is_not_gone_on_with(hub: Hub, folder: Path):
    hub.damage = True
    assert get() == 2
    assert not [path for path in (folder / download.WORKSHOP).iterdir() if "safetensors" in path.name]


def test_settings_that_are_no_json_are_refused(hub: Hub, folder: Path, capsys: pytest.CaptureFixture[str]):
    hub.repositories[REPOSITORY]["config.json"] = b"<html>"
    assert get() == 2
    assert "config.json is no JSON" in sentence(capsys) and not (folder / "config.json").exists()


# ----------------------------------------------------------------------------------------------- refusals


def test_a_gated_repository(hub: Hub, capsys: pytest.CaptureFixture[str]):
    hub.gated.add(REPOSITORY)
    assert get() == 2
    told = sentence(capsys)
    assert "gated" in told and f"https://huggingface.co/{REPOSITORY}" in told and "hf auth login" in told


def test_an_absent_repository(hub: Hub, capsys: pytest.CaptureFixture[str]):
    assert get(key="sam-vit-base") == 2
    assert "facebook/sam-vit-base is not there" in sentence(capsys)


def test_a_repository_that_lost_its_weights(hub: Hub, capsys: pytest.CaptureFixture[str]):
    del hub.repositories[REPOSITORY]["model.safetensors"]
    assert get() == 2
    told = sentence(capsys)
    assert "none of model.safetensors" in told and "pytorch_model.bin" in told


def test_no_network(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        assert get() == 2
    told = sentence(capsys)
    assert "cannot be reached" in told and "HF_ENDPOINT" in told and not folder.exists()


def test_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    from huggingface_hub.utils import _http

    forget = getattr(_http, "reset_sessions", lambda: None)  # 0.x decides when a session is made
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    forget()
    try:
        assert get() == 2
        assert "HF_HUB_OFFLINE" in sentence(capsys)
    finally:
        forget()


def test_no_disk_space(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(
        download.shutil, "disk_usage", lambda path: SimpleNamespace(free=len(WEIGHTS) + download.SPARE - 1)
    )
    assert get() == 2
    told = sentence(capsys)
    assert "free space" in told and "--to" in told
    assert not hub.sent("model.safetensors") and not folder.exists()


def test_what_has_arrived_needs_no_space_again(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch):
    hub.breaks["model.safetensors"], hub.always_break = [600_000], 0
    assert get() == 2
    hub.always_break = None
    monkeypatch.setattr(
        download.shutil, "disk_usage", lambda path: SimpleNamespace(free=700_000 + download.SPARE)
    )
    assert get() == 0


def test_a_folder_that_cannot_be_made(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "file").touch()
    assert get("--to", str(tmp_path / "file")) == 2
    assert str(tmp_path / "file") in sentence(capsys)


def test_two_at_once(hub: Hub, folder: Path, capsys: pytest.CaptureFixture[str]):
    (folder / download.WORKSHOP).mkdir(parents=True)
    with WeakFileLock(folder / download.WORKSHOP / "lock"):
        assert get() == 2
    assert "another download" in sentence(capsys) and not hub.sent("model.safetensors")


def test_an_unknown_key(hub: Hub, capsys: pytest.CaptureFixture[str]):
    assert get(key="sam9") == 2
    told = sentence(capsys)
    assert "'sam9'" in told and KEY in told and not hub.requests


def test_cancelling_keeps_what_has_arrived(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    honest, done = download._Counted.write, []

    def write(self: download._Counted, data: bytes) -> int:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(honest(self, data))
        return done[-1]

    monkeypatch.setattr(download._Counted, "write", write)
    assert get() == 130 and "goes on from there" in sentence(capsys)
    monkeypatch.setattr(download._Counted, "write", honest)
    arrived = download.plan(entry(KEY), folder).arrived
    assert arrived == sum(done) > 0


# ------------------------------------------------------------------------------------- what is downloaded


def parts(hub: Hub, key: str, files: dict[str, bytes], folder: Path) -> list[str]:
    one = entry(key)
    hub.repositories = {one.repository: files}
    return sorted(part.name for part in download.plan(one, folder).parts)


def test_pickled_weights_where_there_are_no_others(hub: Hub, tmp_path: Path):
    files = {"config.json": b"{}", "pytorch_model.bin": b"PK\x03\x04"}
    assert parts(hub, "dino-vitb8", files, tmp_path) == ["config.json", "pytorch_model.bin"]
    files["model.safetensors"] = safetensors(10)
    assert parts(hub, "dino-vitb8", files, tmp_path) == ["config.json", "model.safetensors"]


def test_weights_in_parts(hub: Hub, tmp_path: Path):
    files = {f"model-0000{n}-of-00002.safetensors": safetensors(10) for n in (1, 2)}
    files |= {"config.json": b"{}", "model.safetensors.index.json": b"{}", "other-00001.safetensors": b""}
    found = parts(hub, "dino-vitb8", files, tmp_path)
    assert found == [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]


def test_half_precision_is_kept_under_the_plain_name(hub: Hub, tmp_path: Path):
    modules = ("text_encoder", "vae", "unet")
    stems = {name: "model" if name == "text_encoder" else "diffusion_pytorch_model" for name in modules}
    files = {f"{name}/config.json": b"{}" for name in modules}
    files |= {f"{name}/{stem}.fp16.safetensors": safetensors(10) for name, stem in stems.items()}
    files |= {f"{name}/{stem}.bin": b"PK" for name, stem in stems.items()}
    files |= {
        "unet/diffusion_pytorch_model.safetensors": safetensors(20),
        "safety_checker/config.json": b"{}",
    }
    files |= {"model_index.json": b"{}", "scheduler/scheduler_config.json": b"{}"}
    files |= {
        "tokenizer/vocab.json": b"{}",
        "tokenizer/merges.txt": b"",
        "tokenizer/special_tokens_map.json": b"{}",
    }
    folder = tmp_path / "editor"
    found = parts(hub, "stable-diffusion-inpainting", files, folder)
    assert [name for name in found if name.endswith((".safetensors", ".bin"))] == [
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert "tokenizer/special_tokens_map.json" in found and "safety_checker/config.json" not in found
    download.download(download.plan(entry("stable-diffusion-inpainting"), folder))
    assert (folder / "unet/diffusion_pytorch_model.safetensors").read_bytes() == safetensors(20)
    assert names_in(folder) == set(found)


def test_a_plain_server_gets_no_token_and_its_file_is_checked(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    data = b"PK\x03\x04" + bytes(50_000)
    name = f"alexnet-owt-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    hub.repositories = {"some/models": {name: data, "alexnet-owt-00000000.pth": data}}
    one = replace(entry("lpips-alex"), repository=f"{hub.storage}/some/models", files=(name,))
    download.download(download.plan(one, tmp_path / "lpips"))
    assert (tmp_path / "lpips" / name).read_bytes() == data
    assert {request.token for request in hub.requests} == {None}
    wrong = replace(one, files=("alexnet-owt-00000000.pth",))
    with pytest.raises(ModelError, match="checksum"):
        download.download(download.plan(wrong, tmp_path / "lpips"))
