"""Eigenpairs of a small symmetric operator in an interval, by a dense decomposition."""

from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.operators.base import LinearOperator
from eigenjax.operators.functions.precision import rounding_unit
from eigenjax.result import EigenResult
from eigenjax.solvers.convergence.residuals import VERIFICATION_TOLERANCE
from eigenjax.solvers.dense import symmetric
from eigenjax.solvers.dense.choice import DenseSolver
from eigenjax.solvers.interval.assembly import selection, with_interval


def _solve(op: LinearOperator, *, k: int, interval: Any, **options: Any) -> EigenResult:
    """Compute all eigenpairs in an interval by one dense decomposition, k at most."""
    options = options | {"which": "SA", "sigma": None}
    result = symmetric.SOLVER.solve(op, k=op.size, **options)
    values = jax.lax.stop_gradient(result.eigenvalues)
    low, high = (jnp.asarray(end).astype(values.dtype) for end in interval)
    rounding = VERIFICATION_TOLERANCE * rounding_unit(op) * jnp.max(jnp.abs(values))
    inside = (values >= low - rounding) & (values <= high + rounding) & (low <= high)
    middle = (jnp.maximum(low, values[0]) + jnp.minimum(high, values[-1])) / 2
    order, present = selection(values, inside, middle, k)
    chosen = lambda x: jax.tree.map(lambda leaf: leaf[order], x)
    result = result._replace(
        eigenvalues=result.eigenvalues[order],
        eigenvectors=chosen(result.eigenvectors),
        residuals=result.residuals[order],
        converged=result.converged[order],
        error_bounds=chosen(result.error_bounds),
        error_estimates=chosen(result.error_estimates),
        gap=_gap(values, inside),
    )
    return with_interval(result, present, jnp.sum(inside, dtype=jnp.int32), jnp.zeros((), bool))


def _gap(values: jax.Array, inside: jax.Array) -> jax.Array:
    """Return () the distance from the eigenvalues inside to those outside, or inf."""
    distances = jnp.abs(values[:, None] - values[None, :])
    return jnp.min(jnp.where(inside[:, None] & ~inside[None, :], distances, jnp.inf))


SOLVER = DenseSolver(symmetric.SOLVER.is_small, lambda op: op.structure, _solve)
