"""Singular triplets of a small operator by a dense decomposition."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.dense.singular import svd
from eigenjax.operators.maps import RectangularOperator
from eigenjax.operators.rectangular import Dilation, adjoint_matvec, matvec
from eigenjax.result import SingularResult
from eigenjax.solvers.convergence.status import CandidatePairs, default_tolerance, with_status
from eigenjax.solvers.dense.choice import DenseSolver, fits_accelerator
from eigenjax.solvers.dense.matrix import column_norms, is_matrix, largest_entry, rectangular_entries
from eigenjax.solvers.singular.svds import checked_count, checked_which, default_dim
from eigenjax.solvers.start import given_vector
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import matmul
from eigenjax.vectors.packing import ravel, unravel
from eigenjax.vectors.signs import fix_signs

# Largest matrix that is decomposed by default: p n min(p, n) <= 300^3. On a CPU, a decomposition and a Krylov method
# for six triplets then take the same time (17 and 13 ms in float32); compiling takes 0.2 s and 4 s.
_LARGEST = 300**3


def _is_small(op: RectangularOperator, k: int, options: dict[str, Any]) -> bool:
    del options
    p, n = op.shape
    small = min(p, n) <= default_dim(k) or (p * n * min(p, n) <= _LARGEST and is_matrix(op))
    return small and fits_accelerator(min(p, n))


def _structures(op: RectangularOperator) -> Any:
    return op.codomain, op.domain


def _solve(op: RectangularOperator, *, k: int, which: str, tol: Any, v0: Any, **_: Any) -> SingularResult:
    """Compute k singular triplets of a rectangular operator by one dense decomposition."""
    k, which = checked_count(k, *op.shape), checked_which(which)
    if v0 is not None:
        given_vector(v0, op.domain)  # checks the start, which a dense decomposition does not need
    matrix, num_matvecs = rectangular_entries(op)
    left_columns, values, right_rows = svd(matrix)
    wanted = {"LM": lambda x: x[..., :k], "SM": lambda x: jnp.flip(x, axis=-1)[..., :k]}[which]
    norm = jax.lax.stop_gradient(values[0])
    left_columns, values, right_columns = map(wanted, (left_columns, values, jnp.conj(right_rows).T))
    right = unravel(right_columns.T, tree.working_structure(op.domain))
    left = unravel(left_columns.T, tree.working_structure(op.codomain))
    _, signs = jax.lax.stop_gradient(fix_signs(jax.lax.stop_gradient(right)))
    left, right = jax.vmap(tree.scale)(signs, left), jax.vmap(tree.scale)(signs, right)

    known = jax.lax.stop_gradient((op, matrix, left_columns, values, right_columns))
    residuals, discrepancy = _residuals(*known, norm)
    num_matvecs = jnp.int32(num_matvecs + (2 * k if is_matrix(op) else k))
    result = with_status(
        Dilation(op),
        CandidatePairs(values, (left, right), residuals, jnp.ones(k, bool), num_matvecs),
        tol=default_tolerance(Dilation(op)) if tol is None else tol,
        norm_estimate=norm,
        discrepancy=discrepancy,
        finite=jnp.isfinite(largest_entry(known[1])),
    )
    left, right = result.eigenvectors
    return SingularResult(
        left, result.eigenvalues, right, result.residuals, result.converged, result.status, result.num_matvecs
    )


def _residuals(
    op: RectangularOperator,
    matrix: jax.Array,
    left: jax.Array,
    values: jax.Array,
    right: jax.Array,
    norm: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Return the (k,) residuals, and by how much A or A^H differs from the matrix and its adjoint, ().

    One of the two is multiplied by the operator, because a matrix computed by the other does not show it.
    """
    adjoint = jnp.conj(matrix).T
    images, adjoint_images = matmul(matrix, right), matmul(adjoint, left)
    discrepancy = jnp.zeros((), values.dtype)
    if not is_matrix(op):
        p, n = op.shape
        by_matvecs = functools.partial(_multiplied, dtype=matrix.dtype)
        if n <= p:
            computed = by_matvecs(functools.partial(adjoint_matvec, op), left, op.codomain)
            discrepancy, adjoint_images = jnp.max(column_norms(computed - adjoint_images, norm)), computed
        else:
            computed = by_matvecs(functools.partial(matvec, op), right, op.domain)
            discrepancy, images = jnp.max(column_norms(computed - images, norm)), computed
    scales = values.astype(matrix.dtype)[None, :]
    defects = jnp.concatenate([images - left * scales, adjoint_images - right * scales])
    return column_norms(defects, largest_entry(defects)), discrepancy


def _multiplied(apply: Any, columns: jax.Array, structure: Any, *, dtype: Any) -> jax.Array:
    """Multiply each of some columns by a map, one after the other."""
    image = lambda column: ravel(apply(unravel(column, tree.working_structure(structure))), dtype)
    return jax.lax.map(image, columns.T).T


SOLVER = DenseSolver(_is_small, _structures, _solve)
