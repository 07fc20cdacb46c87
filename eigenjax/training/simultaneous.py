r"""Simultaneous iteration: the Ritz pairs of some rows, and one power step without further matvecs.

For q rows Y, near the eigenvectors of the previous step, and Z = A Y,

    G = Y^H Y,  H = Y^H Z,      H c = theta G c,      X = Y C,      R = Z C - X Theta

are the Ritz pairs with their true residuals (Rutishauser 1970, with a guard vector: one row more than pairs wanted). Z
also gives one power step with a shift,

    (A - sigma) x_i / (theta_i - sigma) = x_i + r_i / (theta_i - sigma),

which multiplies the component of x_i along an outside eigenvector by |lambda - sigma| / |theta_i - sigma|. With sigma
in the middle of the unwanted spectrum, this ratio is below one for all of it. A drift of d per step then
gives an error of about d / (1 - ratio). This needs no matvecs beyond the q that measure it.

R is orthogonal to X, so that G = I + (a small Gram matrix): it needs no Gram-Schmidt.

The guard vector takes its step with the shift at the far end, where every component grows like |lambda - far end|. It
converges to the next eigenvector, and to a tracked one after a crossing.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.krylov import ritz
from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.training.tracker_state import keep_first
from eigenjax.vectors import tree
from eigenjax.vectors.orthogonalize import normalize
from eigenjax.vectors.pseudorandom import arbitrary_vector
from eigenjax.vectors.tree import PyTree

# Combinations of the unit rows shorter than sqrt(c * eps) are rounding errors.
_DEPENDENT = 100.0
# A step rotates a pair by at most 45 degrees: a larger step is outside the theory, and makes G ill-conditioned.
_LONGEST_STEP = 1.0
# The far end is only an estimate: the shift of the guard vector is beyond it by this fraction of ||A||, so that a guard
# vector at the end does not vanish.
_STAND_OFF = 1e-2
# Share of a random vector in the guard vector: otherwise it loses the next eigenvector if eigenvectors never mix.
_FRESH = 0.1

_multiply = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class TrackedPairs(NamedTuple):
    """Up to q approximate pairs in the order of `which`; invalid ones come last."""

    values: jax.Array  # (q,) Ritz values
    vectors: PyTree  # (q, ...) X, orthonormal; zero for invalid pairs
    residual_vectors: PyTree  # (q, ...) R; zero if Z is not available
    residuals: jax.Array  # (q,) norms of the residuals; inf for invalid pairs


def matvecs(op: LinearOperator, rows: PyTree, count: jax.Array | None) -> PyTree:
    """Apply A to the rows: all in one batched pass, or the first `count` one after another."""
    if count is None:
        return jax.vmap(lambda row: matvec(op, row))(rows)
    one = lambda i, images: tree.set_row(images, i, matvec(op, tree.row(rows, i)))
    return jax.lax.fori_loop(0, count, one, jax.tree.map(jnp.zeros_like, rows))


def block_ritz_pairs(rows: PyTree, images: PyTree, count: jax.Array, which: str) -> TrackedPairs:
    """Compute the Ritz pairs of the first `count` rows, without orthogonal rows and without further matvecs."""
    mask = jnp.arange(jax.tree.leaves(rows)[0].shape[0], dtype=jnp.int32) < count
    gram, projected = tree.gram(rows, rows), tree.gram(rows, images)
    lengths, directions, valid = ritz.masked_eigh(_hermitian(gram), mask)
    limit = _DEPENDENT * jnp.finfo(lengths.dtype).eps
    keep = valid & (lengths > limit)
    # G = U L U^H and T = U L^(-1/2): then T^H G T = I.
    root = jnp.where(keep, jax.lax.rsqrt(jnp.where(keep, lengths, 1)), 0).astype(directions.dtype)
    whitened = directions * root[None, :]
    small = _multiply(jnp.conj(whitened).T, _multiply(projected, whitened))
    values, vectors, valid = ritz.masked_eigh(_hermitian(small), keep)
    order = ritz.wanted_order(values, which, valid)
    coefficients = jnp.where(valid, _multiply(whitened, vectors), 0)[:, order]
    values, valid = values[order], valid[order]
    vectors = tree.combine(coefficients, rows)
    residual_vectors = _added(tree.combine(coefficients, images), -values, vectors)
    residuals = jax.vmap(tree.norm)(residual_vectors)
    return TrackedPairs(values, vectors, residual_vectors, jnp.where(valid | jnp.isnan(residuals), residuals, jnp.inf))


def advanced(pairs: TrackedPairs, num_active: jax.Array, which: str, far_end: jax.Array, seed: jax.Array) -> PyTree:
    """Compute the rows to measure next: unit vectors, the first num_active of them pairs, then the guard vector.

    Args:
        pairs: measured pairs.
        num_active: () int32, number of pairs to follow.
        which: order of the wanted eigenvalues.
        far_end: () estimate of the unwanted end of the spectrum.
        seed: key of the random vector that is mixed into the guard vector.
    """
    q = pairs.values.shape[0]
    index = jnp.arange(q, dtype=jnp.int32)
    norm_estimate = tracked_norm_estimate(pairs, far_end)
    shift, guard_shift = _shifts(pairs, num_active, which, far_end, norm_estimate)
    distance = pairs.values - shift
    # 1 / (theta - sigma), limited to the longest step allowed.
    longest = _LONGEST_STEP / jnp.maximum(pairs.residuals, jnp.finfo(norm_estimate.dtype).tiny)
    step = jnp.sign(distance) * jnp.minimum(
        1 / jnp.maximum(jnp.abs(distance), jnp.finfo(norm_estimate.dtype).tiny), longest
    )
    is_guard = index == num_active
    along = jnp.where(is_guard, pairs.values - guard_shift, 1)
    beside = jnp.where(jnp.isfinite(pairs.residuals), jnp.where(is_guard, 1, step), 0)
    rows = _added(scaled(along, pairs.vectors), beside, pairs.residual_vectors)
    rows = jax.vmap(lambda row: normalize(row, tree.norm(row)))(rows)
    rows = keep_first(rows, num_active + 1)
    return _perturb_row(rows, num_active, seed) if q > 1 else rows


def tracked_norm_estimate(pairs: TrackedPairs, far_end: jax.Array) -> jax.Array:
    """Return the largest known |Ritz value|, a lower bound on ||A||, ()."""
    return jnp.maximum(jnp.max(jnp.abs(pairs.values)), jnp.abs(far_end))


def _shifts(
    pairs: TrackedPairs, num_active: jax.Array, which: str, far_end: jax.Array, norm_estimate: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the shift of the pairs, amid the unwanted spectrum, and that of the guard vector, at its far end."""
    last = jnp.minimum(num_active, pairs.values.shape[0] - 1)
    if which == "LM":
        return jnp.zeros_like(norm_estimate), jnp.zeros_like(norm_estimate)
    if which == "BE":  # between the innermost pair from above and that from below
        middle = (pairs.values[num_active - 1] + pairs.values[num_active - 2]) / 2
        return middle, middle
    outward = -1 if which == "LA" else 1
    return (far_end + pairs.values[last]) / 2, far_end + outward * _STAND_OFF * norm_estimate


