"""All benchmarks in one run, each in a process of its own: what we do beside what one would pick instead.

make bench
python -m benchmarks --only retouch_time composite_time
python -m benchmarks --long         # also the long ones: the pruning of 200 scenes, SD 1.5 at full width
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

PARTS: dict[str, tuple[str, ...]] = {
    "retouch_time": (),
    "host_chain": (),
    "host_sampler_time": (),
    "guided_step": (),
    "composite_time": (),
    "morphology": (),
    "views": (),
    "seams": (),
    "large_picture": ("--channels", "64", "--steps", "6"),
    "curves": (),
    "pruning": ("--scenes", "10"),
}
"""Module -> what it is told."""
LONG: dict[str, tuple[str, ...]] = {
    "host_chain": ("--channels", "320", "--side", "512", "--steps", "4", "--pairs", "3"),
    "large_picture": (),
    "pruning": (),
}


def main() -> int:
    """Run the parts one after the other; 1 where a goal is missed or a part fails."""
    parser = argparse.ArgumentParser(prog="benchmarks")
    parser.add_argument("--only", nargs="+", choices=[*PARTS], default=[*PARTS])
    parser.add_argument("--long", action="store_true")
    options = parser.parse_args()
    failed = []
    for name, told in {**PARTS, **(LONG if options.long else {})}.items():
        if name not in options.only:
            continue
        print(f"\n== {name} {' '.join(told)}".rstrip(), flush=True)
        begun = time.perf_counter()
        code = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *told], check=False).returncode
        print(
            f"-- {time.perf_counter() - begun:.0f} s{', goal missed or failed' if code else ''}", flush=True
        )
        failed += [name] if code else []
    if failed:
        print(f"\nnot as they should be: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
