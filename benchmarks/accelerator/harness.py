"""Support of the stages: deadlines, rows written immediately, programs compiled in parallel, rounds of timing."""

import gc
import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax

from benchmarks.support import timing

Row = dict[str, Any]
_ERROR_LENGTH = 300
_WORKERS = 8


class Deadline(NamedTuple):
    """Time at which a stage stops starting items."""

    end: float  # of time.monotonic()

    @property
    def left(self) -> float:
        """Return the seconds until the deadline."""
        return self.end - time.monotonic()


def deadlines(minutes: float, shares: Sequence[float]) -> list[Deadline]:
    """Return a deadline for each stage, by its share of the minutes; the last stage gets all remaining time."""
    start = time.monotonic()
    return [Deadline(start + 60 * minutes * share / max(shares)) for share in shares]


class Item(NamedTuple):
    """Independent part of a stage."""

    labels: Row  # labels of the row that replaces its rows if it fails or is skipped
    seconds: float  # required time: the item is skipped if less is left
    rows: Callable[[], Iterable[Row]]


class Log:
    """Rows of a stage; each is on disk before the next item starts."""

    def __init__(self, stage: str, args: Namespace, deadline: Deadline):
        """Start without rows."""
        self.stage, self.args, self.deadline = stage, args, deadline
        self.rows: list[Row] = []

    def add(self, row: Row) -> None:
        """Add a row and write the file."""
        self.rows.append(row)
        timing.write(self.name, self._even(), self.args)

    def show(self) -> None:
        """Print the table; for rows with a verdict, only those that are not right."""
        rows = [row for row in self._even() if not row.get("ok")]
        right = f", {len(self.rows) - len(rows)} of them right" if any("ok" in row for row in self.rows) else ""
        print(f"{self.stage}: {len(self.rows)} rows{right}", flush=True)
        if rows:
            print(timing.table(rows), flush=True)

    def run(self, items: Sequence[Item]) -> None:
        """Run every item in order; record an item without time as skipped, and one that raises by its error."""
        for item in items:
            left = self.deadline.left
            if not self.args.quick and left < item.seconds:
                self.add(item.labels | {"error": f"skipped: {left:.0f} s left, {item.seconds:.0f} s wanted"})
                continue
            try:
                for row in item.rows():
                    self.add({"error": ""} | item.labels | row)
            except Exception as error:  # any error: the other items continue
                self.add(item.labels | {"error": describe(error)})
            gc.collect()

    @property
    def name(self) -> str:
        """Return the name of the result file."""
        return f"accelerator_{self.stage}"

    def _even(self) -> list[Row]:
        # All rows get the same columns, the error last.
        columns = [key for key in dict.fromkeys(key for row in self.rows for key in row) if key != "error"]
        return [{key: row.get(key) for key in [*columns, "error"]} for row in self.rows]


def describe(error: Exception) -> str:
    """Format an error as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:_ERROR_LENGTH]


class Program(NamedTuple):
    """Compiled program, to be called with its arguments."""

    call: Callable
    compile_s: float  # tracing, lowering and compiling, while others compile too
    temp_bytes: int
    out_info: Any


def compiled(function: Callable, *args: Any) -> Program:
    """Compile a function for arguments like these: arrays or shapes."""
    start = time.perf_counter()
    lowered = jax.jit(function).lower(*args)
    program = lowered.compile()
    seconds = time.perf_counter() - start
    memory = program.memory_analysis()
    info = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), lowered.out_info)
    return Program(program, seconds, getattr(memory, "temp_size_in_bytes", 0), info)


def side_by_side(tasks: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """Run all tasks at once in threads, and return the result of each or the exception that it raised."""

    def guarded(task):
        try:
            return task()
        except Exception as error:
            return error.with_traceback(None)  # a traceback would hold arrays

    with ThreadPoolExecutor(_WORKERS) as pool:
        return dict(zip(tasks, pool.map(guarded, tasks.values()), strict=True))


class Rounds(NamedTuple):
    """Times of one program."""

    first_s: float  # time of the first call, without compilation
    samples: list[float]
    peak_bytes: int | None  # peak memory of the process after the first call
    error: str

    @property
    def median(self) -> float:
        """Return the median of the samples, or the time of the first call if there are none."""
        return statistics.median(self.samples or [self.first_s])


def rounds(programs: Mapping[str, Callable[[], Any]], repeats: int, deadline: Deadline) -> dict[str, Rounds]:
    """Time programs in turn, A B A B, after a first round; omit a program from the round in which it raises.

    A round does not start if it would not end before the deadline.
    """
    found: dict[str, Rounds] = {}
    start = time.monotonic()
    for name, program in programs.items():
        try:
            found[name] = Rounds(timing.seconds(program), [], peak_bytes(), "")
        except Exception as error:
            found[name] = Rounds(float("nan"), [], peak_bytes(), describe(error))
        gc.collect()
    lasting = time.monotonic() - start
    for _ in range(repeats):
        if deadline.left < lasting and any(one.samples for one in found.values()):
            break
        for name, program in programs.items():
            if not found[name].error:
                found[name].samples.append(timing.seconds(program))
    return found


def peak_bytes() -> int | None:
    """Return the peak memory of the device since the start of the process; None if it is not reported."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
