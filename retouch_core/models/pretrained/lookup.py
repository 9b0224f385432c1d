"""Where a pretrained model lies on this machine: an explicit path, folders of models, the local Hugging Face cache.

Nothing here opens a connection or reads weights. A host hands in its own folders for every role; without them those of
`TEXT_RETOUCH_MODELS` count (separated as in PATH), or else `./models`. A folder of models has a folder for each role in it
(`catalogue.FOLDERS`), and may hold models directly. Folders come before the cache, and earlier ones before later ones.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .catalogue import (
    BACKENDS,
    CATALOGUE,
    FOLDERS,
    OR,
    Backend,
    Pretrained,
    alternatives,
    check_role,
    kept_as,
)
from .files import CONFIG, MAX_HEADER, ModelError

ENVIRONMENT = "TEXT_RETOUCH_MODELS"
"""Folders of models, separated by ':' (';' on Windows)."""

COMMAND = "python -m retouch_core models get"

Folders = Mapping[str, Sequence[str | os.PathLike[str]]]
"""Role -> the folders to look into, in this order; a role that is left out has none."""

INDEX, OPEN_CLIP = "model_index.json", "open_clip_config.json"
MARKS = (INDEX, OPEN_CLIP, CONFIG)
"""Files that tell what a folder holds."""

DEPTH = 2
"""Levels below a folder of models at which models are looked for: `name` and `publisher/name`."""

LONE = (".safetensors", ".pth", ".bin")
"""Endings of files that are a model without a folder around it."""

LONE_ROLES = ("perceptual", "editor")
"""Roles that lone files can fill; for others files beside the folders are not looked at."""

CHECKPOINT = "model.diffusion_model."
"""What the names of a denoiser's weights begin with in a single-file checkpoint."""


@dataclass(frozen=True)
class Found:
    """A model on disk.

    Attributes:
        name: what a list shows: the path below a folder of models, or the repository of a cached one; with `/` everywhere.
        backend: what it is for; path: its folder, or the file for models of a single file.
        cached: whether it lies in the Hugging Face cache.
        lacks: files it would need as well, as `Backend.files` writes them; empty where it is whole.
    """

    name: str
    backend: str
    path: Path
    cached: bool
    lacks: tuple[str, ...]


# ------------------------------------------------------------------------------------------------- places


def model_roots() -> list[Path]:
    """The library's own folders of models: those of `TEXT_RETOUCH_MODELS`, or else `./models`; they need not exist."""
    named = [part for part in os.environ.get(ENVIRONMENT, "").split(os.pathsep) if part.strip()]
    return [Path(part).expanduser() for part in named] or [Path("models").absolute()]


def model_folders(role: str, folders: Folders | None = None) -> list[Path]:
    """The folders to look into for a role, in order; they need not exist.

    Raises:
        ValueError: no such role.
    """
    check_role(role)
    if folders is not None:
        return [Path(folder) for folder in folders.get(role, ())]
    return [place for root in model_roots() for place in (root / FOLDERS[role], root)]


