"""Polynomials of a Golub-Kahan space: an upper bound on what its start holds of a singular vector that was missed.

As `lanczos_polynomials`, for singular triplets A v = s u, A^H u = s v. With A V = U B and A^H U = V B^H + d g, the
values p = <v, V>, q = <u, U>, p_d = <v, d>, relative to the component along the start vector, follow from

    s p_d = q B(:, d),    s q_u = p B(u, :)^H + p_d' beta

and |p|^2 + |p_d|^2 <= 1 bounds that component.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.krylov.lanczos_polynomials import clipped
from eigenjax.vectors import tree


class BidiagonalPolynomials(NamedTuple):
    """Values at L singular values, the levels, of the polynomials of both bases and of the vector that comes next."""

    levels: jax.Array  # (L,)
    left: jax.Array  # (L, m) q; 0 for rows that are orthogonal to u by assumption
    right: jax.Array  # (L, m) p
    direction: jax.Array  # (L,) p_d


def start(
    levels: jax.Array, num_rows: int, dtype: Any, last_row: jax.Array, last_length: jax.Array
) -> BidiagonalPolynomials:
    """Values where d is the start or, if it is coupled to a left vector, that left vector is.

    Args:
        levels: (L,).
        num_rows: m.
        dtype: of the values.
        last_row: () int32, the row of U that d is coupled to.
        last_length: () how strongly; 0 where d is the start.
    """
    nothing = jnp.zeros((levels.shape[0], num_rows), dtype)
    is_left = last_length > 0
    of_direction = jnp.where(is_left, levels / jnp.where(is_left, last_length, 1), 1).astype(dtype)
    left = nothing.at[:, last_row].set(is_left.astype(dtype))
    return BidiagonalPolynomials(levels, left, nothing, of_direction)


def extend(
    values: BidiagonalPolynomials,
    rows: tuple[jax.Array, jax.Array],
    columns: tuple[jax.Array, jax.Array],
    lengths: tuple[jax.Array, jax.Array],
) -> BidiagonalPolynomials:
    """Values after a step A d = U c + alpha u, A^H u = V e + beta d'.

    Args:
        values: before it.
        rows: () int32 each, where u and d stand in U and V.
        columns: (m,) each, c and e.
        lengths: () each, alpha and beta; 0 where a random vector has taken the place of what was not there.
    """
    dtype = values.left.dtype
    levels = values.levels.astype(dtype)
    divide = lambda x, length: jnp.where(length > 0, x / jnp.where(length > 0, length, 1).astype(dtype), 0)
    matmul = lambda a, b: jnp.matmul(a, b.astype(dtype), precision=jax.lax.Precision.HIGHEST)
    right = values.right.at[:, rows[1]].set(values.direction)
    new_left = divide(levels * values.direction - matmul(values.left, columns[0]), lengths[0])
    left = values.left.at[:, rows[0]].set(new_left)
    direction = divide(levels * new_left - matmul(right, columns[1]), lengths[1])
    return values._replace(left=clipped(left), right=clipped(right), direction=clipped(direction))


def amplitudes(values: BidiagonalPolynomials) -> jax.Array:
    """(L,) no singular vector missed at the level has more than the inverse of this of the start."""
    return jax.vmap(tree.norm)((values.right, values.direction))
