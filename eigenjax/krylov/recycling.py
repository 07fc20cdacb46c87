"""What a solve knows of its operator besides the pairs that it returns.

At its end a Krylov space V holds more Ritz vectors than were wanted, u_j = V c_j, orthogonal to the wanted ones, with

    A u_j = theta_j u_j + sum_b d_b s_bj

where the d_b are the directions that the space would have grown in next. None has converged, and all of them together
tell where A is nearly singular once the wanted pairs are taken out: a linear solve there can begin by eliminating
them, at no product (`implicit.systems.deflation`). The direction that the last search for missed pairs has left aside
is one of the d_b: the Ritz vectors kept from before that search couple with it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.krylov.decomposition import KrylovDecomposition, combined_defects
from eigenjax.krylov.rayleigh_ritz import Extraction
from eigenjax.vectors.matmul import matmul
from eigenjax.vectors.orthogonalize import normalize, orthogonalize
from eigenjax.vectors.tree import PyTree

# What a restart has dropped for good, more than so many units of rounding of ||A||, breaks the relation.
DROPPED = 100.0


class Remainder(NamedTuple):
    """Orthonormal u_j = V c_j with A u_j = theta_j u_j + sum_b d_b s_bj; c_j = 0 where there is none."""

    basis: PyTree  # (m, ...) V, orthonormal or zero rows
    coefficients: jax.Array  # (m, q), column j is c_j
    values: jax.Array  # (q,) theta
    directions: PyTree  # (b, ...) d, unit vectors or zero, orthogonal to V
    couplings: jax.Array  # (b, q) s


def remainder(state: KrylovDecomposition, found: Extraction, k: int) -> Remainder:
    """The Ritz pairs of a decomposition beyond the k that are wanted.

    Args:
        state: A V = V H + D^T B + (I - V V^H) w s^H + E.
        found: its Ritz pairs, the wanted ones first.
        k: how many those are.

    Returns:
        The q = m - k others, without those that E has to do with. Cost: no product, and where only one vector is
        multiplied at once w is orthogonalised against V, which leaves one vector more.
    """
    coefficients = found.coefficients[:, k:]
    eps = jnp.finfo(state.operator_norm.dtype).eps
    lost = combined_defects(state, coefficients) > DROPPED * eps * state.operator_norm
    coefficients = jnp.where(jnp.isfinite(found.residuals[k:]) & ~lost, coefficients, 0)
    directions, couplings = state.directions, matmul(state.couplings, coefficients)
    if state.block_size == 1:
        beside = orthogonalize(state.basis, state.dropped)
        unit = normalize(beside.vector, beside.norm)
        directions = jax.tree.map(lambda d, w: jnp.concatenate([d, w[None]]), directions, unit)
        along = beside.norm.astype(coefficients.dtype) * matmul(state.dropped_couplings, coefficients)
        couplings = jnp.concatenate([couplings, along[None]])
    return Remainder(state.basis, coefficients, found.values[k:], directions, couplings)