def cache_folder() -> Path:
    """The local Hugging Face cache (`HF_HUB_CACHE`, `HF_HOME`); it need not exist."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _torch_cache() -> Path:
    """Where torchvision puts weights; torch.hub.get_dir() without importing torch."""
    above = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", os.path.join(above, "torch"))
    return Path(home).expanduser() / "hub" / "checkpoints"


# --------------------------------------------------------------------------------------------- what it is


def recognise(path: Path) -> tuple[str, ...]:
    """Names of the backends that a folder or file may serve; empty for whatever is unreadable or something else.

    A lone file is told by its name, or by the header of a checkpoint.
    """
    if os.path.isdir(path):
        if os.path.isfile(path / INDEX):
            return ("diffusers",)
        kind = kind_of(path)
        found = [backend.name for backend in BACKENDS.values() if kind in backend.kinds]
        return ("open_clip", *found) if os.path.isfile(path / OPEN_CLIP) else tuple(found)
    if path.suffix not in LONE or not os.path.isfile(path):
        return ()
    lone = [backend.name for backend in BACKENDS.values() if path.name.startswith(backend.single or ("/",))]
    return tuple(lone) or (("diffusers",) if _is_checkpoint(path) else ())


def kind_of(folder: Path) -> str | None:
    """`model_type` (or diffusers' `_class_name`) in a folder's `config.json`; None where there is none."""
    config = _json(folder / CONFIG)
    kind = config.get("model_type") or config.get("_class_name")
    return kind if isinstance(kind, str) else None


def _json(path: Path) -> dict[str, Any]:
    """An object in a file; empty where it cannot be read."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_checkpoint(path: Path) -> bool:
    """Whether the header of a safetensors file names weights of a denoiser."""
    if path.suffix != ".safetensors":
        return False
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if 0 < length <= MAX_HEADER else {}
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(header, dict) and any(name.startswith(CHECKPOINT) for name in header)


def lacking(path: Path, files: Sequence[str]) -> tuple[str, ...]:
    """Those of `files` of which no alternative is in a folder; a lone file lacks nothing."""
    if not os.path.isdir(path):
        return ()
    return tuple(
        file for file in files if not any(_whole(path / kept_as(name)) for name in alternatives(file))
    )


def _whole(path: Path) -> bool:
    """Whether a file is there, and for an index of weights all of its parts."""
    if not os.path.isfile(path):
        return False
    if not path.name.endswith(".index.json"):
        return True
    parts = _json(path).get("weight_map")
    if not isinstance(parts, dict) or not parts:
        return False
    return all(os.path.isfile(path.parent / str(name)) for name in set(parts.values()))


# ----------------------------------------------------------------------------------------------- listing


def candidates(
    role: str, backend: str | None = None, folders: Folders | None = None, *, broken: bool = False
) -> list[Found]:
    """All models on this machine that can fill a role, in a stable order: folder by folder by name, then the cache.

    Args:
        backend: only those for it.
        folders: a host's own; the library's where None.
        broken: those too that lack files.

    Raises:
        ValueError: no such role, or no such backend for it.
    """
    ways = [way for way in BACKENDS.values() if way.role == check_role(role)]
    if backend is not None:
        ways = [check_backend(role, backend)]
    found: dict[tuple[str, str], Found] = {}
    for name, path, cached in _models(role, folders):
        if role not in LONE_ROLES and not os.path.isdir(path):
            continue
        served = recognise(path)
        for way in ways:
            if way.name in served and (way.name, name) not in found:
                lacks = lacking(path, way.files)
                if broken or not lacks:
                    found[way.name, name] = Found(name, way.name, path, cached, lacks)
    return list(found.values())


def check_backend(role: str, backend: str) -> Backend:
    """The backend of that name.

    Raises:
        ValueError: there is none for the role.
    """
    known = [way.name for way in BACKENDS.values() if way.role == check_role(role)]
    if backend not in known:
        raise ValueError(f"there is no {role} {backend!r}; choose one of {', '.join(known)}")
    return BACKENDS[backend]


def _models(role: str, folders: Folders | None) -> Iterator[tuple[str, Path, bool]]:
    """(name, path, whether cached) of everything that may be a model."""
    for place in model_folders(role, folders):
        if _marked(place):
            yield place.name, place, False
        else:
            yield from ((name, path, False) for name, path in _below(place, DEPTH))
    if role == "perceptual":
        yield from ((name, path, False) for name, path in _below(_torch_cache(), 1))
    yield from ((name, path, True) for name, path in _cached())


def _marked(folder: Path) -> bool:
    return any(os.path.isfile(folder / mark) for mark in MARKS)


def _below(folder: Path, depth: int) -> Iterator[tuple[str, Path]]:
    """Model folders and lone files in a folder, by name; folders of roles have their own turn."""
    try:
        names = sorted(os.listdir(folder), key=lambda name: (name.casefold(), name))
    except OSError:
        return
    for name in names:
        path = folder / name
        if name.startswith(".") or name in FOLDERS.values():
            continue
        if os.path.isfile(path) or (os.path.isdir(path) and _marked(path)):
            yield name, path
        elif depth > 1:
            yield from ((f"{name}/{below}", at) for below, at in _below(path, depth - 1))


def _cached() -> Iterator[tuple[str, Path]]:
    """(repository, snapshot) of every model in the Hugging Face cache, by name; half-broken repositories survive."""
    from huggingface_hub import try_to_load_from_cache

    cache = cache_folder()
    try:
        folders = sorted(name for name in os.listdir(cache) if name.startswith("models--"))
    except OSError:
        return
    for folder in folders:
        repository = folder.removeprefix("models--").replace("--", "/")
        for revision in ("main", *_snapshots(cache / folder)):
            try:
                marks = [try_to_load_from_cache(repository, mark, cache, revision) for mark in MARKS]
            except (OSError, ValueError):  # an unreadable folder, or a name that no repository has
                continue
            at = next((mark for mark in marks if isinstance(mark, str)), None)
            if at is not None:
                yield repository, Path(at).parent
                break


def _snapshots(folder: Path) -> list[str]:
    """Names of a cached repository's snapshots, the newest first."""
    try:
        with os.scandir(folder / "snapshots") as entries:
            return [entry.name for entry in sorted(entries, key=lambda one: (-one.stat().st_mtime, one.name))]
    except OSError:
        return []


# ----------------------------------------------------------------------------------------------- finding


def find(
    role: str,
    backend: str,
    name: str = "",
    *,
    path: str | os.PathLike[str] | None = None,
    folders: Folders | None = None,
) -> Path:
    """The folder (or lone file) of a model.

    Args:
        name: one of `candidates`, a key of the catalogue or a repository; empty for the recommended one of those there are.
        path: a model's folder, or a file in it; nothing else is looked at then.
        folders: a host's own; the library's where None.

    Raises:
        ValueError: no such role or backend.
        ModelError: nothing there, of another kind, or not whole; in one sentence, with every place that was looked at.
    """
    way = check_backend(role, backend)
    if path is not None and os.fspath(path):
        return _explicit(way, Path(path).expanduser())
    there = candidates(role, backend, folders, broken=True)
    fitting = [one for one in there if not name or one.name == name] or [
        one for one in there if _means(one, name)
    ]
    whole = [one for one in fitting if not one.lacks]
    if whole:
        return min(whole, key=lambda one: _rank(one) if not name else 0).path
    raise ModelError(
        _incomplete(way, fitting[0]) if fitting else _nowhere(way, name, there, model_folders(role, folders))
    )


def _explicit(way: Backend, path: Path) -> Path:
    """`path`, or the folder around it, checked."""
    if not os.path.exists(path):
        raise ModelError(f"{path} does not exist; give the folder of a {way.title} model")
    for place in (path, path.parent) if os.path.isfile(path) else (path,):
        if way.name in recognise(place):
            lacks = lacking(place, way.files)
            if lacks:
                raise ModelError(
                    _incomplete(way, Found(place.name, way.name, place, cached=False, lacks=lacks))
                )
            return place
    folder = path.parent if os.path.isfile(path) else path
    needed = " or ".join(map(repr, way.kinds)) or " and ".join(way.files) or " or ".join(way.single)
    raise ModelError(
        f"{path} holds {_what(folder)}, but {way.title} needs {needed}; give the folder of such a model"
    )


def _what(folder: Path) -> str:
    if not os.path.isfile(folder / CONFIG):
        return f"no {CONFIG}"
    kind = kind_of(folder)
    return f"a model of type {kind!r}" if kind else f"a {CONFIG} that names no type of model"


def _means(found: Found, name: str) -> bool:
    """Whether a name (a key, a repository, the end of a path) means this model."""
    asked, there = name.casefold(), found.name.casefold()
    if asked == there or (_last(asked) == _last(there) and "/" not in min(asked, there, key=len)):
        return True
    return any(is_entry(found, one) for one in CATALOGUE if asked in (one.key, one.repository.casefold()))


def _last(name: str) -> str:
    return name.rpartition("/")[2].casefold()


def is_entry(found: Found, entry: Pretrained) -> bool:
    """Whether what was found is, by its name, a model of the catalogue."""
    if found.backend != entry.backend:
        return False
    if entry.elsewhere:
        return found.path.name in entry.files
    if found.cached:
        return found.name.casefold() == entry.repository.casefold()
    return _last(found.name) in (entry.key, _last(entry.repository))


def _rank(found: Found) -> int:
    """Place in the catalogue; behind its end for models that are not in it."""
    places = [number for number, entry in enumerate(CATALOGUE) if is_entry(found, entry)]
    return min(places, default=len(CATALOGUE))


def _incomplete(way: Backend, found: Found) -> str:
    entry = next((one for one in CATALOGUE if is_entry(found, one)), None)
    get = f"run {COMMAND} {entry.key}, or " if entry else ""
    return f"{found.path} is no whole {way.title} model: it lacks {_listed(found.lacks)}; {get}copy all files there"


def _nowhere(way: Backend, name: str, there: Sequence[Found], folders: Sequence[Path]) -> str:
    entries = [entry for entry in CATALOGUE if entry.backend == way.name]
    entry = next(
        (one for one in entries if name.casefold() in (one.key, one.repository.casefold())), entries[0]
    )
    places = [str(folder) for folder in folders]
    if way.role == "perceptual":
        places.append(str(_torch_cache()))
    places.append(f"the Hugging Face cache {cache_folder()}")
    what = f"{way.title} model" + (f" {name!r}" if name else "")
    others = f" (there are {', '.join(one.name for one in there)})" if there else ""
    target = f", or put the files of {entry.page} into {folders[0] / entry.key}" if folders else ""
    return (
        f"no {what} is in {_listed(places, ' or ')}{others}; run {COMMAND} {entry.key} ({entry.size}){target}"
    )


def _listed(words: Sequence[str], last: str = " and ") -> str:
    """ "a", "a and b", "a, b and c"; for files of which one is enough as well."""
    *first, end = (word.replace(OR, " or ") for word in words)
    return f"{', '.join(first)}{last}{end}" if first else end
