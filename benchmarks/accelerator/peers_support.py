"""Program for the eigenpairs of a problem, tried at tolerances until its true residuals suffice, then timed."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks.accelerator.harness import Log, Row, describe

# Seconds of timing one program: a slow one is timed once.
_ENOUGH_S = 4.0


class Peer(NamedTuple):
    """Program with its settings, from the loosest on; the first whose residuals suffice is timed."""

    name: str
    settings: Sequence[Callable[[], Any]]  # each waits for its result
    residual: Callable[[Any], float]  # the largest residual of a result over the norm
    matvecs: Callable[[Any], int | None] = lambda _: None
    compile_s: float | None = None


def compare(peers: Sequence[Callable[[], Peer]], target: float, log: Log) -> Iterator[Row]:
    """Yield one row for each peer; one that raises, or is not installed, gives a row with its error."""
    for make in peers:
        name = make.__name__.strip("_")
        try:
            peer = make()
            yield _measured(peer, target, log)
        except ImportError as error:
            yield {"program": name, "error": f"not installed: {error}"}
        except Exception as error:
            yield {"program": name, "error": describe(error)}


def _measured(peer: Peer, target: float, log: Log) -> Row:
    first_s = None
    for program in peer.settings:
        seconds, found = _timed(program)
        first_s = seconds if first_s is None else first_s
        residual = peer.residual(found)
        if residual <= target:
            break
    samples = []
    for _ in range(log.args.repeats):
        if samples and (sum(samples) > _ENOUGH_S or log.deadline.left < 2 * seconds):
            break
        seconds, found = _timed(program)
        samples.append(seconds)
    return {
        "program": peer.name,
        "seconds": statistics.median(samples),
        "residual": residual,
        "target": target,
        "enough": residual <= target,
        "matvecs": peer.matvecs(found),
        "rounds": len(samples),
        "compile_s": peer.compile_s,
        "first_s": first_s,
    }


def _timed(program: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    found = program()
    return time.perf_counter() - start, found
