"""Write the model card of the embedded models from the training logs, choices.json and eval.json.

python -m training.card [--eval eval.json]
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

from retouch_core.models.embedded import SCORER_NOTES
from retouch_core.recipes import recipe

from .bundle import EMBEDDED
from .choose import CHOICES
from .denoiser import SCENES
from .evaluate import PARTS as EVALUATED
from .evaluation.numbers import Estimate, Row, Share
from .loop import LOGS

TRAINED = (
    "autoencoder",
    "decoder",
    "scorer",
    "referrer",
    "inpaint_before_polish",
    "polish",
    "blended",
    "inpaint_after_polish",
    "inpaint",
)
"""Runs with a log, in the order in which the shipped weights were made; `decoder` goes on with the encoder frozen,
`polish` with both halves."""

PARTS = {
    "vae": "`AutoencoderTiny`, default layout: 64 wide, 4 latent channels, 8x down",
    "clip": "`CLIPModel`: vision 64 px, patch 8, width 128 x 4; text width 128 x 3, 16 tokens; projection 128",
    "referrer": "after CLIPSeg: taps of the frozen image tower of `clip/`, FiLM by the phrase's embedding, a light decoder",
    "unet_inpaint": "`UNet2DConditionModel`, 9 to 4 channels, widths 64 and 128, cross-attention on both levels, v-prediction",
    "unet_blended": "the same with 4 channels, for blended sampling: it sees neither mask nor masked picture",
}

TEXT = """# Embedded models

Small, real models of real architectures (diffusers and transformers classes, fp16 safetensors), trained from scratch
by `make train` on procedurally drawn scenes. They make the library run before anything is downloaded: for the demo,
the tests and the measurements. **They know nothing but their world**: sixteen kinds of thing (ball, box, triangle,
star, heart, ring, cross, moon, apple, fish, car, house, tree, cup, flower, mushroom) in eight colours (red, orange,
yellow, green, blue, purple, pink, white) on eight grounds (sky, sand, wood, tiles, clouds, gradient, grass, night), at
128 px. On photographs they find nothing useful and paint icons. Real pictures want real checkpoints.

## Files

{files}

Together {megabytes:.1f} MB. The text tower of `clip/` conditions the denoiser; it was frozen before the denoiser was
trained. `scheduler/` is DDIM with scaled-linear betas 0.00085–0.012, v-prediction, trailing spacing. `scorer.json`
holds the presence gate ({gate}), chosen on tune scenes, with its ROC (area {area}). `manifest.json` lists size and
SHA-256 of every file.

ComfyUI's own classes hold the same weights after renaming keys, with equal outputs (`training/host_parity.py`).

## Training

{training}

Data: scenes of the split `train` of `training/world` (deterministic by number; the splits `tune` and `test` are
other numbers); the denoisers see {scenes} scenes with two edit masks each, boxes with independent margins, ellipses
and silhouettes. The shipped inpaint denoiser was first trained on the latents of the autoencoder before its polish; both
denoisers then began with those weights, and the inpaint denoiser went on a third time from its own. `make train` has no
such detour: it polishes first, trains the inpaint denoiser once for as long, and the blended denoiser begins with it.
Optimiser: Muon for matrices and convolutions, AdamW for the rest, cosine rate, running average of
the weights, bfloat16 autocast. Machine: two CPU cores (x86-64 with AVX-512 bf16), no GPU, shared with other work
while training, so the times are upper bounds. Curves of loss against time: `training/logs/*.csv`.

## Measured on test scenes

{table}

Intervals are 95 %: Wilson for shares, bootstrap over cases for the rest. Three judges read an edit, and ranking never
sees any of them: a classifier of class and colour, the same for kinds of ground, and a silhouette test, in which what
was drawn (its difference from the scene redrawn without the object) is held against every icon of the asked class that
the generator could have drawn there: its rotations, sizes and mirrorings. *Strict* means class, colour and an
intersection over union of at least 0.7. The ceiling is what real things reach after the autoencoder, the floor what
icons of a wrong class reach. The halo is measured on ground that the edit could have changed and the source shows too.
`make eval` measures all of this anew.

## Choices made on tune scenes

The curves of the recipe `default` were measured before the last run of the inpaint denoiser.

{choices}

The ranking was revised once after a first evaluation on the test scenes: ROM's localised score, the default until then,
had 0.44 of what the oracle gains over the mean of all candidates (blended path, goal 0.5). About seventy variants were
then compared on 110 other tune scenes of the blended path, and `zero_shot` as it is now was taken (there 0.59, localised
0.38; the best variant had 0.62). The tables above have 40 scenes, which do not tell the two apart. The rows that compare
with the single candidate were added after the second evaluation. So the rows of the ranking on the first 200 test scenes
have been seen twice; those on the 300 other scenes were measured once, after all of that.

