"""Ritz triplets: singular triplets of the small matrix of a Golub-Kahan decomposition."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.krylov import ritz
from eigenjax.krylov.golub_kahan import bidiagonalization
from eigenjax.krylov.golub_kahan.bidiagonalization import Bidiagonalization
from eigenjax.vectors.arithmetic import matmul, positive_or_one


class Triplets(NamedTuple):
    """Approximate singular triplets (U p_i, s_i, V q_i), the most wanted first; those that are not valid come last."""

    values: jax.Array  # (m,) s; 0 if not valid
    left_coefficients: jax.Array  # (m, m), column i is p_i; orthonormal
    right_coefficients: jax.Array  # (m, m), column i is q_i; orthonormal
    residuals: jax.Array  # (m,) residual estimates of the decomposition; inf if not valid


def extract(space: Bidiagonalization, which: str = "LA") -> Triplets:
    """Compute the singular triplets of B in its valid rows and columns, descending for "LA" and ascending for "SA".

    B is scaled to entries of order one by a power of two. NaN and Inf are replaced by zero, because LAPACK may not
    return from them; the caller detects them separately.
    """
    m = space.coupling.shape[0]
    mask = space.left_valid[:, None] & space.right_valid[None, :]
    matrix = jnp.where(jnp.isfinite(space.matrix) & mask, space.matrix, 0)
    largest = jnp.max(jnp.abs(matrix))
    _, exponent = jnp.frexp(positive_or_one(largest))
    matrix = matrix * jnp.ldexp(jnp.ones_like(largest), -exponent).astype(matrix.dtype)
    # Other rows are paired at a value beyond the valid ones: these pairs come first, and their vectors do not mix.
    left, right = (jnp.where(f, 0, jnp.cumsum(~f, dtype=jnp.int32)) for f in (space.left_valid, space.right_valid))
    beyond = (left[:, None] == right[None, :]) & (left[:, None] > 0)
    P, values, QH = jnp.linalg.svd(matrix + jnp.where(beyond, ritz.norm_bound(matrix), 0).astype(matrix.dtype))
    num_valid = space.num_valid
    in_order = {"LA": lambda x: jnp.roll(x, num_valid - m, axis=-1), "SA": lambda x: jnp.flip(x, axis=-1)}[which]
    P, values, Q = map(in_order, (P, values, jnp.conj(QH).T))
    valid = jnp.arange(m, dtype=jnp.int32) < num_valid
    residuals = jnp.hypot(jnp.abs(matmul(space.coupling, P)), bidiagonalization.combined_defects(space, P))
    return Triplets(jnp.ldexp(jnp.where(valid, values, 0), exponent), P, Q, jnp.where(valid, residuals, jnp.inf))
