"""The rows of the table for one path of editing, from the verdicts on its cases."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .cases import Case
from .edit import Verdict
from .numbers import Estimate, Row, Share, goal
from .silhouette import Halo

SMOOTH = ("sky", "gradient")
"""Grounds without texture, on which an edit shows no halo anyway."""


def single(flags: Sequence[torch.Tensor]) -> Share:
    """The first candidate of each case."""
    return Share.of([bool(f[0]) for f in flags])


def picked(flags: Sequence[torch.Tensor], verdicts: Sequence[Verdict]) -> Share:
    """The candidate that the ranking puts first."""
    return Share.of([bool(f[v.best]) for f, v in zip(flags, verdicts, strict=True)])


def oracle(flags: Sequence[torch.Tensor]) -> Share:
    """Any candidate of each case."""
    return Share.of([bool(f.any()) for f in flags])


def strict_rows(
    verdicts: Sequence[Verdict], least: tuple[float, float] | None = None, prefix: str = ""
) -> list[Row]:
    """Class, colour and silhouette; `least` are the goals of a single candidate and of the best of 4."""
    flags = [v.strict for v in verdicts]
    one, best = least or (None, None)
    return [
        goal(f"{prefix}strict (class, colour, silhouette), single", single(flags), one),
        goal("  strict, best of 4 by the ranking", picked(flags, verdicts), best),
        Row("  strict, any of 4", oracle(flags)),
        Row("  silhouette IoU, single", Estimate.mean([float(v.fits[0]) for v in verdicts])),
    ]


def lenient_rows(verdicts: Sequence[Verdict], least: tuple[float, float, float] | None = None) -> list[Row]:
    """Class and colour; `least` are the goals of a single candidate, the best of 4 and any of 4."""
    flags = [v.both for v in verdicts]
    one, best, any_of = least or (None, None, None)
    return [
        goal("  class and colour, single", single(flags), one),
        goal("  class and colour, best of 4 by the ranking", picked(flags, verdicts), best),
        goal("  class and colour, any of 4", oracle(flags), any_of),
        goal("  old class or colour seen, single", single([v.leaked for v in verdicts]), None, 0.01),
        Row("  nothing seen, single", single([v.nothing for v in verdicts])),
    ]


def gain_rows(verdicts: Sequence[Verdict]) -> list[Row]:
    """What ranking is worth on the strict judge, case by case: over the single candidate, which is the first, and over
    the mean of all candidates, which scatters less."""
    rows = []
    for name, alone in (
        ("the single candidate", [float(v.strict[0]) for v in verdicts]),
        ("the mean of all candidates", [float(v.strict.float().mean()) for v in verdicts]),
    ):
        best = [float(v.strict[v.best]) - one for v, one in zip(verdicts, alone, strict=True)]
        most = [float(v.strict.any()) - one for v, one in zip(verdicts, alone, strict=True)]
        gain, share = Estimate.mean(best), Estimate.ratio(best, most)
        rows += [
            Row(f"  ranking gains over {name}, strict", gain, "> 0", gain.low > 0),
            Row(f"  of what the oracle gains over {name}", share, "> 0.5", share.value > 0.5),
        ]
    return rows


def _ratio(parts: Sequence[Halo]) -> Estimate:
    return Estimate.ratio([p.edited for p in parts], [p.restored for p in parts]).root()


def halo_rows(cases: Sequence[Case], verdicts: Sequence[Verdict]) -> list[Row]:
    """Error on edited ground over the autoencoder's own error there, textured grounds only."""
    rough = [v for c, v in zip(cases, verdicts, strict=True) if c.scene.spec.ground not in SMOOTH]
    return [
        goal("  halo: error on the ring over the autoencoder's", _ratio([v.ring for v in rough]), None, 1.3),
        Row("  the same on the part that the candidate kept", _ratio([v.kept for v in rough])),
        Row("  the same where the old thing stood", _ratio([v.uncovered for v in rough])),
    ]
