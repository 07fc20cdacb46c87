"""Claim: `svds` needs no more matvecs than SciPy's with ARPACK at an equal basis size, for the same true residuals.

Matvecs with A and A^H together until all k triplets satisfy (||A v - s u||^2 + ||A^H u - s v||^2)^(1/2) <= tol ||A||.
Residuals are recomputed from the vectors returned, in float64. Medians over three start vectors, the same for both.

`svds` is given tol, and all its matvecs count, including those that verify residuals. ARPACK iterates with A^H A (with
A A^H for wide A), and its criterion is tol times the square of a singular value. It is given tol, then a third of it,
until the residuals are small enough; only the last run counts. `floor` is the smallest residual that ARPACK can reach,
or 0 if it reaches every tolerance.

    python -m benchmarks.singular.svds_products
"""

import functools
import statistics
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg

from benchmarks.support import timing
from benchmarks.support.counted_operator import CountedOperator
from eigenjax import svds

PAIRS = (1, 5, 10, 20)
TOLERANCES = (1e-3, 1e-6, 1e-10)
STARTS = 3
_MOST_TIGHTENINGS = 30


class Problem(NamedTuple):
    """Matrix with its singular values."""

    name: str
    matrix: np.ndarray
    values: np.ndarray  # descending


class Run(NamedTuple):
    """Result of one solve."""

    products: int
    residual: float  # the largest recomputed residual over ||A||
    error: float  # the largest error of a singular value over ||A||


def basis_size(k: int) -> int:
    """Return the default krylov_dim of `svds`."""
    return max(2 * k + 10, 20)


def problems(quick: bool) -> Iterator[Problem]:
    """Yield all problems; with `quick`, at an eighth of their size."""
    p, n = (120, 80) if quick else (960, 640)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((p, n))
    yield problem("random", noise)
    yield problem("random, wide", noise.T)
    factors = rng.standard_normal((p, 10)) @ np.diag(np.geomspace(1, 10, 10)) @ rng.standard_normal((10, n))
    yield problem("ten factors and noise", factors / p**0.5 + noise)
    yield rotated("1 / i", 1 / np.arange(1.0, n + 1), p, rng)
    yield rotated("1 to 1e-10", np.logspace(0, -10, n), p, rng)
    yield rotated("linear", np.linspace(1, 0.01, n), p, rng)
    yield rotated("clusters of five", np.r_[np.repeat(np.arange(10.0, 4, -1), 5), rng.uniform(0, 4, n - 30)], p, rng)
    yield problem("grid differences", grid_differences(*((9, 7) if quick else (24, 19))))
    yield problem("bipartite graph", bipartite(p, n, rng))
    points = np.linspace(0, 1, p)[:, None], np.linspace(0, 1, n)[None, :]
    yield problem("kernel exp(-10 |x - y|)", np.exp(-10 * np.abs(points[0] - points[1])))


def problem(name: str, matrix: np.ndarray) -> Problem:
    """Compute the singular values of a named matrix."""
    return Problem(f"{name}, {matrix.shape[0]} x {matrix.shape[1]}", matrix, np.linalg.svd(matrix, compute_uv=False))


def rotated(name: str, values: np.ndarray, p: int, rng: np.random.Generator) -> Problem:
    """Create a matrix with random singular vectors; copies of a singular value differ by a thousandth."""
    values = values * (1 - 1e-3 * np.arange(len(values)) / len(values))
    left, right = (np.linalg.qr(rng.standard_normal((rows, len(values))))[0] for rows in (p, len(values)))
    return problem(name, (left * values) @ right.T)


def grid_differences(height: int, width: int) -> np.ndarray:
    """Create the (edges, nodes) differences of a grid: its Gram matrix is the graph Laplacian."""
    line = lambda n: np.eye(n)[1:] - np.eye(n)[:-1]
    return np.r_[np.kron(line(height), np.eye(width)), np.kron(np.eye(height), line(width))]


