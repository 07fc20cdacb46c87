"""Recycled Ritz triplets: those that a Golub-Kahan solve found besides the wanted ones."""

import jax
import jax.numpy as jnp

from eigenjax.krylov.golub_kahan import bidiagonalization
from eigenjax.krylov.golub_kahan.bidiagonalization import Bidiagonalization
from eigenjax.krylov.golub_kahan.ritz_triplets import Triplets
from eigenjax.krylov.recycling import DROPPED, RecycledPairs


def recycled_triplets(space: Bidiagonalization, found: Triplets, k: int) -> RecycledPairs:
    """Return the triplets of a bidiagonalization after the k wanted ones, by their right vectors v_j = V c_j.

    They satisfy  A v_j = theta_j u_j,  A^H u_j = theta_j v_j + d s_j.  The unit vectors u_j are orthogonal to the
    wanted left vectors, and are not returned.
    """
    left, right = found.left_coefficients[:, k:], found.right_coefficients[:, k:]
    eps = jnp.finfo(space.operator_norm.dtype).eps
    dropped = bidiagonalization.combined_defects(space, left) > DROPPED * eps * space.operator_norm
    valid = jnp.isfinite(found.residuals[k:]) & ~dropped
    coupling = jnp.where(valid, jnp.matmul(space.coupling, left, precision=jax.lax.Precision.HIGHEST), 0)
    residual_block = jax.tree.map(lambda x: x[None], space.direction)
    return RecycledPairs(space.right, jnp.where(valid, right, 0), found.values[k:], residual_block, coupling[None])
