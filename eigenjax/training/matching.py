"""Matching of eigenvectors before and after a step, by their overlaps.

An eigenvalue that crosses another keeps its eigenvector, not its index. The largest remaining |<v_old, v_new>| is
matched, until all that remain are too small. This greedy assignment is optimal if each vector has one partner closer
than all others: an overlap above 1 / sqrt(2) is the only one in its row and in its column.
"""

import jax
import jax.numpy as jnp

from eigenjax.training.tracker_state import NO_TRACK

# Unit vectors at an angle of more than 60 degrees are not matched.
_SAME = 0.5


def match(overlaps: jax.Array) -> jax.Array:
    """Return the index of the old vector that each new one continues, or -1; no old vector is used twice.

    Args:
        overlaps: (p, q), |<v_old_i, v_new_j>| of unit vectors.

    Returns:
        (q,) int32 indices.

    >>> print(match(jnp.array([[0.1, 0.9], [0.8, 0.7], [0.2, 0.2]])), match(jnp.array([[0.9, 0.8], [0.3, 0.4]])))
    [1 0] [ 0 -1]
    """
    p, q = overlaps.shape

    def assign(_, carry):
        partners, left = carry
        old, new = jnp.divmod(jnp.argmax(left).astype(jnp.int32), jnp.int32(q))
        found = left[old, new] > _SAME
        partners = partners.at[new].set(jnp.where(found, old, partners[new]))
        taken = (jnp.arange(p, dtype=jnp.int32)[:, None] == old) | (jnp.arange(q, dtype=jnp.int32)[None, :] == new)
        return partners, jnp.where(found & taken, 0, left)

    start = (jnp.full(q, -1, jnp.int32), jnp.where(jnp.isfinite(overlaps), overlaps, 0))
    return jax.lax.fori_loop(0, min(p, q), assign, start)[0]


def continued_tracks(
    tracks: jax.Array, partners: jax.Array, tracked: jax.Array, num_tracks: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Assign track numbers to the new pairs: those of their partners, fresh ones for tracked pairs without a partner.

    Args:
        tracks: (p,) track numbers of the old vectors.
        partners: (q,) result of `match`.
        tracked: (q,) bool; the guard vector inherits a number, but gets no fresh one.
        num_tracks: () int32, number of track numbers assigned so far.

    Returns:
        (q,) track numbers, and the updated count.

    >>> old, partners = jnp.array([0, 1, -1]), jnp.array([2, 0, 1])
    >>> print(*continued_tracks(old, partners, jnp.array([True, True, False]), 2))
    [2 0 1] 3
    """
    taken_over = jnp.where(partners >= 0, tracks[jnp.maximum(partners, 0)], NO_TRACK)
    fresh = tracked & (taken_over == NO_TRACK)
    new_track = num_tracks + jnp.cumsum(fresh, dtype=jnp.int32) - 1
    return jnp.where(fresh, new_track, taken_over), num_tracks + jnp.sum(fresh, dtype=jnp.int32)
