"""The run over a list: retouch, measure, write a line, draw a sheet; then the table."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional

from ..pictures import read_picture, write_drawing, write_picture, write_text
from ..pipeline import Retoucher
from ..recipes import DEFAULT, HALVING, Recipe, recipe
from ..report import headline, plain
from ..tensors.checks import InputWarning
from ..tensors.convert import to_bchw, to_bhwc
from .measures import CHOICES, Gauges, measure
from .pairs import Pair, PairList, check_pictures, file_stem
from .records import PICTURES, SHEETS, TABLE, TABLE_JSON, RunFolder
from .sheets import pair_sheet
from .table import Names, Table, stacked, tabulate

Progress = Callable[[float, str], None]

REGIONS = ("found", "list")
"""Where a region comes from: looked for by the query, or the list's mask."""


@dataclass(frozen=True)
class Options:
    """How a run edits and measures; everything in it decides numbers.

    Attributes:
        recipe: a name of `recipes.RECIPES`; candidates, steps: None as the recipe says; prune: halve as `retouch --prune`.
        seed: of candidate 0 of every pair.
        size: longer side in px to which pictures are brought first, or None.
        region: of `REGIONS`.
        choices: of `measures.CHOICES`.
        models: role -> name.
        lpips: backbone.
    """

    recipe: str = DEFAULT
    candidates: int | None = None
    steps: int | None = None
    prune: bool = False
    seed: int = 0
    size: int | None = None
    region: str = "found"
    choices: tuple[str, ...] = ("recipe",)
    models: Mapping[str, str] | None = None
    lpips: str = "vgg"

    def __post_init__(self) -> None:
        recipe(self.recipe)
        if self.region not in REGIONS:
            raise ValueError(f"region must be one of {', '.join(REGIONS)}, got {self.region!r}")
        unknown = [choice for choice in self.choices if choice not in CHOICES]
        if unknown or not self.choices or len(set(self.choices)) < len(self.choices):
            raise ValueError(
                f"choices must be different ones of {', '.join(CHOICES)}, got {', '.join(self.choices) or 'none'}"
            )

    @property
    def _is_led(self) -> bool:
        return bool(self.settled.loss_scale and self.settled.loss_perceptual)

    @property
    def settled(self) -> Recipe:
        """The recipe with what was asked for in its place."""
        chosen = recipe(self.recipe)
        chosen = replace(chosen, candidates=self.candidates or chosen.candidates)
        chosen = replace(chosen, steps=self.steps or chosen.steps)
        return replace(chosen, prune=HALVING) if self.prune else chosen

    def told(self, pairs: PairList, gauges: Gauges, retoucher: Retoucher) -> dict[str, Any]:
        """Everything that decides a number, for the folder to remember."""
        from .. import __version__

        values = asdict(self)
        return plain(
            {
                "list": {"layout": pairs.layout, "pairs": len(pairs.pairs), "sha256": pairs.digest()},
                **{name: values[name] for name in ("recipe", "seed", "size", "region", "choices", "models")},
                "perceptual": gauges.perceptual.name,
                "features": gauges.features_name,
                "values": self.settled.settings(),
                # What losses weigh the background with depends on what is on disk.
                **({"led_by": retoucher.perceptual().name} if self._is_led else {}),
                "version": __version__,
            }
        )


