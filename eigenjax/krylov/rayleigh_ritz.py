"""What a Krylov decomposition knows: its approximate eigenpairs, in the order of what is wanted.

At an end of the spectrum, the Ritz pairs H c = theta c: of all vectors in the space they are nearest to eigenvectors
there. Near a number sigma inside it they are not (a Ritz value may lie anywhere by accident): there the harmonic Ritz
pairs, with G = H - sigma,

    (G^2 + B^H B) c = (1 / nu) G c,

the Ritz pairs of (A - sigma)^-1 on the space (A - sigma) V (Morgan 1991; Paige, Parlett and van der Vorst 1995). Their
residuals all point along D - V G^-1 B^H, which continues the decomposition when p of them are kept (Morgan and Zeng
2006), so that a restart near sigma is that of an end with another direction.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.krylov import ritz
from eigenjax.krylov.decomposition import KrylovDecomposition
from eigenjax.vectors import tree
from eigenjax.vectors.matmul import matmul

# Where sigma is an eigenvalue itself its harmonic value is 0 / 0: the shift stands off by this share of the distance
# to the farthest value wanted, so that it meets no eigenvalue.
_OFFSET = 0.0217
# So many pairs more are separated from each other: which k of them are nearest to sigma itself is decided among all.
EXTRA_NEAR = 2
# A triangular factor with a diagonal entry below so many units of rounding is singular: it is held up there.
_SINGULAR = 1.0
# A vector with more of its weight than this on rows that are not filled belongs to them.
_ELSEWHERE = 0.5


class Extraction(NamedTuple):
    """Approximate eigenpairs V c_i, the most wanted first; those that are not there come last."""

    values: jax.Array  # (m,) Rayleigh quotients; 0 where not there
    coefficients: jax.Array  # (m, m), column i is c_i; orthonormal
    residuals: jax.Array  # (m,) ||A V c - theta V c|| as the decomposition has it; inf where not there


def ritz_pairs(state: KrylovDecomposition, which: str) -> Extraction:
    """The Ritz pairs in the order of `which`."""
    values, vectors, valid = ritz.masked_eigh(state.matrix, state.filled)
    order = ritz.wanted_order(values, which, valid)
    coefficients = vectors[:, order]
    residuals = _residuals(state, coefficients)
    return Extraction(values[order], coefficients, jnp.where(valid[order], residuals, jnp.inf))


def harmonic_pairs(state: KrylovDecomposition, sigma: jax.Array, target: jax.Array, k: int) -> Extraction:
    """The k harmonic Ritz vectors nearest to sigma, their Rayleigh quotients, and an orthonormal basis of the others.

    Args:
        state: the decomposition.
        sigma: () the number.
        target: () what the pencil is shifted by; see `stand_off`.
        k: pairs that are separated from each other by a Rayleigh-Ritz step among them.
    """
    m = state.matrix.shape[0]
    valid = jnp.arange(m, dtype=jnp.int32) < state.num_filled
    shifted, couplings = _scaled(state, target)
    tall = jnp.concatenate([shifted, couplings])
    inverse = _inverse(jnp.linalg.qr(tall, mode="r"))
    reciprocals, vectors = jnp.linalg.eigh(matmul(jnp.conj(inverse).T, shifted, inverse))
    vectors = matmul(inverse, vectors)
    weights = jnp.square(jnp.abs(vectors))
    elsewhere = jnp.sum(jnp.where(state.filled[:, None], 0, weights), axis=0) > _ELSEWHERE * jnp.sum(weights, axis=0)
    order = jnp.argsort(jnp.where(elsewhere, jnp.inf, -jnp.abs(reciprocals)), stable=True)
    vectors = vectors[:, order] / jax.vmap(tree.norm, in_axes=1)(vectors[:, order]).astype(vectors.dtype)[None, :]
    coefficients, _ = jnp.linalg.qr(vectors)

    matrix = jnp.where(state.filled[:, None] & state.filled[None, :], state.matrix, 0)
    k = min(k + EXTRA_NEAR, m)
    nearest = coefficients[:, :k]
    values, rotation, _ = ritz.masked_eigh(matmul(jnp.conj(nearest).T, matrix, nearest), valid[:k])
    by_distance = jnp.argsort(jnp.where(valid[:k], jnp.abs(values - sigma), jnp.inf), stable=True)
    coefficients = jnp.concatenate([matmul(nearest, rotation[:, by_distance]), coefficients[:, k:]], axis=1)
    images = matmul(matrix, coefficients)
    values = jnp.sum(jnp.conj(coefficients) * images, axis=0).real
    residuals = _residuals(state, coefficients, images - coefficients * values.astype(images.dtype)[None, :])
    return Extraction(jnp.where(valid, values, 0), coefficients, jnp.where(valid, residuals, jnp.inf))


def stand_off(sigma: jax.Array, values: jax.Array) -> jax.Array:
    """Sigma, moved off by a small share of the distance of the farthest of the values wanted."""
    return sigma + _OFFSET * jnp.max(jnp.abs(values - sigma))


def harmonic_directions(
    state: KrylovDecomposition, coefficients: jax.Array, target: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What continues a decomposition of which only harmonic Ritz vectors V C are kept.

    With g = -G^-1 B^H less its part along C, and L L^H = I + g^H g, the directions L^-1 (D + V g) are orthonormal and
    orthogonal to V C, and couple to it with L^-1 (g^H H C + B C).

    Returns:
        `along_basis, along_directions, couplings`: (m, b), (b, b), (b, p): new direction i is
        sum_j along_basis[j, i] v_j + sum_j along_directions[j, i] d_j.
    """
    shifted, scaled = _scaled(state, target)
    translation = -jnp.linalg.solve(shifted, jnp.conj(scaled).T)
    translation = jnp.where(state.filled[:, None] & jnp.isfinite(translation), translation, 0)
    translation = translation - matmul(coefficients, matmul(jnp.conj(coefficients).T, translation))
    identity = jnp.eye(state.block_size, dtype=translation.dtype)
    factor = jnp.linalg.cholesky(identity + matmul(jnp.conj(translation).T, translation))
    couplings = matmul(jnp.conj(translation).T, state.matrix, coefficients) + matmul(state.couplings, coefficients)
    solve = lambda rhs: jax.scipy.linalg.solve_triangular(factor, rhs, lower=True)
    along = jnp.conj(solve(jnp.concatenate([jnp.conj(translation).T, identity], axis=1))).T
    m = state.matrix.shape[0]
    return along[:m], along[m:], solve(couplings)


