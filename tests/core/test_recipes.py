"""Recipes: the published values, every stage that they can ask for, and what happens where a model is missing."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from stubs import COLOURS, ColourEditor, ColourReferrer, ColourScorer, ColourSegmenter
from torch import Tensor

from retouch_core.demo import PICTURES
from retouch_core.pictures import read_picture
from retouch_core.pipeline import Retoucher
from retouch_core.recipes import PUBLISHED, RECIPES, Recipe, recipe, recipe_table
from retouch_core.tensors.checks import InputWarning

WITH_STUBS = [name for name, entry in RECIPES.items() if entry.find != "learn"]


class LocalEditor(ColourEditor):
    """Predicts the named colour where the picture that it encoded is red, and what is there elsewhere."""

    def encode(self, image: Tensor) -> Tensor:
        self.seen = super().encode(image)
        return self.seen

    def denoise(self, x: Tensor, sigma: Tensor, conditioning: Tensor, *_: Any, **__: Any) -> Tensor:
        self.calls += 1
        told = conditioning.expand(len(x), -1, -1)[:, 0, :, None, None]
        red = (self.seen[:, :1] - self.seen[:, 1:].mean(1, keepdim=True)) > 1
        return torch.where(red, told.expand_as(x), self.seen)


def scene() -> Tensor:
    image = torch.full((1, 64, 64, 3), 0.5) + 0.05 * torch.rand(
        1, 64, 64, 3, generator=torch.Generator().manual_seed(0)
    )
    for colour, (top, left) in {"red": (8, 8), "blue": (40, 40)}.items():
        image[:, top : top + 16, left : left + 16] = torch.tensor(COLOURS[colour])
    return image


def retoucher(editor: type[ColourEditor] = ColourEditor, size: int = 64) -> Retoucher:
    return Retoucher(ColourSegmenter(), ColourScorer(), editor(size), editor(size), ColourReferrer())


@pytest.mark.parametrize("name", WITH_STUBS)
def test_every_recipe_edits_what_is_named_and_keeps_the_rest(name: str) -> None:
    image = scene()
    # A thing of two by two cells would not outlive the blur of the contrast.
    worker = retoucher(LocalEditor, 128) if recipe(name).find == "contrast" else retoucher()
    chosen = replace(recipe(name), reconstruct="none")  # the stub has no weights to fit
    result = worker.retouch(image, "red thing", "green", recipe=chosen, steps=3, candidates=2)
    assert result.report.found and result.report.recipe == recipe(name).title
    outside = (result.mask == 0)[0]
    for made in result.candidates:
        assert torch.equal(made[outside], image[0][outside])
    assert (result.mask[0, 8:24, 8:24] > 0).float().mean() > 0.7, "the red one"
    assert not result.mask[0, 40:56, 40:56].any(), "not the blue one"


def test_learnable_regions_need_no_query_and_give_each_candidate_a_box_of_its_own() -> None:
    image = read_picture(PICTURES / "sky.png")
    tiny = replace(recipe("s01_learnable_regions"), sizes=2, steps=2)
    told: list[str] = []
    result = Retoucher.embedded().retouch(
        image, "", "a red ball", tiny, candidates=3, progress=lambda _, text: told.append(text)
    )
    assert result.candidates.shape == (3, *image.shape[1:]) and len(result.candidate_masks) == 3
    for made, mask in zip(result.candidates, result.candidate_masks, strict=True):
        outside = mask == 0
        assert torch.equal(made[outside], image[0][outside]) and (mask > 0).any()
        rows, columns = mask.nonzero().unbind(1)
        box = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert (box == 1).all(), "a whole box"
    assert result.selected.tolist().count(True) == 1 and bool(result.selected[result.best])
    assert any("boxes" in text for text in told)
    assert result.report.stages[-1]["stage"] == "learn_region"
    assert any("caption is empty" in text for text in result.report.warnings)


def test_learnable_regions_say_which_scorer_they_want() -> None:
    with pytest.raises(TypeError, match="scorer is a ColourScorer, but learnable regions look through"):
        retoucher().retouch(scene(), "red", "green", "s01_learnable_regions", steps=2, candidates=1)


PRINTED: dict[str, dict[str, Any]] = {
    "s00_text_guided": {
        "view": "full+black",
        "threshold": "quantile",
        "place_rule": "centroid",
        "candidates": 4,
        "rank_mode": "s00",
        "alpha": 5.0,
        "normalise": "minmax",
        "dilate": 1,
        "denoiser": "plain",
    },
    "s01_learnable_regions": {
        "find": "learn",
        "candidates": 9,
        "sizes": 7,
        "steps": 50,
        "scale": 7.5,
        "strength": 1.0,
        "rank_mode": "quality",
    },
    "s02_rdm": {
        "find": "refer",
        "refer_rule": "inverted",
        "refer_k": 150.0,
        "steps": 100,
        "scale": 5.0,
        "start": "noise",
        "loss_scale": 150.0,
        "loss_perceptual": 0.5,
        "loss_l2": 0.5,
        "hold": True,
    },
    "s03_rom": {
        "find": "refer",
        "refer_pick": "best",
        "dilate": 3,
        "inpaint_input": "unmasked",
        "scale": 15.0,
        "lam": 1.0,
        "steps": 100,
        "candidates": 24,
        "rank_mode": "localised",
    },
    "s04_segformer_clip": {
        "threshold": "argmax",
        "norm": "softmax",
        "prompted": False,
        "hold": False,
        "scale": 1.0,
        "loss_scale": 1000.0,
        "loss_clip": 1.0,
        "loss_perceptual": 1.0,
        "loss_l2": 1.0,
        "loss_estimate": "x0",
        "start": "noise",
        "strength": 1.0,
    },
}
"""The table of methods.md 14, by hand."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_values_are_the_papers(name: str) -> None:
    settings = recipe(name).settings()
    assert {key: settings[key] for key in PRINTED[name]} == PRINTED[name]


