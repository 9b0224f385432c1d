"""The command `models`, the catalogue behind it, and the page that is made from it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from retouch_core import cli
from retouch_core.models.pretrained.catalogue import BACKENDS, CATALOGUE, FOLDERS, ROLES, alternatives, entry
from retouch_core.models.pretrained.lookup import ENVIRONMENT
from retouch_core.models_cli import as_rows, markdown

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "models.md"


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of models, and an empty cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "models"))
    return tmp_path / "models"


def tiny_decoder(folder: Path, *, whole: bool = True) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"_class_name": "AutoencoderTiny"}')
    if whole:
        (folder / "diffusion_pytorch_model.safetensors").touch()


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["models", *arguments]) == 0
    streams = capsys.readouterr()
    assert streams.err == ""
    return streams.out


def test_the_table_says_of_what_is_missing_all_that_it_takes(
    models: Path, capsys: pytest.CaptureFixture[str]
):
    text = printed(capsys)
    for one in CATALOGUE:
        assert one.key in text and one.repository in text and one.licence in text and one.size in text
        assert str(models / FOLDERS[one.role] / one.key) in text
    assert "found" not in text and "models get KEY" in text


def test_the_table_says_where_models_are(models: Path, capsys: pytest.CaptureFixture[str]):
    decoders = models / "retouch_tiny_decoders"
    tiny_decoder(decoders / "taesd")
    tiny_decoder(decoders / "taesdxl", whole=False)
    tiny_decoder(decoders / "mine")
    lines = printed(capsys, "--role", "tiny_decoder").splitlines()
    assert any(re.search(rf"taesd +found +{decoders}/taesd$", line) for line in lines)
    assert any(re.search(rf"taesdxl +broken +{decoders}/taesdxl lacks diffusion", line) for line in lines)
    assert any(re.search(r"taesd3 +missing +madebyollin/taesd3 \(~10 MB, MIT\)", line) for line in lines)
    assert any(re.search(rf"mine +found +{decoders}/mine$", line) for line in lines)
    assert not any("sam2" in line for line in lines)


def test_json_is_alone_on_stdout(models: Path, capsys: pytest.CaptureFixture[str]):
    tiny_decoder(models / "retouch_tiny_decoders" / "taesd")
    tiny_decoder(models / "retouch_tiny_decoders" / "mine")
    rows = json.loads(printed(capsys, "--json"))
    assert [row["key"] for row in rows if row["key"]] == [one.key for one in CATALOGUE]
    by_key = {row["key"]: row for row in rows}
    (there,) = by_key["taesd"]["found"]
    assert there == {"name": "taesd", "path": there["path"], "cached": False, "lacks": []}
    assert by_key["sam3"]["gated"] is True and by_key["sam3"]["found"] == []
    assert by_key["taesd3"]["target"] == str(models / "retouch_tiny_decoders" / "taesd3")
    assert by_key[None]["found"][0]["name"] == "mine"


def test_a_cached_model_is_found(models: Path, tmp_path: Path):
    top = tmp_path / "cache" / "models--madebyollin--taef1"
    tiny_decoder(top / "snapshots" / ("a" * 40))
    (row,) = [row for row in as_rows("tiny_decoder") if row["key"] == "taef1"]
    assert row["found"][0]["cached"] and row["found"][0]["name"] == "madebyollin/taef1"


@pytest.mark.parametrize("arguments", [["--role", "painter"], ["fetch"], ["get"], ["get", "sam9"]])
def test_bad_input(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    assert cli.main(["models", *arguments]) == 2
    streams = capsys.readouterr()
    assert len(streams.err.splitlines()) == 1 and streams.out == ""


def test_help(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["models", "--help"]) == 0
    assert ENVIRONMENT in capsys.readouterr().out
    assert cli.main(["models", "get", "--help"]) == 0
    assert "--to" in capsys.readouterr().out


def test_looking_for_models_needs_neither_torch_nor_a_connection():
    script = (
        "import socket, sys\n"
        "def refuse(*_): raise SystemExit('a connection')\n"
        "socket.socket.connect = refuse\n"
        "from retouch_core.models_cli import ROLES, as_rows\n"
        "assert all(as_rows(role) for role in ROLES)\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr


# --------------------------------------------------------------------------------------------- catalogue


def test_every_role_and_backend_has_a_model():
    assert {one.role for one in CATALOGUE} == set(ROLES) == {backend.role for backend in BACKENDS.values()}
    assert {one.backend for one in CATALOGUE} == set(BACKENDS)
    assert all(BACKENDS[one.backend].role == one.role for one in CATALOGUE)


def test_keys_are_names_of_folders_and_differ():
    keys = [one.key for one in CATALOGUE]
    assert len(set(keys)) == len(keys) and all(re.fullmatch(r"[a-z0-9][a-z0-9._-]*", key) for key in keys)
    assert len(set(FOLDERS.values())) == len(FOLDERS)


def test_safetensors_come_before_pickles():
    for one in CATALOGUE:
        for names in map(alternatives, one.files):
            pickled = [name.endswith((".bin", ".bin.index.json")) for name in names]
            assert pickled == sorted(pickled), f"{one.key}: {names}"


@pytest.mark.parametrize(
    ("said", "key"),
    [
        ("SAM3", "sam3"),
        ("facebook/dino-vitb8", "dino-vitb8"),
        ("grounding_dino", "grounding-dino-base"),
        ("segmenter", "coco_panoptic_eomt_large_640"),
        ("lpips", "lpips-vgg"),
    ],
)
def test_entries_go_by_key_repository_backend_and_role(said: str, key: str):
    assert entry(said).key == key


# -------------------------------------------------------------------------------------------------- page


def test_the_page_is_made_from_the_catalogue():
    told = "make its tables anew with python -m retouch_core models --markdown"
    assert markdown() in PAGE.read_text(encoding="utf-8"), f"docs/models.md is stale; {told}"


def test_the_command_prints_the_pages_tables(capsys: pytest.CaptureFixture[str]):
    assert printed(capsys, "--markdown") == markdown()


def test_the_page_says_what_was_not_run():
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert "None of these models was run with its real weights" in text
    assert all(f"`{ENVIRONMENT}`" in text and one.key in text for one in CATALOGUE)
