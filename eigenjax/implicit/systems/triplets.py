"""What a derivative needs of k computed singular triplets: how accurate they are, and which of them are one cluster."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.implicit.systems.pairs import CLUSTER_RESIDUALS, CLUSTER_ROUNDING
from eigenjax.krylov.recycling import Remainder
from eigenjax.operators.maps import RectangularOperator
from eigenjax.vectors.tree import PyTree


class Solved(NamedTuple):
    """What the backward pass needs of the forward one."""

    op: RectangularOperator
    left: PyTree
    values: jax.Array
    right: PyTree
    residuals: jax.Array
    adjoint_tol: jax.Array | None
    known: Remainder | None = None  # the triplets that were not wanted, of the side that is smaller


def reciprocal_gaps(solved: Solved, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """(k, k) 1 / (s_i - s_j), zero within clusters, and 1 / (s_i + s_j), zero where both are."""
    values, width = solved.values, width_of(solved)
    widths = width[:, None] + width[None, :]
    between = _reciprocal(values[None, :] - values[:, None], widths)
    return between.astype(dtype), _reciprocal(values[None, :] + values[:, None], widths).astype(dtype)


def width_of(solved: Solved) -> jax.Array:
    """(k,) how far a value may be from where it was found, for all that the forward solve knows."""
    unit = CLUSTER_ROUNDING * jnp.finfo(solved.values.dtype).eps / 2
    return jax.lax.stop_gradient(CLUSTER_RESIDUALS * solved.residuals + unit * jnp.max(solved.values))


def positive(solved: Solved) -> jax.Array:
    """(k,) one, and zero for a value that may be zero: of that nothing is defined outside."""
    return (solved.values > 2 * width_of(solved)).astype(solved.values.dtype)


def scale_of(solved: Solved) -> jax.Array:
    """() the largest singular value, or one."""
    largest = jax.lax.stop_gradient(jnp.max(solved.values))
    return jnp.where(largest > 0, largest, 1)


def antihermitian(inner: jax.Array) -> jax.Array:
    """(G - G^H) / 2."""
    return (inner - jnp.conj(inner).T) / 2


def _reciprocal(numbers: jax.Array, width: jax.Array) -> jax.Array:
    """1 / x, or zero where |x| may be nothing."""
    apart = jnp.abs(numbers) > width
    return jnp.where(apart, 1 / jnp.where(apart, numbers, 1), 0)
