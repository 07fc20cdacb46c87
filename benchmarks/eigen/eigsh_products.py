"""Claim: `eigsh` needs no more matvecs than ARPACK at an equal basis size, for the same true residuals.

Matvecs until all k pairs satisfy ||A v - theta v|| <= tol ||A||, recomputed from the vectors returned, in float64, on a
dozen kinds of spectrum. Medians over three start vectors, the same for all. They are also compared with one Krylov
space without restarts (full orthogonalization, the optimum from one start vector): with a basis of 4 k vectors `eigsh`
needs at most 1.1 times as many.

`eigsh` is given tol, and all its matvecs count, including those that verify residuals. ARPACK's criterion is
tol |theta_i|. It is given tol ||A|| / |theta| for the largest wanted theta, then a third of it, until the residuals are
small enough; only the last run counts.

    python -m benchmarks.eigen.eigsh_products
"""

import functools
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.sparse.linalg
from jax.experimental import sparse

from benchmarks.support import timing
from benchmarks.support.counted_operator import CountedOperator
from benchmarks.support.spectra import Spectrum, problems
from eigenjax import eigsh

PAIRS = (1, 5, 10, 20)
TOLERANCES = (1e-3, 1e-6, 1e-10)
STARTS = 3
# ARPACK uses max(|theta|, eps^(2/3)) in its criterion.
_LEAST_VALUE = np.finfo(float).eps ** (2 / 3)
_MOST_TIGHTENINGS = 60
_LARGEST_SPACE = 1500


class Run(NamedTuple):
    """Result of one solve."""

    products: int
    residual: float  # the largest recomputed residual over ||A||
    right: bool  # True if the eigenvalues are the wanted ones, to within the tolerance


def basis_size(k: int) -> int:
    """Return the default krylov_dim of `eigsh`."""
    return max(2 * k + 10, 20)


@functools.partial(jax.jit, static_argnames=("k", "which", "krylov_dim"))
def solve(matrix: Any, start: jax.Array, tol: jax.Array, *, k: int, which: str, krylov_dim: int) -> Any:
    """Run `eigsh`, with one program for all tolerances and starts."""
    return eigsh(matrix, k, which=which, tol=tol, krylov_dim=krylov_dim, v0=start, verify=False)


def padded(matrix: Any, n: int, nse: int) -> Any:
    """Pad a matrix with zero rows and columns to n, so that problems share a program.

    The start vector is zero in the padding and stays zero: the Krylov space, and the count, are those of the matrix
    itself.
    """
    if isinstance(matrix, np.ndarray):
        return jnp.asarray(np.pad(matrix, (0, n - len(matrix))))
    coo = matrix.tocoo()
    fill = nse - coo.nnz
    # BCOO pads with indices beyond the shape.
    indices = np.pad(np.stack(coo.coords, axis=1), ((0, fill), (0, 0)), constant_values=n)
    return sparse.BCOO((jnp.asarray(np.pad(coo.data, (0, fill))), jnp.asarray(indices, jnp.int32)), shape=(n, n))


def padded_alike(everything: Iterable[Spectrum]) -> Iterator[tuple[Spectrum, Any]]:
    """Yield each problem with its matrix, padded to one shape for sparse and to another for dense matrices."""
    everything = list(everything)
    for dense in (False, True):
        alike = [problem for problem in everything if isinstance(problem.matrix, np.ndarray) == dense]
        n = max(problem.matrix.shape[0] for problem in alike)
        nse = max(np.count_nonzero(problem.matrix) if dense else problem.matrix.nnz for problem in alike)
        for problem in alike:
            yield problem, padded(problem.matrix, n, int(nse))


def run_eigsh(problem: Spectrum, matrix: Any, k: int, tol: float, krylov_dim: int, start: np.ndarray) -> Run:
    """Solve once with `eigsh`, with the padded matrix."""
    arguments = {"k": k, "which": problem.which, "krylov_dim": krylov_dim}
    n = len(start)
    result = solve(matrix, jnp.asarray(np.pad(start, (0, matrix.shape[0] - n))), jnp.asarray(tol), **arguments)
    vectors = np.asarray(result.eigenvectors)
    assert not vectors[:, n:].any()
    return checked_run(problem, np.asarray(result.eigenvalues), vectors[:, :n], int(result.num_matvecs), tol)


