"""Lists of pairs: every layout by hand-written files, masks against brute force, and what is refused in which words."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage.draw import polygon2mask

from retouch_core.evaluation.captions import PHRASE, subject
from retouch_core.evaluation.masks import CocoRuns, Outlines, PictureMask, StartRuns, framed
from retouch_core.evaluation.pairs import check_pictures, file_stem, read_pairs

SIZE = (20, 24)


def draw(path: Path, size: tuple[int, int] = SIZE, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def own(folder: Path, *entries: Any) -> Path:
    lines = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def pie(folder: Path, **entries: dict[str, Any]) -> Path:
    (folder / "mapping_file.json").write_text(json.dumps(entries))
    return folder


def entry(**more: Any) -> dict[str, Any]:
    """PIE-Bench's own example."""
    return {
        "image_path": "0_random_140/000000000000.jpg",
        "original_prompt": "a slanted mountain bicycle on the road in front of a building",
        "editing_prompt": "a slanted [rusty] mountain bicycle on the road in front of a building",
        "editing_instruction": "Make the frame of the bike rusty",
        "editing_type_id": "0",
        "blended_word": "bicycle bicycle",
        "mask": [25, 3, 49, 2],
        **more,
    }


# -------------------------------------------------------------------------------------------------- masks


def test_start_runs_by_hand():
    drawn = StartRuns((1, 2, 7, 4, 11, 9)).draw((3, 4))
    expected = [[0, 1, 1, 0], [0, 0, 0, 1], [1, 1, 1, 1]]
    assert drawn.dtype == torch.bool and drawn.int().tolist() == expected, (
        "the last run ends with the picture"
    )


@pytest.mark.parametrize("seed", range(5))
def test_start_runs_against_brute_force(seed: int):
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(3, 30, 2))
    mask = rng.random((height, width)) < 0.4
    flat, runs = mask.ravel(), []
    for place in range(flat.size):
        if flat[place] and (place == 0 or not flat[place - 1]):
            length = 1
            while place + length < flat.size and flat[place + length]:
                length += 1
            runs += [place, length]
    found = StartRuns.of([int(n) for n in runs], "here")
    found.check((height, width), "here")
    assert (found.draw((height, width)).numpy() == mask).all()


def test_frame_is_the_outermost_pixels():
    assert framed(torch.zeros(4, 5, dtype=torch.bool)).int().tolist() == [
        [1, 1, 1, 1, 1],
        [1, 0, 0, 0, 1],
        [1, 0, 0, 0, 1],
        [1, 1, 1, 1, 1],
    ]


def test_coco_runs_by_hand_and_by_brute_force():
    # Column by column: 2 zeros, 3 ones, 1 zero over 3 rows and 2 columns.
    assert CocoRuns((2, 3, 1), (3, 2)).draw((3, 2)).int().tolist() == [[0, 1], [0, 1], [1, 0]]
    mask = np.random.default_rng(3).random((7, 9)) < 0.5
    counts, last = [0], False
    for value in mask.T.ravel():
        if value != last:
            counts.append(0)
            last = bool(value)
        counts[-1] += 1
    runs = CocoRuns.of({"size": [7, 9], "counts": counts}, "here")
    assert (runs.draw((7, 9)).numpy() == mask).all()


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 60),
    share=st.sampled_from([0.0, 0.01, 0.3, 0.99, 1.0]),
    seed=st.integers(0, 99),
)
def test_compressed_coco_runs_are_those_of_pycocotools(height: int, width: int, share: float, seed: int):
    coco = pytest.importorskip("pycocotools.mask")
    mask = np.random.default_rng(seed).random((height, width)) < share
    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    runs = CocoRuns.of({"size": encoded["size"], "counts": encoded["counts"].decode()}, "here")
    assert (runs.draw((height, width)).numpy() == mask).all()


def test_outlines_agree_with_skimage_but_for_their_border():
    corners = [(3.0, 4.0), (30.0, 8.0), (25.0, 33.0), (6.0, 28.0)]
    drawn = Outlines((tuple(v for corner in corners for v in corner),), (40, 40)).draw((40, 40)).numpy()
    other = polygon2mask((40, 40), [(y, x) for x, y in corners])
    grown = np.zeros_like(other)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            grown |= np.roll(other, (dy, dx), (0, 1))
    assert (drawn | ~other).all() and (grown | ~drawn).all()


# ------------------------------------------------------------------------------------------- a list of one's own


