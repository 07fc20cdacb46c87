"""Eigenpairs of a small symmetric operator by a dense decomposition."""

from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.dense.symmetric import eigh
from eigenjax.krylov import ritz
from eigenjax.krylov.rayleigh_ritz import Extraction
from eigenjax.operators.base import LinearOperator
from eigenjax.operators.functions.precision import rounding_unit
from eigenjax.result import EigenResult
from eigenjax.solvers.convergence.error_bounds import with_error_bounds
from eigenjax.solvers.convergence.residuals import VERIFICATION_TOLERANCE
from eigenjax.solvers.convergence.status import CandidatePairs, default_tolerance, with_absolute, with_status
from eigenjax.solvers.dense.choice import DenseSolver, fits_accelerator
from eigenjax.solvers.dense.matrix import column_norms, entries, is_matrix, largest_entry
from eigenjax.solvers.symmetric.plan import default_dim
from eigenjax.solvers.warm_start import start_rows
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import matmul
from eigenjax.vectors.packing import unravel
from eigenjax.vectors.signs import fix_signs
from eigenjax.vectors.tree import PyTree

# Largest matrix that is decomposed by default. On a CPU a decomposition then takes 8 ms in float32 and 10 ms in
# float64, and a Krylov method for six pairs of a random matrix 13 and 18 ms; compiling takes 0.15 s and 4 s. For a few
# separated pairs of a larger matrix a Krylov method is several times faster.
LARGEST = 300


def _is_small(op: LinearOperator, k: int, options: dict[str, Any]) -> bool:
    interior = options["sigma"] is not None or options["which"] == "SM"
    small = op.size <= default_dim(k, interior) or (op.size <= LARGEST and is_matrix(op))
    return small and fits_accelerator(op.size)


def _solve(
    op: LinearOperator, *, k: int, which: str, tol: Any, atol: Any, sigma: Any, v0: Any, **_: Any
) -> EigenResult:
    """Compute k eigenpairs of a symmetric operator by one dense decomposition."""
    ritz.check_count(k, op.size)
    interior = sigma is not None or which == "SM"
    if not interior:
        ritz.check_which(which)
    references = start_rows(op, v0)
    matrix, num_matvecs = entries(op)
    values, columns = eigh(matrix)
    nearest = (0.0 if sigma is None else sigma) if interior else None
    order = ritz.pair_order(jax.lax.stop_gradient(values), which, nearest)
    values, columns = values[order], columns[:, order[:k]]
    vectors = unravel(columns.T, tree.working_structure(op.structure))
    _, signs = jax.lax.stop_gradient(fix_signs(jax.lax.stop_gradient(vectors), references=references))
    vectors = jax.vmap(tree.scale)(signs, vectors)
    # The columns of a matrix take no matvecs, but the residuals do.
    num_matvecs = jnp.int32(num_matvecs + (k if is_matrix(op) else 0))
    known = jax.lax.stop_gradient((matrix, values, columns, vectors))
    tol = with_absolute(default_tolerance(op) if tol is None else tol, atol)
    result = _with_residuals(op, *known, num_matvecs, tol)
    finite = jnp.isfinite(result.eigenvalues)
    return result._replace(
        eigenvalues=jnp.where(finite, values[:k], jnp.nan),
        eigenvectors=jax.vmap(tree.where)(finite, vectors, result.eigenvectors),
    )


def _with_residuals(
    op: LinearOperator,
    matrix: jax.Array,
    values: jax.Array,
    columns: jax.Array,
    vectors: PyTree,
    num_matvecs: jax.Array,
    tol: Any,
) -> EigenResult:
    """Return the result with residuals, bounds and status; all `values` are known, the k wanted first."""
    k = columns.shape[1]
    images = matmul(matrix, columns)
    norm_estimate = jnp.max(jnp.abs(values))
    defects = images - columns * values[None, :k].astype(columns.dtype)
    residuals = column_norms(defects, largest_entry(defects))
    # The decomposition is that of the Hermitian part.
    discrepancy = jnp.max(column_norms(images - matmul(jnp.conj(matrix).T, columns), norm_estimate)) / 2
    valid = jnp.ones(k, bool)
    result = with_status(
        op,
        CandidatePairs(values[:k], vectors, residuals, valid, num_matvecs),
        tol=tol,
        norm_estimate=norm_estimate,
        discrepancy=discrepancy,
        finite=jnp.isfinite(largest_entry(matrix)),
    )
    rounding = VERIFICATION_TOLERANCE * rounding_unit(op) * norm_estimate
    others = jnp.broadcast_to(rounding, values.shape[0] - k)
    found = Extraction(values, columns, jnp.concatenate([residuals, others]))
    result = result._replace(num_probes=jnp.int32(0), num_recovered=jnp.int32(0))
    return with_error_bounds(op, result, found, complete=jnp.ones((), bool), rounding=rounding)


SOLVER = DenseSolver(_is_small, lambda op: op.structure, _solve)
