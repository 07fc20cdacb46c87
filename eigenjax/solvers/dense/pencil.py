"""Eigenpairs of a pencil of small matrices by a dense decomposition."""

from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.dense.symmetric import eigh
from eigenjax.krylov import ritz
from eigenjax.krylov.rayleigh_ritz import Extraction
from eigenjax.operators.functions.precision import rounding_unit
from eigenjax.result import EigenResult, Status
from eigenjax.solvers.convergence.error_bounds import with_error_bounds
from eigenjax.solvers.convergence.status import CandidatePairs, default_tolerance, tolerance, with_absolute, with_status
from eigenjax.solvers.dense.choice import DenseSolver, fits_accelerator
from eigenjax.solvers.dense.matrix import column_norms, entries, is_matrix, largest_entry
from eigenjax.solvers.dense.symmetric import LARGEST
from eigenjax.solvers.pencil.assembly import BOUND_ROUNDING
from eigenjax.solvers.pencil.pencil import Pencil
from eigenjax.solvers.symmetric.plan import default_dim
from eigenjax.solvers.warm_start import start_rows
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import matmul
from eigenjax.vectors.packing import unravel
from eigenjax.vectors.signs import fix_signs


def _is_small(pencil: Pencil, k: int, options: dict[str, Any]) -> bool:
    if pencil.inverse is not None or pencil.b is None:
        return False
    interior = options["sigma"] is not None or options["which"] == "SM"
    known = is_matrix(pencil.a) and is_matrix(pencil.b)
    return (pencil.size <= default_dim(k, interior) or (pencil.size <= LARGEST and known)) and fits_accelerator(
        pencil.size
    )


def _solve(pencil: Pencil, *, k: int, which: str, tol: Any, atol: Any, sigma: Any, v0: Any, **_: Any) -> EigenResult:
    """Compute k eigenpairs of a pencil by one dense decomposition."""
    ritz.check_count(k, pencil.size)
    interior = sigma is not None or which == "SM"
    if not interior:
        ritz.check_which(which)
    references = start_rows(pencil.a, v0)
    a, num_matvecs = entries(pencil.a)
    b = None if pencil.b is None else entries(pencil.b).matrix
    values, columns = eigh(a, b)
    nearest = (0.0 if sigma is None else sigma) if interior else None
    order = ritz.pair_order(jax.lax.stop_gradient(values), which, nearest)
    all_values, values, columns = values[order], values[order[:k]], columns[:, order[:k]]
    vectors = unravel(columns.T, tree.working_structure(pencil.structure))
    _, signs = jax.lax.stop_gradient(fix_signs(jax.lax.stop_gradient(vectors), references=references))
    vectors = jax.vmap(tree.scale)(signs, vectors)
    num_matvecs = jnp.int32(num_matvecs + (k if is_matrix(pencil.a) else 0))
    tol = with_absolute(default_tolerance(pencil.a) if tol is None else tol, atol)
    known = jax.lax.stop_gradient((a, b, values, columns))
    scales, residuals, asymmetry, defects, lengths = _residuals(*known)
    # A decomposition fails if B is not positive definite.
    finite = jnp.isfinite(largest_entry(a)) & (jnp.array(True) if b is None else jnp.isfinite(largest_entry(b)))
    result = with_status(
        pencil.a,
        CandidatePairs(values, vectors, residuals / scales, jnp.ones(k, bool), num_matvecs),
        tol=tolerance(tol, residuals.dtype, scales),
        norm_estimate=jnp.ones((), residuals.dtype),
        discrepancy=asymmetry,
        finite=finite,
    )
    indefinite = finite & ~jnp.all(jnp.isfinite(residuals))
    rounding = BOUND_ROUNDING * rounding_unit(pencil.a) * scales / lengths
    # Of the norm in which a residual bounds the error.
    own = result._replace(eigenvalues=jax.lax.stop_gradient(values), residuals=_in_inverse_norm(defects, known[1]))
    others = jnp.full(all_values.shape[0] - k, jnp.max(rounding))
    found = Extraction(jax.lax.stop_gradient(all_values), columns, jnp.concatenate([own.residuals, others]))
    result = with_error_bounds(pencil.a, own, found, complete=jnp.ones((), bool), rounding=rounding)
    return result._replace(
        eigenvalues=values,
        eigenvectors=vectors,
        residuals=residuals,
        status=jnp.where(indefinite, jnp.int32(Status.INCONSISTENT), result.status),
        num_probes=jnp.int32(0),
        num_recovered=jnp.int32(0),
    )


def _residuals(a: jax.Array, b: jax.Array | None, values: jax.Array, columns: jax.Array) -> tuple[jax.Array, ...]:
    """Return the numbers that a result is judged by.

    Returns:
        (||A|| + |lambda| ||B||) ||x||, ||A x - lambda B x||, the share of A or B that is not Hermitian, the residual
        vectors as columns, and ||B x||.
    """
    images, masses = matmul(a, columns), columns if b is None else matmul(b, columns)
    defects = images - masses * values[None, :].astype(masses.dtype)
    norms = lambda x: column_norms(x, largest_entry(x))
    norm_a = jnp.max(norms(a))
    norm_b = 1.0 if b is None else jnp.max(norms(b))
    skew = jnp.max(norms(a - jnp.conj(a).T)) / 2
    tiny = jnp.finfo(values.dtype).tiny
    skewed = skew / jnp.maximum(norm_a, tiny)
    if b is not None:
        skewed = jnp.maximum(skewed, jnp.max(norms(b - jnp.conj(b).T)) / 2 / jnp.maximum(norm_b, tiny))
    scales = jnp.maximum((norm_a + jnp.abs(values) * norm_b) * norms(columns), tiny)
    return scales, norms(defects), skewed, defects, jnp.maximum(norms(masses), tiny)


def _in_inverse_norm(defects: jax.Array, b: jax.Array | None) -> jax.Array:
    """Compute the norms (r^H B^-1 r)^(1/2) of columns."""
    if b is None:
        return column_norms(defects, largest_entry(defects))
    factor = jnp.linalg.cholesky((b + jnp.conj(b).T) / 2)
    solved = jax.scipy.linalg.solve_triangular(factor, defects, lower=True)
    return column_norms(solved, largest_entry(solved))


SOLVER = DenseSolver(_is_small, lambda pencil: pencil.structure, _solve)