def test_own_list(tmp_path: Path):
    draw(tmp_path / "a.png")
    Image.fromarray(np.full(SIZE, 255, np.uint8)).save(tmp_path / "m.png")
    runs = {"size": list(SIZE), "counts": [10, 470]}
    own(
        tmp_path,
        {"image": "a.png", "query": " the car ", "prompt": " a truck"},
        "",
        {"image": "a.png", "query": "sky", "prompt": "", "id": "z", "mask": "m.png", "group": "removal"},
        {"image": "a.png", "query": "sky", "prompt": "night", "mask": runs},
    )
    found = read_pairs(tmp_path)
    check_pictures(found.pairs)
    by_id = {pair.id: pair for pair in found.pairs}
    assert found.layout == "pairs.jsonl" and set(by_id) == {"1", "z", "4"}
    assert (by_id["1"].query, by_id["1"].prompt, by_id["1"].mask) == ("the car", "a truck", None)
    assert by_id["z"].prompt == "" and by_id["z"].group == "removal"
    assert by_id["z"].mask == PictureMask(tmp_path / "m.png") and by_id["z"].mask.draw(SIZE).all()
    assert by_id["4"].mask is not None and int(by_id["4"].mask.draw(SIZE).sum()) == 470
    assert by_id["4"].where == "pairs.jsonl line 4"


def test_order_is_that_of_the_hashes_and_nothing_else(tmp_path: Path):
    draw(tmp_path / "a.png")
    entries = [{"image": "a.png", "query": "x", "prompt": "y", "id": f"n{k}"} for k in range(20)]
    first = [pair.id for pair in read_pairs(own(tmp_path, *entries)).pairs]
    assert first == [pair.id for pair in read_pairs(own(tmp_path, *entries[::-1])).pairs]
    assert first == sorted(first, key=lambda name: hashlib.sha256(name.encode()).hexdigest())


def test_digest_tells_lists_apart(tmp_path: Path):
    draw(tmp_path / "a.png")
    line = {"image": "a.png", "query": "x", "prompt": "y"}
    digest = read_pairs(own(tmp_path, line)).digest()
    assert digest == read_pairs(own(tmp_path, line)).digest()
    for change in ({"query": "z"}, {"group": "g"}, {"mask": {"size": list(SIZE), "counts": [480]}}):
        assert read_pairs(own(tmp_path, line | change)).digest() != digest
    draw(tmp_path / "a.png", (32, 32))
    assert read_pairs(own(tmp_path, line)).digest() != digest, "another picture of that name"


def test_ids_make_file_names(tmp_path: Path):
    draw(tmp_path / "a.png")
    names = ["plain-1", "a/b", "a_b", "../up", "ß?"]
    entries = [{"image": "a.png", "query": "x", "prompt": "y", "id": name} for name in names]
    stems = {pair.id: file_stem(pair) for pair in read_pairs(own(tmp_path, *entries)).pairs}
    assert stems["plain-1"] == "plain-1" and len(set(stems.values())) == len(names)
    assert not any(set("/.?") & set(stem) for stem in stems.values())


