"""Draw the pictures of the demo: scenes of the tune split, chosen before any model had seen them.

python -m training.demo_pictures
"""

from __future__ import annotations

import json

from PIL import Image

from retouch_core.demo import PICTURES

from .world.scenes import scene

CASES = (
    (2, False, "wood", "the pink car", "a blue mushroom"),
    (9, False, "sky", "the yellow cup", "a red house"),
    (7, True, "grass", "the blue house on the left", "a yellow star"),
    (26, False, "night", "the moon", "a pink heart"),
    (4, False, "tiles", "the blue moon", "a green tree"),
    (17, False, "horizon", "the ring at the top", "an orange flower"),
)
"""Scene, whether it is one with twins, file name, query and prompt."""


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    entries = []
    for index, twins, name, query, prompt in CASES:
        Image.fromarray(scene("tune", index, twins=twins).image).save(PICTURES / f"{name}.png", optimize=True)
        entries.append({"picture": f"{name}.png", "query": query, "prompt": prompt, "seed": 0})
    (PICTURES / "cases.json").write_text(json.dumps(entries, indent=1) + "\n")


if __name__ == "__main__":
    main()
