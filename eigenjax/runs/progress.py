"""Progress of a run on standard error: one updated line at a terminal, plain lines elsewhere."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from eigenjax.runs.solve import SolveProgress

# Seconds between two plain lines.
_BETWEEN_LINES = 10.0
# Number of recent convergence checks that the rate is estimated from, because convergence accelerates.
_RECENT_CHECKS = 20

Show = Callable[[SolveProgress], None]


class Moment(NamedTuple):
    """Progress at one time."""

    seconds: float  # monotonic time
    num_matvecs: int  # number of matvecs
    distance: float  # log(worst residual / bound)


def time_left(moments: list[Moment], max_matvecs: int) -> tuple[float, bool]:
    """Estimate the seconds until the worst pair has converged, at the recent rate, or until the budget is spent.

    Args:
        moments: progress at the convergence checks so far, the last one at the current time.
        max_matvecs: budget of matvecs.

    Returns:
        The seconds, inf if there is no estimate; and True if they are only a bound.

    Example:
        >>> time_left([Moment(0.0, 0, 9.0), Moment(10.0, 20, 6.0)], max_matvecs=100)
        (20.0, False)
        >>> time_left([Moment(0.0, 0, 9.0), Moment(10.0, 20, 9.0)], max_matvecs=100)
        (40.0, True)
    """
    if len(moments) < 2 or moments[-1].num_matvecs <= moments[0].num_matvecs:
        return math.inf, True
    now = moments[-1]
    per_matvec = (now.seconds - moments[0].seconds) / (now.num_matvecs - moments[0].num_matvecs)
    at_most = per_matvec * max(max_matvecs - now.num_matvecs, 0)
    recent = [moment for moment in moments[-_RECENT_CHECKS:] if math.isfinite(moment.distance)]
    if len(recent) > 1 and recent[0].distance > now.distance and recent[0].num_matvecs < now.num_matvecs:
        rate = (recent[0].distance - now.distance) / (now.num_matvecs - recent[0].num_matvecs)
        left = per_matvec * max(now.distance, 0.0) / rate
        if left < at_most:
            return left, False
    return at_most, True


def describe(progress: SolveProgress, k: int, left: tuple[float, bool]) -> str:
    """Format one line of progress, without the elapsed time.

    >>> describe(SolveProgress(41, 3, 2e-3, 1e-4, False), 10, (75.0, False))
    '3/10 pairs, worst residual 2.0e-03 (wanted 1.0e-04), 41 matvecs, about 1:15 left'
    """
    worst = float(progress.worst_residual)
    residual = f"worst residual {worst:.1e} (wanted {float(progress.bound):.1e})" if math.isfinite(worst) else "begun"
    seconds, is_bound = left
    end = f", {'at most' if is_bound else 'about'} {clock(seconds)} left" if math.isfinite(seconds) else ""
    end = ", done" if progress.done else end
    return f"{int(progress.num_converged)}/{k} pairs, {residual}, {int(progress.num_matvecs)} matvecs{end}"


@contextlib.contextmanager
def progress_display(wanted: bool, k: int, max_matvecs: int) -> Iterator[Show]:
    """Provide `show(progress)`, to be called after every convergence check; without `wanted` it does nothing."""
    if not wanted:
        yield lambda _: None
        return
    moments: list[Moment] = []
    with writer() as write:

        def show(progress: SolveProgress) -> None:
            worst, bound = float(progress.worst_residual), float(progress.bound)
            is_measured = math.isfinite(worst) and worst > 0 and bound > 0
            distance = math.log(worst / bound) if is_measured else math.inf
            moments.append(Moment(time.monotonic(), int(progress.num_matvecs), distance))
            del moments[1:-_RECENT_CHECKS]
            left = time_left(moments, max_matvecs)
            write(describe(progress, k, left), int(progress.num_converged) / k, bool(progress.done))

        yield show


@contextlib.contextmanager
def writer() -> Iterator[Callable[[str, float, bool], None]]:
    """Provide `write(line, share, done)`: a bar at a terminal, plain lines elsewhere."""
    bar = _bar() if sys.stderr.isatty() else None
    if bar is None:
        yield _plain_lines()
        return
    with bar:
        task = bar.add_task("", total=1.0)
        yield lambda line, share, _: bar.update(task, completed=share, description=line)


def _bar() -> Any:
    try:
        from rich import progress
        from rich.console import Console
    except ImportError:
        return None
    columns = (progress.BarColumn(bar_width=12), progress.TextColumn("{task.description}"))
    return progress.Progress(*columns, progress.TimeElapsedColumn(), console=Console(stderr=True, highlight=False))


def _plain_lines() -> Callable[[str, float, bool], None]:
    start = time.monotonic()
    last = -math.inf

    def write(line: str, _: float, done: bool) -> None:
        nonlocal last
        now = time.monotonic()
        if done or now - last >= _BETWEEN_LINES:
            last = now
            sys.stderr.write(f"eigenjax: {line} ({clock(now - start)})\n")
            sys.stderr.flush()

    return write


def clock(seconds: float) -> str:
    """Format seconds as minutes and seconds, with hours if there are any."""
    minutes, remaining = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{remaining:02}" if hours else f"{minutes}:{remaining:02}"