def test_pictures_that_cameras_turned(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=exif)
    runs = {"size": [40, 30], "counts": [1200]}
    check_pictures(
        read_pairs(own(tmp_path, {"image": "a.jpg", "query": "x", "prompt": "", "mask": runs})).pairs
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{'image': 'a.png'}", "pairs.jsonl line 2 is not JSON"),
        ('["a.png"]', "line 2 holds a list; write an object"),
        ({"query": "x", "prompt": "y"}, "line 2 has no image"),
        ({"image": "a.png", "prompt": "y"}, "line 2 has no query"),
        ({"image": "a.png", "query": "x"}, "line 2 has no prompt"),
        ({"image": "a.png", "query": "  ", "prompt": "y"}, "line 2: query is empty"),
        ({"image": "a.png", "query": 3, "prompt": "y"}, "line 2: query must be text, got 3"),
        ({"image": "a.png", "query": "x", "prompt": "y", "promt": ""}, "line 2 has the key 'promt'"),
        ({"image": "a.png", "query": "x", "prompt": "y", "id": "1"}, "id '1' is also that of pairs.jsonl line 1"),
        ({"image": "none.png", "query": "x", "prompt": "y"}, "none.png does not exist"),
        ({"image": "text.png", "query": "x", "prompt": "y"}, "text.png cannot be read"),
        ({"image": "a.png", "query": "x", "prompt": "y", "mask": "none.png"}, "its mask .*none.png does not exist"),
        ({"image": "a.png", "query": "x", "prompt": "y", "mask": "small.png"}, "mask is for 16x16 px but .* 24x20"),
        (
            {"image": "a.png", "query": "x", "prompt": "y", "mask": {"size": [24, 20], "counts": [480]}},
            "mask is for 20x24 px but the picture has 24x20; it belongs to a picture of another size",
        ),
        (
            {"image": "a.png", "query": "x", "prompt": "y", "mask": {"size": [20, 24], "counts": [5]}},
            "runs over 5 pixels, but its size",
        ),
        (
            {"image": "a.png", "query": "x", "prompt": "y", "mask": {"size": [20, 24], "counts": "0 1"}},
            "mask has ' ' in its compressed counts, which never holds it",
        ),
        (
            {"image": "a.png", "query": "x", "prompt": "y", "mask": {"size": [20, 24], "counts": "01P"}},
            "mask has compressed counts that break off in a number",
        ),
        (
            {"image": "a.png", "query": "x", "prompt": "y", "mask": {"size": [20, 24], "counts": "O"}},
            "with no count below 0",
        ),
        (
            {"image": "a.png", "query": "x", "prompt": "y", "mask": {"size": [20, 24], "counts": "11"}},
            "runs over 2 pixels, but its size",
        ),
        ({"image": "a.png", "query": "x", "prompt": "y", "mask": [1, 2]}, 'mask must be {"size"'),
    ],
)  # fmt: skip
def test_bad_lines_are_refused_with_their_number(tmp_path: Path, line: Any, words: str):
    draw(tmp_path / "a.png")
    draw(tmp_path / "small.png", (16, 16))
    (tmp_path / "text.png").write_text("no picture")
    own(tmp_path, {"image": "a.png", "query": "x", "prompt": "y"}, line)
    with pytest.raises(ValueError, match=words) as caught:
        check_pictures(read_pairs(tmp_path).pairs)
    assert "\n" not in str(caught.value)


def test_folders_without_one_list(tmp_path: Path):
    with pytest.raises(ValueError, match="does not exist"):
        read_pairs(tmp_path / "none")
    with pytest.raises(ValueError, match=r"holds no list; put pairs\.jsonl"):
        read_pairs(tmp_path)
    own(tmp_path, "")
    with pytest.raises(ValueError, match="holds no pair"):
        read_pairs(tmp_path)
    (tmp_path / "pairs.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="save it as UTF-8"):
        read_pairs(tmp_path)
    pie(tmp_path, a=entry())
    with pytest.raises(
        ValueError, match=r"holds 2 lists \(pairs\.jsonl, mapping_file\.json\); give one of these"
    ):
        read_pairs(tmp_path)
    assert read_pairs(tmp_path / "mapping_file.json").layout == "PIE-Bench"
    (tmp_path / "else.json").touch()
    with pytest.raises(ValueError, match="is no list"):
        read_pairs(tmp_path / "else.json")


# ----------------------------------------------------------------------------------------------- PIE-Bench


def test_pie_bench(tmp_path: Path):
    (pair,) = read_pairs(pie(tmp_path, **{"000000000000": entry()})).pairs
    assert pair.id == "000000000000" and pair.group == "0 random" and pair.framed
    assert pair.image == tmp_path / "annotation_images" / "0_random_140" / "000000000000.jpg"
    assert pair.query == "bicycle"
    assert pair.prompt == "a slanted rusty mountain bicycle on the road in front of a building"
    draw(pair.image)
    check_pictures([pair])
    assert pair.mask is not None
    assert pair.mask.draw(SIZE).nonzero().tolist() == [[1, 1], [1, 2], [1, 3], [2, 1], [2, 2]]


@pytest.mark.parametrize(
    ("change", "query"),
    [
        ({"editing_type_id": "8"}, "background"),
        ({"blended_word": "", "original_prompt": "a [red  cat] on [grass]"}, "red cat grass"),
        ({"blended_word": "", "original_prompt": "a cat on grass"}, "a cat on grass"),
        ({"blended_word": "cat dog", "editing_type_id": 1}, "cat"),
    ],
)
def test_what_pie_bench_wants_changed(tmp_path: Path, change: dict[str, Any], query: str):
    (pair,) = read_pairs(pie(tmp_path, a=entry(**change))).pairs
    assert pair.query == query


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mask": [0, 5, 480, 2]}, "entry b: mask has a run at pixel 480, but the picture has 480 .24x20.; .* another size"),
        ({"mask": [0, 5, 7]}, "entry b: mask has 3 numbers"),
        ({"mask": [0, -5]}, "whole numbers from 0 up"),
        ({"mask": "0 5"}, "whole numbers from 0 up"),
        ({"editing_prompt": ""}, "entry b: editing_prompt is empty"),
        ({"blended_word": "", "original_prompt": "[]"}, "entry b: query is empty"),
        ({"editing_type_id": "12"}, "editing_type_id must lie in 0..9, got '12'"),
        ({"image_path": "9_x/none.jpg"}, "none.jpg does not exist"),
    ],
)  # fmt: skip
def test_bad_entries(tmp_path: Path, change: dict[str, Any], words: str):
    draw(tmp_path / "annotation_images" / "0_random_140" / "000000000000.jpg")
    with pytest.raises(ValueError, match=words):
        check_pictures(read_pairs(pie(tmp_path, a=entry(), b=entry(**change))).pairs)


