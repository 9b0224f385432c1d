"""The shipped cases: pictures with a query and a prompt each, retouched with a fixed seed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from .pictures import OutputFolder, check_writable, read_picture, write_drawing, write_picture
from .sheet import Panel, fitted, panel_sheet

if TYPE_CHECKING:
    from .pipeline import Retoucher

PICTURES = Path(__file__).parent / "demo_pictures"
"""Pictures and `cases.json`, which lists {"picture", "query", "prompt", "seed"} a case."""

TILE = 256
"""Longer side of a picture in the overview, in pixels."""

PAIRS_A_ROW = 2
"""Pairs of input and result side by side in the overview."""


@dataclass(frozen=True)
class Case:
    """One shipped case; `picture` is a file name in `PICTURES`."""

    picture: str
    query: str
    prompt: str
    seed: int


def read_cases(folder: Path = PICTURES) -> list[Case]:
    """The cases that `folder` ships.

    Raises:
        ValueError: `cases.json` is missing or damaged.
    """
    path = folder / "cases.json"
    try:
        return [Case(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is missing or damaged ({error}); restore it from the repository") from error


def run_demo(
    output: str | os.PathLike[str],
    *,
    progress: Callable[[float, str], None] | None = None,
    say: Callable[[str], None] = print,
    retoucher: Retoucher | None = None,
    folder: Path = PICTURES,
) -> int:
    """Retouch every shipped case into `output`: a result and a sheet each, and `overview.png`.

    Says one line a case. Returns in how many cases something was found and edited.

    Raises:
        ValueError: an output folder that cannot be written, or damaged case files.
    """
    check_writable(output)
    cases = read_cases(folder)
    report_progress = progress or (lambda fraction, text: None)
    report_progress(0.0, "loading models")
    if retoucher is None:
        from .pipeline import Retoucher

        retoucher = Retoucher.embedded()
    edited = 0
    panels: list[Panel] = []
    with OutputFolder(output) as target:
        for number, case in enumerate(cases):

            def within(fraction: float, text: str, number: int = number) -> None:
                report_progress((number + fraction) / len(cases), f"{number + 1}/{len(cases)} {text}")

            source = read_picture(folder / case.picture)
            result = retoucher.retouch(
                source, query=case.query, prompt=case.prompt, seed=case.seed, progress=within
            )
            found = result.report.found
            edited += found
            title = result.report.title
            name = f"{number + 1}_{Path(case.picture).stem}"
            write_picture(target / f"{name}_result.png", result.image)
            write_drawing(target / f"{name}_sheet.png", result.sheet())
            panels += _pair(source, result.image, case, found)
            say(
                f"{number + 1}. {title}: {Path(output) / name}_result.png"
                if found
                else f"{number + 1}. {title}"
            )
        width = 2 * PAIRS_A_ROW
        rows = [panels[start : start + width] for start in range(0, len(panels), width)]
        write_drawing(target / "overview.png", panel_sheet(rows))
    say(f"Edited {edited} of {len(cases)}; all of them at a glance: {Path(output) / 'overview.png'}")
    return edited


def _pair(source: Tensor, result: Tensor, case: Case, found: bool) -> list[Panel]:
    after = f"becomes “{case.prompt}”" if case.prompt.strip() else "removed"
    return [
        Panel(fitted(source[0], TILE), f"“{case.query}”"),
        Panel(fitted(result[0], TILE), after if found else "not found, unchanged"),
    ]
