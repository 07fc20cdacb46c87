"""Status codes of the estimators."""

import enum

import jax
import jax.numpy as jnp


class EstimateStatus(enum.IntEnum):
    """Outcome of an estimate. Every code has an `advice`: the cause and the remedy.

    >>> EstimateStatus.ESTIMATED.advice
    'the estimate is finite'
    """

    ESTIMATED = 0
    NOT_POSITIVE_DEFINITE = 1
    NONFINITE = 2
    NOT_CONVERGED = 3

    @property
    def advice(self) -> str:
        """Cause and remedy, in one sentence."""
        return _ADVICE[self]


_ADVICE = {
    EstimateStatus.ESTIMATED: "the estimate is finite",
    EstimateStatus.NOT_POSITIVE_DEFINITE: (
        "the operator has an eigenvalue that is negative, or zero to rounding, and the logarithm of its determinant is "
        "not defined: add a multiple of the identity (`op.shift(-c)`), or compute in a wider dtype"
    ),
    EstimateStatus.NONFINITE: (
        "a matvec or a function value is NaN or Inf: check the operator for overflow, and f on the whole spectrum"
    ),
    EstimateStatus.NOT_CONVERGED: "max_matvecs was reached before the end: raise it, or krylov_dim",
}


def status_of(estimate: jax.Array, not_positive: jax.Array | bool = False) -> jax.Array:
    """Return the status code of an estimate, () int32."""
    codes = [EstimateStatus.NOT_POSITIVE_DEFINITE, EstimateStatus.NONFINITE]
    conditions = [jnp.asarray(not_positive), ~jnp.isfinite(estimate)]
    return jnp.select(conditions, [jnp.int32(code) for code in codes], jnp.int32(EstimateStatus.ESTIMATED))
