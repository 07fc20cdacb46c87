"""Claim: the missed-pair search, on by default in `eigsh`, costs half of the solve's matvecs, on the whole.

Matvecs of a call with default options over those of the same call with `verify=False`, on the spectra of
`eigsh_products`. They are also compared with `scipy.sparse.linalg.eigsh` with its defaults, which makes no search and
solves to eps, where `eigsh` solves to its square root. Medians over three keys or start vectors. With looser tolerances
the search costs about the same, and the solve less.

    python -m benchmarks.eigen.verify_products
"""

import functools
import statistics
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg
from jax.experimental import sparse

from benchmarks.support import timing
from benchmarks.support.counted_operator import CountedOperator
from benchmarks.support.spectra import Spectrum, problems
from eigenjax import Status, eigsh

PAIRS = (1, 5, 10, 20)
# The last tolerance is the default of `eigsh`.
TOLERANCES = (1e-3, 1e-6, float(np.finfo(float).eps ** 0.5))
STARTS = 3


@functools.partial(jax.jit, static_argnames=("k", "which", "verify"))
def solve(matrix: Any, keys: jax.Array, tol: jax.Array, *, k: int, which: str, verify: bool) -> Any:
    """Return the matvecs and statuses of a solve from each of the keys."""

    def one(key):
        result = eigsh(matrix, k, which=which, key=key, tol=tol, verify=verify, dense=False)
        return result.num_matvecs, result.status, result.eigenvalues

    return jax.vmap(one)(keys)


def as_jax(matrix: Any) -> Any:
    """Convert a dense or sparse matrix to JAX."""
    return jnp.asarray(matrix) if isinstance(matrix, np.ndarray) else sparse.BCSR.from_scipy_sparse(matrix)


def scipy_products(problem: Spectrum, k: int, start: np.ndarray) -> int:
    """Count the matvecs of SciPy's call with its defaults."""
    operator = CountedOperator(problem.matrix.shape, lambda v: problem.matrix @ v)
    scipy.sparse.linalg.eigsh(operator, k, which=problem.which, v0=start)
    return operator.products


def compare(problem: Spectrum, pairs: Sequence[int], tolerances: Sequence[float], starts: int) -> list[dict[str, Any]]:
    """Count matvecs for every k and tol, a row each."""
    n = problem.matrix.shape[0]
    matrix, keys = as_jax(problem.matrix), jax.random.split(jax.random.key(0), starts)
    rows = []
    # SciPy accepts BE for two pairs or more.
    for k in pairs if problem.which != "BE" else [k for k in pairs if k > 1]:
        vectors = [np.random.default_rng(100 + i).normal(size=n) for i in range(starts)]
        arpack = statistics.median(scipy_products(problem, k, start) for start in vectors)
        for tol in tolerances:
            run = functools.partial(solve, matrix, keys, jnp.asarray(tol), k=k, which=problem.which)
            counts, statuses, values = jax.device_get(run(verify=True))
            plain, _, _ = jax.device_get(run(verify=False))
            right = [np.abs(np.sort(found) - problem.wanted(k)).max() <= tol * problem.norm for found in values]
            rows.append(
                {
                    "problem": f"{problem.name}, {problem.which}, n={n}",
                    "k": k,
                    "tol": tol,
                    "verify": statistics.median(counts.tolist()),
                    "without": statistics.median(plain.tolist()),
                    "ratio": statistics.median(counts.tolist()) / statistics.median(plain.tolist()),
                    "scipy": arpack,
                    "over_scipy": statistics.median(counts.tolist()) / arpack,
                    "converged": int(np.sum(statuses == Status.CONVERGED)),
                    "right": int(np.sum(right)),
                    "starts": starts,
                }
            )
    return rows


def mean(rows: Sequence[dict[str, Any]], column: str) -> float:
    """Compute the geometric mean of a column."""
    return float(np.exp(np.mean([np.log(row[column]) for row in rows])))


def main(argv: Sequence[str] | None = None) -> None:
    """Count matvecs and record them; --repeats is the number of keys."""
    args = timing.arguments(__doc__, STARTS, argv)
    pairs, tolerances = ((5,), TOLERANCES[-1:]) if args.quick else (PAIRS, TOLERANCES)
    rows = []
    with jax.enable_x64(True):
        for problem in problems(args.quick):
            found = compare(problem, pairs, tolerances, args.repeats)
            print(timing.table(found), flush=True)
            rows += found
            # Together, the programs of all problems would exceed the limit of memory maps of a process.
            jax.clear_caches()
    timing.record("verify_products", rows, args)
    for tol in dict.fromkeys(row["tol"] for row in rows):
        part = [row for row in rows if row["tol"] == tol]
        by_k = {k: round(mean([row for row in part if row["k"] == k], "ratio"), 2) for k in pairs}
        over = [(row["problem"], row["k"], round(row["over_scipy"], 2)) for row in part if row["over_scipy"] >= 1]
        print(f"tol={tol}: over verify=False {mean(part, 'ratio'):.2f}, by k {by_k}")
        print(f"  over SciPy {mean(part, 'over_scipy'):.2f}, not below it: {over}")


if __name__ == "__main__":
    main()