def _perturb_row(rows: PyTree, place: jax.Array, seed: jax.Array) -> PyTree:
    """Mix a small random vector into the row at this index, if there is one."""
    q = jax.tree.leaves(rows)[0].shape[0]
    guard = tree.row(rows, jnp.minimum(place, q - 1))
    fresh = arbitrary_vector(seed, tree.structure_of(guard))
    perturbed = tree.add_scaled(guard, _FRESH / tree.norm(fresh), fresh)
    perturbed = normalize(perturbed, tree.norm(perturbed))
    return tree.where(place < q, tree.set_row(rows, jnp.minimum(place, q - 1), perturbed), rows)


def _hermitian(matrix: jax.Array) -> jax.Array:
    return (matrix + jnp.conj(matrix).T) / 2


def scaled(numbers: jax.Array, rows: PyTree) -> PyTree:
    """Multiply each row by its own number."""
    spread = lambda leaf: numbers.reshape(-1, *[1] * (leaf.ndim - 1)).astype(leaf.dtype)
    return jax.tree.map(lambda leaf: spread(leaf) * leaf, rows)


def _added(y: PyTree, numbers: jax.Array, x: PyTree) -> PyTree:
    """Return Y + diag(numbers) X."""
    return jax.tree.map(jnp.add, y, scaled(numbers, x))
