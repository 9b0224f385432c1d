"""Models on this machine as a source for the evaluation: by backend, by backend and model, or by path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .models import Editors

EDITOR = "diffusers"
"""The backend of editors."""


class PretrainedSource:
    """Takes `sam2` (the recommended one of those there are), `sam2:facebook/sam2.1-hiera-tiny` or a folder or file.

    Nothing is downloaded; `python -m retouch_core models` lists what is there and what it would take.
    """

    def __init__(self, device: str | None = None) -> None:
        self.device = device

    def known(self, role: str) -> str:
        """For the sentence that refuses other names."""
        return f"{', '.join(_backends(_role(role)))} (alone or as BACKEND:MODEL), or the path of such a model"

    def __call__(self, role: str, name: str) -> Any | None:
        """As `models.Source`."""
        role = _role(role)
        backend, _, model = name.partition(":")
        if backend in _backends(role):
            return self._opened(role, backend, name=model)
        path = Path(name).expanduser()
        if not path.exists():
            return None
        return self._opened(role, _recognised(role, path), path=path)

    def _opened(self, role: str, backend: str, *, name: str = "", path: Path | None = None) -> Any:
        if role == "editor":
            from ..models.pretrained.editors.load import load_editor
            from ..models.pretrained.lookup import find

            return Editors(load_editor(path or find(role, backend, name), device=self.device))
        from ..models.pretrained.opening import open_model

        made = open_model(role, backend, name, path=path)
        if self.device is not None:
            for network in made.networks:
                network.to(self.device)
        return made


def _role(role: str) -> str:
    """The role that the catalogue knows."""
    return "scorer" if role == "judge" else role


def _backends(role: str) -> list[str]:
    from ..models.pretrained.opening import backends_of

    return [EDITOR] if role == "editor" else backends_of(role)


def _recognised(role: str, path: Path) -> str:
    """The backend for what lies at a path.

    Raises:
        ValueError: there is none for the role.
    """
    if role == "editor":
        return EDITOR
    from ..models.pretrained.lookup import recognise

    fitting = [backend for backend in _backends(role) if backend in recognise(path)]
    if not fitting:
        raise ValueError(
            f"{path} holds no model for a {role}; give the folder of one for {', '.join(_backends(role))}"
        )
    return fitting[0]
