"""What a tracker of the spectrum carries from one training step to the next: arrays only, for any checkpointer."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax import printing
from eigenjax.operators.base import LinearOperator
from eigenjax.vectors import tree
from eigenjax.vectors.pseudorandom import arbitrary_rows, seed_of, successor
from eigenjax.vectors.tree import PyTree

# A pair that is nobody's.
NO_TRACK = -1


class TrackerState(NamedTuple):
    """The pairs as they were last measured, and the vectors that the next measurement begins with.

    K is the number of pairs there is room for, q = min(K + 1, n). Pairs that are not tracked, and all pairs before the
    first update, have an eigenvalue of -inf (+inf where the smallest are wanted), a residual of inf and a vector of
    zeros. NaN is in a state only after products that held NaN or Inf, so that `jax_debug_nans` finds these alone.
    """

    eigenvalues: jax.Array
    """(K,) real, ordered by `which`, the most wanted first; infinite where none is tracked, NaN after products that
    held NaN."""
    eigenvectors: Any
    """A vector of the operator with a leading axis K: orthonormal rows, signs as those of the pairs before."""
    residuals: jax.Array
    """(K,) ||A v - lambda v|| of these values and vectors, with the operator they were measured of."""
    converged: jax.Array
    """(K,) bool: the residual is at most tol times the largest |Ritz value|."""
    active: jax.Array
    """(K,) bool, which pairs are tracked; all, without max_k."""
    tracks: jax.Array
    """(q,) int32, a number for each pair that it keeps through crossings; -1 is nobody's."""
    next_eigenvalue: jax.Array
    """() the Rayleigh quotient of the guard: a bound on the first eigenvalue not tracked, from the inside; infinite
    where all are tracked."""
    rows: Any
    """(q, ...) unit vectors: the pairs, one power step ahead, and the guard."""
    far_end: jax.Array
    """() an estimate of the other end of the spectrum, as the last search saw it."""
    norm_estimate: jax.Array
    """() the largest |Ritz value| of the last update, an estimate of ||A||; `converged` refers to it."""
    num_active: jax.Array
    """() int32, pairs that the next update will track."""
    num_tracks: jax.Array
    """() int32, numbers given out so far."""
    seed: jax.Array
    """(2,) uint32, of all arbitrary numbers."""

    __repr__ = printing.short_repr
    __str__ = printing.table_by("eigenvalues")
    num_steps: jax.Array
    """() int32, calls of `update`."""
    num_matvecs: jax.Array
    """() int32, products in all."""
    searched: jax.Array
    """() bool, whether the last measurement needed more than a product a pair."""


def no_value(which: str) -> float:
    """What stands for an eigenvalue where there is none: infinite, on the side that is not wanted.

    >>> no_value("LA"), no_value("SA")
    (-inf, inf)
    """
    return math.inf if which == "SA" else -math.inf


def begin(op: LinearOperator, key: jax.Array | None, k: int, max_k: int, which: str) -> TrackerState:
    """The state before the first product: arbitrary rows, no values."""
    seed = seed_of(key)
    count = min(max_k + 1, op.size)
    structure = tree.working_structure(op.structure)
    rows = jax.vmap(_unit)(arbitrary_rows(successor(seed, 0), structure, count))
    dtype = tree.real_dtype(tree.accumulation_dtype(structure))
    return TrackerState(
        eigenvalues=jnp.full(max_k, no_value(which), dtype),
        eigenvectors=tree.zero_basis(tree.row(rows, 0), max_k),
        residuals=jnp.full(max_k, jnp.inf, dtype),
        converged=jnp.zeros(max_k, bool),
        active=jnp.arange(max_k, dtype=jnp.int32) < k,
        tracks=jnp.full(count, NO_TRACK, jnp.int32),
        next_eigenvalue=jnp.full((), no_value(which), dtype),
        rows=keep_first(rows, jnp.asarray(k + 1, jnp.int32)),
        far_end=jnp.zeros((), dtype),
        norm_estimate=jnp.zeros((), dtype),
        num_active=jnp.full((), k, jnp.int32),
        num_tracks=jnp.zeros((), jnp.int32),
        seed=successor(seed, 1),
        num_steps=jnp.zeros((), jnp.int32),
        num_matvecs=jnp.zeros((), jnp.int32),
        searched=jnp.zeros((), bool),
    )


def keep_first(rows: PyTree, count: jax.Array) -> PyTree:
    """The rows, zero from this one on."""
    kept = jnp.arange(jax.tree.leaves(rows)[0].shape[0], dtype=jnp.int32) < count
    spread = lambda leaf: kept.reshape(-1, *[1] * (leaf.ndim - 1))
    return jax.tree.map(lambda leaf: jnp.where(spread(leaf), leaf, jnp.zeros_like(leaf)), rows)


def _unit(vector: PyTree) -> PyTree:
    return tree.scale(1 / tree.norm(vector), vector)
