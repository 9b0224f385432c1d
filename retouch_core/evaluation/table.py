"""The table: every metric over all pairs and over those that were edited, by choice and by kind of edit."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..metrics.distribution import fid, named, sfid
from ..tensors.checks import InputWarning
from .statistics import Estimate, mean, share

DIGITS = {"psnr": 2, "area": 3, "region_iou": 3, "clip": 3}
USUAL_DIGITS = 4
MEANS = ("ssim", "psnr", "mse", "perceptual", "clip", "background_own", "background_listed")
SHARES = ("kept",)
COMMON = ("area", "region_iou")
"""Measured once a pair, whatever is chosen."""
TABLE_ONE = ("ssim", "psnr", "fid", "mse", "perceptual")
"""S00's Table 1, in its order."""
OTHERS = ("clip", "sfid", "background_own", "background_listed", "kept")
FINDING = ("found", "region_iou", "area")
SUBSETS = {"all pairs": lambda record: True, "edited ones": lambda record: record["found"]}


@dataclass(frozen=True)
class Names:
    """What the columns are called, which depends on what measured."""

    perceptual: str
    is_lpips: bool
    features: str

    def of(self, metric: str) -> str:
        distance = self.perceptual if self.is_lpips else f"distance ({self.perceptual})"
        return {
            "ssim": "SSIM ↑",
            "psnr": "PSNR, dB ↑",
            "mse": "MSE ↓",
            "fid": f"{named('FID', self.features)} ↓",
            "sfid": f"{named('SFID', self.features)} ↓",
            "perceptual": f"{distance} ↓",
            "clip": "CLIP score ↑",
            "background_own": f"background {distance}, outside the edit ↓",
            "background_listed": f"background {distance}, outside the list's mask ↓",
            "kept": "outside the edit bit for bit",
            "found": "found",
            "region_iou": "IoU with the list's mask ↑",
            "area": "edited share of the picture",
        }[metric]


@dataclass(frozen=True)
class Row:
    """One line: which candidates, which pairs, and metric -> estimate (metrics that nobody measured are not there)."""

    choice: str
    subset: str
    count: int
    values: dict[str, Estimate]


@dataclass(frozen=True)
class Table:
    """Everything of a run, without anything that differs from run to run."""

    title: str
    settings: dict[str, Any]
    names: Names
    rows: tuple[Row, ...]
    finding: dict[str, Estimate]
    groups: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """As JSON values."""

        def told(row: Row) -> dict[str, Any]:
            values = {metric: estimate.plain() for metric, estimate in row.values.items()}
            return {"choice": row.choice, "pairs": row.subset, "count": row.count, "metrics": values}

        metrics = dict.fromkeys([m for row in (*self.rows, *self.groups) for m in row.values])
        return {
            "title": self.title,
            "settings": self.settings,
            "names": {metric: self.names.of(metric) for metric in (*FINDING, *metrics)},
            "rows": [told(row) for row in self.rows],
            "finding": {metric: estimate.plain() for metric, estimate in self.finding.items()},
            "groups": [told(row) for row in self.groups],
            "notes": list(self.notes),
        }

    def markdown(self) -> str:
        """As text with tables."""
        parts = [f"# {self.title}", "\n".join(f"- {line}" for line in self.lines)]
        parts.append("## S00's Table 1\n\n" + self._grid(self.rows, TABLE_ONE))
        parts.append("## Words and background\n\n" + self._grid(self.rows, OTHERS))
        finding = [
            [self.names.of(metric), _cell(metric, self.finding[metric])]
            for metric in FINDING
            if metric in self.finding
        ]
        parts.append("## Finding\n\n" + _grid(["", ""], finding))
        if self.groups:
            parts.append(
                "## Kinds of edits\n\n"
                + self._grid(self.groups, ("psnr", "perceptual", "clip", "background_listed"))
            )
        if self.notes:
            parts.append("## Notes\n\n" + "\n".join(f"- {note}" for note in self.notes))
        return "\n\n".join(parts) + "\n"

    def _grid(self, rows: Sequence[Row], metrics: Sequence[str]) -> str:
        there = [metric for metric in metrics if any(metric in row.values for row in rows)]
        choices = len({row.choice for row in rows}) > 1
        head = [*(["choice"] if choices else []), "pairs", *map(self.names.of, there)]
        body = [
            [
                *([row.choice] if choices else []),
                f"{row.subset}, {row.count}",
                *(_cell(metric, row.values.get(metric)) for metric in there),
            ]
            for row in rows
        ]
        return _grid(head, body)