@pytest.mark.parametrize("name", RECIPES)
def test_every_source_belongs_to_a_value_and_every_changed_value_has_one(name: str) -> None:
    entry, usual = recipe(name), Recipe("", "").settings()
    assert entry.sources.keys() <= usual.keys() and all(entry.sources.values())
    if name in PUBLISHED:
        plainly = {
            "feather",
            "change_min",
            "leftovers",
            "rank_region",
            "loss_update",
            "loss_window",
            "loss_until",
        }
        changed = {key for key, value in entry.settings().items() if value != usual[key]} - plainly
        assert changed <= entry.sources.keys(), sorted(changed - entry.sources.keys())
        assert entry.substitutes


def test_the_table_shows_what_a_recipe_reads_with_sources_and_substitutes() -> None:
    shown = recipe_table(("s02_rdm",))
    assert "refer_k" in shown and "RDM 4.1: 150" in shown and "in place of CLIPSeg rd64" in shown
    assert "contrast_ratio" not in shown and "learn_mode" not in shown and "threshold " not in shown
    shown = recipe_table(("s00_text_guided",))
    assert "loss_cutouts" not in shown and "threshold" in shown


def test_a_referring_recipe_without_a_referrer_says_so_before_anything_runs() -> None:
    worker = Retoucher(ColourSegmenter(), ColourScorer(), ColourEditor())
    with pytest.raises(ValueError, match="referrer is None, but the recipe finds by one"):
        worker.retouch(scene(), "red thing", "green", "s02_rdm")
    assert worker.editor.calls == 0  # type: ignore[attr-defined]
    mask = torch.zeros(1, 64, 64)
    mask[:, 8:24, 8:24] = 1
    with pytest.warns(InputWarning, match="without mask input|tiny_half"):
        made = worker.retouch(scene(), "", "green", "s02_rdm", steps=2, candidates=1, mask=mask)
    assert made.report.found, "with a mask nobody has to find anything"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"find": "guess"}, "find must be one of entities, refer, contrast, learn, got 'guess'"),
        ({"denoiser": "best"}, "denoiser must be one of any, plain, got 'best'"),
        ({"reconstruct": "all"}, "reconstruct must be one of none, weights, latent, got 'all'"),
        ({"reconstruct": "weights"}, "editor is a ColourEditor without a vae"),
        ({"loss_scale": -1.0}, "scale must be a number of at least 0, got -1.0"),
        ({"loss_scale": 1.0, "loss_path": "magic"}, "path must be one of .*, got 'magic'"),
        ({"find": "refer", "refer_k": 300.0}, r"k must be in \[0, 255\], got 300"),
        ({"find": "refer", "refer_rule": "x"}, "rule must be one of inverted, direct, rdm_code, got 'x'"),
        ({"find": "contrast", "draws": 0}, "draws must be a whole number of at least 1, got 0"),
        ({"find": "contrast", "contrast_ratio": 0.0}, "ratio must be a number above 0, got 0.0"),
    ],
)
def test_values_that_mean_nothing_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        retoucher().retouch(
            scene(), "red thing", "green", replace(recipe("default"), steps=2, **changes), candidates=1
        )


