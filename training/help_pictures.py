"""Draw the pictures of the help pages that show what the models make, with the shipped models.

python -m training.help_pictures [NAME ...]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from retouch_core.demo import PICTURES
from retouch_core.editing.crop import crop
from retouch_core.editing.crop_plans import WorkSize, plan_crop
from retouch_core.finding import find
from retouch_core.pictures import read_picture
from retouch_core.pipeline import Retoucher
from retouch_core.recipes import recipe
from retouch_core.result import Result
from retouch_core.sheet import Panel, fitted, panel_sheet, region_overlay
from retouch_core.tensors.regions import Regions

FOLDER = Path(__file__).resolve().parents[1] / "web" / "docs" / "images"
TILE = 192
QUERY, PROMPT = "the blue house on the left", "a yellow star"
QUALITY = 88


def panel(plane: Tensor, caption: str, marked: bool = False) -> Panel:
    """A picture [H,W,3] or a mask [H,W] with its caption."""
    shown = plane if plane.ndim == 3 else plane[..., None].expand(-1, -1, 3)
    return Panel(fitted(shown.float().clamp(0, 1), TILE), caption, marked)


def overlay(source: Tensor, heat: Tensor) -> Tensor:
    """A picture [H,W,3], grey where a map [H,W] is 0 and lit up where it is 1."""
    grey = source.mean(-1, keepdim=True) * 0.5
    lit = torch.tensor([1.0, 0.72, 0.2])
    share = heat[..., None].clamp(0, 1)
    return grey * (1 - share) + (0.45 * source + 0.55 * lit) * share


class Pictures:
    """Every method draws the rows of one help page's picture; its name is the file's."""

    def __init__(self) -> None:
        self.retoucher = Retoucher.embedded()
        self.image = read_picture(PICTURES / "grass.png")
        self.result = self.retouch()

    def retouch(
        self, settings: str = "default", query: str = QUERY, prompt: str = PROMPT, **changes: object
    ) -> Result:
        """One retouch of the picture; `changes` replace values of the recipe."""
        chosen = replace(recipe(settings), **changes)  # type: ignore[arg-type]
        return self.retoucher.retouch(self.image, query, prompt, recipe=chosen)

    def load_embedded(self) -> list[list[Panel]]:
        cases = [("wood", "the pink car", "a blue mushroom"), ("sky", "the yellow cup", "a red house")]
        cases += [("grass", QUERY, PROMPT), ("night", "the moon", "a pink heart")]
        panels = []
        for name, query, prompt in cases:
            image = read_picture(PICTURES / f"{name}.png")
            made = self.retoucher.retouch(image, query, prompt)
            panels += [panel(image[0], query), panel(made.image[0], prompt)]
        return [panels[:4], panels[4:]]

    def region_sampler(self) -> list[list[Panel]]:
        made = [panel(one, f"candidate {k + 1}") for k, one in enumerate(self.result.candidates)]
        return [[panel(self.image[0], "picture"), *made]]

    def rank_candidates(self) -> list[list[Panel]]:
        best = self.result.best
        return [
            [
                panel(one, f"{k + 1}: {float(score):.3f}{' · best' if k == best else ''}", k == best)
                for k, (one, score) in enumerate(zip(self.result.candidates, self.result.scores, strict=True))
            ]
        ]

    def conditional_cfg(self) -> list[list[Panel]]:
        lams = (0.0, 0.5, 1.0)
        made = [self.retouch(lam=lam, scale=5.0, candidates=1).image[0] for lam in lams]
        return [[panel(one, f"lambda {lam:g}") for one, lam in zip(made, lams, strict=True)]]

    def composite_edit(self) -> list[list[Panel]]:
        drifted = (self.result.image[0] * 0.75 + 0.2).clamp(0, 1)
        soft = self.result.mask[0][..., None]
        return [
            [
                panel(drifted, "edited: colours drifted"),
                panel(self.result.mask[0], "mask"),
                panel(
                    self.image[0] * (1 - soft) + self.result.image[0] * soft, "composite: the rest is back"
                ),
            ]
        ]

    def measure_edit(self) -> list[list[Panel]]:
        gap = (self.result.image[0] - self.image[0]).abs()
        return [
            [
                panel(self.image[0], "source"),
                panel(self.result.image[0], "result"),
                panel((gap * 3).clamp(0, 1), "difference, brightened"),
            ]
        ]

    def referring_segment(self) -> list[list[Panel]]:
        assert self.retoucher.referrer is not None
        query = "the green cross"
        heat = self.retoucher.referrer.heat_maps(self.image, [query])[0]
        found = self.found("s03_rom", query)
        chosen = found.masks.any(0).float()
        return [
            [
                panel(self.image[0], f"“{query}”"),
                panel(overlay(self.image[0], heat), "how probably each pixel is meant"),
                panel(chosen, "what the rule keeps"),
            ]
        ]

    def noise_contrast(self) -> list[list[Panel]]:
        query, prompt = "a green cross", "a red apple"
        found = self.found("ref_diffedit", query, prompt)
        return [
            [
                panel(self.image[0], f"from “{query}” to “{prompt}”"),
                panel(region_overlay(self.image, found)[0], "where the predictions differ"),
                panel(found.masks.any(0).float(), "mask"),
            ]
        ]

    def learn_region(self) -> list[list[Panel]]:
        made = self.retouch("s01_learnable_regions", "", PROMPT)
        boxes = [panel(region_overlay(self.image, made.regions)[0], "boxes where attention falls")]
        boxes += [
            panel(one, f"{k + 1}{' · best' if k == made.best else ''}", k == made.best)
            for k, one in enumerate(made.candidates[:4])
        ]
        return [boxes]

    def crop_region(self) -> list[list[Panel]]:
        plan = plan_crop(self.result.mask, WorkSize(64, 8))
        return [
            [
                panel(self.image[0], "picture"),
                panel(self.result.mask[0], "mask"),
                panel(crop(self.image, plan)[0], f"crop, {plan.work[1]} px"),
            ]
        ]

    def stitch_region(self) -> list[list[Panel]]:
        plan = plan_crop(self.result.mask, WorkSize(64, 8))
        return [
            [
                panel(crop(self.result.image, plan)[0], "edited crop"),
                panel(self.result.mask[0], "mask"),
                panel(self.result.image[0], "stitched: the rest is the source"),
            ]
        ]

    def guidance(self) -> list[list[Panel]]:
        plain = {"candidates": 1, "loss_scale": 0.0}
        led = {"candidates": 1}
        name = "s02_rdm"
        return [
            [
                panel(self.image[0], "picture"),
                panel(
                    self.retouch(name, query="the green cross", prompt="a red apple", **plain).image[0],
                    "without losses",
                ),
                panel(
                    self.retouch(name, query="the green cross", prompt="a red apple", **led).image[0],
                    "led by the words",
                ),
            ]
        ]

    def prune_candidates(self) -> list[list[Panel]]:
        looks: list[Tensor] = []

        class Watched(Retoucher):
            def _judge_of(self, *given: Any) -> Callable[[Tensor], Tensor]:
                judge = super()._judge_of(*given)

                def watched(seen: Tensor) -> Tensor:
                    looks.append(seen)
                    return judge(seen)

                return watched

        own = self.retoucher
        worker = Watched(own.segmenter, own.scorer, own.editor, own.plain, own.referrer)
        made = worker.retouch(
            self.image, QUERY, PROMPT, candidates=8, steps=20, prune=((0.2, 0.5), (0.5, 0.25))
        )
        (stage,) = [entry for entry in made.report.stages if entry["stage"] == "prune"]
        (lived,) = stage["steps_lived"]
        first = [panel(one, f"{k + 1}: after 4 of 20 steps", lived[k] > 4) for k, one in enumerate(looks[0])]
        alive = [k for k, steps in enumerate(lived) if steps > 4]
        second = [
            panel(one, f"{k + 1}: after 10", lived[k] > 10) for k, one in zip(alive, looks[1], strict=True)
        ]
        last = [
            panel(one, f"{k + 1}: done") for k, one in zip(stage["kept"][0], made.candidates, strict=True)
        ]
        return [first[:4], first[4:], second, last]

    def found(self, settings: str, query: str, prompt: str = PROMPT) -> Regions:
        """The regions that a recipe finds."""
        worker = self.retoucher
        chosen = recipe(settings)
        editor = worker.plain if chosen.denoiser == "plain" and worker.plain else worker.editor
        return find(
            self.image,
            query,
            prompt,
            chosen,
            segmenter=worker.segmenter,
            scorer=worker.scorer,
            editor=editor,
            referrer=worker.referrer,
        ).regions


NAMES = (
    "load_embedded",
    "region_sampler",
    "rank_candidates",
    "conditional_cfg",
    "composite_edit",
    "measure_edit",
    "referring_segment",
    "noise_contrast",
    "learn_region",
    "crop_region",
    "stitch_region",
    "guidance",
    "prune_candidates",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("-o", "--output", type=Path, default=FOLDER)
    options = parser.parse_args()
    pictures = Pictures()
    for name in options.names:
        draw: Callable[[], list[list[Panel]]] = getattr(pictures, name)
        sheet: Image.Image = panel_sheet(draw(), tile=TILE)
        sheet.save(options.output / f"{name}.jpg", quality=QUALITY, optimize=True)
        print(name, sheet.size, flush=True)


if __name__ == "__main__":
    main()
