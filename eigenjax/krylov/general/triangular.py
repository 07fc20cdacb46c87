"""Eigenvectors, conditions and shifted systems of a small upper triangular matrix, by back substitution.

These functions are not differentiated.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from eigenjax.vectors.arithmetic import positive_or_one, safe_divide

# Differences of eigenvalues below this times eps times the largest entry count as zero.
_COINCIDENT = 1.0
# Eigenvalues are repeated if they differ by at most this times eps. Two of these are uncoupled if the matrix couples
# them by at most this times eps. The QR iteration adds rounding errors of about this size.
_REPEATED, _UNCOUPLED = 16.0, 16.0

_matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def triangular_eigenvectors(triangular: jax.Array, least_gap: jax.Array | float = 0.0) -> jax.Array:
    """Compute the (m, m) unit eigenvectors of an upper triangular matrix, in columns, by back substitution.

    Column i solves (T - t_ii) x = 0 with x_i = 1. Two eigenvalues that differ only by rounding are coupled if their
    coupling in T is more than rounding: then they are defective, and their vectors coincide. Otherwise they are not
    coupled: the vectors of a repeated eigenvalue of a normal matrix are orthonormal.

    Args:
        triangular: (m, m) T.
        least_gap: () smaller differences of eigenvalues are replaced by it: the vectors are then those of a nearby
            matrix.

    >>> print(triangular_eigenvectors(jnp.array([[1.0, 1.0], [0.0, 2.0]])).round(4))
    [[1.     0.7071]
     [0.     0.7071]]
    """
    m = triangular.shape[0]
    index = jnp.arange(m, dtype=jnp.int32)
    largest = jnp.max(jnp.abs(triangular))
    unit = jnp.finfo(largest.dtype).eps * positive_or_one(largest)
    closest = jnp.maximum(_COINCIDENT * unit, least_gap)

    def quotient(row, columns, gaps):
        product = _matmul(jnp.where(index > row, triangular[row], 0), columns)
        # Columns grow, and are scaled: the threshold is relative to them.
        negligible = jnp.abs(product) <= _UNCOUPLED * unit * jnp.max(jnp.abs(columns), axis=0)
        uncoupled = negligible & (jnp.abs(gaps) <= _REPEATED * unit)
        gaps = jnp.where(jnp.abs(gaps) > closest, gaps, closest.astype(gaps.dtype))
        return jnp.where(index > row, jnp.where(uncoupled, 0, product / gaps), columns[row])

    values = jnp.diag(triangular)
    columns = _substitute(lambda row, x: quotient(row, x, values - values[row]), jnp.eye(m, dtype=values.dtype))
    return columns / jnp.linalg.norm(columns, axis=0, keepdims=True).astype(columns.dtype)


def conditions(triangular: jax.Array, least_gap: jax.Array | float = 0.0) -> jax.Array:
    """Compute the (m,) conditions 1 / |y^H x| of the eigenvalues of an upper triangular matrix.

    Args:
        triangular: (m, m) T; x and y are unit right and left eigenvectors.
        least_gap: () smaller differences of eigenvalues are replaced by it. Eigenvalues that perturbations of this size
            cannot separate then have the condition of separate ones.

    >>> print(conditions(jnp.array([[1.0, 1.0], [0.0, 2.0]])).round(4))
    [1.4142 1.4142]
    """
    right = triangular_eigenvectors(triangular, least_gap)
    left = triangular_eigenvectors(jnp.conj(triangular).T[::-1, ::-1], least_gap)[::-1, ::-1]
    # A right eigenvector ends in the row of its eigenvalue, a left one begins there.
    overlaps = jnp.abs(jnp.diag(right)) * jnp.abs(jnp.diag(left))
    return safe_divide(1, overlaps, otherwise=jnp.inf)


def solve_shifted(triangular: jax.Array, shifts: jax.Array, columns: jax.Array) -> jax.Array:
    """Solve (T - s_i) x_i = b_i for each column b_i with its own shift; scale each x_i to unit norm.

    >>> print(solve_shifted(jnp.array([[1.0, 1.0], [0.0, 2.0]]), jnp.zeros(1), jnp.array([[4.0], [2.0]])).T.round(2))
    [[0.95 0.32]]

    Args:
        triangular: (m, m) T, upper triangular.
        shifts: (p,) the s_i. A difference to a diagonal entry that is only rounding is replaced by eps.
        columns: (m, p) the b_i, not zero.
    """
    index = jnp.arange(triangular.shape[0], dtype=jnp.int32)
    largest = jnp.max(jnp.abs(triangular))
    least = _COINCIDENT * jnp.finfo(largest.dtype).eps * positive_or_one(largest)

    def quotient(row, columns):
        gaps = triangular[row, row] - shifts
        gaps = jnp.where(jnp.abs(gaps) > least, gaps, least.astype(gaps.dtype))
        return (columns[row] - _matmul(jnp.where(index > row, triangular[row], 0), columns)) / gaps

    columns = _substitute(quotient, columns)
    return columns / jnp.linalg.norm(columns, axis=0, keepdims=True).astype(columns.dtype)


def _substitute(quotient: Callable[[jax.Array, jax.Array], jax.Array], columns: jax.Array) -> jax.Array:
    """Replace the rows from the last to the first; scale each column to order one, so that it does not overflow."""
    m = columns.shape[0]

    def solve_row(step, columns):
        row = m - 1 - step
        found = quotient(row, columns)
        return columns.at[row].set(found) / jnp.maximum(jnp.abs(found), 1).astype(columns.dtype)[None, :]

    return jax.lax.fori_loop(0, m, solve_row, columns)