def test_entities_lend_a_map_their_edges() -> None:
    """Half of the red thing is darker, so that the map alone misses it."""
    image = scene()
    image[:, 8:24, 8:12] = torch.tensor([0.3, 0.05, 0.05])
    refer = replace(recipe("s02_rdm"), loss_scale=0.0, steps=2, refer_k=150.0)

    class Segmenter:
        def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
            masks = torch.zeros(2, 64, 64, dtype=torch.bool)
            masks[0, 8:24, 8:24] = masks[1, 40:56, 40:56] = True
            return masks, torch.ones(2)

    worker = Retoucher(Segmenter(), ColourScorer(), ColourEditor(), None, ColourReferrer())
    alone = worker.retouch(image, "red thing", "green", refer, candidates=1)
    snapped = worker.retouch(image, "red thing", "green", replace(refer, snap=True), candidates=1)
    assert not (alone.regions.masks[alone.selected].any(0)[8:24, 8:12]).any()
    assert snapped.regions.masks[snapped.selected].any(0)[8:24, 8:24].all()
    assert not snapped.regions.masks[snapped.selected].any(0)[40:56, 40:56].any()


def test_unprompted_denoisers_hear_nothing_and_only_the_losses_know() -> None:
    worker = retoucher()
    led = replace(recipe("ref_clip_guided"), steps=4, loss_path="detach_unet", loss_bound=None)
    result = worker.retouch(scene(), "red thing", "green", led, candidates=1)
    assert worker.editor.told[0] == "" and "green" not in worker.editor.told  # type: ignore[attr-defined]
    entry = next(stage for stage in result.report.stages if stage["stage"] == "losses")
    assert entry["terms"][0]["prompt"] == "green"
    blind = worker.retouch(
        scene(), "red thing", "green", replace(led, loss_scale=0.0, hold=True), candidates=1
    )
    inside = (slice(None), slice(10, 22), slice(10, 22))
    greener = [(r.image[inside][..., 1] - r.image[inside][..., 0]).mean() for r in (result, blind)]
    assert greener[0] > greener[1] + 0.02, "the gradient leads to the words"


def test_background_losses_keep_the_ground_that_nobody_holds() -> None:
    """S04 puts nothing back outside: without its losses the whole canvas becomes what the denoiser likes."""
    free = replace(
        recipe("s04_segformer_clip"), steps=6, loss_path="detach_unet", loss_clip=0.0, loss_perceptual=0.0
    )
    errors = []
    for scale in (300.0, 0.0):
        result = retoucher().retouch(
            scene(), "red thing", "green", replace(free, loss_scale=scale), candidates=1
        )
        ((plan, canvas),) = result.painted
        assert canvas.shape == (1, 64, 64, 3) and plan.work == (64, 64)
        errors.append((canvas[0, 28:38] - scene()[0, 28:38]).square().mean())
        outside = (result.mask == 0)[0]
        assert torch.equal(result.image[0][outside], scene()[0][outside]), "the composite does, all the same"
    assert errors[0] < 0.8 * errors[1]


def test_losses_of_weight_zero_change_no_bit() -> None:
    quiet = replace(recipe("default"), steps=3, loss_clip=0.0, loss_perceptual=0.0, loss_l2=0.0)
    runs = [
        retoucher().retouch(scene(), "red thing", "green", replace(quiet, loss_scale=s), candidates=2)
        for s in (0.0, 150.0)
    ]
    assert torch.equal(runs[0].candidates, runs[1].candidates)


def test_a_fitted_decoder_shows_the_ground_better_than_the_plain_one() -> None:
    image = read_picture(PICTURES / "sky.png")[:, :128, :128]
    mask = torch.zeros(1, *image.shape[1:3])
    mask[:, 40:80, 40:80] = 1
    worker, errors = Retoucher.embedded(), []
    for how in ("none", "weights"):
        chosen = replace(recipe("default"), steps=2, reconstruct=how)
        result = worker.retouch(image, "", "a red ball", chosen, candidates=1, mask=mask)
        ((plan, canvas),) = result.painted
        assert plan.inner == image.shape[1:3]
        far = torch.ones(128, 128, dtype=torch.bool)
        far[24:96, 24:96] = False
        errors.append(float((canvas[0, :128, :128] - image[0])[far[: image.shape[1]]].square().mean()))
    assert errors[1] < 0.7 * errors[0]


def test_recipes_are_plain_data() -> None:
    for entry in RECIPES.values():
        for field in fields(entry):
            value = getattr(entry, field.name)
            parts = [x for pair in value for x in pair] if field.name == "prune" else [value]
            assert all(isinstance(x, (str, int, float, bool, dict, type(None))) for x in parts)