def test_mapping_that_is_cut_short(tmp_path: Path):
    (tmp_path / "mapping_file.json").write_text('{"a": {\n"mask": [1, 2')
    with pytest.raises(ValueError, match=r"mapping_file\.json line 2 is not JSON"):
        read_pairs(tmp_path)


# -------------------------------------------------------------------------------------------- COCO, Flickr30K


def coco(folder: Path, things: dict[int, list[tuple[str, int]]], **change: Any) -> Path:
    """Pictures id -> [(class, side of a square)], captioned `caption of ID.`"""
    names = sorted({name for each in things.values() for name, _ in each})
    annotations = [
        {
            "id": 100 * picture + k,
            "image_id": picture,
            "category_id": names.index(name) + 1,
            "area": side**2,
            "iscrowd": 0,
            "segmentation": [[1, 1, side, 1, side, side, 1, side]],
        }
        for picture, each in things.items()
        for k, (name, side) in enumerate(each)
    ]
    captions = [
        {"id": 10 * picture + k, "image_id": picture, "caption": f" {word} of {picture}.\n"}
        for picture in things
        for k, word in ((2, "another"), (1, "caption"))
    ]
    images = [{"id": k, "file_name": f"{k:012d}.png", "height": 20, "width": 24} for k in things]
    place = folder / "annotations"
    place.mkdir()
    (place / "captions_val2017.json").write_text(json.dumps({"images": images, "annotations": captions}))
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(names)]
    boxes = {"images": images, "annotations": annotations, "categories": categories} | change
    (place / "instances_val2017.json").write_text(json.dumps(boxes))
    for k in things:
        draw(folder / "val2017" / f"{k:012d}.png")
    return folder


def test_coco_annotations_may_have_runs(tmp_path: Path):
    coco(tmp_path, {1: [("dog", 10)], 2: [("dog", 12)]})
    (path,) = tmp_path.rglob("instances_val2017.json")
    told = json.loads(path.read_text())
    height, width = SIZE
    told["annotations"][0]["segmentation"] = {
        "size": [height, width],
        "counts": [height, 2 * height, height * (width - 3)],
    }
    path.write_text(json.dumps(told))
    (first, _) = read_pairs(tmp_path).pairs
    expected = torch.zeros(SIZE, dtype=torch.bool)
    expected[:, 1:3] = True
    assert first.mask is not None and torch.equal(first.mask.draw(SIZE), expected)
    told["annotations"][0]["segmentation"]["counts"] = [5]
    path.write_text(json.dumps(told))
    with pytest.raises(
        ValueError, match=r"instances_val2017\.json annotation 100: mask has runs over 5 pixels"
    ):
        read_pairs(tmp_path)