def _residuals(state: KrylovDecomposition, coefficients: jax.Array, *inside: jax.Array) -> jax.Array:
    # One norm of all, because each one takes a good part of the time that an extraction takes to compile.
    defects = (jnp.abs(coefficients) * state.defects[:, None], matmul(state.dropped_couplings, coefficients)[None])
    return jax.vmap(tree.norm, in_axes=1)((matmul(state.couplings, coefficients), *inside, *defects))


def _scaled(state: KrylovDecomposition, target: jax.Array) -> tuple[jax.Array, jax.Array]:
    """G and B over a power of two that makes their entries of order one.

    Rows not filled get an eigenvalue beyond all others.
    """
    m = state.matrix.shape[0]
    filled = state.filled[:, None] & state.filled[None, :]
    shifted = jnp.where(
        filled, state.matrix - target.astype(state.matrix.dtype) * jnp.eye(m, dtype=state.matrix.dtype), 0
    )
    couplings = jnp.where(state.filled, state.couplings, 0)
    largest = jnp.maximum(jnp.max(jnp.abs(shifted)), jnp.max(jnp.abs(couplings)))
    _, exponent = jnp.frexp(jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1))
    factor = jnp.ldexp(jnp.ones_like(largest), -exponent).astype(shifted.dtype)
    beyond = jnp.diag(jnp.where(state.filled, 0, 2.0 * m).astype(shifted.dtype))
    finite = lambda x: jnp.where(jnp.isfinite(x), x, 0)
    return finite(shifted) * factor + beyond, finite(couplings) * factor


def _inverse(triangle: jax.Array) -> jax.Array:
    """Of an upper triangular matrix with entries of order one, held off from singular."""
    diagonal = jnp.diag(triangle)
    least = _SINGULAR * float(jnp.finfo(triangle.dtype).eps)
    held = jnp.where(jnp.abs(diagonal) < least, least, diagonal)
    identity = jnp.eye(triangle.shape[0], dtype=triangle.dtype)
    return jax.scipy.linalg.solve_triangular(triangle + jnp.diag(held - diagonal), identity)
