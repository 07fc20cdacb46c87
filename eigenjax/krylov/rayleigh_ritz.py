"""Rayleigh-Ritz extraction: approximate eigenpairs of a Krylov decomposition, the most wanted first.

At an end of the spectrum these are the Ritz pairs H c = theta c, the best approximations in the space. They are not
reliable for interior eigenvalues near a shift sigma, where a Ritz value may lie by accident. There the harmonic Ritz
pairs are used, with G = H - sigma,

    (G^2 + B^H B) c = (1 / nu) G c,

the Ritz pairs of (A - sigma)^-1 on the space (A - sigma) V (Morgan 1991; Paige, Parlett and van der Vorst 1995). Their
residuals all lie in the span of D - V G^-1 B^H, which continues the decomposition when p of them are kept (Morgan and
Zeng 2006). So a restart near sigma differs from one at an end of the spectrum only in its residual block.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.krylov import ritz
from eigenjax.krylov.decomposition import KrylovDecomposition
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import matmul

# If sigma is an eigenvalue, its harmonic Ritz value is 0 / 0. The shift is moved off by this share of the distance to
# the farthest wanted value, so that it is not an eigenvalue.
_OFFSET = 0.0217
# Number of additional pairs in the Rayleigh-Ritz step that selects the k pairs nearest to sigma.
EXTRA_INTERIOR = 2
# A triangular factor with a diagonal entry below this times eps is singular: clamp smaller diagonal entries to this.
_SINGULAR = 1.0
# A vector with more than this share of its weight on rows that are not valid is not valid.
_ELSEWHERE = 0.5


class Extraction(NamedTuple):
    """Approximate eigenpairs V c_i, the most wanted first; entries that are not valid come last."""

    values: jax.Array  # (m,) Rayleigh quotients; 0 if not valid
    coefficients: jax.Array  # (m, m), column i is c_i; orthonormal
    residuals: jax.Array  # (m,) estimated ||A V c - theta V c||; inf if not valid


def ritz_pairs(state: KrylovDecomposition, which: str) -> Extraction:
    """Compute the Ritz pairs in the order of `which`."""
    values, vectors, valid = ritz.masked_eigh(state.matrix, state.valid)
    order = ritz.wanted_order(values, which, valid)
    coefficients = vectors[:, order]
    residuals = _residuals(state, coefficients)
    return Extraction(values[order], coefficients, jnp.where(valid[order], residuals, jnp.inf))


def harmonic_pairs(state: KrylovDecomposition, sigma: jax.Array, target: jax.Array, k: int) -> Extraction:
    """Compute the k harmonic Ritz vectors nearest to sigma, their Rayleigh quotients, and a basis of the other vectors.

    Args:
        state: the decomposition.
        sigma: () the shift.
        target: () the shift of the pencil, moved off sigma by `stand_off`.
        k: number of pairs; a Rayleigh-Ritz step in their span separates them.
    """
    m = state.matrix.shape[0]
    valid = jnp.arange(m, dtype=jnp.int32) < state.num_valid
    shifted, coupling = _scaled(state, target)
    tall = jnp.concatenate([shifted, coupling])
    inverse = clamped_inverse(jnp.linalg.qr(tall, mode="r"))
    reciprocals, vectors = jnp.linalg.eigh(matmul(jnp.conj(inverse).T, shifted, inverse))
    vectors = matmul(inverse, vectors)
    weights = jnp.square(jnp.abs(vectors))
    elsewhere = jnp.sum(jnp.where(state.valid[:, None], 0, weights), axis=0) > _ELSEWHERE * jnp.sum(weights, axis=0)
    order = jnp.argsort(jnp.where(elsewhere, jnp.inf, -jnp.abs(reciprocals)), stable=True)
    vectors = vectors[:, order] / jax.vmap(tree.norm, in_axes=1)(vectors[:, order]).astype(vectors.dtype)[None, :]
    coefficients, _ = jnp.linalg.qr(vectors)

    matrix = jnp.where(state.valid[:, None] & state.valid[None, :], state.matrix, 0)
    k = min(k + EXTRA_INTERIOR, m)
    nearest = coefficients[:, :k]
    values, rotation, _ = ritz.masked_eigh(matmul(jnp.conj(nearest).T, matrix, nearest), valid[:k])
    by_distance = jnp.argsort(jnp.where(valid[:k], jnp.abs(values - sigma), jnp.inf), stable=True)
    coefficients = jnp.concatenate([matmul(nearest, rotation[:, by_distance]), coefficients[:, k:]], axis=1)
    images = matmul(matrix, coefficients)
    values = jnp.sum(jnp.conj(coefficients) * images, axis=0).real
    residuals = _residuals(state, coefficients, images - coefficients * values.astype(images.dtype)[None, :])
    return Extraction(jnp.where(valid, values, 0), coefficients, jnp.where(valid, residuals, jnp.inf))


def stand_off(sigma: jax.Array, values: jax.Array) -> jax.Array:
    """Return sigma, moved off by a small share of the distance to the farthest wanted value."""
    farthest = jnp.max(jnp.abs(values - sigma.astype(values.dtype)))
    return sigma + (_OFFSET * farthest).astype(sigma.dtype)


def harmonic_directions(
    state: KrylovDecomposition, coefficients: jax.Array, target: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Compute the residual block that continues a decomposition of which only harmonic Ritz vectors V C are kept.

    With g = -G^-1 B^H less its part along C, and L L^H = I + g^H g, the directions L^-1 (D + V g) are orthonormal and
    orthogonal to V C, and couple to it with L^-1 (g^H H C + B C).

    Returns:
        `along_basis, along_directions, couplings`: (m, b), (b, b), (b, p): new direction i is
        sum_j along_basis[j, i] v_j + sum_j along_directions[j, i] d_j.
    """
    shifted, scaled = _scaled(state, target)
    translation = -jnp.linalg.solve(shifted, jnp.conj(scaled).T)
    translation = jnp.where(state.valid[:, None] & jnp.isfinite(translation), translation, 0)
    translation = translation - matmul(coefficients, matmul(jnp.conj(coefficients).T, translation))
    identity = jnp.eye(state.block_size, dtype=translation.dtype)
    factor = jnp.linalg.cholesky(identity + matmul(jnp.conj(translation).T, translation))
    coupling = matmul(jnp.conj(translation).T, state.matrix, coefficients) + matmul(state.coupling, coefficients)
    solve = lambda rhs: jax.scipy.linalg.solve_triangular(factor, rhs, lower=True)
    along = jnp.conj(solve(jnp.concatenate([jnp.conj(translation).T, identity], axis=1))).T
    m = state.matrix.shape[0]
    return along[:m], along[m:], solve(coupling)


