"""Write the model card of the embedded models from the training logs and eval.json.

python -m training.card [--eval eval.json]
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

from retouch_core.models.embedded import SCORER_NOTES

from .bundle import EMBEDDED
from .evaluation.numbers import Estimate, Row, Share
from .loop import LOGS

TRAINED = ("autoencoder", "decoder", "polish", "scorer", "inpaint", "blended")
"""Runs with a log, in their order; `decoder` goes on with the encoder frozen, `polish` with both halves."""

PARTS = {
    "vae": "`AutoencoderTiny`, default layout: 64 wide, 4 latent channels, 8x down",
    "clip": "`CLIPModel`: vision 64 px, patch 8, width 128 x 4; text width 128 x 3, 16 tokens; projection 128",
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
other numbers). Optimiser: Muon for matrices and convolutions, AdamW for the rest, cosine rate, running average of
the weights, bfloat16 autocast. Machine: two CPU cores (x86-64 with AVX-512 bf16), no GPU, shared with other work
while training, so the times are upper bounds. Curves of loss against time: `training/logs/*.csv`.

## Measured on test scenes

{table}

Intervals are 95 % (Wilson). The judge is a classifier that ranking never sees; it is lenient about form: "right"
means that class and colour are recognised, not that the drawing is beautiful. `make eval` measures all of this anew.

## Choices made on tune scenes

{choices}

## Licence

MIT, like the code. Nothing but our own drawings went in.
"""


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
    rows = json.loads(args.eval.read_text())["rows"]
    table = ["| what | measured | goal |", "|---|---|---|"]
    table += [
        f"| {r['name'].strip()} | {shown(r)} | {r['goal']}{' (missed)' if r['met'] is False else ''} |"
        for r in rows
    ]
    choices = Path(__file__).with_name("choices.md").read_text().strip()
    size = sum(p.stat().st_size for p in EMBEDDED.rglob("*") if p.is_file() and p.name != "README.md") / 1e6
    text = TEXT.format(
        files="\n".join(files),
        megabytes=size,
        gate=notes["gate"],
        area=notes["roc_area"],
        training="\n".join(training),
        table="\n".join(table),
        choices=choices,
    )
    (EMBEDDED / "README.md").write_text(text)


if __name__ == "__main__":
    main()
