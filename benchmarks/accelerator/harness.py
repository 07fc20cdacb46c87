"""Support of the stages: deadlines, rows that are written at once, programs compiled side by side, rounds of timing."""

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
    """When a stage stops beginning anything."""

    end: float  # of time.monotonic()

    @property
    def left(self) -> float:
        """Seconds until then."""
        return self.end - time.monotonic()


def deadlines(minutes: float, shares: Sequence[float]) -> list[Deadline]:
    """One for each stage, at its share of the minutes; the last stage has all that is left."""
    start = time.monotonic()
    return [Deadline(start + 60 * minutes * share / max(shares)) for share in shares]


class Item(NamedTuple):
    """A part of a stage that stands or falls alone."""

    labels: Row  # of its rows, in case it has none
    seconds: float  # it is not begun with less left
    rows: Callable[[], Iterable[Row]]


class Log:
    """The rows of a stage; each addition is on disk before the next item begins."""

    def __init__(self, stage: str, args: Namespace, deadline: Deadline):
        """Begins with no row."""
        self.stage, self.args, self.deadline = stage, args, deadline
        self.rows: list[Row] = []

    def add(self, row: Row) -> None:
        """One more row, written."""
        self.rows.append(row)
        timing.write(self.name, self._even(), self.args)

    def show(self) -> None:
        """The table; of rows that are right or not, those that are not."""
        rows = [row for row in self._even() if not row.get("ok")]
        right = f", {len(self.rows) - len(rows)} of them right" if any("ok" in row for row in self.rows) else ""
        print(f"{self.stage}: {len(self.rows)} rows{right}", flush=True)
        if rows:
            print(timing.table(rows), flush=True)

    def run(self, items: Sequence[Item]) -> None:
        """Every item in order; one without time is recorded as skipped, one that raises by its error."""
        for item in items:
            left = self.deadline.left
            if not self.args.quick and left < item.seconds:
                self.add(item.labels | {"error": f"skipped: {left:.0f} s left, {item.seconds:.0f} s wanted"})
                continue
            try:
                for row in item.rows():
                    self.add({"error": ""} | item.labels | row)
            except Exception as error:  # whatever it is: the others go on
                self.add(item.labels | {"error": describe(error)})
            gc.collect()

    @property
    def name(self) -> str:
        """Of the result file."""
        return f"accelerator_{self.stage}"

    def _even(self) -> list[Row]:
        # All rows with the same columns, the error last.
        columns = [key for key in dict.fromkeys(key for row in self.rows for key in row) if key != "error"]
        return [{key: row.get(key) for key in [*columns, "error"]} for row in self.rows]


def describe(error: Exception) -> str:
    """An error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:_ERROR_LENGTH]


class Program(NamedTuple):
    """A compiled program, to be called with its arguments."""

    call: Callable
    compile_s: float  # tracing, lowering and compiling, beside others that compile
    temp_bytes: int
    out_info: Any


def compiled(function: Callable, *args: Any) -> Program:
    """The program of a function for arguments like these: arrays, or shapes."""
    start = time.perf_counter()
    lowered = jax.jit(function).lower(*args)
    program = lowered.compile()
    seconds = time.perf_counter() - start
    memory = program.memory_analysis()
    info = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), lowered.out_info)
    return Program(program, seconds, getattr(memory, "temp_size_in_bytes", 0), info)


def side_by_side(tasks: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """What each task returns, or the exception that it raised; all run at once, in threads."""

    def guarded(task):
        try:
            return task()
        except Exception as error:
            return error.with_traceback(None)  # a traceback would hold arrays

    with ThreadPoolExecutor(_WORKERS) as pool:
        return dict(zip(tasks, pool.map(guarded, tasks.values()), strict=True))


class Rounds(NamedTuple):
    """What rounds of timing have told of one program."""

    first_s: float  # of the first call, compiled before
    samples: list[float]
    peak_bytes: int | None  # of the process, after the first call
    error: str

    @property
    def median(self) -> float:
        """Of the samples, or of the first call where there was no time for more."""
        return statistics.median(self.samples or [self.first_s])


def rounds(programs: Mapping[str, Callable[[], Any]], repeats: int, deadline: Deadline) -> dict[str, Rounds]:
    """Times programs in turn, A B A B, after a first round; one that raises is left out from there on.

    A round is not begun when it would not end in time.
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
    """The most that the device held since the process began, where it says."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
