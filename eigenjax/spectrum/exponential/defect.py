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

# Points at which the defect is evaluated in one step. It grows with a high power of s, so that the sum of its values at
# the right ends of the intervals exceeds the integral.
_NUM_DEFECTS = 4


class Step(NamedTuple):
    """Result of a step of length s in a Krylov space."""

    coefficients: jax.Array  # (m,) exp(s t H) e_1
    error: jax.Array  # () bound on the error relative to beta, for a growth exp(mu s) of at most one


def step(space: KrylovSpace, t: jax.Array, fraction: jax.Array) -> Step:
    """Compute exp(s t H) e_1 for a fraction s of the time t, and the bound on its error."""
    factor = t * fraction.astype(t.dtype) / _NUM_DEFECTS
    root = jax.scipy.linalg.expm(factor * space.matrix)
    vectors = [jnp.zeros_like(root[0]).at[0].set(1)]
    for _ in range(_NUM_DEFECTS):
        vectors.append(jnp.matmul(root, vectors[-1], precision=jax.lax.Precision.HIGHEST))
    defects = [jnp.abs(vector[-1]) for vector in vectors[1:]]
    return Step(vectors[-1], jnp.abs(factor) * space.coupling * jnp.sum(jnp.stack(defects)))


def growth(space: KrylovSpace, t: jax.Array) -> jax.Array:
    """Estimate mu from below, the largest eigenvalue of the Hermitian part of t A, by that of t H."""
    matrix = t * space.matrix
    return jnp.linalg.eigvalsh((matrix + jnp.conj(matrix).T) / 2)[-1]
