"""Convergence flags and status of a result."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.operators.base import LinearOperator
from eigenjax.operators.functions.precision import rounding_unit
from eigenjax.result import EigenResult, Status
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import safe_divide
from eigenjax.vectors.tree import PyTree

# Residuals below this times eps ||A|| are as small as the arithmetic allows.
ROUNDING_FLOOR = 64.0
# By default, residuals below this times the machine epsilon of the narrowest leaf are converged: a matvec that rounds
# to 16 bits at each layer has an error of about one such epsilon.
_NARROW_UNITS = 4.0


class CandidatePairs(NamedTuple):
    """Pairs of a finished solve, before their residuals are compared with the tolerance."""

    values: jax.Array  # (k,)
    vectors: PyTree  # (k, ...)
    residuals: jax.Array  # (k,) ||A v - lambda v||
    valid: jax.Array  # (k,) bool, the pair exists and is no copy of another
    num_matvecs: jax.Array  # () matvecs of the solve


def default_tol(dtype: Any) -> float:
    """Return the square root of the machine epsilon: residuals of that size give eigenvalues to working precision.

    >>> print(f"{default_tol(jnp.float32):.1e}")
    3.5e-04
    """
    return float(jnp.finfo(dtype).eps) ** 0.5


def default_tolerance(op: LinearOperator) -> float:
    """Return the default tolerance of an operator: `default_tol`, or what the rounding of narrow leaves allows.

    >>> from eigenjax import as_operator
    >>> op = as_operator(lambda v: v, like=jax.ShapeDtypeStruct((3,), jnp.bfloat16))
    >>> print(f"{default_tolerance(op):.3f}")
    0.031
    """
    return max(default_tol(tree.accumulation_dtype(op.structure)), attainable_tolerance(op))


def attainable_tolerance(op: LinearOperator) -> float:
    """Return the smallest tolerance that the rounding of matvecs leaves within reach."""
    return _NARROW_UNITS * rounding_unit(op)


class Tolerances(NamedTuple):
    """Relative and absolute tolerance; a residual that meets either is small enough."""

    relative: Any
    absolute: Any


def with_absolute(tol: Any, atol: Any) -> Any:
    """Return a tolerance with an absolute one beside it, if that is not None."""
    return tol if atol is None else Tolerances(tol, atol)


def tolerance(tol: Any, dtype: Any, norm_estimate: jax.Array | None = None) -> jax.Array:
    """Return tol in a real dtype, (); the default if it is None.

    Args:
        tol: the relative tolerance, or `Tolerances`.
        dtype: the dtype.
        norm_estimate: () the number that an absolute tolerance is divided by.
    """
    if isinstance(tol, Tolerances):
        assert norm_estimate is not None
        absolute = safe_divide(jnp.asarray(tol.absolute).astype(dtype), norm_estimate, otherwise=0)
        return jnp.maximum(tolerance(tol.relative, dtype), absolute)
    return jnp.asarray(default_tol(dtype) if tol is None else tol).astype(dtype)


def stopping_tolerance(
    op: LinearOperator, tol: Any, dtype: Any, share: float = 1.0, norm_estimate: jax.Array | None = None
) -> jax.Array:
    """Return a share of tol, or the rounding of a matvec if that is larger, (): smaller residuals are not reachable."""
    return jnp.maximum(share * tolerance(tol, dtype, norm_estimate), rounding_unit(op))


def with_status(
    op: LinearOperator,
    pairs: CandidatePairs,
    *,
    tol: Any,
    norm_estimate: jax.Array,
    discrepancy: jax.Array,
    finite: jax.Array,
    storage_error: float = 0.0,
    verified: jax.Array | bool = True,
) -> EigenResult:
    """Return pairs with `converged` and `status`; if a matvec is not finite, all numbers are NaN.

    Args:
        op: the operator.
        pairs: pairs of the solve.
        tol: tolerance relative to `norm_estimate`, or `Tolerances`; None is `default_tol`.
        norm_estimate: () the largest |Ritz value| seen, the norm estimate.
        discrepancy: () ||A v - (the prediction of the recurrence)||.
        finite: () bool, all matvecs are finite.
        storage_error: rounding error of the storage of the vectors, relative to their norm.
        verified: () bool, the missed-pair search has ended, or is not requested.
    """
    residuals = pairs.residuals
    finite = finite & jnp.all(jnp.isfinite(residuals) | ~pairs.valid)
    converged = pairs.valid & (residuals <= tolerance(tol, residuals.dtype, norm_estimate) * norm_estimate) & finite
    unit = rounding_unit(op)
    at_rounding = jnp.all(converged | (residuals <= max(ROUNDING_FLOOR * unit, storage_error) * norm_estimate))
    inconsistent = discrepancy > unit**0.5 * norm_estimate
    status = jnp.select(
        [~finite, jnp.all(converged) & verified, jnp.all(converged), inconsistent, at_rounding],
        [
            jnp.int32(code)
            for code in (
                Status.NONFINITE,
                Status.CONVERGED,
                Status.UNVERIFIED,
                Status.INCONSISTENT,
                Status.STAGNATED,
            )
        ],
        jnp.int32(Status.NOT_CONVERGED),
    )
    or_nan = lambda x: jnp.where(finite, x, jnp.nan)
    return EigenResult(
        eigenvalues=or_nan(pairs.values),
        eigenvectors=jax.tree.map(or_nan, pairs.vectors),
        residuals=or_nan(residuals),
        converged=converged,
        status=status,
        num_matvecs=pairs.num_matvecs.astype(jnp.int32),
    )