def test_coco_pairs_are_of_one_class_with_each_others_captions(tmp_path: Path):
    coco(
        tmp_path,
        {
            1: [("dog", 10), ("cat", 8)],
            2: [("dog", 12)],
            3: [("dog", 9), ("bench", 18), ("bench", 17)],
            4: [("cat", 11)],
            5: [("cat", 2)],
            6: [("kite", 15)],
        },
    )
    found = read_pairs(tmp_path)
    check_pictures(found.pairs)
    by_id = {pair.id: pair for pair in found.pairs}
    # 4's is the only cat that is the largest thing of its picture; 5's is too small; there are two benches in 3.
    assert {pair.id: pair.query for pair in found.pairs} == {"1": "dog", "2": "dog", "3": "dog"}
    assert [note.rpartition(": ")[2] for note in found.notes] == ["1.", "2."]
    order = sorted(by_id, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    following = dict(zip(order, [*order[1:], order[0]], strict=True))
    assert {name: pair.prompt for name, pair in by_id.items()} == {
        name: f"caption of {other}" for name, other in following.items()
    }
    assert by_id["1"].image == tmp_path / "val2017" / "000000000001.png"
    assert by_id["1"].mask is not None and int(by_id["1"].mask.draw(SIZE).sum()) == 100


def test_coco_that_is_not_coco(tmp_path: Path):
    coco(tmp_path, {1: [("dog", 9)], 2: [("dog", 9)]}, categories=[{"id": 7, "name": "cat"}])
    with pytest.raises(ValueError, match="is not laid out as COCO has it"):
        read_pairs(tmp_path)
    (tmp_path / "annotations" / "instances_val2017.json").unlink()
    with pytest.raises(ValueError, match=r"captions_val2017\.json needs instances_val2017\.json beside it"):
        read_pairs(tmp_path)


FLICKR = {
    "1000092795": "Two young guys with shaggy hair look at their hands .",
    "10002456": "Several men in hard hats are operating a giant pulley system .",
    "1000268201": "Four young guys jumping over a fence .",
    "1000344755": "Outside , someone cleans .",
}


def flickr(folder: Path, *, table: bool = False) -> Path:
    if table:
        rows = [f"{name}.jpg| {k}| {text}" for name, text in FLICKR.items() for k in range(2)]
        (folder / "results.csv").write_text("\n".join(["image_name| comment_number| comment", *rows]))
    else:
        rows = [f"{name}.jpg#{k}\t{text}" for name, text in FLICKR.items() for k in range(2)]
        (folder / "results_20130124.token").write_text("\n".join(rows) + "\n")
    for name in FLICKR:
        draw(folder / "flickr30k-images" / f"{name}.jpg")
    return folder


@pytest.mark.parametrize("table", [False, True])
def test_flickr_by_subjects(tmp_path: Path, table: bool):
    found = read_pairs(flickr(tmp_path, table=table))
    check_pictures(found.pairs)
    assert {pair.id: (pair.query, pair.prompt) for pair in found.pairs} == {
        "1000092795": ("Two young guys", "Four young guys jumping over a fence"),
        "1000268201": ("Four young guys", "Two young guys with shaggy hair look at their hands"),
    }


def test_flickr_by_phrases(tmp_path: Path):
    flickr(tmp_path)
    marked = {
        "1000092795": "[/EN#0/notvisual It] is [/EN#1/people Two young guys] with [/EN#2/bodyparts hair] .",
        "10002456": "[/EN#3/people Several men] in [/EN#4/clothing hard hats] .",
        "1000268201": "[/EN#5/scene a field] and [/EN#6/other/people  men] .",
        "1000344755": "[/EN#7/vehicles A car] .",
    }
    (tmp_path / "Sentences").mkdir()
    for name, text in marked.items():
        (tmp_path / "Sentences" / f"{name}.txt").write_text(text + "\nsecond\n")
    found = read_pairs(tmp_path)
    assert {pair.id: (pair.query, pair.group) for pair in found.pairs} == {
        "1000092795": ("Two young guys", "people"),
        "10002456": ("Several men", "people"),
    }
    (tmp_path / "Sentences" / "10002456.txt").unlink()
    with pytest.raises(ValueError, match=r"10002456\.txt does not exist"):
        read_pairs(tmp_path)


def test_a_line_of_flickr_that_is_none(tmp_path: Path):
    flickr(tmp_path)
    with (tmp_path / "results_20130124.token").open("a") as file:
        file.write("1.jpg a man\n")
    with pytest.raises(ValueError, match=r"results_20130124\.token line 9 is not picture#number"):
        read_pairs(tmp_path)


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A man in a blue shirt is standing on a ladder .", "A man"),
        ("A child climbing stairs", "A child"),
        ("A black dog and a spotted dog are fighting", "A black dog"),
        ("The running man falls", "The running man falls"),
        ("In the park", ""),
        ("A .", ""),
    ],
)
def test_subjects(caption: str, words: str):
    assert subject(caption) == words


def test_phrases_of_flickr30k_entities():
    assert PHRASE.findall("[/EN#28/people/animals A man] in [/EN#9/clothing a hat] .") == [
        ("28", "/people/animals", "A man"),
        ("9", "/clothing", "a hat"),
    ]
