"""What an estimate is worth: the code that comes with it."""

import enum

import jax
import jax.numpy as jnp


class EstimateStatus(enum.IntEnum):
    """How an estimate came out. Every code has an `advice`: what happened and what to do.

    >>> EstimateStatus.ESTIMATED.advice
    'the estimate is what the documentation says'
    """

    ESTIMATED = 0
    NOT_POSITIVE_DEFINITE = 1
    NONFINITE = 2

    @property
    def advice(self) -> str:
        """One sentence for a person: what happened, and the remedy."""
        return _ADVICE[self]


_ADVICE = {
    EstimateStatus.ESTIMATED: "the estimate is what the documentation says",
    EstimateStatus.NOT_POSITIVE_DEFINITE: (
        "the operator has an eigenvalue that is negative, or zero to rounding, and the logarithm of its determinant is "
        "not defined: add a multiple of the identity (`op.shift(-c)`), or compute in a wider dtype"
    ),
    EstimateStatus.NONFINITE: (
        "a product or a function value is NaN or Inf: check the operator for overflow, and f on the whole spectrum"
    ),
}


def status_of(estimate: jax.Array, not_positive: jax.Array | bool = False) -> jax.Array:
    """Return the () int32 code of an estimate."""
    codes = [EstimateStatus.NOT_POSITIVE_DEFINITE, EstimateStatus.NONFINITE]
    conditions = [jnp.asarray(not_positive), ~jnp.isfinite(estimate)]
    return jnp.select(conditions, [jnp.int32(code) for code in codes], jnp.int32(EstimateStatus.ESTIMATED))
