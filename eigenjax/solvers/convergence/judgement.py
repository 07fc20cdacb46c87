"""What is said of a result: which pairs converged, and how the solve ended. The one place for it."""

from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.operators.base import LinearOperator
from eigenjax.result import EigenResult, Status
from eigenjax.solvers.convergence.residuals import rounding_unit
from eigenjax.vectors import tree

# Residuals below so many units of rounding of ||A|| are as small as the arithmetic allows.
_ROUNDING_FLOOR = 64.0
# By default, residuals below this times the machine epsilon of the narrowest leaf have converged: a product that is
# rounded to 16 bits at each layer is off by about one.
_NARROW_UNITS = 4.0


def default_tol(dtype: Any) -> float:
    """The square root of the machine epsilon: residuals of that size give eigenvalues to working precision.

    >>> print(f"{default_tol(jnp.float32):.1e}")
    3.5e-04
    """
    return float(jnp.finfo(dtype).eps) ** 0.5


def default_tolerance(op: LinearOperator) -> float:
    """The default tolerance for an operator: `default_tol`, or what the rounding of narrow leaves allows.

    >>> from eigenjax import as_operator
    >>> op = as_operator(lambda v: v, like=jax.ShapeDtypeStruct((3,), jnp.bfloat16))
    >>> print(f"{default_tolerance(op):.3f}")
    0.031
    """
    return max(default_tol(tree.accumulation_dtype(op.structure)), _NARROW_UNITS * rounding_unit(op))


def tolerance(tol: Any, dtype: Any) -> jax.Array:
    """() tol in a real dtype, the default where it is None."""
    return jnp.asarray(default_tol(dtype) if tol is None else tol).astype(dtype)


def stopping_tolerance(op: LinearOperator, tol: Any, dtype: Any, share: float = 1.0) -> jax.Array:
    """() a share of tol, or the rounding of a product where that is larger: below it there is nothing to gain."""
    return jnp.maximum(share * tolerance(tol, dtype), rounding_unit(op))


def judge(
    op: LinearOperator,
    result: EigenResult,
    *,
    tol: Any,
    scale: jax.Array,
    discrepancy: jax.Array,
    finite: jax.Array,
    lost: float = 0.0,
    verified: jax.Array | bool = True,
) -> EigenResult:
    """Fills in `converged` and `status`; a solve that met NaN or Inf returns NaN throughout.

    Args:
        op: the operator.
        result: with `converged` True where a pair is a candidate (no copy of another).
        tol: relative to scale; None is `default_tol`.
        scale: () the largest |Ritz value| seen, the estimate of ||A||.
        discrepancy: () how far products are from what the method says of them.
        finite: () whether all products were.
        lost: what the storage of the vectors loses, relative to their length.
        verified: () bool, the search for missed pairs has ended, or none was asked for.
    """
    tol = tolerance(tol, result.residuals.dtype)
    finite = finite & jnp.all(jnp.isfinite(result.residuals) | ~result.converged)
    converged = result.converged & (result.residuals <= tol * scale) & finite
    unit = rounding_unit(op)
    at_rounding = jnp.all(converged | (result.residuals <= max(_ROUNDING_FLOOR * unit, lost) * scale))
    inconsistent = discrepancy > unit**0.5 * scale
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
    return result._replace(
        eigenvalues=or_nan(result.eigenvalues),
        eigenvectors=jax.tree.map(or_nan, result.eigenvectors),
        residuals=or_nan(result.residuals),
        converged=converged,
        status=status,
        num_matvecs=result.num_matvecs.astype(jnp.int32),
    )
