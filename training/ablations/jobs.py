"""A report measured by several processes at once: ablations that share candidates go to one of them together."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from tempfile import TemporaryDirectory

from .design import Ablation
from .report import load
from .results import Plain

Cost = tuple[Ablation, int, float]
"""An ablation with the candidates that it has to make, and the seconds that this takes."""


def shares(ablation: Ablation) -> tuple[str, ...]:
    """Equal for ablations that may take candidates of each other."""
    base = sorted(f"{name}={value}" for name, value in ablation.base.items())
    own = ablation.measure.__name__ if ablation.measure is not None else ""
    return (ablation.recipe, ablation.task, str(ablation.exact), own, *base)


def divided(plan: Sequence[Cost]) -> list[list[str]]:
    """Keys of what is measured together, the longest work first."""
    together: dict[tuple[str, ...], list[Cost]] = {}
    for entry in plan:
        together.setdefault(shares(entry[0]), []).append(entry)
    groups = sorted(together.values(), key=lambda group: -sum(cost[2] for cost in group))
    return [[cost[0].key for cost in group] for group in groups]


def measured_by(
    jobs: int, groups: Sequence[Sequence[str]], told: Sequence[str]
) -> Iterator[dict[str, Plain]]:
    """What processes of one thread each measure, at most `jobs` at a time, group by group as they end.

    Args:
        groups: keys that one process measures.
        told: further arguments of `python -m training.ablations`.

    Raises:
        SystemExit: a process failed; the others are waited for.
    """
    with TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:

        def one(keys: Sequence[str]) -> tuple[int, dict[str, Plain]]:
            page = Path(folder) / f"{keys[0]}.md"
            command = [sys.executable, "-m", "training.ablations", *told, "-o", str(page), "--only", *keys]
            code = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False).returncode
            return code, load(page.with_suffix(".json"))

        failed = 0
        for done in as_completed([pool.submit(one, keys) for keys in groups]):
            code, found = done.result()
            failed = failed or code
            yield found
    if failed:
        raise SystemExit(f"a process of the report ended with {failed}; start it again to go on")
