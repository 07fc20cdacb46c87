"""Eigenpairs of a small operator without symmetry by a dense decomposition."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.dense.general import normalized, unnormalized_eig
from eigenjax.krylov import ritz
from eigenjax.krylov.general import general_ritz
from eigenjax.operators.base import LinearOperator
from eigenjax.operators.complexified import complex_structure, is_real
from eigenjax.result import EigenResult
from eigenjax.solvers.convergence.status import CandidatePairs, default_tolerance, with_absolute, with_status
from eigenjax.solvers.dense.choice import DenseSolver
from eigenjax.solvers.dense.matrix import column_norms, entries, is_matrix, largest_entry
from eigenjax.solvers.general.eigs import default_dim
from eigenjax.solvers.general.transforms import has_b, with_true_residuals
from eigenjax.solvers.pencil.quotient import parts
from eigenjax.solvers.warm_start import start_rows
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import matmul
from eigenjax.vectors.packing import unravel
from eigenjax.vectors.placement import default_platform
from eigenjax.vectors.pseudorandom import seed_of

# Largest matrix that is decomposed by default. On a CPU a decomposition then takes 0.15 s in float32 and 0.25 s in
# float64, and a Krylov method for six pairs of a random matrix seconds.
_LARGEST = 500
# Eigenvalues closer than this times sqrt(n) eps times the largest norm of a column are copies of one. Combinations of
# their vectors are used if their residuals are as small.
_COPIES_ROUNDING = 8.0
# Squared norm above which a combination that should have norm 1 is not rounding.
_LEAST_SQUARE = 0.5


def _is_small(op: LinearOperator, k: int, options: dict[str, Any]) -> bool:
    if options["inverse"] is not None:
        return False
    # A TPU has no dense eigensolver for general matrices.
    a, b, _ = parts(op)
    known = is_matrix(a) and (b is None or is_matrix(b))
    small = op.size <= default_dim(k) or (op.size <= _LARGEST and known)
    return small and default_platform() != "tpu"


def _solve(
    op: LinearOperator, *, k: int, which: str, tol: Any, atol: Any, v0: Any, sigma: Any, **_: Any
) -> EigenResult:
    """Compute k eigenpairs of an operator by one dense decomposition."""
    ritz.check_count(k, op.size, "eigs")
    general_ritz.check_which(which)
    real = is_real(op.structure)
    start_rows(op, v0)  # checks the start, which a dense decomposition does not need
    matrix, num_matvecs = entries(op)
    known = jax.lax.stop_gradient(matrix)
    scale = largest_entry(known)
    # A norm estimate as in `krylov_schur`: the largest ||A v|| of a unit vector v, here of those of the coordinates.
    norm_estimate = jnp.max(column_norms(known, scale))
    values, columns = unnormalized_eig(matrix)
    order = _order(jax.lax.stop_gradient(values), which, sigma, real=real)[:k]
    values, columns = values[order], columns[:, order]
    known = known.astype(columns.dtype)
    mixing = _orthonormal_copies(known, *jax.lax.stop_gradient((values, columns)), norm_estimate)
    columns = normalized(matmul(columns, mixing))
    vectors = unravel(columns.T, complex_structure(tree.working_structure(op.structure)))

    # The columns of a matrix take no matvecs, but the residuals do.
    num_matvecs = jnp.int32(num_matvecs + (k * (2 if real else 1) if is_matrix(op) else 0))
    result = with_status(
        op,
        CandidatePairs(
            values,
            vectors,
            _residuals(known, *jax.lax.stop_gradient((values, columns))),
            jnp.ones(k, bool),
            num_matvecs,
        ),
        tol=with_absolute(default_tolerance(op) if tol is None else tol, atol),
        norm_estimate=norm_estimate,
        discrepancy=jnp.zeros_like(norm_estimate),
        finite=jnp.isfinite(scale),
    )
    result = result._replace(num_probes=jnp.int32(0), num_recovered=jnp.int32(0))
    return with_true_residuals(op, result, tol, seed_of(None)) if has_b(op) else result


def _residuals(matrix: jax.Array, values: jax.Array, columns: jax.Array) -> jax.Array:
    defects = matmul(matrix, columns) - columns * values[None, :]
    return column_norms(defects, largest_entry(defects))


def _order(values: jax.Array, which: str, sigma: Any, *, real: bool) -> jax.Array:
    """Return the indices that order eigenvalues by `which`, or by the distance from sigma if it is not None.

    Of two conjugates the one above the real axis comes first.

    A decomposition of a real matrix returns conjugates one after the other, the one above the real axis first.
    """
    index = jnp.arange(values.shape[0], dtype=jnp.int32)
    first = jnp.where(values.imag < 0, index - 1, index) if real else index
    shift = None if sigma is None else jnp.asarray(sigma)
    return jnp.lexsort((index, first, general_ritz.wanted_keys(values, which, real=real, sigma=shift)))


def _orthonormal_copies(
    matrix: jax.Array, values: jax.Array, columns: jax.Array, norm_estimate: jax.Array
) -> jax.Array:
    """Return (k, k) coefficients that make the eigenvectors of each repeated eigenvalue orthonormal.

    A decomposition returns some basis of the eigenspace. A combination is used only if it is an eigenvector to
    rounding: near a defective eigenvalue the combinations are not, and the columns stay as they are.
    """
    bound = _COPIES_ROUNDING * matrix.shape[0] ** 0.5 * float(jnp.finfo(values.dtype).eps) * norm_estimate
    distances = jnp.abs(values[:, None] - values[None, :])
    residuals = _residuals(matrix, values, columns)
    same = _connected(distances <= bound)
    overlaps = lambda x: matmul(jnp.conj(x).T, x)
    first = _inverse_cholesky(jnp.where(same, overlaps(columns), 0))
    gram = overlaps(matmul(columns, first))
    # ||A V c - lambda_j V c|| is at most this, and V c has unit norm unless the columns are dependent to rounding.
    largest = jnp.sum(jnp.abs(first) * (residuals[:, None] + distances), axis=0)
    fine = (largest <= bound) & (jnp.diagonal(gram).real > _LEAST_SQUARE)
    same = same & fine[:, None] & fine[None, :]
    identity = jnp.eye(values.shape[0], dtype=columns.dtype)
    # The second step leaves no error of the first one: the columns are nearly orthonormal.
    second = _inverse_cholesky(jnp.where(same, gram, identity))
    return matmul(jnp.where(same, first, identity), jnp.where(same, second, identity))


def _connected(neighbors: jax.Array) -> jax.Array:
    """Return (k, k) bool: which values a chain of neighbors connects."""
    for _ in range((neighbors.shape[0] - 1).bit_length()):
        steps = neighbors.astype(jnp.float32)
        neighbors = matmul(steps, steps) > 0
    return neighbors


def _inverse_cholesky(gram: jax.Array) -> jax.Array:
    """Return the upper triangular L^-H of a positive semidefinite matrix L L^H, shifted by a few eps."""
    identity = jnp.eye(gram.shape[0], dtype=gram.dtype)
    lower = jax.lax.linalg.cholesky(gram + gram.shape[0] * float(jnp.finfo(gram.dtype).eps) * identity)
    solve = functools.partial(jax.lax.linalg.triangular_solve, left_side=True, lower=True)
    return solve(lower, identity, transpose_a=True, conjugate_a=True)


SOLVER = DenseSolver(_is_small, lambda op: op.structure, _solve)
