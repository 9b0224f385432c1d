"""The last step of an edit at 12 megapixels beside the core's ImageCompositeMasked, with equal output.

Both lay an edited picture over its source by a soft mask. Pairs are interleaved in changing order, after one uncounted
run each.

    python -m benchmarks.composite_time
"""

from __future__ import annotations

import argparse
import importlib
import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from retouch_core.editing.composite import composite
from training.host_pack import import_host

from .pairs import interleaved, told

HEIGHT, WIDTH = 3000, 4000
SAME = 1e-6


def main() -> int:
    """Print times and ratios for a small and a large region."""
    parser = argparse.ArgumentParser(prog="benchmarks.composite_time")
    parser.add_argument("--pairs", type=int, default=9)
    options = parser.parse_args()
    import_host()
    core = importlib.import_module("comfy_extras.nodes_mask").ImageCompositeMasked
    generator = torch.Generator().manual_seed(1)
    source, edited = (torch.rand(1, HEIGHT, WIDTH, 3, generator=generator) for _ in range(2))
    for share in (0.02, 0.5):
        mask = torch.zeros(1, HEIGHT, WIDTH)
        down, across = (round(length * share**0.5) for length in (HEIGHT, WIDTH))
        mask[:, :down, :across] = torch.rand(down, across, generator=generator)

        def ours(mask: Tensor = mask) -> Tensor:
            return composite(source, edited, mask)

        def theirs(mask: Tensor = mask) -> Tensor:
            made: Tensor = core.execute(source, edited, 0, 0, False, mask).args[0]
            return made

        runs: dict[str, Callable[[], Tensor]] = {"ours": ours, "theirs": theirs}
        if float((ours() - theirs()).abs().max()) > SAME:
            raise AssertionError("the two composites differ")
        seconds = interleaved(runs, options.pairs)
        print(
            f"region of {100 * share:g} % of {WIDTH}x{HEIGHT}: ours {statistics.median(seconds['ours']):.3f} s, "
            f"ImageCompositeMasked {statistics.median(seconds['theirs']):.3f} s, "
            f"{told(seconds['ours'], seconds['theirs'])}"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
