"""Accuracy and clusters of k computed singular triplets, as a derivative needs them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.implicit.systems.pairs import CLUSTER_RESIDUALS, CLUSTER_ROUNDING
from eigenjax.krylov.recycling import RecycledPairs
from eigenjax.operators.maps import RectangularOperator
from eigenjax.operators.rectangular import adjoint_matvec, matvec
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import positive_or_one, safe_divide
from eigenjax.vectors.orthogonalize import arbitrary_direction, normalize
from eigenjax.vectors.pseudorandom import seed_of
from eigenjax.vectors.tree import PyTree

# Steps of the power iteration that estimates ||A|| where only small singular values are known. The estimate is a lower
# bound. It separates rounding from values, which takes no more than its order of magnitude.
_POWER_STEPS = 4


class SolvedTriplets(NamedTuple):
    """Forward results that the backward pass needs."""

    op: RectangularOperator  # A
    left: PyTree  # U, with a leading axis k on every leaf
    values: jax.Array  # (k,) singular values s
    right: PyTree  # V, with a leading axis k on every leaf
    residuals: jax.Array  # (k,) residuals of the triplets
    adjoint_tol: jax.Array | None  # () relative residual of the linear systems; None derives it from the triplets
    recycled: RecycledPairs | None = None  # recycled triplets, of the smaller side
    norm: jax.Array | None = None  # () estimate of ||A|| if the triplets are the smallest; None if the largest

    @property
    def are_smallest(self) -> bool:
        """True if the triplets are those of the smallest singular values, not of the largest."""
        return self.norm is not None


def norm_of(op: RectangularOperator, dtype: Any) -> jax.Array:
    """Estimate ||A||, (), from below by a few steps of power iteration with A^H A; 0 if A is zero."""

    def advance(carry, _):
        image = matvec(op, carry[0])
        back = adjoint_matvec(op, normalize(image, tree.norm(image)))
        length = tree.norm(back)
        return (normalize(back, length), length.astype(dtype)), None

    start = arbitrary_direction(seed_of(None), tree.working_structure(op.domain))
    return jax.lax.scan(advance, (start, jnp.zeros((), dtype)), length=_POWER_STEPS)[0][1]


def reciprocal_gaps(solved: SolvedTriplets, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """Compute (k, k) 1 / (s_i - s_j), zero within clusters, and 1 / (s_i + s_j), zero where both values are zero."""
    values, width = solved.values, width_of(solved)
    widths = width[:, None] + width[None, :]
    between = _reciprocal(values[None, :] - values[:, None], widths)
    return between.astype(dtype), _reciprocal(values[None, :] + values[:, None], widths).astype(dtype)


def width_of(solved: SolvedTriplets) -> jax.Array:
    """Compute (k,) the uncertainty of each value, from its residual and rounding."""
    unit = CLUSTER_ROUNDING * jnp.finfo(solved.values.dtype).eps / 2
    return jax.lax.stop_gradient(CLUSTER_RESIDUALS * solved.residuals + unit * _largest(solved))


def positive(solved: SolvedTriplets) -> jax.Array:
    """Return (k,) one, or zero for a value that may be zero, where no derivative is defined outside the span."""
    return (solved.values > 2 * width_of(solved)).astype(solved.values.dtype)


def triplet_norm_estimate(solved: SolvedTriplets) -> jax.Array:
    """Compute () the norm estimate: the largest singular value known or estimated, or one if that is zero."""
    return positive_or_one(jax.lax.stop_gradient(_largest(solved)))


def _largest(solved: SolvedTriplets) -> jax.Array:
    values = solved.values if solved.norm is None else jnp.maximum(solved.values, solved.norm)
    return jnp.max(values)


def antihermitian(inner: jax.Array) -> jax.Array:
    """Compute (G - G^H) / 2."""
    return (inner - jnp.conj(inner).T) / 2


def _reciprocal(numbers: jax.Array, width: jax.Array) -> jax.Array:
    """Compute 1 / x, or zero where |x| does not exceed its uncertainty."""
    return safe_divide(1, numbers, where=jnp.abs(numbers) > width, otherwise=0)
