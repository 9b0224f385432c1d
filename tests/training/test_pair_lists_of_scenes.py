"""Drawn scenes written as PIE-Bench, COCO, Flickr30K and a list of one's own, measured with the embedded models from the shell."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from retouch_core import cli
from retouch_core.evaluation.pairs import read_pairs
from retouch_core.metrics.background import mask_iou
from retouch_core.metrics.distribution import scorer_features, sfid
from retouch_core.models.embedded import load_scorer
from retouch_core.pictures import read_picture
from training.world.scenes import SIDE, Scene, scene

COUNT = 4
FIRST = 700


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [scene("tune", FIRST + k) for k in range(COUNT)]


def write(path: Path, drawn: Scene) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(drawn.image).save(path)
    return path


def start_runs(mask: np.ndarray) -> list[int]:
    steps = np.diff(np.concatenate([[0], mask.ravel().astype(int), [0]]))
    starts, ends = (steps == 1).nonzero()[0], (steps == -1).nonzero()[0]
    return [int(v) for pair in zip(starts, ends - starts, strict=True) for v in pair]


def coco_runs(mask: np.ndarray) -> list[int]:
    flat = np.concatenate([[False], mask.T.ravel()])
    changes = (flat[1:] != flat[:-1]).nonzero()[0]
    return [int(n) for n in np.diff(np.concatenate([[0], changes, [flat.size - 1]]))]


def as_pie_bench(folder: Path, scenes: list[Scene]) -> None:
    entries = {}
    for k, drawn in enumerate(scenes):
        thing = drawn.spec.things[0]
        name = f"1_change_object_80/{k:012d}.png"
        write(folder / "annotation_images" / name, drawn)
        entries[f"{k:012d}"] = {
            "image_path": name,
            "original_prompt": f"a [{thing.colour} {thing.name}]",
            "editing_prompt": "a [red] [star]",
            "editing_instruction": "make it a star",
            "editing_type_id": "1",
            "blended_word": "",
            "mask": start_runs(drawn.masks[0]),
        }
    (folder / "mapping_file.json").write_text(json.dumps(entries))


def as_own(folder: Path, scenes: list[Scene]) -> None:
    lines = []
    for k, drawn in enumerate(scenes):
        thing = drawn.spec.things[0]
        write(folder / f"{k}.png", drawn)
        mask = {"size": [SIDE, SIDE], "counts": coco_runs(drawn.masks[0])}
        lines.append(
            {
                "id": f"{k:012d}",
                "image": f"{k}.png",
                "query": f"{thing.colour} {thing.name}",
                "prompt": "a red star",
                "mask": mask,
            }
        )
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))


def as_coco(folder: Path, scenes: list[Scene]) -> None:
    """Every picture shows one `car` by its annotations, so that all are of one kind."""
    images, captions, things = [], [], []
    for k, drawn in enumerate(scenes, 1):
        thing = drawn.spec.things[0]
        write(folder / "val2017" / f"{k:012d}.png", drawn)
        images.append({"id": k, "file_name": f"{k:012d}.png", "height": SIDE, "width": SIDE})
        captions.append({"id": k, "image_id": k, "caption": f"A {thing.colour} {thing.name}."})
        x, y, side = thing.x, thing.y, thing.size
        outline = [x, y, x + side, y, x + side, y + side, x, y + side]
        things.append(
            {
                "id": k,
                "image_id": k,
                "category_id": 1,
                "area": side**2,
                "iscrowd": 0,
                "segmentation": [outline],
            }
        )
    place = folder / "annotations"
    place.mkdir()
    categories = [{"id": 1, "name": scenes[0].spec.things[0].name}]
    (place / "captions_val2017.json").write_text(json.dumps({"images": images, "annotations": captions}))
    told = {"images": images, "annotations": things, "categories": categories}
    (place / "instances_val2017.json").write_text(json.dumps(told))


def as_flickr(folder: Path, scenes: list[Scene]) -> None:
    lines = []
    (folder / "Sentences").mkdir()
    for k, drawn in enumerate(scenes):
        thing = drawn.spec.things[0]
        write(folder / "flickr30k-images" / f"{k}.jpg", drawn)
        lines.append(f"{k}.jpg#0\tA {thing.colour} {thing.name} on {drawn.spec.ground} .")
        marked = (
            f"[/EN#{k}/other/x A b] [/EN#{k}/vehicles A {thing.colour} {thing.name}] on {drawn.spec.ground} ."
        )
        (folder / "Sentences" / f"{k}.txt").write_text(marked + "\n")
    (folder / "results_20130124.token").write_text("\n".join(lines))


LAYOUTS: dict[str, Callable[[Path, list[Scene]], None]] = {
    "PIE-Bench": as_pie_bench,
    "pairs.jsonl": as_own,
    "COCO": as_coco,
    "Flickr30K": as_flickr,
}


def measured(folder: Path, out: Path, *more: str) -> dict[str, Any]:
    arguments = ["--pairs", str(folder), "-o", str(out), "--steps", "2", "--candidates", "2", "-q", *more]
    assert cli.main(["eval", *arguments]) == 0
    return json.loads((out / "table.json").read_text())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scenes_in_every_layout(tmp_path: Path, scenes: list[Scene], layout: str):
    folder = tmp_path / "list"
    folder.mkdir()
    LAYOUTS[layout](folder, scenes)
    found = read_pairs(folder)
    assert found.layout == layout and len(found.pairs) == COUNT
    table = measured(folder, tmp_path / "out", "--limit", "2")
    metrics = table["rows"][0]["metrics"]
    assert table["rows"][0]["count"] == 2 and {
        "ssim",
        "psnr",
        "mse",
        "perceptual",
        "fid",
        "sfid",
        "clip",
    } <= set(metrics)
    assert metrics["kept"]["value"] == 1 and metrics["background_own"]["value"] == 0
    assert len(list((tmp_path / "out" / "sheets").iterdir())) == 2
    assert table["names"]["fid"] == "FID (scorer features) ↓"


def test_masks_of_both_runs_are_the_scenes_own(tmp_path: Path, scenes: list[Scene]):
    for name in ("PIE-Bench", "pairs.jsonl"):
        folder = tmp_path / name
        folder.mkdir()
        LAYOUTS[name](folder, scenes)
        for pair in read_pairs(folder).pairs:
            assert pair.mask is not None
            drawn = pair.mask.draw((SIDE, SIDE)).numpy()
            assert (drawn == scenes[int(pair.id)].masks[0]).all()


def test_two_layouts_of_the_same_pairs_give_the_same_numbers(tmp_path: Path, scenes: list[Scene]):
    """But for the background outside the list's mask, where PIE-Bench leaves the frame out; checked by hand beside it."""
    tables = {}
    for name in ("PIE-Bench", "pairs.jsonl"):
        folder = tmp_path / name
        folder.mkdir()
        LAYOUTS[name](folder, scenes)
        tables[name] = measured(folder, tmp_path / f"{name} out", "--sheets", "0")
    first, second = (table["rows"][0]["metrics"] for table in tables.values())
    assert {k: v for k, v in first.items() if k != "background_listed"} == {
        k: v for k, v in second.items() if k != "background_listed"
    }
    assert tables["PIE-Bench"]["finding"] == tables["pairs.jsonl"]["finding"]

    lines = (tmp_path / "pairs.jsonl out" / "results.jsonl").read_text().splitlines()
    records = {record["id"]: record for record in map(json.loads, lines)}
    found = [record["region_iou"] for record in records.values()]
    assert tables["pairs.jsonl"]["finding"]["region_iou"]["value"] == pytest.approx(np.mean(found))
    assert float(np.mean(found)) > 0.5, "the embedded models know these scenes"
    scorer = load_scorer()
    results = torch.cat(
        [read_picture(tmp_path / "pairs.jsonl out" / "results" / f"{name}.png") for name in records]
    )
    sources = torch.cat([torch.from_numpy(scenes[int(name)].image)[None].float() / 255 for name in records])
    expected = sfid(scorer_features(sources, scorer), scorer_features(results, scorer))
    assert second["sfid"]["value"] == pytest.approx(float(expected), rel=0.02)
    for k, drawn in enumerate(scenes):
        mask = torch.from_numpy(drawn.masks[0])[None].float()
        assert float(mask_iou(mask, mask)) == 1 and records[f"{k:012d}"]["query"].endswith(
            drawn.spec.things[0].name
        )