def bipartite(p: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw word counts of documents, with rates that decrease like 1 / rank on both sides."""
    rates = 200.0 / np.add.outer(np.arange(p), np.arange(n) + 10.0)
    return rng.poisson(np.minimum(rates, 5)).astype(float)


@functools.partial(jax.jit, static_argnames=("k", "krylov_dim"))
def solve(matrix: jax.Array, start: jax.Array, tol: jax.Array, *, k: int, krylov_dim: int) -> Any:
    """Run `svds`, with one program for all tolerances, starts and problems of one shape."""
    return svds(matrix, k, tol=tol, krylov_dim=krylov_dim, v0=start, verify=False)


def run_svds(problem: Problem, k: int, tol: float, start: np.ndarray, shape: tuple[int, int]) -> Run:
    """Solve once with `svds`, with the matrix padded by zero rows and columns to the given shape.

    The start vector is zero in the padding and stays zero: the Krylov spaces, and the count, are those of the matrix
    itself.
    """
    p, n = problem.matrix.shape
    matrix = np.pad(problem.matrix, ((0, shape[0] - p), (0, shape[1] - n)))
    start = np.pad(start, (0, shape[1] - n))
    result = solve(jnp.asarray(matrix), jnp.asarray(start), jnp.asarray(tol), k=k, krylov_dim=basis_size(k))
    left, values, right = (np.asarray(x) for x in result[:3])
    return checked_run(problem, left[:, :p], values, right[:, :n], int(result.num_matvecs))


def run_arpack(problem: Problem, k: int, tol: float, start: np.ndarray) -> Run:
    """Solve once with ARPACK, with the loosest tolerance that suffices."""
    relative = tol
    for _ in range(_MOST_TIGHTENINGS):
        run = _arpack_once(problem, k, relative, start)
        if run.residual <= tol or relative < np.finfo(float).eps:
            break
        relative /= 3
    return run


def _arpack_once(problem: Problem, k: int, relative: float, start: np.ndarray) -> Run:
    matrix = problem.matrix
    operator = CountedOperator(matrix.shape, lambda v: matrix @ v, lambda u: matrix.T @ u)
    if matrix.shape[0] < matrix.shape[1]:
        start = matrix @ start
    left, values, right = scipy.sparse.linalg.svds(operator, k, ncv=basis_size(k), tol=relative, v0=start)
    order = np.argsort(-values)
    return checked_run(problem, left.T[order], values[order], right[order], operator.products)


def checked_run(problem: Problem, left: np.ndarray, values: np.ndarray, right: np.ndarray, products: int) -> Run:
    """Recompute the residuals of a solve, and compare its values with the dense ones."""
    forward = np.linalg.norm(right @ problem.matrix.T - values[:, None] * left, axis=1)
    back = np.linalg.norm(left @ problem.matrix - values[:, None] * right, axis=1)
    norm = problem.values[0]
    error = np.abs(values - problem.values[: len(values)]).max()
    return Run(products, float(np.hypot(forward, back).max() / norm), float(error / norm))


def compare(problem: Problem, shape: tuple[int, int], pairs: Any, tolerances: Any, starts: int) -> list[dict[str, Any]]:
    """Return one row for every k and tol."""
    vectors = [np.random.default_rng(100 + i).standard_normal(problem.matrix.shape[1]) for i in range(starts)]
    rows = []
    for k in pairs:
        for tol in tolerances:
            ours = [run_svds(problem, k, tol, start, shape) for start in vectors]
            theirs = [run_arpack(problem, k, tol, start) for start in vectors]
            products, arpack = (statistics.median(run.products for run in runs) for runs in (ours, theirs))
            worst = max(run.residual for run in theirs)
            rows.append(
                {
                    "problem": problem.name,
                    "k": k,
                    "tol": tol,
                    "basis": basis_size(k),
                    "svds": products,
                    "arpack": arpack,
                    "ratio": products / arpack,
                    "svds_residual": max(run.residual for run in ours) / tol,
                    "svds_error": max(run.error for run in ours),
                    "arpack_error": max(run.error for run in theirs),
                    "floor": worst if worst > tol else 0.0,
                }
            )
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Count matvecs and record them; --repeats is the number of start vectors."""
    args = timing.arguments(__doc__, STARTS, argv)
    pairs, tolerances = ((1, 5), (1e-6,)) if args.quick else (PAIRS, TOLERANCES)
    rows = []
    with jax.enable_x64(True):
        everything = list(problems(args.quick))
        for is_wide in (False, True):
            alike = [one for one in everything if (one.matrix.shape[0] < one.matrix.shape[1]) == is_wide]
            shape = tuple(max(one.matrix.shape[axis] for one in alike) for axis in (0, 1))
            for one in alike:
                rows += compare(one, shape, pairs, tolerances, args.repeats)
                print(timing.table(rows[-len(pairs) * len(tolerances) :]), flush=True)
    ratios = np.array([row["ratio"] for row in rows])
    print(f"geometric mean {np.exp(np.log(ratios).mean()):.3f} of {len(ratios)}, above 1: {np.sum(ratios > 1)}")
    timing.record("svds_products", rows, args)


if __name__ == "__main__":
    main()
