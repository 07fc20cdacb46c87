"""Claim: importing eigenjax takes at most 1.2 times as long as importing jax alone.

Each import runs in a new interpreter and is timed inside it, which excludes the start of Python. The two are measured
in turn, and the ratio is the median over neighboring pairs.

    python -m benchmarks.scale.import_time
"""

import functools
import subprocess
import sys
from collections.abc import Sequence

from benchmarks.support import timing

TARGET = 1.2


def import_seconds(package: str) -> float:
    """Measure the seconds of `import package` in a fresh interpreter."""
    code = f"import time; start = time.perf_counter(); import {package}; print(time.perf_counter() - start)"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(finished.stdout)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure times and record them."""
    args = timing.arguments(__doc__, 15, argv)
    programs = {package: functools.partial(import_seconds, package) for package in ("jax", "eigenjax")}
    # The first round also writes the bytecode.
    timings = timing.interleaved(programs, args.repeats, measure=lambda program: program())
    ratio = timing.ratio(timings["eigenjax"], timings["jax"])
    rows = [
        {
            "package": package,
            "median_s": measured.median,
            "min_s": measured.minimum,
            "max_s": measured.maximum,
            "ratio": timing.ratio(measured, timings["jax"]),
        }
        for package, measured in timings.items()
    ]
    timing.record("import_time", rows, args)
    print(f"eigenjax / jax: {ratio:.3f}, at most {TARGET} allowed: {'met' if ratio <= TARGET else 'MISSED'}")


if __name__ == "__main__":
    main()
