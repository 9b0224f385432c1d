"""Make the embedded models, one network after the other: each is finished before the next begins.

python -m training.train [--only autoencoder decoder polish scorer calibrate referrer inpaint blended judge] [--fresh]

Interrupted runs go on where they were. On two CPU cores the whole takes about six hours.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys

from .loop import RUNS

PARTS = {
    "autoencoder": ("autoencoder",),
    "decoder": ("decoder",),
    "polish": ("polish",),
    "scorer": ("scorer",),
    "calibrate": ("calibrate",),
    "referrer": ("referrer",),
    "inpaint": ("denoiser", "--kind", "inpaint", "--minutes", "115"),
    "blended": ("denoiser", "--kind", "blended", "--start", "inpaint", "--minutes", "80"),
    "judge": ("judge",),
}
"""Each part's module and arguments, in this order: the scorer sees pictures through the autoencoder, and its text tower
is frozen before the referrer, which looks through its image tower, and the denoisers."""

MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**33), "MALLOC_TOP_PAD_": str(2**28)}
"""Keeps glibc from giving memory back after every step: half of the time went into page faults without it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument(
        "--fresh", action="store_true", help="forget earlier runs instead of going on with them"
    )
    args = parser.parse_args()
    if args.fresh and RUNS.exists():
        shutil.rmtree(RUNS)
    settings = dict(os.environ)
    if platform.libc_ver()[0] == "glibc":
        settings = MALLOC | settings
    for part, (module, *options) in PARTS.items():
        if part in args.only:
            print(f"== {part}", flush=True)
            subprocess.run([sys.executable, "-m", f"training.{module}", *options], env=settings, check=True)


if __name__ == "__main__":
    main()
