"""Timing of programs and recording of results, shared by all benchmarks.

Programs are timed in turn, A B A B, within one run: a change in the machine's load affects all of them alike. The ratio
of two neighboring times is more reliable than that of two medians taken minutes apart. Every call is waited for.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

RESULTS = Path(__file__).parents[1] / "results"
_PACKAGES = (
    *("eigenjax", "jax", "jaxlib", "numpy", "scipy", "flax", "optax"),
    *("matfree", "primme", "torch", "curvlinops-for-pytorch", "hessian-eigenthings", "cupy-cuda12x"),
)


class Timing(NamedTuple):
    """Times of one program, in seconds."""

    median: float
    minimum: float
    maximum: float
    samples: tuple[float, ...]  # in the order of measurement


def seconds(program: Callable[[], Any]) -> float:
    """Measure the wall time of one call, until all of its arrays are ready."""
    start = time.perf_counter()
    jax.block_until_ready(program())
    return time.perf_counter() - start


def interleaved(
    programs: Mapping[str, Callable[[], Any]],
    repeats: int,
    warmup: int = 1,
    measure: Callable[[Callable[[], Any]], float] = seconds,
) -> dict[str, Timing]:
    """Time each program `repeats` times, in turn, after `warmup` discarded rounds, which compile.

    Args:
        programs: by name, functions of no arguments.
        repeats: number of rounds that count.
        warmup: number of rounds that do not.
        measure: function that returns the seconds of one call; replace it for a program that measures its own time.
    """
    samples: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(warmup + repeats):
        for name, program in programs.items():
            samples[name].append(measure(program))
    return {name: _summary(values[warmup:]) for name, values in samples.items()}


def ratio(numerator: Timing, denominator: Timing) -> float:
    """Compute the median over rounds of the ratio of two programs timed in the same rounds."""
    return statistics.median(a / b for a, b in zip(numerator.samples, denominator.samples, strict=True))


def arguments(description: str | None, repeats: int, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line that all benchmarks share: --repeats, --quick, --out."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=None, help=f"rounds of timing (default {repeats}, quick: 2)")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it runs, measures nothing")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result file (default %(default)s)")
    parsed = parser.parse_args(argv)
    if parsed.repeats is None:
        parsed.repeats = 2 if parsed.quick else repeats
    print(f"device: {device_kind()}, {os.cpu_count()} cores, {jax.device_count()} device(s)", flush=True)
    return parsed


def record(name: str, rows: Sequence[Mapping[str, Any]], args: argparse.Namespace) -> Path:
    """Print the rows as a table and write them, with versions and arguments, to <name>-<device kind>.json.

    Args:
        name: name of the benchmark.
        rows: dicts of numbers, strings and booleans, all with the same keys.
        args: the parsed command line, from `arguments`.

    Returns:
        The path written. The file is written completely or not at all.
    """
    print(f"{name} on {device_kind()}" + (" (quick: no measurement)" if args.quick else ""))
    print(table(rows))
    return write(name, rows, args)


def write(name: str, rows: Sequence[Mapping[str, Any]], args: argparse.Namespace) -> Path:
    """Write the rows, with versions and arguments, to <name>-<device kind>.json, without printing.

    Args:
        name: name of the benchmark.
        rows: dicts of numbers, strings and booleans, all with the same keys.
        args: the parsed command line, from `arguments`.

    Returns:
        The path written. The file is written completely or not at all.
    """
    document = {
        "name": name,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": device_kind(),
        "backend": jax.default_backend(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {package: version for package in _PACKAGES if (version := _version(package))},
        "arguments": {"repeats": args.repeats, "quick": args.quick},
        "rows": [dict(row) for row in rows],
    }
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{name}-{_slug(device_kind())}.json"
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(document, indent=1) + "\n")
    partial.replace(path)
    return path


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format the rows under their keys, with numbers right-aligned to four digits."""
    cells = [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = [isinstance(value, int | float) for value in rows[0].values()]
    align = lambda cell, width, right: cell.rjust(width) if right else cell.ljust(width)
    return "\n".join("  ".join(map(align, line, widths, numeric)).rstrip() for line in cells)


def device_kind() -> str:
    """Return the name of the default device."""
    return jax.devices()[0].device_kind


def _summary(samples: list[float]) -> Timing:
    return Timing(statistics.median(samples), min(samples), max(samples), tuple(samples))


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
