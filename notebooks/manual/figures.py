"""Reading of benchmarks/results/*.json, and the ways in which rows become a figure."""

import json
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"

Rows = list[Mapping[str, Any]]
# What is compared, the name of the benchmark, and the function of its rows that gives the figure as text.
Line = tuple[str, str, Callable[[Rows], str]]


def number(x: float) -> str:
    """Write a number with two decimals below 10, with none from 10 on, and in powers of ten below 0.01.

    >>> number(0.8249), number(34.46), number(16526), number(3e-4)
    ('0.82', '34', '16,526', '3e-4')
    """
    if 0 < abs(x) < 0.01:
        return f"{x:.0e}".replace("e-0", "e-")
    return f"{x:,.0f}" if abs(x) >= 10 or isinstance(x, int) else f"{x:.2f}"


def mean(values: Iterable[float]) -> float:
    """Compute the geometric mean."""
    logarithms = [math.log(x) for x in values]
    return math.exp(sum(logarithms) / len(logarithms))


def where(rows: Rows, **conditions: Any) -> Rows:
    """Select the rows with these values; a text matches if it is contained."""
    matches = lambda found, wanted: wanted in found if isinstance(wanted, str) and found else found == wanted
    return [row for row in rows if all(matches(row[name], wanted) for name, wanted in conditions.items())]


def column(rows: Rows, name: str) -> list[Any]:
    """Return one column, without the rows that have no value."""
    return [row[name] for row in rows if row[name] is not None]


def span(values: Iterable[float]) -> str:
    """Write the smallest and the largest value."""
    values = sorted(values)
    low, high = number(values[0]), number(values[-1])
    return low if low == high else f"{low} to {high}"


def summary(values: Iterable[float], *, bound: float = 1.0) -> str:
    """Write the geometric mean, the number of values above the bound, and the largest one."""
    values = list(values)
    above = sum(x > bound for x in values)
    middle = f"{number(mean(values))} in the geometric mean of {len(values)}"
    return f"{middle}; {above or 'none'} above {bound:g}, at worst {number(max(values))}"


def ratios(name: str = "ratio", **conditions: Any) -> Callable[[Rows], str]:
    """Return the function that summarizes the ratios of these rows."""
    return lambda rows: summary(column(where(rows, **conditions), name))


def inverses(name: str = "ratio", **conditions: Any) -> Callable[[Rows], str]:
    """Return the function that writes our time over theirs from ratios of their time over ours."""
    return lambda rows: " / ".join(number(1 / ratio) for ratio in column(where(rows, **conditions), name))


def listed(name: str, **conditions: Any) -> Callable[[Rows], str]:
    """Return the function that writes one value after another, of one column of these rows."""
    return lambda rows: " / ".join(map(number, column(where(rows, **conditions), name)))


def span_of(name: str, **conditions: Any) -> Callable[[Rows], str]:
    """Return the function that writes the smallest and the largest value of one column of these rows."""
    return lambda rows: span(column(where(rows, **conditions), name))


def span_over(name: str, by: str, **conditions: Any) -> Callable[[Rows], str]:
    """Return the function that writes the smallest and the largest ratio of two columns."""
    return lambda rows: span(row[name] / row[by] for row in where(rows, **conditions))


def document(name: str) -> dict[str, Any]:
    """Read the result of one benchmark; there must be one device."""
    (path,) = (BENCHMARKS / "results").glob(f"{name}-*.json")
    return json.loads(path.read_text())


def rows_of(name: str) -> Rows:
    """Read the rows of one benchmark."""
    return document(name)["rows"]


def command(name: str) -> str:
    """Return the command that measures this result."""
    family, _, stage = name.partition("_")
    if family == "accelerator":
        return f"python -m benchmarks.accelerator --stages {stage}"
    if name.startswith("compiled_for_"):
        return f"python -m benchmarks.compilers.{name.split('_')[2]}"
    (path,) = BENCHMARKS.glob(f"*/{name}.py")
    return f"python -m benchmarks.{path.parent.name}.{name}"
