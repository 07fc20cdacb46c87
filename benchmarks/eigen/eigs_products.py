"""Claim: `eigs` needs fewer matvecs than ARPACK, on the whole, at an equal basis size and the same true residuals.

Matvecs until all k pairs satisfy ||A v - theta v|| <= tol ||A||, recomputed from the vectors returned. Eight
nonsymmetric matrices in float64, from normal to highly nonnormal. Medians over three start vectors, the same for both.

`eigs` is given tol, and all its matvecs count, including those that verify residuals. ARPACK's criterion is
tol |theta_i|. It is given tol ||A|| / |theta| for the largest wanted theta, then a third of it, until the residuals are
small enough; only the last run counts. Both store real vectors for a real matrix, so that matvecs are comparable.

    python -m benchmarks.eigen.eigs_products
"""

import functools
import statistics
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg
from jax.experimental import sparse

from benchmarks.eigen.eigsh_products import basis_size, padded, summary
from benchmarks.support import timing
from benchmarks.support.counted_operator import CountedOperator
from eigenjax import eigs

PAIRS = (1, 5, 10)
TOLERANCES = (1e-3, 1e-6, 1e-10)
STARTS = 3
# ARPACK uses max(|theta|, eps^(2/3)) in its criterion.
_LEAST_VALUE = np.finfo(float).eps ** (2 / 3)
_MOST_TIGHTENINGS = 15
_MOST_RESTARTS = 300
# Rounding error of the eigenvalues relative to ||A||, to be multiplied by their condition.
_ROUNDING = 1e-12


class Problem(NamedTuple):
    """Matrix, the wanted part of its spectrum, and the exact eigenvalues."""

    name: str
    which: str
    matrix: scipy.sparse.csr_array  # (n, n) float64
    eigenvalues: np.ndarray  # (n,) complex, the most wanted first
    conditions: np.ndarray  # (n,) 1 / |u^H v|
    norm: float  # ||A||


class Run(NamedTuple):
    """Result of one solve."""

    products: int
    residual: float  # the largest recomputed residual over ||A||
    right: bool  # True if the eigenvalues are the wanted ones, to within the tolerance times their condition


