"""What one retouch did, in plain values: to print, to save as JSON, to compare two runs with."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import Tensor

from .pictures import write_text

PACKAGES = ("torch", "numpy", "pillow", "safetensors", "diffusers", "transformers", "scikit-image")
"""Packages whose versions may change a result."""

FLAGS = ("fallback", "fallbacks", "relocated", "relaxed", "location_ignored")
"""Names under which stages note in their trace that they did something other than asked."""

SHOWN = 5
"""How many region scores a sentence lists."""


@dataclass(frozen=True)
class Report:
    """Everything that decided one result, as plain JSON values.

    Tensors, arrays, sets and tuples given to the constructor become lists and numbers; numbers that JSON lacks become
    the words "nan", "inf" and "-inf".

    Attributes:
        query, prompt: the words, as given; recipe: its name; seed: of candidate 0, candidate k has seed + k.
        size: [H, W] of the picture in pixels.
        candidates: how many were asked for; batch_size: how many were made at a time, which decides the last bits.
        found: whether anything was edited; message: one sentence where nothing was.
        region_scores: one per region; selected: 0-based indices of the edited regions (printed counting from 1).
        mask_share: share of the picture's pixels that may differ from the input.
        candidate_scores: one per candidate, higher is better; ranking: 0-based candidates, best first.
        stages: what each stage did, in order, each with its name under "stage".
        timings: seconds per stage; settings: the recipe's values as used; device: where it ran.
        warnings: sentences about repaired input; fallback: what was done other than asked, also out of `stages`.
        versions: of Python and of the packages that matter.
    """

    query: str
    prompt: str
    recipe: str
    seed: int
    size: Sequence[int]
    candidates: int
    batch_size: int
    found: bool
    message: str = ""
    region_scores: Sequence[float] = ()
    selected: Sequence[int] = ()
    mask_share: float = 0.0
    candidate_scores: Sequence[float] = ()
    ranking: Sequence[int] = ()
    stages: Sequence[Mapping[str, Any]] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    warnings: Sequence[str] = ()
    fallback: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=lambda: package_versions())

    def __post_init__(self) -> None:
        for name, value in vars(self).copy().items():
            object.__setattr__(self, name, plain(value))
        noted = [*self.fallback, *fallbacks_of(self.stages)]
        object.__setattr__(self, "fallback", list(dict.fromkeys(noted)))

    @property
    def title(self) -> str:
        """What was asked, or that it was not found, in one line."""
        return headline(self.query, self.prompt) if self.found else f"“{self.query}” was not found"

    @property
    def best(self) -> int | None:
        """0-based index of the best candidate, or None where there is none."""
        return self.ranking[0] if self.ranking else None

    def to_json(self) -> str:
        """The report as indented JSON, `best` included."""
        return json.dumps({**asdict(self), "best": self.best}, indent=2, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The report that `to_json` wrote.

        Raises:
            ValueError: not such a text.
        """
        try:
            values = json.loads(text)
            values.pop("best", None)
            return cls(**values)
        except (TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"this is not a report ({error}); give the text of a report.json") from error

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the JSON to `path`, whole or not at all; raises OSError where that fails."""
        return write_text(path, self.to_json() + "\n")

    def __str__(self) -> str:
        height, width = self.size
        lines = [
            f"{headline(self.query, self.prompt)} (recipe {self.recipe}, seed {self.seed}, {width}x{height} px)"
        ]
        if self.found:
            lines += [self._where(), self._which()]
        else:
            lines.append(self.message or "Nothing was found; the picture is unchanged.")
        if self.timings:
            parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in self.timings.items())
            lines.append(f"Took {sum(self.timings.values()):.2f} s on {self.device} ({parts}).")
        lines += [f"Fallback: {text}" for text in self.fallback]
        lines += [f"Warning: {text}" for text in self.warnings]
        return "\n".join(lines)

    def _where(self) -> str:
        count = len(self.region_scores)
        which = enumeration([str(index + 1) for index in self.selected])
        scores = [f"{self.region_scores[i]:.3f}" for i in self.selected if i < count]
        region = "region" if len(self.selected) == 1 else "regions"
        scored = f" (score {', '.join(scores)})" if scores else ""
        among = f" of {count}" if count else ""
        return f"Edited {region} {which}{among}{scored}; the mask covers {100 * self.mask_share:.1f} % of the picture."

    def _which(self) -> str:
        if not self.ranking:
            return f"Made {self.candidates} candidates, not ranked."
        in_order = ", ".join(f"{index + 1} ({self.candidate_scores[index]:.3f})" for index in self.ranking)
        return f"Candidates, best first: {in_order}."


def headline(query: str, prompt: str) -> str:
    """What was asked, in one line; an empty prompt means removal."""
    return f"“{query}” becomes “{prompt}”" if prompt.strip() else f"“{query}” is removed"


def enumeration(words: Sequence[str]) -> str:
    """`["1", "2", "3"]` -> `1, 2 and 3`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def not_found(
    query: str, scores: Iterable[float], *, gate: float | None = None, unknown_words: Sequence[str] = ()
) -> str:
    """One sentence for the artist: that nothing matched, the scores seen, and what to try.

    Args:
        query: the words, as given.
        scores: one per region, in any order; none where the picture had no regions.
        gate: what the best would have had to reach, in the units of the scores.
        unknown_words: words of the query that the scorer cannot represent.
    """
    ordered = sorted(map(float, scores), reverse=True)
    if ordered:
        more = ", …" if len(ordered) > SHOWN else ""
        seen = ", ".join(f"{score:.3f}" for score in ordered[:SHOWN]) + more
        needed = "" if gate is None else f" where {gate:.3f} is needed"
        why = f"its {len(ordered)} region{'' if len(ordered) == 1 else 's'} scored {seen}{needed}"
    else:
        why = "no regions were found in it"
    if unknown_words:
        words = enumeration([f"“{word}”" for word in unknown_words])
        advice = f"the scorer does not know {words}, so say it in other words"
    else:
        advice = "describe it by its kind and colour, or check that it is in the picture"
    return f"“{query}” was not found in the picture ({why}); {advice}."


def fallbacks_of(stages: Iterable[Mapping[str, Any]]) -> list[str]:
    """Every fallback that the trace notes, as `stage: what`."""
    noted = []
    for entry in stages:
        for flag in FLAGS:
            value = entry.get(flag)
            if value in (None, False, "", [], {}):
                continue
            what = flag.replace("_", " ") if value is True else value
            what = ", ".join(map(str, what)) if isinstance(what, list) else what
            noted.append(f"{entry.get('stage', 'unknown stage')}: {what}")
    return noted


def package_versions() -> dict[str, str]:
    """Versions of Python, of this library, and of those installed packages that may change a result."""
    from . import __version__

    versions = {"python": platform.python_version(), "text-retouch": __version__}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def plain(value: Any) -> Any:
    """`value` in the types that JSON has.

    Raises:
        TypeError: a type that has no plain form.
    """
    if isinstance(value, Tensor) or (hasattr(value, "tolist") and hasattr(value, "dtype")):
        value = value.tolist()
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return plain(sorted(value))
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(
        f"a report cannot hold a {type(value).__name__}, got {value!r}; convert it to numbers or text"
    )