def run_arpack(problem: Spectrum, k: int, tol: float, ncv: int, start: np.ndarray) -> Run:
    """Solve once with ARPACK, with the loosest tolerance that suffices."""
    largest = max(float(np.abs(problem.wanted(k)).max()), _LEAST_VALUE)
    relative = tol * problem.norm / largest
    for _ in range(_MOST_TIGHTENINGS):
        run = _arpack_once(problem, k, tol, relative, ncv, start)
        if run.residual <= tol:
            break
        relative /= 3
    return run


def _arpack_once(problem: Spectrum, k: int, tol: float, relative: float, ncv: int, start: np.ndarray) -> Run:
    operator = CountedOperator(problem.matrix.shape, lambda v: problem.matrix @ v)
    try:
        values, vectors = scipy.sparse.linalg.eigsh(
            operator, k, which=problem.which, ncv=ncv, tol=relative, v0=start.copy()
        )
    except scipy.sparse.linalg.ArpackNoConvergence:
        return Run(operator.products, np.inf, False)
    return checked_run(problem, values, vectors.T, operator.products, tol)


def checked_run(problem: Spectrum, values: np.ndarray, vectors: np.ndarray, products: int, tol: float) -> Run:
    """Recompute the residuals of a solve, and compare its eigenvalues with the dense ones."""
    residuals = np.linalg.norm((problem.matrix @ vectors.T).T - values[:, None] * vectors, axis=1)
    errors = np.abs(np.sort(values) - problem.wanted(len(values)))
    allowed = (tol + 1e-12) * problem.norm
    return Run(products, float(residuals.max()) / problem.norm, bool(np.all(errors <= allowed)))