def problems(quick: bool = False) -> Iterator[Problem]:
    """Yield all problems; with `quick`, of about sixty dimensions."""
    rng = np.random.default_rng(0)
    n = 64 if quick else 576
    side = round(n**0.5)
    yield from described("convection-diffusion", convection_diffusion(side, 0.4), "LM", "LR", "SR")
    yield from described("strong convection", convection_diffusion(side // 2, 1.2), "LM", "LI")
    yield from described("random dense", scipy.sparse.csr_array(rng.normal(size=(n // 4, n // 4))), "LM", "LR")
    yield from described("random sparse", random_sparse(n), "LM", "LR", "LI")
    yield from described("Markov chain", random_walk(side), "LM", "LR")
    yield from described("Grcar", grcar(n // 8), "LM", "LI")
    yield from described("orthogonal", orthogonal(n // 4), "LR", "SR")
    yield from described("decaying pairs", decaying_pairs(n), "LM", "LI")


def described(name: str, matrix: Any, *ends: str) -> Iterator[Problem]:
    """Compute the eigenvalues of a matrix and their conditions, and yield a problem for each `which`."""
    dense = matrix.toarray()
    values, left, right = scipy.linalg.eig(dense, left=True, right=True)
    conditions = 1 / np.maximum(np.abs(np.sum(left.conj() * right, axis=0)), np.finfo(float).tiny)
    for which in ends:
        order = np.argsort(keys(values, which), kind="stable")
        norm = float(np.linalg.norm(dense, 2))
        yield Problem(name, which, matrix.tocsr(), values[order], conditions[order], norm)


def keys(values: np.ndarray, which: str) -> np.ndarray:
    """Return sort keys: the smaller, the more wanted."""
    return {"LM": -np.abs(values), "LR": -values.real, "SR": values.real, "LI": -np.abs(values.imag)}[which]


def convection_diffusion(side: int, peclet: float) -> Any:
    """Create -Laplacian plus constant convection by central differences on a square, zero boundary."""
    line = lambda wind: scipy.sparse.diags_array(
        [np.full(side - 1, -1 - wind), np.full(side, 2.0), np.full(side - 1, -1 + wind)], offsets=[-1, 0, 1]
    )
    identity = scipy.sparse.eye_array(side)
    # Different convection and scale along the axes: no eigenvalue is double.
    return scipy.sparse.kron(line(peclet), identity) + 1.1 * scipy.sparse.kron(identity, line(peclet / 2))


def random_sparse(n: int) -> Any:
    """Draw a sparse matrix with normal entries at random places."""
    return scipy.sparse.random_array(
        (n, n), density=10 / n, rng=np.random.default_rng(3), data_sampler=np.random.default_rng(4).normal
    )


def random_walk(side: int) -> Any:
    """Create the transition matrix of a random walk with drift on a square grid, reflected at the boundary."""
    line = scipy.sparse.diags_array(
        [np.full(side - 1, 0.6), np.zeros(side), np.full(side - 1, 0.4)], offsets=[-1, 0, 1]
    ).tolil()
    line[0, 0], line[-1, -1] = 0.6, 0.4
    identity = scipy.sparse.eye_array(side)
    return 0.55 * scipy.sparse.kron(line, identity) + 0.45 * scipy.sparse.kron(identity, line)


def grcar(n: int) -> Any:
    """Create the Grcar matrix: -1 below the diagonal, 1 on it and on the next three; conditions of 1e8 and more."""
    return scipy.sparse.diags_array([-1.0, 1.0, 1.0, 1.0, 1.0], offsets=[-1, 0, 1, 2, 3], shape=(n, n))


def orthogonal(n: int) -> Any:
    """Draw a random rotation: the wanted eigenvalues cluster at +1 and -1 on the unit circle."""
    return scipy.sparse.csr_array(scipy.linalg.qr(np.random.default_rng(5).normal(size=(n, n)))[0])


def decaying_pairs(n: int) -> Any:
    """Create a normal matrix of conjugate pairs with moduli that decay like j^(-1/2)."""
    angles = np.random.default_rng(6).uniform(0.1, np.pi - 0.1, n // 2)
    moduli = np.arange(1, n // 2 + 1) ** -0.5
    turns = np.stack([[np.cos(angles), -np.sin(angles)], [np.sin(angles), np.cos(angles)]])
    return scipy.sparse.block_diag(list(np.moveaxis(moduli * turns, -1, 0)))


@functools.partial(jax.jit, static_argnames=("k", "which", "krylov_dim"))
def solve(matrix: Any, start: jax.Array, tol: jax.Array, *, k: int, which: str, krylov_dim: int) -> Any:
    """Run `eigs`, with one program for all tolerances and starts."""
    return eigs(matrix, k, which=which, tol=tol, krylov_dim=krylov_dim, v0=start, verify=False)


def run_eigs(problem: Problem, matrix: sparse.BCOO, k: int, tol: float, krylov_dim: int, start: np.ndarray) -> Run:
    """Solve once with `eigs`, with the padded matrix."""
    n = len(start)
    arguments = {"k": k, "which": problem.which, "krylov_dim": krylov_dim}
    result = solve(matrix, jnp.asarray(np.pad(start, (0, matrix.shape[0] - n))), jnp.asarray(tol), **arguments)
    vectors = np.asarray(result.eigenvectors)[:, :n]
    return checked_run(problem, np.asarray(result.eigenvalues), vectors, int(result.num_matvecs), tol)


def run_arpack(problem: Problem, k: int, tol: float, ncv: int, start: np.ndarray) -> Run:
    """Solve once with ARPACK, with the loosest tolerance that suffices."""
    largest = max(float(np.abs(problem.eigenvalues[:k]).max()), _LEAST_VALUE)
    relative = tol * problem.norm / largest
    for _ in range(_MOST_TIGHTENINGS):
        run = _arpack_once(problem, k, tol, relative, ncv, start)
        if run.residual <= tol:
            break
        relative /= 3
    return run


def _arpack_once(problem: Problem, k: int, tol: float, relative: float, ncv: int, start: np.ndarray) -> Run:
    operator = CountedOperator(problem.matrix.shape, lambda v: problem.matrix @ v)
    try:
        values, vectors = scipy.sparse.linalg.eigs(
            operator, k, which=problem.which, ncv=ncv, tol=relative, v0=start.copy(), maxiter=_MOST_RESTARTS
        )
    except scipy.sparse.linalg.ArpackNoConvergence:
        return Run(operator.products, np.inf, False)
    return checked_run(problem, values, vectors.T, operator.products, tol)


def checked_run(problem: Problem, values: np.ndarray, vectors: np.ndarray, products: int, tol: float) -> Run:
    """Recompute the residuals of a solve, and compare its eigenvalues with the dense ones."""
    residuals = np.linalg.norm((problem.matrix @ vectors.T).T - values[:, None] * vectors, axis=1)
    k = len(values)
    found, wanted = np.sort(keys(values, problem.which)), keys(problem.eigenvalues, problem.which)[:k]
    allowed = (tol + _ROUNDING) * problem.norm * np.max(problem.conditions[: k + 1])
    return Run(products, float(residuals.max()) / problem.norm, bool(np.all(np.abs(found - wanted) <= allowed)))


def compare(
    problem: Problem, matrix: sparse.BCOO, pairs: Sequence[int], tolerances: Sequence[float], starts: int
) -> list[dict[str, Any]]:
    """Return one row for every k and tol; `matrix` is the problem's matrix, padded."""
    n = problem.matrix.shape[0]
    vectors = [np.random.default_rng(100 + i).normal(size=n) for i in range(starts)]
    rows = []
    for k in pairs:
        m = basis_size(k)
        for tol in tolerances:
            ours = [run_eigs(problem, matrix, k, tol, m, start) for start in vectors]
            theirs = [run_arpack(problem, k, tol, m, start) for start in vectors]
            products, arpack = (statistics.median(run.products for run in runs) for runs in (ours, theirs))
            rows.append(
                {
                    "problem": f"{problem.name}, {problem.which}, n={n}",
                    "k": k,
                    "tol": tol,
                    "basis": m,
                    "eigs": products,
                    "arpack": arpack,
                    "ratio": products / arpack,
                    "eigs_residual": max(run.residual for run in ours) / tol,
                    "arpack_residual": max(run.residual for run in theirs) / tol,
                    "eigs_right": sum(run.right for run in ours),
                    "arpack_right": sum(run.right for run in theirs),
                    "condition": float(np.max(problem.conditions[:k])),
                    "starts": starts,
                }
            )
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Count matvecs and record them; --repeats is the number of start vectors."""
    args = timing.arguments(__doc__, STARTS, argv)
    pairs, tolerances = ((5,), (1e-6,)) if args.quick else (PAIRS, TOLERANCES)
    rows = []
    with jax.enable_x64(True):
        everything = list(problems(args.quick))
        n = max(problem.matrix.shape[0] for problem in everything)
        nse = max(problem.matrix.nnz for problem in everything)
        for problem in everything:
            found = compare(problem, padded(problem.matrix, n, nse), pairs, tolerances, args.repeats)
            print(timing.table(found), flush=True)
            rows += found
    timing.record("eigs_products", rows, args)
    both = [row for row in rows if row["arpack_residual"] <= 1]
    print("eigs over ARPACK,", summary(both, "ratio"))
    print("ARPACK did not get there:", [(row["problem"], row["k"], row["tol"]) for row in rows if row not in both])
    wrong = [row for row in rows if row["eigs_right"] < row["starts"] or row["eigs_residual"] > 1]
    print("eigs not right:", [(row["problem"], row["k"], row["tol"], row["eigs_residual"]) for row in wrong])


if __name__ == "__main__":
    main()