The presence gate was set to the lowest value that refuses 95 % of absent things on tune scenes; of the two ways to drop
rivals the one with the larger ROC area was taken.

## Licence

MIT, like the code. Nothing but our own drawings went in.
"""


NAMES = {
    "scale": "guidance scale",
    "lam": "λ, share of the referring prompt",
    "steps": "steps",
    "dilate": "growth of the region (k on ROM's grid)",
    "shape": "shape of the edited area",
    "change_min": "least change that is kept",
    "place_prompt": "the words say where",
}


def percent(entry: dict[str, Any]) -> str:
    return str(Share(entry["right"], entry["count"]))


def curve(path: str, name: str, lines: list[dict[str, Any]]) -> list[str]:
    """A Markdown table of one field of the recipe `path`; its value is bold."""
    chosen = getattr(recipe(path), name)
    rows = [
        f"| {NAMES[name]} | strict | class and colour | old class or colour | nothing | halo |",
        "|---|---|---|---|---|---|",
    ]
    for line in lines:
        value = f"**{line['value']}**" if line["value"] == chosen else str(line["value"])
        rest = " | ".join(
            f"{100 * line[k]['share']:.1f} %" for k in ("class and colour", "old class or colour", "nothing")
        )
        rows.append(f"| {value} | {percent(line['strict'])} | {rest} | {line['halo']:.2f} |")
    return rows


def choices(stored: dict[str, Any]) -> str:
    """The measured curves of both paths as Markdown."""
    blocks = []
    for path, curves in stored.items():
        for name, made in curves.items():
            lines = made["lines"]
            head = f"Recipe `{path}`, {made['scenes']} tune scenes"
            if name == "ranking":
                rows = ["| ranking of the same 4 candidates | strict |", "|---|---|"]
                rows += [f"| {line['ranking']} | {percent(line['strict'])} |" for line in lines]
            else:
                head += f", {lines[0]['strict']['count'] // made['scenes']} candidates each"
                rows = curve(path, name, lines)
            blocks.append("\n".join([f"{head}:", "", *rows]))
    return "\n\n".join(blocks)


def last_line(name: str) -> dict[str, str]:
    with (LOGS / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))[-1]


def shown(entry: dict[str, Any]) -> str:
    value = entry["value"]
    if isinstance(value, dict):
        value = Share(value["right"], value["count"]) if "right" in value else Estimate(**value)
    return Row(entry["name"], value).shown


def main() -> None:
    from safetensors.torch import load_file

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--eval", type=Path, default=Path("eval.json"))
    args = parser.parse_args()
    files, training = (
        ["| folder | what | parameters | MB |", "|---|---|---|---|"],
        ["| network | steps | minutes | last report |"],
    )
    training.append("|---|---|---|---|")
    for folder, what in PARTS.items():
        (weights,) = (EMBEDDED / folder).glob("*.safetensors")
        count = sum(t.numel() for t in load_file(weights).values())
        files.append(f"| `{folder}/` | {what} | {count / 1e6:.2f} M | {weights.stat().st_size / 1e6:.1f} |")
    for name in TRAINED:
        line = last_line(name)
        rest = ", ".join(f"{k} {v}" for k, v in line.items() if k not in ("seconds", "iteration"))
        training.append(f"| {name} | {line['iteration']} | {float(line['seconds']) / 60:.0f} | {rest} |")
    notes = json.loads((EMBEDDED / SCORER_NOTES).read_text())
    parts = json.loads(args.eval.read_text())["parts"]
    missing = [name for name in EVALUATED if name not in parts]
    if missing:
        parser.error(f"{args.eval} holds no {', '.join(missing)}; run make eval")
    rows = [row for name in EVALUATED for row in parts[name]["rows"]]
    table = ["| what | measured | goal |", "|---|---|---|"]
    table += [
        f"| {r['name'].strip()} | {shown(r)} | {r['goal']}{' (missed)' if r['met'] is False else ''} |"
        for r in rows
    ]
    size = sum(p.stat().st_size for p in EMBEDDED.rglob("*") if p.is_file() and p.name != "README.md") / 1e6
    text = TEXT.format(
        files="\n".join(files),
        megabytes=size,
        gate=notes["gate"],
        area=notes["roc_area"],
        training="\n".join(training),
        table="\n".join(table),
        choices=choices(json.loads(CHOICES.read_text())),
        scenes=f"{SCENES:,}",
    )
    (EMBEDDED / "README.md").write_text(text)


if __name__ == "__main__":
    main()
