"""Error bounds and estimates of eigenvalues, from residuals and the gaps to other eigenvalues.

    |theta - lambda| <= r,    and    |theta - lambda| <= r^2 / gap

with r the residual and gap the distance from theta to all eigenvalues but lambda (Kato 1949, Temple 1928). The first
bound always holds. The second is a bound if all other eigenvalues are known. It is an estimate if the gap is the
distance to the nearest Ritz value.
"""

import jax
import jax.numpy as jnp

from eigenjax.krylov.rayleigh_ritz import Extraction
from eigenjax.operators.base import LinearOperator
from eigenjax.operators.functions.precision import rounding_unit
from eigenjax.result import EigenResult
from eigenjax.vectors.arithmetic import safe_divide

# The error of an eigenvalue may be this times the machine epsilon times the largest Ritz value, however small its
# residual: 12 at most are measured for Krylov spaces (n = 400, float32), and 2.3 for decompositions of the matrix.
_KRYLOV_ROUNDING, _DENSE_ROUNDING = 16.0, 4.0


def with_error_bounds(
    op: LinearOperator, result: EigenResult, found: Extraction, *, complete: jax.Array, rounding: jax.Array
) -> EigenResult:
    """Fill in `error_bounds`, `error_estimates` and `gap`.

    Args:
        op: the operator, of which only the structure and the precision are used.
        result: result with eigenvalues and residuals.
        found: all Ritz pairs of the last convergence check, the k wanted first.
        complete: () bool, these are all eigenpairs of the operator.
        rounding: () absolute error of the residuals.
    """
    k = result.eigenvalues.shape[0]
    residuals = result.residuals
    nearest = jnp.full(k, jnp.inf, residuals.dtype)
    gap = jnp.full((), jnp.inf, residuals.dtype)
    if found.values.shape[0] > k:
        others, their_residuals = found.values[k:], found.residuals[k:]
        distances = jnp.abs(result.eigenvalues[:, None] - others[None, :])
        gap = jnp.where(jnp.isfinite(their_residuals[0]), jnp.min(distances[:, 0]), jnp.inf)
        # The first pair that is not wanted; if all pairs are known, each of them.
        first = jnp.arange(others.shape[0], dtype=jnp.int32) == 0
        counts = jnp.isfinite(their_residuals) & (complete | first)
        radii = jnp.where(jnp.isfinite(their_residuals), their_residuals, 0)
        nearest = jnp.min(jnp.where(counts[None, :], distances - radii[None, :], jnp.inf), axis=1)
    apart = jnp.abs(result.eigenvalues[:, None] - result.eigenvalues[None, :]) - residuals[None, :]
    nearest = jnp.minimum(nearest, jnp.min(jnp.where(jnp.eye(k, dtype=bool), jnp.inf, apart), axis=1))
    # An infinite distance means that nothing is known about a neighbor.
    separated = (nearest > residuals) & jnp.isfinite(nearest)
    quadratic = jnp.where(separated, residuals * safe_divide(residuals, nearest, where=separated), residuals)
    units = jnp.where(complete, _DENSE_ROUNDING, _KRYLOV_ROUNDING).astype(residuals.dtype)
    smallest = units * float(jnp.finfo(residuals.dtype).eps) * jnp.max(jnp.abs(found.values))
    # The rounding of a matvec in fewer bits than the residual has changes the eigenvalue in first order.
    is_narrow = rounding_unit(op) > float(jnp.finfo(residuals.dtype).eps)
    estimates = jnp.maximum(residuals if is_narrow else quadratic, smallest)
    bounds = jnp.where(complete, estimates, residuals) + rounding
    return result._replace(error_bounds=bounds, error_estimates=estimates, gap=gap)
