"""From names on the command line to models: the ones that ship with the library, by backend, or by path."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # the parser of the command line needs neither torch nor models
    from .models.protocols import Editor, Scorer
    from .pipeline import Retoucher

EMBEDDED = "embedded"
ROLES = ("editor", "segmenter", "scorer", "referrer")
"""What every retoucher has."""
JUDGE = "judge"
"""A second scorer, which gives the CLIP score of an evaluation and nothing else."""
EXTRAS = ("attention", "tiny_decoder")
"""What a retoucher may have."""
DIFFUSERS = "diffusers"
"""The backend of editors."""
DTYPE = "dtype"
DTYPES = ("float32", "float16", "bfloat16")
"""Precisions of weights; the embedded models stay as they are."""

END = 1 << 16
"""Bytes at each end of a file that tell models apart: configurations as a whole, and the first and last weights."""

_WHAT = {
    "editor": "what paints",
    "segmenter": "what finds entities",
    "scorer": "what compares pictures with words",
    "referrer": "what finds by itself, for recipes that ask for it",
    "attention": "where learnable regions look, such as dino (default: the scorer's image tower)",
    "tiny_decoder": "what losses look through on the paths tiny and tiny_half, such as taesd",
}


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Options for the models of all roles, and for where they run."""
    models = parser.add_argument_group(
        "models", "a NAME is embedded, BACKEND, BACKEND:MODEL or a path; the command models lists them"
    )
    for role in ROLES:
        models.add_argument(
            f"--{role}", metavar="NAME", default=EMBEDDED, help=f"{_WHAT[role]} (default: {EMBEDDED})"
        )
    for role in EXTRAS:
        models.add_argument(_option(role), metavar="NAME", help=_WHAT[role])
    models.add_argument("--device", metavar="NAME", help="such as cuda (default: cpu)")
    models.add_argument(
        "--dtype",
        choices=DTYPES,
        default=DTYPES[0],
        help="of weights other than the embedded ones; half of the memory with the latter two (default: %(default)s)",
    )


def names_of(options: argparse.Namespace) -> dict[str, str]:
    """Role -> name, out of the options of `add_model_options`."""
    given = {role: getattr(options, role) for role in (*ROLES, *EXTRAS)}
    return {role: name for role, name in given.items() if name is not None}


def places_of(options: argparse.Namespace) -> tuple[Source, ...]:
    """Every place that models come from, out of the options of `add_model_options`.

    Raises:
        ValueError: a device that torch cannot use here.
    """
    return sources(options.device, options.dtype)


# ------------------------------------------------------------------------------------------------- places


@dataclass(frozen=True)
class Editors:
    """What the role `editor` resolves to: an editor, and one without mask input for the recipes that ask for one."""

    main: Editor
    plain: Editor | None = None


class Source(Protocol):
    """A place that models come from."""

    def known(self, role: str) -> str:
        """What names it takes for a role, for the sentence that refuses others; empty where it has none."""
        ...

    def __call__(self, role: str, name: str) -> Any | None:
        """The model of that name for a role (`Editors` for `editor`), or None where it is none of this place.

        Raises:
            ValueError: the name is one of this place's, but the model cannot be had.
        """
        ...


class EmbeddedSource:
    """The models that ship with the library, loaded once, when the first of them is asked for."""

    def __init__(self, device: str | None = None) -> None:
        self.device = device
        self._parts: Any = None

    def known(self, role: str) -> str:
        """Its only name."""
        return "" if role in EXTRAS else EMBEDDED

    def __call__(self, role: str, name: str) -> Any | None:
        if name != EMBEDDED or role in EXTRAS:
            return None
        if self._parts is None:
            from .models.embedded import load_embedded

            self._parts = load_embedded(device=self.device)
        if role == "editor":
            return Editors(self._parts.editor, self._parts.plain)
        return getattr(self._parts, "scorer" if role == JUDGE else role)


class PretrainedSource:
    """Takes `sam2` (the recommended one of those there are), `sam2:facebook/sam2.1-hiera-tiny` or a folder or file.

    Nothing is downloaded; `python -m retouch_core models` lists what is there and what it would take.
    """

    def __init__(self, device: str | None = None, dtype: str = DTYPES[0]) -> None:
        self.device, self.dtype = device, dtype

    def known(self, role: str) -> str:
        """For the sentence that refuses other names."""
        return f"{', '.join(_backends(role))} (alone or as BACKEND:MODEL), or the path of such a model"

    def __call__(self, role: str, name: str) -> Any | None:
        """As `Source`."""
        backend, _, model = name.partition(":")
        if backend in _backends(role):
            return self._opened(role, backend, name=model)
        path = Path(name).expanduser()
        if not path.exists():
            return None
        return self._opened(role, _recognised(role, path), path=path)

    def _opened(self, role: str, backend: str, *, name: str = "", path: Path | None = None) -> Any:
        from .models.pretrained.opening import PRECISIONS, open_model

        if role == "editor":
            from .models.pretrained.editors.load import load_editor
            from .models.pretrained.lookup import find

            place = path or find(role, backend, name)
            return Editors(load_editor(place, device=self.device, dtype=PRECISIONS[self.dtype]))
        made = open_model(_filled(role), backend, name, path=path, dtype=PRECISIONS[self.dtype])
        if self.device is not None:
            for network in made.networks:
                network.to(self.device)
        return made


