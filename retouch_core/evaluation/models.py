"""From a name on the command line to a model: the one place that knows where evaluation gets its models from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..models.protocols import Editor, Scorer
from ..pipeline import Retoucher

EMBEDDED = "embedded"
ROLES = ("editor", "segmenter", "scorer", "referrer", "judge")
"""What a name can stand for. The judge is a second scorer, which gives the CLIP score and nothing else."""


@dataclass(frozen=True)
class Editors:
    """What the role `editor` resolves to: an editor, and one without mask input for the recipes that ask for one."""

    main: Editor
    plain: Editor | None = None


class Source(Protocol):
    """A place that models come from."""

    def known(self, role: str) -> str:
        """What names it takes for a role, for the sentence that refuses others."""
        ...

    def __call__(self, role: str, name: str) -> Any | None:
        """The model of that name for a role of `ROLES` (`Editors` for `editor`), or None where it is none of this place.

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
        return EMBEDDED

    def __call__(self, role: str, name: str) -> Any | None:
        if name != EMBEDDED:
            return None
        if self._parts is None:
            from ..models.embedded import load_embedded

            self._parts = load_embedded(device=self.device)
        if role == "editor":
            return Editors(self._parts.editor, self._parts.plain)
        return getattr(self._parts, "scorer" if role == "judge" else role)


def sources(device: str | None = None) -> tuple[Source, ...]:
    """Every place that models come from, asked in this order; add others here."""
    from .pretrained import PretrainedSource

    return (EmbeddedSource(device), PretrainedSource(device))


def resolve(role: str, name: str, places: Sequence[Source]) -> Any:
    """The model that `name` stands for in a role of `ROLES`.

    Raises:
        ValueError: nobody knows the name, or the model cannot be had.
    """
    for place in places:
        model = place(role, name)
        if model is not None:
            return model
    known = ", ".join(place.known(role) for place in places)
    raise ValueError(f"--{role} {name!r} is not known; known are {known}")


@dataclass(frozen=True)
class Models:
    """What a run works with."""

    retoucher: Retoucher
    judge: Scorer


def load_models(names: Mapping[str, str], places: Sequence[Source]) -> Models:
    """The models of all `ROLES` by their names; a judge of the scorer's name is the scorer.

    Raises:
        ValueError: as `resolve`.
    """
    parts = {role: resolve(role, names[role], places) for role in ROLES if role != "judge"}
    editors: Editors = parts["editor"]
    retoucher = Retoucher(parts["segmenter"], parts["scorer"], editors.main, editors.plain, parts["referrer"])
    same = names["judge"] == names["scorer"]
    return Models(retoucher, parts["scorer"] if same else resolve("judge", names["judge"], places))