def unrestarted(problem: Spectrum, start: np.ndarray) -> dict[tuple[int, float], float]:
    """Find the smallest Krylov spaces with k pairs to within tol, for every k and tol; inf if none tried has them.

    Uses Lanczos with two passes of full orthogonalization. Sizes beyond 100 are tried in steps of one percent.
    """
    needed: dict[tuple[int, float], float] = {(k, tol): np.inf for k in PAIRS for tol in TOLERANCES}
    dimension = min(len(start), _LARGEST_SPACE)
    basis, diagonal, offdiagonal = np.zeros((dimension + 1, len(start))), np.zeros(dimension), np.zeros(dimension)
    basis[0] = start / np.linalg.norm(start)
    for j in range(dimension):
        image = problem.matrix @ basis[j]
        diagonal[j] = basis[j] @ image
        for _ in range(2):
            image -= (basis[: j + 1] @ image) @ basis[: j + 1]
        offdiagonal[j] = np.linalg.norm(image)
        basis[j + 1] = image / offdiagonal[j]
        m = j + 1
        if m % max(1, m // 100):
            continue
        values, coefficients = _ends(diagonal[:m], offdiagonal[:j], problem.which)
        residuals = offdiagonal[j] * np.abs(coefficients[-1])
        for (k, tol), size in needed.items():
            if size == np.inf and m >= k and residuals[_wanted(values, problem.which, k)].max() <= tol * problem.norm:
                needed[k, tol] = m
        if max(needed.values()) < np.inf:
            break
    return needed


def _ends(diagonal: np.ndarray, offdiagonal: np.ndarray, which: str) -> tuple[np.ndarray, np.ndarray]:
    """Compute the Ritz values and coefficients at the ends of the spectrum that may be wanted."""
    m = len(diagonal)
    if which not in ("LA", "SA") or m <= PAIRS[-1]:
        return scipy.linalg.eigh_tridiagonal(diagonal, offdiagonal)
    chosen = (0, PAIRS[-1] - 1) if which == "SA" else (m - PAIRS[-1], m - 1)
    return scipy.linalg.eigh_tridiagonal(diagonal, offdiagonal, select="i", select_range=chosen)


def _wanted(values: np.ndarray, which: str, k: int) -> np.ndarray:
    indices = np.arange(len(values))
    if which == "BE":
        return np.r_[indices[: k // 2], indices[len(values) - (k + 1) // 2 :]]
    return np.argsort({"LA": -values, "SA": values, "LM": -np.abs(values)}[which], kind="stable")[:k]


def compare(
    problem: Spectrum, matrix: Any, pairs: Sequence[int], tolerances: Sequence[float], starts: int
) -> list[dict[str, Any]]:
    """Return one row for every k and tol; `matrix` is the problem's matrix, padded."""
    n = problem.matrix.shape[0]
    vectors = [np.random.default_rng(100 + i).normal(size=n) for i in range(starts)]
    optimum = [unrestarted(problem, start) for start in vectors]
    median = lambda run: statistics.median(run(start) for start in vectors)
    rows = []
    # ARPACK accepts BE for two pairs or more.
    for k in pairs[problem.which == "BE" :]:
        m = basis_size(k)
        for tol in tolerances:
            ours = [run_eigsh(problem, matrix, k, tol, m, start) for start in vectors]
            theirs = [run_arpack(problem, k, tol, m, start) for start in vectors]
            best = statistics.median(needed[k, tol] for needed in optimum)
            products, arpack = (statistics.median(run.products for run in runs) for runs in (ours, theirs))
            wide = products
            if k > 1 and 4 * k != m:
                wide = median(lambda start, k=k, tol=tol: run_eigsh(problem, matrix, k, tol, 4 * k, start).products)
            rows.append(
                {
                    "problem": f"{problem.name}, {problem.which}, n={n}",
                    "k": k,
                    "tol": tol,
                    "basis": m,
                    "eigsh": products,
                    "arpack": arpack,
                    "ratio": products / arpack,
                    "eigsh_residual": max(run.residual for run in ours) / tol,
                    "arpack_residual": max(run.residual for run in theirs) / tol,
                    "eigsh_right": sum(run.right for run in ours),
                    "arpack_right": sum(run.right for run in theirs),
                    "starts": starts,
                    "unrestarted": best,
                    "eigsh_4k": wide if k > 1 else 0,
                    "over_unrestarted": wide / best if k > 1 else 0.0,
                }
            )
    return rows


def summary(rows: Sequence[dict[str, Any]], column: str) -> str:
    """Format the geometric mean of a ratio, and its largest rows."""
    ordered = sorted(rows, key=lambda row: -row[column])
    mean = float(np.exp(np.mean([np.log(row[column]) for row in ordered])))
    worst = "\n".join(f"  {row[column]:.2f}  {row['problem']}, k={row['k']}, tol={row['tol']}" for row in ordered[:12])
    return f"geometric mean {mean:.3f} of {len(ordered)}, above 1: {sum(row[column] > 1 for row in ordered)}\n{worst}"


def main(argv: Sequence[str] | None = None) -> None:
    """Count matvecs and record them; --repeats is the number of start vectors."""
    args = timing.arguments(__doc__, STARTS, argv)
    pairs, tolerances = ((1, 5), (1e-6,)) if args.quick else (PAIRS, TOLERANCES)
    rows = []
    with jax.enable_x64(True):
        for problem, matrix in padded_alike(problems(args.quick)):
            found = compare(problem, matrix, pairs, tolerances, args.repeats)
            print(timing.table(found), flush=True)
            rows += found
    timing.record("eigsh_products", rows, args)
    print("eigsh over ARPACK,", summary(rows, "ratio"))
    several = [row for row in rows if row["k"] > 1]
    print("eigsh with a basis of 4 k over unrestarted,", summary(several, "over_unrestarted"))
    wrong = [row for row in rows if row["eigsh_right"] < row["starts"] or row["eigsh_residual"] > 1]
    print("eigsh not right:", [(row["problem"], row["k"], row["tol"], row["eigsh_residual"]) for row in wrong])


if __name__ == "__main__":
    main()
