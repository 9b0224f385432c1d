"""Where models are found: paths, folders in their order, the Hugging Face cache; and what is said where they are not."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from hub_stub import safetensors
from huggingface_hub import constants

from retouch_core.models.pretrained import lookup
from retouch_core.models.pretrained.files import ModelError
from retouch_core.models.pretrained.lookup import ENVIRONMENT, candidates, find, model_folders, recognise

SNAPSHOT, OLDER = "a" * 40, "b" * 40
WHOLE = ("config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors")


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, no folders, and no connections at all."""

    def refuse(*_: object) -> None:
        raise AssertionError("looking for models opens no connection")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(tmp_path)


def model(folder: Path, kind: str = "sam2", *, without: str = "") -> Path:
    """A model folder of a kind, as far as looking for it goes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in WHOLE:
        if name != without:
            (folder / name).write_bytes(safetensors(8) if name.endswith("safetensors") else b"{}")
    if without != "config.json":
        (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    return folder


def cached(root: Path, repository: str, kind: str = "sam2", *, main: bool = True, without: str = "") -> Path:
    """A repository in the cache as huggingface_hub lays it out: blobs, and links to them."""
    top = root / "cache" / f"models--{repository.replace('/', '--')}"
    folder = top / "snapshots" / SNAPSHOT
    blobs = model(top / "blobs", kind)
    folder.mkdir(parents=True)
    for name in WHOLE:
        (folder / name).symlink_to(blobs / name)
    if without:
        (blobs / without).unlink()
    (top / "refs").mkdir()
    if main:
        (top / "refs" / "main").write_text(SNAPSHOT)
    return folder


def names(*arguments: object, **options: object) -> list[str]:
    return [found.name for found in candidates(*arguments, **options)]  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ places


def test_a_hosts_folders_come_in_its_order_and_before_the_cache(tmp_path: Path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, name in ((second, "a"), (second, "same"), (first, "z"), (first, "same")):
        model(folder / name)
    cached(tmp_path, "facebook/sam2.1-hiera-tiny")
    folders = {"segmenter": [str(first), second]}
    assert names("segmenter", "sam2", folders) == ["same", "z", "a", "facebook/sam2.1-hiera-tiny"]
    assert find("segmenter", "sam2", "same", folders=folders) == first / "same"
    assert names("scorer", "clip", folders) == [], "a role that the host leaves out has no folders"


def test_folders_of_the_environment_replace_the_current_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model(tmp_path / "models" / "retouch_segmenters" / "here")
    assert names("segmenter", "sam2") == ["here"]
    one, two = tmp_path / "one", tmp_path / "two"
    model(one / "retouch_segmenters" / "b")
    model(one / "direct")
    model(one / "retouch_scorers" / "c")
    model(two / "retouch_segmenters" / "publisher" / "a")
    monkeypatch.setenv(ENVIRONMENT, f"{one}{os.pathsep}{two}")
    assert names("segmenter", "sam2") == ["b", "direct", "publisher/a"]
    assert model_folders("segmenter")[:2] == [one / "retouch_segmenters", one]


def test_order_is_by_name_whatever_the_disk_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("Beta", "alpha", "gamma"):
        model(tmp_path / "f" / name)
    folders = {"segmenter": [tmp_path / "f"]}
    listed = os.listdir
    seen = set()
    for turn in (sorted, lambda found: sorted(found, reverse=True)):
        monkeypatch.setattr(lookup.os, "listdir", lambda path, turn=turn: turn(listed(path)))
        seen.add(tuple(names("segmenter", "sam2", folders)))
    assert seen == {("alpha", "Beta", "gamma")}


def test_the_folder_handed_in_may_be_the_model_itself(tmp_path: Path):
    folder = model(tmp_path / "sam2.1-hiera-small")
    assert find("segmenter", "sam2", folders={"segmenter": [folder]}) == folder


def test_the_recommended_model_is_taken_where_none_is_named(tmp_path: Path):
    for name in ("a-model-of-mine", "sam2.1-hiera-tiny", "SAM2.1-hiera-large"):
        model(tmp_path / "f" / name)
    found = find("segmenter", "sam2", folders={"segmenter": [tmp_path / "f"]})
    assert found.name == "SAM2.1-hiera-large"


@pytest.mark.parametrize(
    ("name", "cached_first"),
    [
        ("sam2.1-hiera-tiny", False),
        ("SAM2.1-hiera-tiny", False),
        ("facebook/sam2.1-hiera-tiny", True),
        ("Facebook/SAM2.1-hiera-tiny", False),
    ],
)
def test_keys_and_repositories_name_models_in_folders_and_in_the_cache(
    tmp_path: Path, name: str, cached_first: bool
):
    inside = cached(tmp_path, "facebook/sam2.1-hiera-tiny")
    assert find("segmenter", "sam2", name, folders={}) == inside
    folder = model(tmp_path / "f" / "sam2.1-hiera-tiny")
    found = find("segmenter", "sam2", name, folders={"segmenter": [tmp_path / "f"]})
    assert found == (inside if cached_first else folder)


def test_another_publishers_model_is_another_model(tmp_path: Path):
    cached(tmp_path, "someone/sam2.1-hiera-tiny")
    with pytest.raises(ModelError, match=r"there are someone/sam2\.1-hiera-tiny"):
        find("segmenter", "sam2", "facebook/sam2.1-hiera-tiny", folders={})


def test_a_key_means_its_repository_where_the_names_differ(tmp_path: Path):
    top = tmp_path / "cache" / "models--timm--vit_base_patch16_clip_224.openai"
    folder = top / "snapshots" / SNAPSHOT
    folder.mkdir(parents=True)
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        (folder / name).write_bytes(b"{}")
    assert find("scorer", "open_clip", "open-clip-vit-b-16", folders={}) == folder


# ------------------------------------------------------------------------------------------- recognition


@pytest.mark.parametrize(
    ("files", "backends"),
    [
        ({"config.json": '{"model_type": "sam2_video"}'}, ("sam2",)),
        ({"config.json": '{"model_type": "grounding-dino"}'}, ("grounding_dino",)),
        ({"config.json": '{"_class_name": "AutoencoderTiny"}'}, ("taesd",)),
        ({"config.json": '{"model_type": "clip"}', "open_clip_config.json": "{}"}, ("open_clip", "clip")),
        ({"open_clip_config.json": "{}"}, ("open_clip",)),
        ({"model_index.json": "{}"}, ("diffusers",)),
        ({"config.json": '{"model_type": "bert"}'}, ()),
        ({"config.json": '{"model_type": ["sam2"]}'}, ()),
        ({"config.json": "[" * 100_000}, ()),
        ({"config.json": '{"model_type": "sam2"'}, ()),
        ({"config.json": "[]"}, ()),
        ({}, ()),
    ],
)
def test_folders_are_recognised_by_their_files(
    tmp_path: Path, files: dict[str, str], backends: tuple[str, ...]
):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert recognise(tmp_path) == backends


def test_lone_files_are_recognised_by_name_or_header(tmp_path: Path):
    header = json.dumps({"model.diffusion_model.out.weight": {}}).encode()
    (tmp_path / "checkpoint.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    (tmp_path / "lora.safetensors").write_bytes(safetensors(8))
    (tmp_path / "cut.safetensors").write_bytes(b"\xff" * 9)
    (tmp_path / "vgg16-397923af.pth").write_bytes(b"PK")
    (tmp_path / "vgg16-397923af.txt").write_bytes(b"PK")
    found = {path.name: recognise(path) for path in tmp_path.iterdir()}
    assert {name: served for name, served in found.items() if served} == {
        "checkpoint.safetensors": ("diffusers",),
        "vgg16-397923af.pth": ("lpips",),
    }
    assert find("editor", "diffusers", folders={"editor": [tmp_path]}) == tmp_path / "checkpoint.safetensors"


def test_files_beside_folders_are_read_only_where_a_role_has_lone_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "lora.safetensors").write_bytes(safetensors(8))
    read: list[Path] = []
    monkeypatch.setattr(lookup, "_is_checkpoint", lambda path: read.append(path) or False)
    assert names("segmenter", None, {"segmenter": [tmp_path]}) == [] and not read
    assert names("editor", None, {"editor": [tmp_path]}) == [] and read == [tmp_path / "lora.safetensors"]


def test_torchs_own_cache_holds_perceptual_networks(tmp_path: Path):
    checkpoints = tmp_path / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "alexnet-owt-7be5be79.pth").write_bytes(b"PK")
    assert find("perceptual", "lpips", "lpips-alex") == checkpoints / "alexnet-owt-7be5be79.pth"


def test_a_role_lists_all_of_its_backends(tmp_path: Path):
    model(tmp_path / "f" / "one", "eomt")
    model(tmp_path / "f" / "two", "sam")
    model(tmp_path / "f" / "three", "clip")
    found = candidates("segmenter", folders={"segmenter": [tmp_path / "f"]})
    assert [(one.name, one.backend) for one in found] == [("one", "eomt"), ("two", "sam")]


# ------------------------------------------------------------------------------------ what is not whole


def test_models_that_lack_files_are_not_offered(tmp_path: Path):
    folder = model(tmp_path / "f" / "half", without="model.safetensors")
    folders = {"segmenter": [tmp_path / "f"]}
    assert names("segmenter", "sam2", folders) == []
    (broken,) = candidates("segmenter", "sam2", folders, broken=True)
    assert broken.path == folder and len(broken.lacks) == 1 and "model.safetensors" in broken.lacks[0]
    with pytest.raises(ModelError, match=r"half .*lacks model\.safetensors or"):
        find("segmenter", "sam2", folders=folders)


def test_weights_in_parts_are_whole_with_all_parts(tmp_path: Path):
    folder = model(tmp_path / "f" / "parts", without="model.safetensors")
    parts = ["model-1.safetensors", "model-2.safetensors"]
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict(zip("ab", parts, strict=True))})
    )
    (folder / parts[0]).touch()
    folders = {"segmenter": [tmp_path / "f"]}
    assert names("segmenter", "sam2", folders) == []
    (folder / parts[1]).touch()
    assert names("segmenter", "sam2", folders) == ["parts"]


def test_links_are_followed_and_dead_or_circular_ones_survived(tmp_path: Path):
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "linked").symlink_to(model(tmp_path / "elsewhere" / "real"), target_is_directory=True)
    (folder / "dead").symlink_to(tmp_path / "nowhere")
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "self").symlink_to(folder / "self")
    assert names("segmenter", "sam2", {"segmenter": [folder]})[0] == "linked"
    assert find("segmenter", "sam2", "linked", folders={"segmenter": [folder]}) == folder / "linked"


def test_a_half_broken_cache_is_survived(tmp_path: Path):
    good = cached(tmp_path, "one/good")
    cached(tmp_path, "one/pruned", without="model.safetensors")
    cached(tmp_path, "one/gone", without="config.json")
    detached = cached(tmp_path, "one/detached", main=False)
    cache = tmp_path / "cache"
    (cache / "models--no-snapshots").mkdir()
    (cache / "models--one--ref-to-nothing" / "refs").mkdir(parents=True)
    (cache / "models--one--ref-to-nothing" / "refs" / "main").write_text(OLDER)
    (cache / "models--a--b--c").mkdir()
    (cache / "models--..").mkdir()
    (cache / "models--file").touch()
    (cache / "version.txt").write_text("1")
    found = candidates("segmenter", "sam2", {})
    assert [(one.name, one.path, one.cached) for one in found] == [
        ("one/detached", detached, True),
        ("one/good", good, True),
    ]
    with pytest.raises(ModelError, match=r"lacks model\.safetensors"):
        find("segmenter", "sam2", "one/pruned", folders={})


def test_an_unreadable_folder_is_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model(tmp_path / "f" / "good")
    (tmp_path / "f" / "locked").mkdir()
    listed = os.listdir

    def listdir(path: Path) -> list[str]:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(lookup.os, "listdir", listdir)
    assert names("segmenter", "sam2", {"segmenter": [tmp_path / "f"]}) == ["good"]


# --------------------------------------------------------------------------------------------- sentences


def test_nothing_found_names_every_place_and_the_command(tmp_path: Path):
    folders = {"segmenter": [tmp_path / "one", tmp_path / "two"]}
    with pytest.raises(ModelError) as told:
        find("segmenter", "sam2", folders=folders)
    sentence = str(told.value)
    for part in (
        str(tmp_path / "one"),
        str(tmp_path / "two"),
        str(tmp_path / "cache"),
        "python -m retouch_core models get sam2.1-hiera-large",
        "https://huggingface.co/facebook/sam2.1-hiera-large",
        str(tmp_path / "one" / "sam2.1-hiera-large"),
    ):
        assert part in sentence
    assert "\n" not in sentence


def test_a_name_that_is_not_there_gets_the_names_that_are(tmp_path: Path):
    model(tmp_path / "f" / "mine")
    with pytest.raises(ModelError, match=r"'sam2\.1-hiera-tiny'.*there are mine.*get sam2\.1-hiera-tiny"):
        find("segmenter", "sam2", "sam2.1-hiera-tiny", folders={"segmenter": [tmp_path / "f"]})


def test_a_name_cannot_leave_the_folders(tmp_path: Path):
    model(tmp_path / "outside")
    (tmp_path / "f").mkdir()
    for name in ("../outside", str(tmp_path / "outside"), "outside"):
        with pytest.raises(ModelError, match="no SAM 2 model"):
            find("segmenter", "sam2", name, folders={"segmenter": [tmp_path / "f"]})


def test_an_explicit_path_is_all_that_is_looked_at(tmp_path: Path):
    folder = model(tmp_path / "anywhere")
    model(tmp_path / "f" / "other")
    folders = {"segmenter": [tmp_path / "f"]}
    assert find("segmenter", "sam2", path=folder, folders=folders) == folder
    assert find("segmenter", "sam2", path=folder / "model.safetensors", folders=folders) == folder
    assert find("segmenter", "sam2", path="", folders=folders) == tmp_path / "f" / "other"


@pytest.mark.parametrize(
    ("kind", "without", "words"),
    [
        ("clip", "", r"'clip', but SAM 2 needs 'sam2' or 'sam2_video'"),
        ("sam2", "config.json", r"no config\.json"),
        ("sam2", "model.safetensors", r"lacks model\.safetensors"),
    ],
)
def test_an_explicit_path_to_something_else(tmp_path: Path, kind: str, without: str, words: str):
    folder = model(tmp_path / "wrong", kind, without=without)
    with pytest.raises(ModelError, match=words):
        find("segmenter", "sam2", path=folder)


def test_an_explicit_path_to_nothing(tmp_path: Path):
    with pytest.raises(ModelError, match="does not exist"):
        find("segmenter", "sam2", path=tmp_path / "nothing")


def test_roles_and_backends_are_checked():
    with pytest.raises(ValueError, match=r"'painter'.*segmenter, scorer"):
        candidates("painter")
    with pytest.raises(ValueError, match=r"no scorer 'sam2'.*open_clip, clip"):
        find("scorer", "sam2")