def tabulate(
    title: str,
    settings: dict[str, Any],
    names: Names,
    records: Sequence[dict[str, Any]],
    features: tuple[Tensor, Tensor],
    choices: Sequence[str],
    *,
    lines: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Table:
    """The table of all records in the order of the list.

    Args:
        records: a line of results.jsonl each.
        features: of the sources [N,D] and of the results [N,choices,D], row by row those of `records`.
        choices: in the order of the results' features.
    """
    told = list(notes)
    rows, groups = [], []
    for place, choice in enumerate(choices):
        for subset, wanted in SUBSETS.items():
            some = [k for k, record in enumerate(records) if wanted(record)]
            if not some or (subset != "all pairs" and len(some) == len(records)):
                continue
            values = _values([records[k] for k in some], choice)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", InputWarning)
                values |= _of_sets(features[0][some], features[1][some, place])
            if caught:
                told.append(
                    f"FID of {len(some)} pictures with {features[0].shape[1]} features has singular covariances and is too "
                    "high; take more pictures, or read SFID."
                )
            rows.append(Row(choice, subset, len(some), values))
        for group in sorted({record["group"] for record in records} - {""}):
            members = [record for record in records if record["group"] == group]
            groups.append(Row(choice, group, len(members), _values(members, choice)))
    finding = {"found": share([record["found"] for record in records])}
    for metric in COMMON:
        finding[metric] = mean([r[metric] for r in records if r[metric] is not None])
    if not all(record["found"] for record in records):
        told.append(
            "Where nothing was found the source came back: it counts as equal to itself in “all pairs”, with a PSNR of 100 dB."
        )
    return Table(
        title,
        settings,
        names,
        tuple(rows),
        {metric: estimate for metric, estimate in finding.items() if estimate is not None},
        tuple(groups),
        tuple(dict.fromkeys(told)),
        tuple(lines),
    )


def _values(records: Sequence[dict[str, Any]], choice: str) -> dict[str, Estimate]:
    found: dict[str, Estimate | None] = {}
    for metric in (*MEANS, *SHARES):
        known = [r["choices"][choice][metric] for r in records if r["choices"][choice][metric] is not None]
        found[metric] = share(known) if metric in SHARES else mean(known)
    return {metric: estimate for metric, estimate in found.items() if estimate is not None}


def _of_sets(sources: Tensor, results: Tensor) -> dict[str, Estimate]:
    """Distances of two sets have no interval here: resampling repeats pictures, which shifts them."""
    whole = torch.isfinite(results).all(1)
    sources, results = sources[whole], results[whole]
    if len(sources) < 2:
        return {}
    return {
        name: Estimate(float(distance(sources, results)), None, None, len(sources))
        for name, distance in (("fid", fid), ("sfid", sfid))
    }


def _cell(metric: str, estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    digits = DIGITS.get(metric, USUAL_DIGITS)
    if metric in ("found", "kept"):
        return (
            f"{100 * estimate.value:.1f} % ({100 * (estimate.low or 0):.1f}–{100 * (estimate.high or 0):.1f}), "
            f"n {estimate.count}"
        )
    number = f"{estimate.value:.{digits}f}"
    if estimate.low is None or estimate.high is None:
        return number
    return f"{number} ({estimate.low:.{digits}f}–{estimate.high:.{digits}f})"


def _grid(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(cells) + " |" for cells in body)])


def stacked(features: Sequence[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """Features of pairs {"source": [D], "results": [choices,D]} as the two tensors of `tabulate`."""
    return torch.stack([f["source"] for f in features]), torch.stack([f["results"] for f in features])
