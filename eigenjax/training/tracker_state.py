"""State of a spectrum tracker between training steps: arrays only, so that any checkpointer can save it."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax import printing
from eigenjax.operators.base import LinearOperator
from eigenjax.vectors import tree
from eigenjax.vectors.pseudorandom import arbitrary_rows, fold_in, seed_of
from eigenjax.vectors.tree import PyTree

# Track number of a pair that has none.
NO_TRACK = -1


class TrackerState(NamedTuple):
    """Tracker state: the pairs of the last update, and the start vectors of the next one.

    K is the largest number of pairs, q = min(K + 1, n). An untracked pair, or any pair before the first update, has
    the eigenvalue -inf (+inf for "SA"), the residual inf and a vector of zeros. NaN occurs only after matvecs with NaN
    or Inf, so that `jax_debug_nans` finds these alone.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from eigenjax import spectrum_tracker
        >>> state = spectrum_tracker(2).init(jnp.eye(30))
        >>> state.eigenvectors.shape, len(jax.tree.leaves(state)) > 5
        ((2, 30), True)
    """

    eigenvalues: jax.Array
    """(K,) real, ordered by `which`, the most wanted first; infinite for untracked pairs, NaN after matvecs with
    NaN."""
    eigenvectors: Any
    """A vector of the operator with a leading axis K: orthonormal rows, with the signs of the previous update."""
    residuals: jax.Array
    """(K,) ||A v - lambda v|| of these values and vectors, with the operator of the last measurement."""
    converged: jax.Array
    """(K,) bool: the residual is at most tol times the largest |Ritz value|."""
    active: jax.Array
    """(K,) bool, True for tracked pairs; all True without max_k."""
    tracks: jax.Array
    """(q,) int32, track number of each pair, which stays with the eigenvector through crossings; -1 for none."""
    next_eigenvalue: jax.Array
    """() Rayleigh quotient of the guard vector: an inner bound on the first untracked eigenvalue; infinite if all are
    tracked."""
    rows: Any
    """(q, ...) unit vectors: the pairs after one power step, and the guard vector."""
    far_end: jax.Array
    """() estimate of the unwanted end of the spectrum, from the last search and the Ritz values since."""
    norm_estimate: jax.Array
    """() the largest |Ritz value| of the last update, an estimate of ||A||; `converged` is relative to it."""
    num_active: jax.Array
    """() int32, number of pairs that the next update tracks."""
    num_tracks: jax.Array
    """() int32, number of track numbers assigned so far."""
    seed: jax.Array
    """(2,) uint32, key of all pseudo-random numbers."""

    __repr__ = printing.short_repr
    __str__ = printing.table_by("eigenvalues")
    num_steps: jax.Array
    """() int32, number of calls of `update`."""
    num_matvecs: jax.Array
    """() int32, number of matvecs in all."""
    searched: jax.Array
    """() bool, True if the last measurement needed a search, beyond one matvec per pair."""


def no_value(which: str) -> float:
    """Return the placeholder for a missing eigenvalue: infinite, on the unwanted side.

    >>> no_value("LA"), no_value("SA")
    (-inf, inf)
    """
    return math.inf if which == "SA" else -math.inf


def initial_state(op: LinearOperator, key: jax.Array | None, k: int, max_k: int, which: str) -> TrackerState:
    """Create the state before the first matvec: pseudo-random rows, no values."""
    seed = seed_of(key)
    count = min(max_k + 1, op.size)
    structure = tree.working_structure(op.structure)
    rows = jax.vmap(_unit)(arbitrary_rows(fold_in(seed, 0), structure, count))
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
        seed=fold_in(seed, 1),
        num_steps=jnp.zeros((), jnp.int32),
        num_matvecs=jnp.zeros((), jnp.int32),
        searched=jnp.zeros((), bool),
    )


def keep_first(rows: PyTree, count: jax.Array) -> PyTree:
    """Keep the first `count` rows and set the others to zero."""
    keep = jnp.arange(jax.tree.leaves(rows)[0].shape[0], dtype=jnp.int32) < count
    spread = lambda leaf: keep.reshape(-1, *[1] * (leaf.ndim - 1))
    return jax.tree.map(lambda leaf: jnp.where(spread(leaf), leaf, jnp.zeros_like(leaf)), rows)


def _unit(vector: PyTree) -> PyTree:
    return tree.scale(1 / tree.norm(vector), vector)
