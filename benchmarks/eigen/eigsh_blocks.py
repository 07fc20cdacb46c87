"""Claim: blocks are faster if a matvec with several vectors costs little more than one, or if eigenvalues repeat.

Seconds of `eigsh` with block sizes 1, 2, 4 and 8 to the same true residual, timed in turn. The operators are a dense
matrix, a network's Hessian over a batch, and a spectrum with eigenvalues of multiplicity eight. A dense matvec reads
the whole matrix for one vector or for eight. With eigenvalues of multiplicity eight, a single vector needs `verify` to
find all copies, and a block of eight does not.

    python -m benchmarks.eigen.eigsh_blocks
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.eigen.lanczos_overhead import network_hessian
from benchmarks.support import timing
from eigenjax import eigsh

TOL = 1e-4


class Case(NamedTuple):
    """Problem and the options of `eigsh` to compare."""

    name: str
    operator: Any
    truth: np.ndarray | None  # (k,) the largest eigenvalues
    k: int
    ways: tuple[dict[str, Any], ...]


def dense(eigenvalues: np.ndarray) -> jax.Array:
    """Create a full matrix with the given eigenvalues."""
    reflector = np.random.default_rng(0).normal(size=len(eigenvalues))
    reflector /= np.linalg.norm(reflector)
    half = np.eye(len(eigenvalues)) - 2 * np.outer(reflector, reflector)
    return jnp.asarray((half * eigenvalues) @ half, jnp.float32)


def cases(quick: bool) -> Iterator[Case]:
    """Yield all cases."""
    n = 200 if quick else 4000
    blocks = tuple({"block_size": b, "verify": False} for b in ((1, 2) if quick else (1, 2, 4, 8)))
    spectrum = np.r_[np.linspace(0, 1, n - 32) ** 2, np.linspace(1.05, 1.4, 32)]
    yield Case("dense", dense(spectrum), np.sort(spectrum)[::-1][:10], 10, blocks)
    repeated = np.r_[np.linspace(0, 1, n - 16), np.full(8, 1.2), np.full(8, 1.1)]
    ways = ({"verify": True}, *blocks[-1:])
    yield Case("dense, eight copies", dense(repeated), np.r_[np.full(8, 1.2), np.full(2, 1.1)], 10, ways)
    widths, examples = ((16, 16, 4), 50) if quick else ((64, 256, 256, 10), 1797)
    yield Case("network Hessian", network_hessian(widths, examples), None, 5, blocks[:3])


def main(argv: Sequence[str] | None = None) -> None:
    """Measure times and record them."""
    args = timing.arguments(__doc__, 5, argv)
    rows = []
    for case in cases(args.quick):
        solve = lambda case, way: eigsh(case.operator, case.k, tol=TOL, dense=False, **way)
        programs = {str(way): functools.partial(solve, case, way) for way in case.ways}
        timings = timing.interleaved(programs, args.repeats)
        first = timings[str(case.ways[0])]
        for name, program in programs.items():
            result = program()
            error = np.nan if case.truth is None else np.abs(np.asarray(result.eigenvalues) - case.truth).max()
            rows.append(
                {
                    "problem": case.name,
                    "way": name,
                    "products": int(result.num_matvecs),
                    "converged": bool(np.all(result.converged)),
                    "worst_error": float(error),
                    "median_s": timings[name].median,
                    "ratio": timing.ratio(timings[name], first),
                }
            )
    timing.record("eigsh_blocks", rows, args)


if __name__ == "__main__":
    main()