def _residuals(state: KrylovDecomposition, coefficients: jax.Array, *inside: jax.Array) -> jax.Array:
    # One norm of all terms, because a separate norm for each takes a large part of the compile time of an extraction.
    defects = (jnp.abs(coefficients) * state.defects[:, None], matmul(state.dropped_couplings, coefficients)[None])
    return jax.vmap(tree.norm, in_axes=1)((matmul(state.coupling, coefficients), *inside, *defects))


def _scaled(state: KrylovDecomposition, target: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Divide G and B by a power of two that makes their entries of order one.

    Rows that are not valid get an eigenvalue beyond all others.
    """
    m = state.matrix.shape[0]
    mask = state.valid[:, None] & state.valid[None, :]
    shifted = jnp.where(
        mask, state.matrix - target.astype(state.matrix.dtype) * jnp.eye(m, dtype=state.matrix.dtype), 0
    )
    coupling = jnp.where(state.valid, state.coupling, 0)
    largest = jnp.maximum(jnp.max(jnp.abs(shifted)), jnp.max(jnp.abs(coupling)))
    _, exponent = jnp.frexp(jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1))
    factor = jnp.ldexp(jnp.ones_like(largest), -exponent).astype(shifted.dtype)
    beyond = jnp.diag(jnp.where(state.valid, 0, 2.0 * m).astype(shifted.dtype))
    finite = lambda x: jnp.where(jnp.isfinite(x), x, 0)
    return finite(shifted) * factor + beyond, finite(coupling) * factor


def clamped_inverse(triangle: jax.Array) -> jax.Array:
    """Invert an upper triangular matrix with entries of order one; clamp small diagonal entries."""
    diagonal = jnp.diag(triangle)
    least = _SINGULAR * float(jnp.finfo(triangle.dtype).eps)
    held = jnp.where(jnp.abs(diagonal) < least, least, diagonal)
    identity = jnp.eye(triangle.shape[0], dtype=triangle.dtype)
    return jax.scipy.linalg.solve_triangular(triangle + jnp.diag(held - diagonal), identity)
