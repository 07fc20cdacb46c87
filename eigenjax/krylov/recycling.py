"""Recycled Ritz pairs: those that a solve found besides the wanted ones.

At the end of a solve the Krylov space V contains Ritz vectors that are not wanted, u_j = V c_j. They are orthogonal to
the wanted ones, with

    A u_j = theta_j u_j + sum_b d_b s_bj

where the d_b are the vectors of the residual block. None of them has converged, but together they approximate the
directions in which the deflated operator is nearly singular. A linear solve can deflate them first, without a matvec
(`implicit.systems.deflation`). One of the d_b is the direction that the last missed-pair search dropped: the Ritz
vectors kept from before that search are coupled to it.
"""

from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from eigenjax.krylov.decomposition import KrylovDecomposition, combined_defects
from eigenjax.krylov.rayleigh_ritz import Extraction
from eigenjax.vectors.arithmetic import matmul
from eigenjax.vectors.orthogonalize import normalize, orthogonalize
from eigenjax.vectors.tree import PyTree

# Terms that a restart dropped permanently violate the relation if they exceed this times eps ||A||.
DROPPED = 100.0


_Result = TypeVar("_Result")


class RecycledPairs(NamedTuple):
    """Recycled Ritz pairs: orthonormal u_j = V c_j with A u_j = theta_j u_j + sum_b d_b s_bj; c_j = 0 if absent."""

    basis: PyTree  # (m, ...) V, orthonormal or zero rows
    coefficients: jax.Array  # (m, q), column j is c_j
    values: jax.Array  # (q,) theta
    residual_block: PyTree  # (b, ...) d, unit vectors or zero, orthogonal to V
    coupling: jax.Array  # (b, q) s


class WithRecycled(NamedTuple, Generic[_Result]):
    """Result of a solver, and the recycled Ritz pairs of its Krylov space, for the derivative."""

    result: _Result
    recycled: Any  # RecycledPairs; of a pencil the (k,) errors of the eigenvalues; None if the solver returns none


def recycled_pairs(state: KrylovDecomposition, found: Extraction, k: int) -> RecycledPairs:
    """Return the Ritz pairs of a decomposition after the k wanted ones.

    Args:
        state: decomposition A V = V H + D^T B + (I - V V^H) w s^H + E.
        found: its Ritz pairs, the wanted ones first.
        k: number of wanted pairs.

    Returns:
        The q = m - k other pairs, with c_j = 0 for those affected by E. Cost: no matvec. If the block size is one, w is
        orthogonalized against V, which takes the memory of one more vector.
    """
    coefficients = found.coefficients[:, k:]
    eps = jnp.finfo(state.operator_norm.dtype).eps
    inaccurate = combined_defects(state, coefficients) > DROPPED * eps * state.operator_norm
    coefficients = jnp.where(jnp.isfinite(found.residuals[k:]) & ~inaccurate, coefficients, 0)
    residual_block, coupling = state.residual_block, matmul(state.coupling, coefficients)
    if state.block_size == 1:
        residual = orthogonalize(state.basis, state.dropped)
        unit = normalize(residual.vector, residual.norm)
        residual_block = jax.tree.map(lambda d, w: jnp.concatenate([d, w[None]]), residual_block, unit)
        along = residual.norm.astype(coefficients.dtype) * matmul(state.dropped_couplings, coefficients)
        coupling = jnp.concatenate([coupling, along[None]])
    return RecycledPairs(state.basis, coefficients, found.values[k:], residual_block, coupling)
