"""Eigenpairs of a small operator without symmetry by a dense decomposition."""

from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.dense.general import eig
from eigenjax.krylov import ritz
from eigenjax.krylov.general import general_ritz
from eigenjax.operators.base import LinearOperator
from eigenjax.operators.complexified import complex_structure, is_real
from eigenjax.result import EigenResult
from eigenjax.solvers.convergence.status import CandidatePairs, default_tolerance, with_status
from eigenjax.solvers.dense.choice import DenseSolver
from eigenjax.solvers.dense.matrix import column_norms, entries, is_matrix
from eigenjax.solvers.general.eigs import default_dim
from eigenjax.solvers.warm_start import start_rows
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import matmul, safe_divide
from eigenjax.vectors.packing import unravel
from eigenjax.vectors.signs import at_largest

# Largest matrix that is decomposed by default. On a CPU a decomposition then takes 0.15 s in float32 and 0.25 s in
# float64, and a Krylov method for six pairs of a random matrix seconds.
_LARGEST = 500
# Eigenvalues closer than this times sqrt(n) eps times the largest norm of a column are copies of one. Combinations of
# their vectors are used if their residuals are as small.
_COPIES_ROUNDING = 8.0


def _is_small(op: LinearOperator, k: int, options: dict[str, Any]) -> bool:
    del options
    # A TPU has no dense eigensolver for general matrices.
    small = op.size <= default_dim(k) or (op.size <= _LARGEST and is_matrix(op))
    return small and jax.default_backend() != "tpu"


def _solve(op: LinearOperator, *, k: int, which: str, tol: Any, v0: Any, **_: Any) -> EigenResult:
    """Compute k eigenpairs of an operator by one dense decomposition."""
    ritz.check_count(k, op.size, "eigs")
    general_ritz.check_which(which)
    real = is_real(op.structure)
    start_rows(op, v0)  # checks the start, which a dense decomposition does not need
    matrix, num_matvecs = entries(op)
    values, columns = eig(matrix)
    order = _order(jax.lax.stop_gradient(values), which, real=real)[:k]
    values, columns = values[order], columns[:, order]
    mixing = _orthonormal_copies(*jax.lax.stop_gradient((matrix.astype(columns.dtype), values, columns)))
    columns = matmul(columns, mixing)
    vectors = unravel(columns.T, complex_structure(tree.working_structure(op.structure)))

    # The columns of a matrix take no matvecs, but the residuals do.
    num_matvecs = jnp.int32(num_matvecs + (k * (2 if real else 1) if is_matrix(op) else 0))
    known, known_values, known_columns = jax.lax.stop_gradient((matrix, values, columns))
    residuals = column_norms(matmul(known.astype(columns.dtype), known_columns) - known_columns * known_values[None, :])
    # A norm estimate as in `krylov_schur`: the largest ||A v|| of a unit vector v, here of a column or an eigenvector.
    norm_estimate = jnp.maximum(jnp.max(column_norms(known)), jnp.max(jnp.abs(known_values)))
    result = with_status(
        op,
        CandidatePairs(values, vectors, residuals, jnp.ones(k, bool), num_matvecs),
        tol=default_tolerance(op) if tol is None else tol,
        norm_estimate=norm_estimate,
        discrepancy=jnp.zeros_like(norm_estimate),
        finite=jnp.all(jnp.isfinite(known)),
    )
    return result._replace(num_probes=jnp.int32(0), num_recovered=jnp.int32(0))


def _order(values: jax.Array, which: str, *, real: bool) -> jax.Array:
    """Return the indices that order eigenvalues by `which`; of two conjugates the one above the real axis comes first.

    A decomposition of a real matrix returns conjugates one after the other, the one above the real axis first.
    """
    index = jnp.arange(values.shape[0], dtype=jnp.int32)
    first = jnp.where(values.imag < 0, index - 1, index) if real else index
    return jnp.lexsort((index, first, general_ritz.wanted_keys(values, which, real=real)))


def _orthonormal_copies(matrix: jax.Array, values: jax.Array, columns: jax.Array) -> jax.Array:
    """Return (k, k) coefficients that make the eigenvectors of each repeated eigenvalue orthonormal.

    A decomposition returns some basis of the eigenspace. A combination is used only if it is an eigenvector to
    rounding: near a defective eigenvalue the combinations are not, and the columns stay as they are.
    """
    k, eps = values.shape[0], float(jnp.finfo(values.dtype).eps)
    bound = _COPIES_ROUNDING * matrix.shape[0] ** 0.5 * eps * jnp.max(column_norms(matrix))
    index = jnp.arange(k, dtype=jnp.int32)

    def orthogonalize(j, mixing):
        earlier = (index < j) & (jnp.abs(values - values[j]) <= bound)
        basis = matmul(columns, jnp.where(earlier[None, :], mixing, 0))
        unit = (index == j).astype(mixing.dtype)
        for _ in range(2):
            overlaps = matmul(jnp.conj(basis).T, matmul(columns, unit))
            unit = unit - matmul(mixing, overlaps)
        vector = matmul(columns, unit)
        component = tree.inner(at_largest(vector), vector)
        scale = safe_divide(jnp.conj(component), (jnp.abs(component) * tree.norm(vector)).astype(component.dtype))
        residual = tree.norm(matmul(matrix, scale * vector) - values[j] * scale * vector)
        is_better = jnp.any(earlier) & (residual <= bound)
        return jnp.where(is_better & (index == j)[None, :], (scale * unit)[:, None], mixing)

    return jax.lax.fori_loop(1, k, orthogonalize, jnp.eye(k, dtype=columns.dtype))


SOLVER = DenseSolver(_is_small, lambda op: op.structure, _solve)
