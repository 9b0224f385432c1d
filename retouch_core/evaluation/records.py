"""The folder of a run: its settings, a line a pair, and the files of each pair; an interrupted run goes on from it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from ..pictures import check_writable, write_text

SETTINGS, RESULTS = "settings.json", "results.jsonl"
TABLE, TABLE_JSON = "table.md", "table.json"
PICTURES, SHEETS, FEATURES = "results", "sheets", "features"
FORMAT = 1
"""Of the folder; another one is never gone on with."""


class RunFolder:
    """Where a run writes, and what is already there.

    A pair is done when its line stands in results.jsonl, which is the last thing written of it: whatever interrupts a run
    costs one pair at most.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def begin(self, settings: Mapping[str, Any], *, fresh: bool = False) -> dict[str, dict[str, Any]]:
        """Make the folder ready and return the records that are already there, by id.

        Args:
            settings: everything that decides a number, as JSON values.
            fresh: throw away what a run with other settings left there.

        Raises:
            ValueError: the folder cannot be written, holds a run with other settings, or damaged records.
        """
        check_writable(self.folder)
        wanted = json.loads(json.dumps({"format": FORMAT, **settings}))
        path = self.folder / SETTINGS
        if fresh and path.is_file():
            self._clear()
        if not path.is_file():
            if (self.folder / RESULTS).exists():
                raise ValueError(
                    f"{self.folder} holds {RESULTS} but no {SETTINGS}, so nobody can say how it was made; choose another folder"
                )
            for name in (PICTURES, SHEETS, FEATURES):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(wanted, indent=2, ensure_ascii=False) + "\n")
            return {}
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({error}); choose another folder, or add --fresh") from error
        changed = _difference(before, wanted)
        if changed is not None:
            raise ValueError(
                f"{self.folder} was begun with other settings: {changed}; ask for the same, choose another folder, "
                "or add --fresh to start anew there"
            )
        for name in (PICTURES, SHEETS, FEATURES):
            (self.folder / name).mkdir(exist_ok=True)
        return self._records()

    def add(self, record: Mapping[str, Any], stem: str, features: Mapping[str, Tensor]) -> None:
        """Write the features of a pair, and then its line, to the disk."""
        part = self.folder / FEATURES / f".{stem}.part"
        save_file({name: values.contiguous().cpu() for name, values in features.items()}, part)
        os.replace(part, self.features_file(stem))
        with (self.folder / RESULTS).open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def features_file(self, stem: str) -> Path:
        return self.folder / FEATURES / f"{stem}.safetensors"

    def features(self, stem: str) -> dict[str, Tensor]:
        """What `add` wrote.

        Raises:
            ValueError: the file is damaged.
        """
        try:
            return load_file(self.features_file(stem))
        except Exception as error:
            raise ValueError(
                f"{self.features_file(stem)} is damaged; delete it and run the same command again"
            ) from error

    def _records(self) -> dict[str, dict[str, Any]]:
        path = self.folder / RESULTS
        if not path.is_file():
            return {}
        text = path.read_bytes()
        whole, _, rest = text.rpartition(b"\n")
        if rest:
            # A line that ends in the middle is what an interruption leaves; its pair is done again.
            write_bytes(path, whole + b"\n" if whole else b"")
        records: dict[str, dict[str, Any]] = {}
        for number, line in enumerate(whole.split(b"\n") if whole else (), 1):
            try:
                record = json.loads(line)
                records[record["id"]] = record
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path} line {number} is damaged; delete the line to have its pair done again, or add --fresh"
                ) from error
        return records

    def _clear(self) -> None:
        """Take away what a run writes, and nothing else."""
        for name in (RESULTS, TABLE, TABLE_JSON, SETTINGS):
            (self.folder / name).unlink(missing_ok=True)
        for name in (PICTURES, SHEETS, FEATURES):
            shutil.rmtree(self.folder / name, ignore_errors=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file, whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    os.replace(part, path)


def _difference(before: Any, now: Any, name: str = "") -> str | None:
    """`steps was 20, is 10`: the first setting that differs, or None."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in _ordered(before, now):
            found = _difference(before.get(key), now.get(key), f"{name}.{key}" if name else key)
            if found is not None:
                return found
        return None
    return None if before == now else f"{name} was {json.dumps(before)}, is {json.dumps(now)}"


def _ordered(before: Iterable[str], now: Iterable[str]) -> list[str]:
    return list(dict.fromkeys([*now, *before]))
