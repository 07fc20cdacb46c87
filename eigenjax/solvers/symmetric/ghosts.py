"""Ghosts: copies of one eigenvalue that Lanczos finds when its basis has lost orthogonality.

Without reorthogonalization a converged Ritz vector reappears, and the projected matrix repeats its eigenvalue (Paige
1971; Cullum and Willoughby 1985). The vectors distinguish a copy from a true multiple eigenvalue: copies are parallel,
the eigenvectors of a multiple eigenvalue are not.
"""

import jax
import jax.numpy as jnp

from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import matmul, positive_or_one
from eigenjax.vectors.tree import PyTree

# Two unit Ritz vectors with a larger inner product are copies of one vector.
_PARALLEL = 0.5


def distinct_ritz_vectors(
    basis: PyTree, coefficients: jax.Array, residuals: jax.Array, valid: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Select the Ritz vectors of a non-orthonormal basis that are not copies of a more accurate one.

    Args:
        basis: m rows.
        coefficients: (m, m); column i gives the Ritz vector y_i.
        residuals: (m,) ||A y_i - theta_i y_i|| for y_i without normalization.
        valid: (m,) bool, the columns to consider.

    Returns:
        `distinct, lengths`: (m,) bool, and (m,) the norms ||y_i||. Cost: the m^2 inner products of the basis.
    """
    products = tree.self_gram(basis)
    weights = coefficients.astype(products.dtype)
    overlaps = jnp.abs(matmul(weights.T, products, weights))
    lengths = jnp.sqrt(jnp.diag(overlaps))
    safe = positive_or_one(lengths)
    overlaps = overlaps / (safe[:, None] * safe[None, :])
    best_first = jnp.argsort(jnp.where(valid, residuals / safe, jnp.inf))

    def admit(distinct, i):
        is_copy = jnp.any(distinct & (overlaps[i] > _PARALLEL))
        return distinct.at[i].set(valid[i] & ~is_copy), None

    distinct, _ = jax.lax.scan(admit, jnp.zeros(residuals.shape, bool), best_first)
    return distinct, safe