def _filled(role: str) -> str:
    """The role that the catalogue knows."""
    return "scorer" if role == JUDGE else role


def _backends(role: str) -> list[str]:
    from .models.pretrained.opening import backends_of

    return [DIFFUSERS] if role == "editor" else backends_of(_filled(role))


def _recognised(role: str, path: Path) -> str:
    """The backend for what lies at a path.

    Raises:
        ValueError: there is none for the role.
    """
    if role == "editor":
        return DIFFUSERS
    from .models.pretrained.lookup import recognise

    served = recognise(path) or (recognise(path.parent) if path.is_file() else ())
    fitting = [backend for backend in _backends(role) if backend in served]
    if not fitting:
        what = _filled(role).replace("_", " ")
        raise ValueError(
            f"{path} holds no model for the role of a {what}; give the folder of one for {', '.join(_backends(role))}"
        )
    return fitting[0]


def sources(device: str | None = None, dtype: str = DTYPES[0]) -> tuple[Source, ...]:
    """Every place that models come from, asked in this order.

    Raises:
        ValueError: a device that torch cannot use here.
    """
    if device is not None:
        _check_device(device)
    return (EmbeddedSource(device), PretrainedSource(device, dtype))


def _check_device(name: str) -> None:
    import torch

    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        why = str(error).strip().splitlines()[0].rstrip(".")
        raise ValueError(
            f"--device {name!r} cannot be used here ({why}); leave it out for the CPU"
        ) from error


def fingerprints(names: Mapping[str, str]) -> dict[str, str]:
    """Each name with what it stands for on this machine: a digest of the files' names, sizes and ends.

    Raises:
        ValueError: as `resolve`, for names of pretrained models.
    """
    return {role: _fingerprint(role, name) for role, name in names.items()}


def _fingerprint(role: str, name: str) -> str:
    backend, _, model = name.partition(":")
    if role == DTYPE or name == EMBEDDED:
        return name
    if backend in _backends(role):
        from .models.pretrained.lookup import find

        path = find(_filled(role), backend, model)
    else:
        path = Path(name).expanduser()
    return f"{name} ({_digest(path)})" if path.exists() else name


def _digest(path: Path) -> str:
    """Of a file, or of all files below a folder, hidden ones aside."""
    found = hashlib.sha256()
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        inside = file.name if file == path else file.relative_to(path).as_posix()
        if any(part.startswith(".") for part in inside.split("/")):
            continue
        size = file.stat().st_size
        found.update(f"{inside} {size}\n".encode())
        with file.open("rb") as stream:
            found.update(stream.read(END))
            stream.seek(max(0, size - END))
            found.update(stream.read(END))
    return found.hexdigest()[:12]


# ---------------------------------------------------------------------------------------------- resolving


def resolve(role: str, name: str, places: Sequence[Source]) -> Any:
    """The model that `name` stands for in a role.

    Raises:
        ValueError: nobody knows the name, or the model cannot be had.
    """
    for place in places:
        model = place(role, name)
        if model is not None:
            return model
    known = ", ".join(names for place in places if (names := place.known(role)))
    raise ValueError(f"{_option(role)} {name!r} is not known; known are {known}")


def _option(role: str) -> str:
    return f"--{role.replace('_', '-')}"


def load_retoucher(names: Mapping[str, str], places: Sequence[Source]) -> Retoucher:
    """A retoucher of the models that names stand for: all of `ROLES`, and what there is of `EXTRAS`.

    Raises:
        ValueError: as `resolve`.
    """
    from .pipeline import Retoucher

    parts = {role: resolve(role, names[role], places) for role in (*ROLES, *EXTRAS) if role in names}
    editors: Editors = parts.pop("editor")
    return Retoucher(editor=editors.main, plain=editors.plain, **parts)


@dataclass(frozen=True)
class Models:
    """What an evaluation works with."""

    retoucher: Retoucher
    judge: Scorer


def load_models(names: Mapping[str, str], places: Sequence[Source]) -> Models:
    """The models of all roles and the judge by their names; a judge of the scorer's name is the scorer.

    Raises:
        ValueError: as `resolve`.
    """
    retoucher = load_retoucher({role: name for role, name in names.items() if role != JUDGE}, places)
    same = names[JUDGE] == names["scorer"]
    return Models(retoucher, retoucher.scorer if same else resolve(JUDGE, names[JUDGE], places))
