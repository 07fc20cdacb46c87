"""Ritz triplets: the singular triplets of a Golub-Kahan decomposition's small matrix."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.krylov import ritz
from eigenjax.krylov.golub_kahan import bidiagonalization
from eigenjax.krylov.golub_kahan.bidiagonalization import Bidiagonalization
from eigenjax.vectors.matmul import matmul


class Triplets(NamedTuple):
    """Approximate singular triplets (U p_i, s_i, V q_i), descending; those that are not there come last."""

    values: jax.Array  # (m,) 0 where not there
    left_coefficients: jax.Array  # (m, m), column i is p_i; orthonormal
    right_coefficients: jax.Array  # (m, m), column i is q_i
    residuals: jax.Array  # (m,) as the decomposition has them; inf where not there


def extract(space: Bidiagonalization) -> Triplets:
    """The triplets of B in the rows filled.

    B is scaled to entries of order one by a power of two; NaN and Inf are taken for zero, because LAPACK may not
    return from them, and the caller knows of them.
    """
    m = space.couplings.shape[0]
    filled = space.left_filled[:, None] & space.right_filled[None, :]
    matrix = jnp.where(jnp.isfinite(space.matrix) & filled, space.matrix, 0)
    largest = jnp.max(jnp.abs(matrix))
    _, exponent = jnp.frexp(jnp.where(largest > 0, largest, 1))
    matrix = matrix * jnp.ldexp(jnp.ones_like(largest), -exponent).astype(matrix.dtype)
    # Rows not filled are paired with each other at a value beyond the others: these come first, and mix with nothing.
    left, right = (jnp.where(f, 0, jnp.cumsum(~f, dtype=jnp.int32)) for f in (space.left_filled, space.right_filled))
    beyond = (left[:, None] == right[None, :]) & (left[:, None] > 0)
    P, values, QH = jnp.linalg.svd(matrix + jnp.where(beyond, ritz.norm_bound(matrix), 0).astype(matrix.dtype))
    num_filled = space.num_filled
    P, values, Q = (jnp.roll(x, num_filled - m, axis=-1) for x in (P, values, jnp.conj(QH).T))
    valid = jnp.arange(m, dtype=jnp.int32) < num_filled
    residuals = jnp.hypot(jnp.abs(matmul(space.couplings, P)), bidiagonalization.combined_defects(space, P))
    return Triplets(jnp.ldexp(jnp.where(valid, values, 0), exponent), P, Q, jnp.where(valid, residuals, jnp.inf))
