"""What an ablation is: variants of one recipe, numbers that compare them, and what a paper says about these. Data only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from .bench import Bench

PICKS = ("every", "first", "localised", "masked", "cma", "iqa", "s00")
"""Which candidates of a scene count: the mean of them, the first one, or the best by a ranking (methods.md 11)."""


@dataclass(frozen=True)
class Metric:
    """A number of a variant.

    Attributes:
        name: column of the table; the key of the values.
        higher: whether more is better.
        share: whether it is shown in percent.
        of_set: for numbers of a whole set of pictures: (features of the sources [N,D], of the results [N,D]) -> number;
            None for the mean over scenes.
    """

    name: str
    higher: bool = True
    share: bool = False
    of_set: Callable[[Tensor, Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Variant:
    """One way to do it.

    Attributes:
        name: row of the table.
        changes: values of `recipes.Recipe` that differ from the ablation's recipe.
        pick: one of `PICKS`.
        published: what the paper prints for it, by the name of the metric.
    """

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    pick: str = "every"
    published: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """That one variant is better than another by a metric, and who says so.

    Attributes:
        better, worse: names of variants.
        metric: name of the metric.
        source: where it is claimed; "" for a comparison of ours that nobody published.
        published: the paper's words or numbers for the difference.
    """

    better: str
    worse: str
    metric: str
    source: str = ""
    published: str = ""


@dataclass(frozen=True)
class Measured:
    """Numbers of an ablation, scene by scene.

    Attributes:
        values: variant -> metric -> one number for each scene; NaN where there is none.
        features: variant -> features of the sources and of the results [N,D] each, for metrics of sets.
        notes: what was chosen on the way, for the report.
    """

    values: dict[str, dict[str, list[float]]]
    features: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ablation:
    """One published ablation.

    Attributes:
        key: its name on the command line; title: its heading.
        paper: who published it and where.
        published: what the paper says, in a sentence.
        metrics, variants, claims: see there.
        recipe: name of the recipe that the variants change; base: values that all variants share.
        measure: how it is measured; None for edits of scenes with the recipe (`editing.measure_edits`). Anything else is
            a function of the bench and the ablation.
        task: `edit` or `removal`.
        exact: whether the entities are the exact masks instead of the segmenter's.
        candidates: how many a scene has; scenes: share of the asked scenes that is measured.
        full: what `--full` changes: the published numbers, by the names of the recipe's fields, and `candidates`.
        wins: whether the claims are also printed as shares of scenes won, ties half, as user studies are.
        remark: what to know when reading the numbers.
    """

    key: str
    title: str
    paper: str
    published: str
    metrics: tuple[Metric, ...]
    variants: tuple[Variant, ...]
    claims: tuple[Claim, ...]
    recipe: str = "default"
    base: dict[str, Any] = field(default_factory=dict)
    measure: Callable[[Bench, Ablation], Measured] | None = None
    task: str = "edit"
    exact: bool = True
    candidates: int = 1
    scenes: float = 1.0
    full: dict[str, Any] = field(default_factory=dict)
    wins: bool = False
    remark: str = ""

    def metric(self, name: str) -> Metric:
        """The metric of that name."""
        return next(metric for metric in self.metrics if metric.name == name)

    def variant(self, name: str) -> Variant:
        """The variant of that name."""
        return next(variant for variant in self.variants if variant.name == name)


def check(ablations: tuple[Ablation, ...]) -> None:
    """Raise ValueError if an ablation names what it does not have."""
    keys = [a.key for a in ablations]
    if len(set(keys)) != len(keys):
        raise ValueError(f"two ablations share a key among {', '.join(keys)}; rename one")
    for ablation in ablations:
        rows, columns = [v.name for v in ablation.variants], [m.name for m in ablation.metrics]
        if len(set(rows)) != len(rows):
            raise ValueError(f"{ablation.key}: two variants share a name among {', '.join(rows)}; rename one")
        for variant in ablation.variants:
            if variant.pick not in PICKS:
                raise ValueError(
                    f"{ablation.key}: pick must be one of {', '.join(PICKS)}, got {variant.pick!r}"
                )
            for name in variant.published:
                if name not in columns:
                    raise ValueError(
                        f"{ablation.key}: {variant.name!r} has a published {name!r}, which is no metric"
                    )
        for claim in ablation.claims:
            for name, known in ((claim.better, rows), (claim.worse, rows), (claim.metric, columns)):
                if name not in known:
                    raise ValueError(
                        f"{ablation.key}: a claim names {name!r}, which is not among {', '.join(known)}"
                    )
