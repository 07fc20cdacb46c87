"""Claim: `svds(which="SM")` needs fewer matvecs than SciPy's with ARPACK, on the whole, for the same true residuals.

Matvecs with A and A^T together until the k smallest triplets satisfy (||A v - s u||^2 + ||A^T u - s v||^2)^(1/2) <=
1e-8 ||A||. Residuals are recomputed from the vectors returned, in float64. Both have the same start vector and basis
size.
`plain` are the matvecs with verify=False, as ARPACK makes them, and `all` those until all copies of repeated values are
certain. ARPACK iterates with A^T A, for the loosest tolerance of its own that suffices; `arpack_residual` above 1e-8
means that none does. `error` is that of the worst value relative to ||A||. `time` is that of a later call with
verify=False, relative to ARPACK's.

    python -m benchmarks.eigen.small_singular [--quick]
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg

from benchmarks.singular.svds_products import Problem, basis_size, grid_differences, problem, rotated
from benchmarks.support import timing
from benchmarks.support.counted_operator import CountedOperator
from eigenjax import svds

PAIRS, TOL = (3, 6), 1e-8
# Tolerances of ARPACK, relative to the squares, the loosest first.
_TIGHTENINGS = tuple(10.0**-i for i in range(1, 16, 2))
_MOST_RESTARTS, _MOST_MATVECS = 2000, 100_000


def problems(quick: bool) -> Iterator[Problem]:
    """Yield all problems; with `quick`, small ones."""
    p, n = (40, 30) if quick else (300, 200)
    rng = np.random.default_rng(0)
    bulk = np.linspace(1, 0.1, n - 3)
    yield problem("random", rng.standard_normal((p, n)))
    if quick:
        return
    yield problem("random, square", rng.standard_normal((n, n)))
    yield problem("random, sparse", scipy.sparse.random(p, n, 0.2, random_state=0).toarray())
    yield problem("differences with ends", np.eye(101, 100) - np.eye(101, 100, -1))
    yield problem("grid differences", grid_differences(24, 19))
    yield rotated("condition 1e4", np.r_[bulk, 1e-2, 1e-3, 1e-4], p, rng)
    yield rotated("condition 1e8", np.r_[bulk, 1e-4, 1e-6, 1e-8], p, rng)
    yield rotated("three zeros", np.r_[bulk, 0, 0, 0], p, rng)
    yield rotated("1 / i", 1 / np.arange(1.0, n + 1), p, rng)


@functools.partial(jax.jit, static_argnames=("k", "verify"))
def solve(matrix: jax.Array, start: jax.Array, *, k: int, verify: bool) -> Any:
    """Run `svds` with the default basis size."""
    options = {"krylov_dim": basis_size(k), "max_matvecs": _MOST_MATVECS}
    return svds(matrix, k, which="SM", tol=TOL, v0=start, verify=verify, **options)


def checked(one: Problem, left: np.ndarray, values: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """Return the largest residual, and the largest error of a value, over ||A||; vectors are rows."""
    forward = np.linalg.norm(right @ one.matrix.T - values[:, None] * left, axis=1)
    back = np.linalg.norm(left @ one.matrix - values[:, None] * right, axis=1)
    error = np.abs(values - one.values[::-1][: len(values)]).max()
    return float(np.hypot(forward, back).max() / one.values[0]), float(error / one.values[0])


def run_arpack(one: Problem, k: int, start: np.ndarray, tol: float) -> tuple[int, float]:
    """Return matvecs and residual of one solve with ARPACK; NaN if it fails."""
    operator = CountedOperator(one.matrix.shape, lambda v: one.matrix @ v, lambda u: one.matrix.T @ u)
    options = {"which": "SM", "ncv": basis_size(k), "tol": tol, "v0": start, "maxiter": _MOST_RESTARTS}
    try:
        left, values, right = scipy.sparse.linalg.svds(operator, k, **options)
    except scipy.sparse.linalg.ArpackError:
        return operator.products, float("nan")
    order = np.argsort(values)
    return operator.products, checked(one, left.T[order], values[order], right[order])[0]


def compare(one: Problem, k: int, repeats: int) -> dict[str, Any]:
    """Return one row."""
    start = np.random.default_rng(1).standard_normal(one.matrix.shape[1])
    arguments = jnp.asarray(one.matrix), jnp.asarray(start)
    plain, verified = (solve(*arguments, k=k, verify=verify) for verify in (False, True))
    for tol in _TIGHTENINGS:
        arpack, arpack_residual = run_arpack(one, k, start, tol)
        if not arpack_residual > TOL:
            break
    programs = {
        "svds": lambda: solve(*arguments, k=k, verify=False),
        "arpack": lambda: run_arpack(one, k, start, tol),
    }
    times = timing.interleaved(programs, repeats)
    residual, error = checked(one, *(np.asarray(x) for x in verified[:3]))
    return {
        "problem": one.name,
        "k": k,
        "all": int(verified.num_matvecs),
        "plain": int(plain.num_matvecs),
        "arpack": arpack,
        "ratio": int(plain.num_matvecs) / arpack,
        "residual": residual,
        "error": error,
        "arpack_residual": arpack_residual,
        "time": timing.ratio(times["svds"], times["arpack"]),
        "converged": bool(np.all(verified.converged)),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Compare the solvers and record it."""
    args = timing.arguments(__doc__, 3, argv)
    with jax.enable_x64(True):
        rows = [compare(one, k, args.repeats) for one in problems(args.quick) for k in PAIRS]
    timing.record("small_singular", rows, args)


if __name__ == "__main__":
    main()
