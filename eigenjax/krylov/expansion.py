"""Expansion of a Krylov decomposition: the residual block moves into the basis, at one matvec per vector.

    A d = V c + d' beta,    V <- [V d],    d <- d'

For a symmetric operator this is Lanczos's step (1950; in blocks Golub and Underwood 1977), with full orthogonalization.
Without symmetry it is Arnoldi's (1951).

Start vectors, and the vectors that follow a restart, are pending: `orthonormalized` comes before their matvecs. Where
the caller computes the matvecs, `absorb` does both, so that the orthogonalization, which takes long to compile, stands
once in its program.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.krylov import lanczos_polynomials
from eigenjax.krylov.decomposition import KrylovDecomposition
from eigenjax.krylov.metric import MetricOperator
from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.vectors import storage, tree
from eigenjax.vectors.arithmetic import set_columns
from eigenjax.vectors.conditional import apply_when
from eigenjax.vectors.orthogonalize import breakdown_length, dependent_length, normalize, orthogonalize_or_replace
from eigenjax.vectors.pseudorandom import fold_in
from eigenjax.vectors.tree import PyTree

# Random directions in place of pending vectors and of negligible matvecs have different seeds.
_PENDING, _EXPANDING = 0, 1


def proposed(state: KrylovDecomposition) -> PyTree:
    """Return the (b, ...) vectors of the next matvecs: D, rounded to the storage of V."""
    return jax.vmap(lambda x: storage.rounded(state.basis, x))(state.residual_block)


def expand(op: LinearOperator, state: KrylovDecomposition, *, symmetric: bool = True) -> KrylovDecomposition:
    """Move D into V with b matvecs, for which b rows and dimensions must be free.

    The matvec is in no conditional. XLA moves what it computes alike at each step, such as the activations of a
    network, out of loops, but not out of the branches of a conditional, and runs those in one thread on a CPU. (The
    Hessian of a network of 10^6 parameters took 1.25 times as long.)

    Args:
        op: the operator.
        state: the decomposition; D is not pending.
        symmetric: whether the operator is symmetric; static. If not, b is 1.
    """
    vectors = proposed(state)
    if state.block_size == 1:
        images = jax.tree.map(lambda x: x[None], matvec(op, tree.row(vectors, 0)))
    else:
        images = jax.vmap(lambda v: matvec(op, v))(vectors)
    return absorb(
        state._replace(pending=jnp.zeros_like(state.pending)), images, symmetric=symmetric, metric=_metric(op)
    )


def orthonormalized(state: KrylovDecomposition, op: LinearOperator | None = None) -> KrylovDecomposition:
    """Orthonormalize D if it is pending; the operator matters if it is a `MetricOperator`."""
    settle = lambda state: absorb(
        state._replace(pending=jnp.ones_like(state.pending)), proposed(state), metric=_metric(op)
    )
    return apply_when(state.pending, settle, state)


def _metric(op: LinearOperator | None) -> MetricOperator | None:
    return op if isinstance(op, MetricOperator) else None


def absorb(
    state: KrylovDecomposition, images: PyTree, *, symmetric: bool = True, metric: MetricOperator | None = None
) -> KrylovDecomposition:
    """Move D into V, given the (b, ...) matvecs A D of the vectors of `proposed` (reverse communication).

    If D is pending, the images are D, and only D changes.

    Args:
        state: the decomposition.
        images: the matvecs.
        symmetric: whether the operator is symmetric; static. If not, b is 1.
        metric: the operator, if it is one with an inner product of its own: it draws the random directions.
    """
    b, m = state.coupling.shape
    pending, row = state.pending, _free_rows(state.valid, b)
    # A free row is zero, and stays so if D is pending. The index m, of no row, then leaves the other arrays unchanged.
    block = tree.where(pending, jax.tree.map(jnp.zeros_like, images), proposed(state))
    rows = jnp.where(pending, m, row)
    basis = state.basis
    for i in range(b):
        basis = storage.set_row(basis, row[i], tree.row(block, i))
    removed = _Removed(jnp.zeros_like(state.coupling), jnp.zeros_like(state.last_length))
    if b == 1 and symmetric:
        images, removed = _recurrence(tree.row(images, 0), basis, state, row[0], tree.row(block, 0))
    valid = state.valid | jnp.any(rows[:, None] == jnp.arange(m, dtype=jnp.int32)[None, :], axis=0)
    grown = _orthonormalize(basis, valid, images, removed, state, metric)
    columns, triangle = grown.columns, grown.triangle
    rows_of_matrix = jnp.conj(columns) if symmetric else state.coupling
    matrix = set_columns(set_columns(state.matrix.T, rows, rows_of_matrix.T).T, rows, columns.T)
    extended = lanczos_polynomials.extend(state.polynomials, rows, columns, triangle)
    unless_pending = lambda old, new: jnp.where(pending, old, new)
    return KrylovDecomposition(
        basis=basis,
        valid=valid,
        residual_block=grown.residual_block,
        pending=jnp.zeros_like(pending),
        matrix=matrix,
        coupling=unless_pending(state.coupling, set_columns(jnp.zeros_like(state.coupling), rows, triangle)),
        defects=state.defects,
        dropped=state.dropped,
        dropped_couplings=state.dropped_couplings,
        last_row=unless_pending(state.last_row, row[0]),
        last_length=unless_pending(state.last_length, triangle[0, 0].real) if b == 1 else state.last_length,
        operator_norm=unless_pending(state.operator_norm, grown.operator_norm),
        broken_down=state.broken_down | (~pending & jnp.all(jnp.diag(triangle) == 0)),
        polynomials=jax.tree.map(unless_pending, state.polynomials, extended),
        seed=state.seed,
        num_matvecs=state.num_matvecs + unless_pending(0, b) + grown.start_matvecs,
        num_restarts=state.num_restarts,
        num_keep=state.num_keep,
    )


def _fresh_seed(state: KrylovDecomposition) -> jax.Array:
    """Return the seed of the random directions of the next expansion."""
    return fold_in(fold_in(state.seed, jnp.where(state.pending, _PENDING, _EXPANDING)), state.num_matvecs)


class _Removed(NamedTuple):
    columns: jax.Array  # (b, m) coefficients along V that are already removed from the matvecs
    norm: jax.Array  # () their norm, if b = 1


class _Orthonormalized(NamedTuple):
    residual_block: PyTree  # (b, ...) the new residual block
    columns: jax.Array  # (b, m) all coefficients along V, including those removed before
    triangle: jax.Array  # (b, b) coupling of the new block to the rows of the matvecs
    operator_norm: jax.Array  # () norm estimate
    start_matvecs: jax.Array | int  # () int32, matvecs of the random directions


def _orthonormalize(
    basis: PyTree,
    valid: jax.Array,
    images: PyTree,
    removed: _Removed,
    state: KrylovDecomposition,
    metric: MetricOperator | None,
) -> _Orthonormalized:
    """Orthonormalize the matvecs against the basis and each other; a random direction replaces a negligible one."""
    b, m = state.coupling.shape
    dtype, seed = state.matrix.dtype, _fresh_seed(state)

    def add(i, grown):
        before = () if b == 1 else (grown.residual_block,)
        # ||A v||^2 is the sum of squares of the removed coefficients and of the remainder.
        norm_with = lambda norm: jnp.maximum(grown.operator_norm, jnp.hypot(removed.norm, norm))
        # A pending vector that is not finite is negligible too.
        is_nothing = lambda norm, left: jnp.where(
            state.pending, ~(left > dependent_length(norm)), left <= breakdown_length(norm_with(norm))
        )
        image, fresh = tree.row(images, i), fold_in(seed, i)
        own = {"draw": metric.random_start, "refresh": metric.refresh} if metric else {}
        residual, replaced, norm = orthogonalize_or_replace(
            fresh, basis, image, *before, is_nothing=is_nothing, valid=valid, **own
        )
        length = jnp.where(replaced, 0, residual.norm)
        triangle = grown.triangle.at[i, i].set(length.astype(dtype))
        if b > 1:
            above = jnp.arange(b, dtype=jnp.int32) < i
            triangle = triangle.at[:, i].add(jnp.where(above, residual.coefficients[m:], 0))
        return _Orthonormalized(
            residual_block=tree.set_row(grown.residual_block, i, normalize(residual.vector, residual.norm)),
            columns=grown.columns.at[i].set(removed.columns[i] + residual.coefficients[:m]),
            triangle=triangle,
            operator_norm=norm_with(norm),
            start_matvecs=grown.start_matvecs
            + (jnp.where(replaced, jnp.int32(metric.start_matvecs), 0) if metric else 0),
        )

    initial = _Orthonormalized(
        residual_block=jax.tree.map(jnp.zeros_like, images),
        columns=jnp.zeros((b, m), dtype),
        triangle=jnp.zeros((b, b), dtype),
        operator_norm=state.operator_norm,
        start_matvecs=jnp.int32(0) if metric else 0,
    )
    return add(0, initial) if b == 1 else jax.lax.fori_loop(0, b, add, initial)


def _recurrence(
    image: PyTree, basis: PyTree, state: KrylovDecomposition, row: jax.Array, vector: PyTree
) -> tuple[PyTree, _Removed]:
    """Subtract from the matvec of the one direction its parts along itself and the row before."""
    # Read from the new basis: to read a row of the old basis after the new row is written would copy the basis.
    previous = storage.row(basis, state.last_row)
    alpha = tree.inner(vector, image).real
    image = tree.add_scaled(tree.add_scaled(image, -alpha, vector), -state.last_length, previous)
    index = jnp.arange(state.matrix.shape[0], dtype=jnp.int32)
    columns = jnp.where(index == row, alpha, 0) + jnp.where(index == state.last_row, state.last_length, 0)
    removed = _Removed(columns[None].astype(state.coupling.dtype), jnp.hypot(alpha, state.last_length))
    return jax.tree.map(lambda x: x[None], image), removed


def _free_rows(valid: jax.Array, count: int) -> jax.Array:
    """Return the first `count` rows that are not valid, (count,) int32; at least `count` must exist."""
    index = jnp.arange(valid.shape[0], dtype=jnp.int32)
    # By comparison, because a cumulative sum takes long to compile.
    place = jnp.sum(~valid[None, :] & (index[None, :] < index[:, None]), axis=1, dtype=jnp.int32)
    hit = ~valid[None, :] & (place[None, :] == jnp.arange(count, dtype=jnp.int32)[:, None])
    return jnp.sum(jnp.where(hit, index[None, :], 0), axis=1, dtype=jnp.int32)
