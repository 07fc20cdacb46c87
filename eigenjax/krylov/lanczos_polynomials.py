"""Lanczos polynomials: an upper bound on the component of a start vector along a missed eigenvector.

Each vector of a Krylov basis is a polynomial in A of the b orthonormal start vectors, v_j = sum_s p_sj(A) s_s. For an
eigenvector u of eigenvalue lambda, <u, v_j> = sum_s p_sj(lambda) <u, s_s>, and because the basis is orthonormal,

    |P(lambda)^H w| <= 1,    w_s = <u, s_s>,    so that    |w| <= 1 / sigma_min(P(lambda)).

For b = 1 this is the Christoffel function of the start vector, the largest weight at lambda that its moments admit. The
values of the polynomials follow from the recurrence of the basis, A D = V C + D' T:

    P_D' T = lambda P_D - P_V C.

Outside of the interval of the Ritz values they grow with every step, and with the distance of lambda from it. A random
start vector in n dimensions has |<u, s>| <= t with probability at most t sqrt(n). So large values exclude an eigenvalue
at lambda, and beyond, with any certainty. The idea is that of Kuczynski and Wozniakowski (1992), with computed values
instead of a bound for the worst spectrum.

Vectors that are in the basis before the start vector is drawn may have components along u. They add to each <u, v_j> a
term that does not depend on w, and an interval of given length is most probable around 0. So all of them count as
orthogonal to u.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import set_columns

# Values larger than this carry no more information, and their squares would overflow in float32.
_LARGEST = 1e16


class LanczosPolynomials(NamedTuple):
    """Values at L numbers, the levels, of the polynomials of a basis of m rows and of the residual block."""

    levels: jax.Array  # (L,) the numbers lambda
    rows: jax.Array  # (L, b, m) P_V; 0 for rows that count as orthogonal to u
    residual_block: jax.Array  # (L, b, b) P_D
    undetermined: jax.Array  # () bool, a random vector, of unknown components, has replaced one of several vectors


def start(levels: jax.Array, num_rows: int, block_size: int, dtype: Any) -> LanczosPolynomials:
    """Return the values for a residual block that is the start, with all rows orthogonal to missed eigenvectors."""
    shape = (levels.shape[0], block_size)
    identity = jnp.broadcast_to(jnp.eye(block_size, dtype=dtype), (*shape, block_size))
    return LanczosPolynomials(levels, jnp.zeros((*shape, num_rows), dtype), identity, jnp.zeros((), bool))


def extend(
    polynomials: LanczosPolynomials, rows: jax.Array, columns: jax.Array, triangle: jax.Array
) -> LanczosPolynomials:
    """Update the values after a step of the recurrence A D = V C + D' T.

    Args:
        polynomials: values before the step.
        rows: (b,) int32, the rows of V that hold D after the step; none if they are not below m.
        columns: (b, m) C, transposed.
        triangle: (b, b) T, upper triangular; 0 on the diagonal if a random vector replaced a negligible one.
    """
    residual_block = polynomials.residual_block
    values = set_columns(polynomials.rows, rows, residual_block)
    levels = polynomials.levels.astype(residual_block.dtype)[:, None, None]
    matmul = lambda a, b: jnp.matmul(a, b.astype(a.dtype), precision=jax.lax.Precision.HIGHEST)
    right = levels * residual_block - matmul(values, columns.T)
    diagonal = jnp.diag(triangle)
    replaced = diagonal == 0
    if triangle.shape[0] == 1:
        new = right / jnp.where(replaced, 1, diagonal).astype(right.dtype)[None, None]
    else:
        safe = (triangle + jnp.diag(replaced.astype(triangle.dtype))).astype(right.dtype)
        solve = lambda rhs: jax.scipy.linalg.solve_triangular(safe, rhs.T, trans=1).T
        new = jax.vmap(solve)(right)
    new = jnp.where(replaced[None, None], 0, new)
    undetermined = polynomials.undetermined | (jnp.any(replaced) & ~jnp.all(replaced))
    return polynomials._replace(rows=clipped(values), residual_block=clipped(new), undetermined=undetermined)


def amplitudes(polynomials: LanczosPolynomials) -> jax.Array:
    """Compute sigma_min(P), (L,): the component of the start along a missed eigenvector at most is its inverse."""
    values = jnp.concatenate([polynomials.rows, polynomials.residual_block], axis=2)
    if values.shape[1] == 1:
        least = jax.vmap(tree.norm)(values)
    else:
        least = jnp.min(jnp.linalg.svd(values, compute_uv=False), axis=1)
    return jnp.where(polynomials.undetermined, 0, least)


def clipped(values: jax.Array) -> jax.Array:
    """Limit the magnitude of values, so that sums of their squares do not overflow."""
    size = jnp.maximum(jnp.abs(values), 1)
    finite = jnp.where(jnp.isfinite(size), values, _LARGEST)
    return finite * jnp.where(jnp.isfinite(size), jnp.minimum(_LARGEST / size, 1), 1).astype(values.dtype)