def evaluate(
    pairs: PairList,
    options: Options,
    retoucher: Retoucher,
    gauges: Gauges,
    folder: str | Path,
    *,
    limit: int | None = None,
    sheets: int | None = None,
    fresh: bool = False,
    title: str = "Evaluation",
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Table:
    """Retouch and measure pairs into `folder`, going on where an earlier run of the same settings stopped.

    Args:
        pairs: of `read_pairs`.
        options: how; retoucher, gauges: with what.
        folder: gets settings.json, results.jsonl (a line a pair), results/, sheets/, features/, table.md and table.json.
        limit: the first pairs alone; a later run may take more.
        sheets: how many of the first pairs get a sheet (None: all).
        fresh: throw away what a run with other settings left in the folder.
        title: of the table.
        progress: called with the share done and a word; whatever it raises stops the run.
        say: gets a sentence for each pair that cannot be done; it is left out of the table, which says so, and tried again
            by the next run.

    Raises:
        ValueError: a list, settings or folder that cannot be used, or not one pair that can be done.
    """
    taken = pairs.pairs[:limit]
    check_pictures(taken)
    if options.region == "list":
        without = next((pair for pair in taken if pair.mask is None), None)
        if without is not None:
            raise ValueError(
                f"{without.where} has no mask, but the region is to be the list's; search for it instead"
            )
    tell = progress or (lambda share, text: None)
    run = RunFolder(folder)
    told = options.told(pairs, gauges, retoucher)
    done = run.begin(told, fresh=fresh)
    failed: dict[str, ValueError] = {}
    for number, pair in enumerate(taken):
        if pair.id in done and run.features_file(file_stem(pair)).is_file():
            continue

        def within(share: float, text: str, number: int = number) -> None:
            tell((number + share) / len(taken), f"{number + 1}/{len(taken)} {text}")

        try:
            done[pair.id] = _one(pair, options, retoucher, gauges, run, number, sheets, within)
        except ValueError as error:
            done.pop(pair.id, None)
            failed[pair.id] = error
            say(f"{pair.where}: {error}")
    tell(1.0, "table")
    measured = [pair for pair in taken if pair.id in done]
    if not measured:
        raise next(iter(failed.values()))
    records = [done[pair.id] for pair in measured]
    table = tabulate(
        title,
        {**told, "measured": len(measured)},
        Names(gauges.perceptual.name, gauges.is_lpips, gauges.features_name),
        records,
        stacked([run.features(file_stem(pair)) for pair in measured]),
        options.choices,
        lines=_lines(pairs, options, gauges, len(measured)),
        notes=[*pairs.notes, *_notes(records, failed)],
    )
    write_text(run.folder / TABLE, table.markdown())
    write_text(
        run.folder / TABLE_JSON,
        json.dumps(plain(table.plain()), indent=2, ensure_ascii=False, allow_nan=False) + "\n",
    )
    return table


def _one(
    pair: Pair,
    options: Options,
    retoucher: Retoucher,
    gauges: Gauges,
    run: RunFolder,
    number: int,
    sheets: int | None,
    progress: Progress,
) -> dict[str, Any]:
    """Do one pair and write everything of it; its record."""
    begun = time.perf_counter()
    settled = options.settled
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InputWarning)
        image = read_picture(pair.image)
        listed = pair.mask.draw((image.shape[1], image.shape[2])) if pair.mask is not None else None
        image, listed = sized(image, listed, options.size)
        result = retoucher.retouch(
            image,
            query=pair.query,
            prompt=pair.prompt,
            recipe=options.recipe,
            candidates=settled.candidates,
            steps=settled.steps,
            prune=settled.prune,
            seed=options.seed,
            mask=listed[None].float() if options.region == "list" and listed is not None else None,
            progress=progress,
        )
        measured = measure(
            result,
            pair.prompt,
            listed,
            options.choices,
            gauges,
            retoucher.scorer,
            settled.alpha,
            searched=options.region == "found",
            frame=pair.framed,
        )
    stem = file_stem(pair)
    write_picture(run.folder / PICTURES / f"{stem}.png", result.image)
    record = {
        "id": pair.id,
        "image": pair.image.name,
        "query": pair.query,
        "prompt": pair.prompt,
        "group": pair.group,
        **measured.values,
        "message": result.report.message,
        "warnings": list(
            dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, InputWarning))
        ),
        "seconds": round(time.perf_counter() - begun, 3),
    }
    if sheets is None or number < sheets:
        words = headline(pair.query, pair.prompt) + ("" if result.report.found else " · not found")
        numbers = measured.values["choices"][options.choices[0]]
        perceptual = gauges.perceptual.name if gauges.is_lpips else "distance"
        sheet = pair_sheet(
            result, listed, f"{pair.id} · {words}", numbers, perceptual, measured.values["region_iou"]
        )
        write_drawing(run.folder / SHEETS / f"{stem}.png", sheet)
    features = {"source": measured.source_features, "results": measured.result_features}
    run.add(plain(record), stem, features)
    told: dict[str, Any] = json.loads(json.dumps(plain(record)))
    return told


def sized(image: Tensor, mask: Tensor | None, size: int | None) -> tuple[Tensor, Tensor | None]:
    """IMAGE [1,H,W,3] and a mask bool [H,W] with `size` px on the longer side, as they are where `size` is None."""
    height, width = image.shape[1:3]
    if size is None or max(height, width) == size:
        return image, mask
    scale = size / max(height, width)
    target = (max(1, round(height * scale)), max(1, round(width * scale)))
    pixels = functional.interpolate(to_bchw(image), target, mode="bicubic", antialias=True).clamp(0, 1)
    if mask is not None:
        soft = functional.interpolate(mask[None, None].float(), target, mode="bilinear", antialias=True)
        mask = soft[0, 0] >= 0.5
    return to_bhwc(pixels), mask


def _lines(pairs: PairList, options: Options, gauges: Gauges, count: int) -> list[str]:
    settled = options.settled
    models = options.models or {}
    what = gauges.perceptual.name
    lines = [
        f"{count} of {len(pairs.pairs)} pairs, layout {pairs.layout}",
        f"recipe {options.recipe}, {settled.candidates} candidates, {settled.steps} steps, seed {options.seed}, "
        f"{'pictures at their own size' if options.size is None else f'longer side {options.size} px'}, "
        f"region {'looked for' if options.region == 'found' else 'from the list'}",
        ", ".join(f"{role} {name}" for role, name in models.items()) or "models handed in",
        f"perceptual distance: {what}"
        + ("" if gauges.is_lpips else ", which stands in for LPIPS and compares with nobody's"),
        "CLIP score: plain cosine by the judge"
        + (", which ranked the candidates too" if models.get("judge") == models.get("scorer") else ""),
        f"FID and SFID between the sources and the results, over {gauges.features_name}",
        "brackets: 95 % intervals over pairs; distances of two sets have none",
    ]
    return lines


def _notes(records: Sequence[Mapping[str, Any]], failed: Mapping[str, ValueError]) -> list[str]:
    warned = sum(bool(record["warnings"]) for record in records)
    notes = [f"{warned} pairs came with warnings, which results.jsonl holds."] if warned else []
    if failed:
        first = next(iter(failed))
        notes.append(
            f"{len(failed)} pairs could not be done and are left out, the first {first}: {failed[first]}."
        )
    return notes
