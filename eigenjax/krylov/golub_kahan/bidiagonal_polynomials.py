"""Polynomials of a Golub-Kahan space: an upper bound on the component of its start along a missed singular vector.

Let A v = s u, A^H u = s v be a singular triplet, and A V = U B, A^H U = V B^H + d g the decomposition. The values
p = <v, V>, q = <u, U>, p_d = <v, d>, relative to the component along the start vector, follow from

    s p_d = q B(:, d),    s q_u = p B(u, :)^H + p_d' beta

and |p|^2 + |p_d|^2 <= 1 bounds that component, as does |q|^2 <= 1. For s = 0 the values of one side are zero, and the
other side gives the bound.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.krylov.lanczos_polynomials import clipped
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import safe_divide


class BidiagonalPolynomials(NamedTuple):
    """Values at L singular values, the levels, of the polynomials of both bases and of the next vector d."""

    levels: jax.Array  # (L,) the singular values s
    left: jax.Array  # (L, m) q; 0 for rows that count as orthogonal to u
    right: jax.Array  # (L, m) p; 0 for rows that count as orthogonal to v
    direction: jax.Array  # (L,) p_d


def start(
    levels: jax.Array, num_rows: int, dtype: Any, last_row: jax.Array, last_length: jax.Array
) -> BidiagonalPolynomials:
    """Return the values if d is the start or, with d coupled to a left vector, if that left vector is the start.

    Args:
        levels: (L,) the singular values s.
        num_rows: m.
        dtype: dtype of the values.
        last_row: () int32, the row of U that d is coupled to.
        last_length: () that coupling; 0 if d is the start.
    """
    zeros = jnp.zeros((levels.shape[0], num_rows), dtype)
    is_left = last_length > 0
    of_direction = safe_divide(levels, last_length, otherwise=1).astype(dtype)
    left = zeros.at[:, last_row].set(is_left.astype(dtype))
    return BidiagonalPolynomials(levels, left, zeros, of_direction)


def extend(
    values: BidiagonalPolynomials,
    rows: tuple[jax.Array, jax.Array],
    columns: tuple[jax.Array, jax.Array],
    lengths: tuple[jax.Array, jax.Array],
) -> BidiagonalPolynomials:
    """Update the values after a step A d = U c + alpha u, A^H u = V e + beta d'.

    Args:
        values: values before the step.
        rows: () int32 each, the rows of U and V that hold u and d.
        columns: (m,) each, c and e.
        lengths: () each, alpha and beta; 0 if a random vector replaced a negligible one.
    """
    dtype = values.left.dtype
    levels = values.levels.astype(dtype)
    divide = lambda x, length: safe_divide(x, length, otherwise=0)
    matmul = lambda a, b: jnp.matmul(a, b.astype(dtype), precision=jax.lax.Precision.HIGHEST)
    right = values.right.at[:, rows[1]].set(values.direction)
    new_left = divide(levels * values.direction - matmul(values.left, columns[0]), lengths[0])
    left = values.left.at[:, rows[0]].set(new_left)
    direction = divide(levels * new_left - matmul(right, columns[1]), lengths[1])
    return values._replace(left=clipped(left), right=clipped(right), direction=clipped(direction))


def amplitudes(values: BidiagonalPolynomials) -> jax.Array:
    """Compute the (L,) amplitudes: the component of the start along a missed singular vector is at most the inverse."""
    return jnp.maximum(jax.vmap(tree.norm)((values.right, values.direction)), jax.vmap(tree.norm)(values.left))
