"""Exponential in one Krylov space, with a bound on its error.

With A V_m = V_m H + h v_(m+1) e_m^T from w = beta v_1, the approximation and its defect are

    exp(s A) w ~ y(s) = beta V_m exp(s H) e_1,    A y - y' = beta h (e_m^T exp(s H) e_1) v_(m+1)

so that the error after s is at most the integral of beta |h e_m^T exp(r H) e_1| exp(mu (s - r)) over r from 0 to s,
with mu the largest eigenvalue of the Hermitian part of A (Saad 1992; Hochbruck, Lubich and Selhofer 1998).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.krylov.general.krylov_space import KrylovSpace

# Points at which the defect is evaluated in one step, at least, and the largest distance between two of them in units
# of 1 / ||t H||. The defect is of exponential type ||t H||: at a distance below pi it cannot vanish at all points.
# Where it grows, with a high power of s, the sum of its values at the right ends of the intervals exceeds the integral.
_LEAST_POINTS, _DISTANCE = 4, 2.0


class Step(NamedTuple):
    """Result of a step of length s in a Krylov space."""

    coefficients: jax.Array  # (m,) exp(s t H) e_1
    error: jax.Array  # () bound on the error relative to beta, for a growth exp(mu s) of at most one


def step(space: KrylovSpace, t: jax.Array, fraction: jax.Array) -> Step:
    """Compute exp(s t H) e_1 for a fraction s of the time t, and the bound on its error."""
    norm = spectral_norm_bound(space, t) * fraction
    count = jnp.maximum(_LEAST_POINTS, jnp.ceil(norm / _DISTANCE)).astype(jnp.int32)
    factor = t * (fraction / count.astype(fraction.dtype)).astype(t.dtype)
    root = jax.scipy.linalg.expm(factor * space.matrix)

    def point(_, carry):
        vector, total = carry
        vector = jnp.matmul(root, vector, precision=jax.lax.Precision.HIGHEST)
        return vector, total + jnp.abs(vector[-1])

    first = jnp.zeros_like(space.matrix[0]).at[0].set(1)
    vector, total = jax.lax.fori_loop(0, count, point, (first, jnp.zeros_like(space.coupling)))
    return Step(vector, jnp.abs(factor) * space.coupling * total)


def spectral_norm_bound(space: KrylovSpace, t: jax.Array) -> jax.Array:
    """Return a bound on ||t H||, nearly equal to it for a banded matrix."""
    return jnp.abs(t) * jnp.sqrt(jnp.linalg.norm(space.matrix, 1) * jnp.linalg.norm(space.matrix, jnp.inf))


def growth(space: KrylovSpace, t: jax.Array) -> jax.Array:
    """Estimate mu from below, the largest eigenvalue of the Hermitian part of t A, by that of t H."""
    matrix = t * space.matrix
    return jnp.linalg.eigvalsh((matrix + jnp.conj(matrix).T) / 2)[-1]


def matrix_exponential(matrix: jax.Array) -> jax.Array:
    """Compute the exponential of a matrix (m, m), by squarings of one of norm at most one.

    JAX's own scaling leaves norms of twice the limit of its approximation, with errors of 1e-8 in float64.
    """
    norm = jnp.linalg.norm(matrix, 1)
    squarings = jnp.maximum(0, jnp.ceil(jnp.log2(jnp.maximum(norm, 1)))).astype(jnp.int32)
    small = jax.scipy.linalg.expm(jnp.ldexp(jnp.ones_like(norm), -squarings).astype(matrix.dtype) * matrix)
    square = lambda _, x: jnp.matmul(x, x, precision=jax.lax.Precision.HIGHEST)
    return jax.lax.fori_loop(0, squarings, square, small)
