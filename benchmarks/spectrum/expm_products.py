"""Claim: `expm_multiply` keeps its bound and takes at most the matvecs of SciPy's, on normal and non-normal matrices.

`error` is that of the vector relative to the larger of the norms of v and of exp(t A) v; the truth is SciPy's dense
exponential in float64, of the eigendecomposition for symmetric matrices. `over_bound` is the error over the bound told,
at most 1; errors below the rounding of the truth count as zero. `ratio` is our matvecs over those of
`scipy.sparse.linalg.expm_multiply`, which always computes to the unit roundoff and estimates norms by products with the
operator and its adjoint.

    python -m benchmarks.spectrum.expm_products
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.sparse.linalg

from benchmarks.support import timing
from eigenjax import expm_multiply

TOLERANCES = (1e-6, 1e-12)


def matrices(n: int) -> dict[str, tuple[np.ndarray, float]]:
    """Create matrices with times."""
    rng = np.random.default_rng(0)
    laplacian = -(2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1))
    random, upper = rng.standard_normal((n, n)), np.triu(rng.standard_normal((n, n)), 1)
    return {
        "Laplacian": (laplacian, 10.0),
        "Laplacian, ||t A|| = 4000": (1000 * laplacian, 1.0),
        "Laplacian, growing": (-laplacian, 5.0),
        "skew-symmetric": (random - random.T, 1.0),
        "random": (random, 1.0),
        "Grcar": (np.eye(n) - np.eye(n, k=-1) + sum(np.eye(n, k=j) for j in (1, 2, 3)), 5.0),
        "triangular": (2 * upper - 3 * np.diag(np.arange(1.0, n + 1)), 1.0),
        "convection": (400 * laplacian - 200 * (np.eye(n, k=1) - np.eye(n, k=-1)), 0.1),
        "Jordan block": (np.eye(n, k=1) - np.eye(n), 10.0),
    }


def exponential(matrix: np.ndarray) -> np.ndarray:
    """Compute the dense exponential."""
    if np.any(matrix != matrix.T):
        return scipy.linalg.expm(matrix)
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.exp(values)) @ vectors.T


def in_scipy(matrix: np.ndarray, vector: np.ndarray) -> tuple[np.ndarray, int]:
    """Return SciPy's vector and its matvecs, those with the adjoint included."""
    count = [0]

    def counted(a: np.ndarray) -> Any:
        return lambda x: (count.__setitem__(0, count[0] + (1 if x.ndim == 1 else x.shape[1])), a @ x)[1]

    forward, adjoint = counted(matrix), counted(matrix.T)
    op = scipy.sparse.linalg.LinearOperator(
        matrix.shape, matvec=forward, rmatvec=adjoint, matmat=forward, rmatmat=adjoint, dtype=matrix.dtype
    )
    return scipy.sparse.linalg.expm_multiply(op, vector, traceA=float(np.trace(matrix))), count[0]


def row(name: str, matrix: np.ndarray, t: float, tol: float) -> dict[str, Any]:
    """Return one row: one matrix and one tolerance."""
    vector = np.random.default_rng(1).standard_normal(len(matrix))
    exact = exponential(t * matrix) @ vector
    size = max(np.linalg.norm(exact), np.linalg.norm(vector))
    found = expm_multiply(jnp.asarray(matrix), jnp.asarray(vector), t, tol=tol, max_matvecs=30000)
    theirs, count = in_scipy(t * matrix, vector)
    error = float(np.linalg.norm(found.vector - exact))
    rounding = np.finfo(float).eps * size * (10 + np.linalg.norm(t * matrix, 2))
    return {
        "matrix": name,
        "tol": tol,
        "converged": bool(found.converged),
        "error": error / size,
        "over_bound": max(error - rounding, 0.0) / float(found.error_estimate),
        "matvecs": int(found.num_matvecs),
        "scipy": count,
        "scipy_error": float(np.linalg.norm(theirs - exact)) / size,
        "ratio": int(found.num_matvecs) / count,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure errors and matvecs and record them."""
    args = timing.arguments(__doc__, 1, argv)
    with jax.enable_x64(True):
        chosen = matrices(40 if args.quick else 200).items()
        rows = [row(name, matrix, t, tol) for name, (matrix, t) in chosen for tol in TOLERANCES]
    timing.record("expm_products", rows, args)


if __name__ == "__main__":
    main()
