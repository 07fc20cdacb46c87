"""Claim: `eigsh` compiles in seconds for any number of pairs, and only once.

Time to trace and lower, and to compile, `eigsh` of a dense matrix of 1,000 dimensions in a fresh `jit`, for k = 1, 10
and 50. A second call with another matrix, start vector and tolerance must compile no program.

    python -m benchmarks.scale.eigsh_compile
"""

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.support import timing
from eigenjax import eigsh


def matrix(n: int, seed: int) -> jax.Array:
    """Draw a random symmetric matrix."""
    sample = np.random.default_rng(seed).normal(size=(n, n))
    return jnp.asarray(sample + sample.T, jnp.float32)


def fresh_program(k: int) -> Callable:
    """Create a new jitted `eigsh`, which shares only JAX's own caches with other ones."""

    def program(a, start, tol):
        return eigsh(a, k, v0=start, tol=tol)

    return jax.jit(program)


def compile_seconds(k: int, n: int) -> tuple[float, float]:
    """Measure the seconds to trace and lower, and to compile, without cached programs."""
    jax.clear_caches()
    arguments = matrix(n, 0), jnp.ones(n), jnp.float32(1e-3)
    start = time.perf_counter()
    lowered = fresh_program(k).lower(*arguments)
    middle = time.perf_counter()
    lowered.compile()
    return middle - start, time.perf_counter() - middle


def compiled_by_second_call(k: int, n: int) -> int:
    """Count the programs compiled by a second call with other numbers."""
    program = fresh_program(k)
    calls = [
        functools.partial(program, matrix(n, seed), jnp.full(n, 1.0 + seed), jnp.float32(1e-3 / (1 + seed)))
        for seed in (0, 1)
    ]
    jax.block_until_ready(calls[0]())
    events: list[str] = []
    listening = [True]

    def note(event: str, *_: Any, **__: Any) -> None:
        if listening[0] and event.endswith("backend_compile_duration"):
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    jax.block_until_ready(calls[1]())
    # JAX has no public function to remove a listener: this one ignores later events.
    listening[0] = False
    return len(events)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure times and record them."""
    args = timing.arguments(__doc__, 3, argv)
    n, counts = (100, (1,)) if args.quick else (1000, (1, 10, 50))
    rows = []
    for k in counts:
        samples = [compile_seconds(k, n) for _ in range(args.repeats)]
        lower, compiled = (statistics.median(column) for column in zip(*samples, strict=True))
        rows.append(
            {
                "k": k,
                "n": n,
                "lower_s": lower,
                "compile_s": compiled,
                "total_s": statistics.median(map(sum, samples)),
                "compiled_by_second_call": compiled_by_second_call(k, n),
            }
        )
    timing.record("eigsh_compile", rows, args)


if __name__ == "__main__":
    main()
