"""Missed-pair search: evidence that no eigenvalue wanted was overlooked, which no residual gives.

A Krylov space holds one vector of a multiple eigenvalue, and nothing of an eigenvector that its start is orthogonal
to. So once k pairs have converged they are locked, and a Krylov space is grown from a random vector orthogonal to
them. Its polynomials (`lanczos_polynomials`) bound what the random vector holds of any eigenvector whose eigenvalue is
more wanted than those found. The search ends when this is so little that a random vector holds as little with a
probability of 1e-6 at most, or when the space is exhausted. If it brought nothing new the solve is over; else the
search is made again.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.krylov.solve_spec import Goal
from eigenjax.solvers.convergence.search_targets import Aims, Bounds

# A search may find one copy, so that k of them may be needed; beyond these there is no end to it.
_SEARCHES_PER_PAIR, _MORE_SEARCHES = 2, 4


class Search(NamedTuple):
    """State of the search for missed pairs."""

    running: jax.Array  # () bool, the space grows from a random vector
    starts: jax.Array  # () bool, such a vector is to be drawn by the next restart
    satisfied: jax.Array  # () bool, all that is wanted is there, as far as was asked
    before: jax.Array  # (k,) the values wanted when the running search began; inf if there were none
    at_first: jax.Array  # (k,) the values when they had converged for the first time; inf until then
    num_searches: jax.Array  # () int32, searches ended


def no_search(k: int, dtype: Any) -> Search:
    """Before any search."""
    no, nothing = jnp.zeros((), bool), jnp.full(k, jnp.inf, dtype)
    return Search(no, no, no, nothing, nothing, jnp.zeros((), jnp.int32))


def begun(search: Search) -> Search:
    """With the random vector drawn."""
    return search._replace(starts=jnp.zeros((), bool))


def advance(
    search: Search,
    goal: Goal,
    values: jax.Array,
    *,
    same: jax.Array,
    converged: jax.Array,
    excluded: jax.Array,
    exhausted: jax.Array,
) -> Search:
    """The search after a convergence check.

    Args:
        search: before it.
        goal: with k and verify.
        values: (k,) found at the check.
        same: () bool, they are those from before the running search.
        converged: () bool, these k pairs have.
        excluded: () bool, the polynomials exclude that anything more wanted is there.
        exhausted: () bool, the space is invariant: a random vector, uncoupled, is there already.
    """
    # A search that has found something is followed by another in any case.
    ends = search.running & converged & (exhausted | excluded | ~same)
    nothing_new = ends & same
    asked_for = converged & ~search.running & (goal.verify | exhausted)
    goes_on = asked_for | (ends & ~same) | (exhausted & ~nothing_new)
    first = converged & jnp.isinf(search.at_first[0])
    return Search(
        running=(search.running | goes_on) & ~nothing_new,
        starts=goes_on & ~exhausted,
        satisfied=nothing_new | (converged & ~goes_on & ~search.running),
        before=jnp.where(goes_on, jnp.where(converged, values, jnp.inf), search.before),
        at_first=jnp.where(first, values, search.at_first),
        num_searches=search.num_searches + ends.astype(jnp.int32),
    )


class Check(NamedTuple):
    """State of the search after a convergence check."""

    search: Search
    aims: Aims  # of the search that runs, or begins
    remaining: jax.Array  # () logarithm of the factor by which residuals have to fall or, in a search, polynomials grow
    begins_here: jax.Array  # () bool, a search begins at the random vector that is there already


def check(
    search: Search,
    goal: Goal,
    values: jax.Array,
    residuals: jax.Array,
    amplitudes: jax.Array,
    aims: Aims,
    new_aims: Aims,
    bounds: Bounds,
    exhausted: jax.Array,
) -> Check:
    """Advance the search at a convergence check.

    Args:
        search: before it.
        goal: with k and verify.
        values: (k,) found at the check.
        residuals: (k,) of them.
        amplitudes: (L,) of the polynomials of the space.
        aims: of the running search.
        new_aims: of a search that begins now.
        bounds: on the residuals.
        exhausted: () bool, the space is invariant: a random vector, uncoupled, is there already.
    """
    known = _matched(values, search.before, bounds.same)
    # What searches have dropped of locked pairs is a part of their copies, and grows as unrelated errors do.
    searches = 1 + search.num_searches.astype(residuals.dtype)
    of_copies = jnp.minimum(bounds.residual * jnp.sqrt(2 * searches), bounds.locked)
    allowed = jnp.where(search.running, jnp.where(known, bounds.locked, of_copies), bounds.residual)
    converged = jnp.all(residuals <= allowed)
    growth_left = jnp.max(jnp.log(jnp.maximum(aims.needed, 1) / jnp.maximum(amplitudes, 1)))
    state = {"same": jnp.all(known), "converged": converged, "excluded": growth_left <= 0, "exhausted": exhausted}
    after = advance(search, goal, values, **state)
    begins_here = exhausted & after.running
    begins = after.starts | begins_here
    chosen = Aims(*(jnp.where(begins, x, y) for x, y in zip(new_aims, aims, strict=True)))
    at_least = jnp.maximum(residuals, jnp.finfo(residuals.dtype).tiny)
    remaining = jnp.max(jnp.log(at_least / jnp.where(allowed > 0, allowed, 1)))
    remaining = jnp.where(search.running & converged, growth_left, remaining)
    return Check(after, chosen, remaining, begins_here)


def has_given_up(search: Search, k: int) -> jax.Array:
    """() bool, each search finds something else: eigenvalues are not determined to within the tolerance."""
    return search.num_searches >= _SEARCHES_PER_PAIR * k + _MORE_SEARCHES


def num_recovered(search: Search, values: jax.Array, tolerance: jax.Array) -> jax.Array:
    """() int32, how many of the values were not there when all had converged for the first time."""
    new = jnp.sum(~_matched(values, search.at_first, tolerance), dtype=jnp.int32)
    return jnp.where(jnp.isinf(search.at_first[0]), 0, new)


def _matched(values: jax.Array, others: jax.Array, tolerance: jax.Array) -> jax.Array:
    """(k,) bool, which of the values are among the others, each of which counts once."""
    equal = jnp.abs(values[:, None] - others[None, :]) <= tolerance
    earlier = jnp.sum(jnp.tril(jnp.abs(values[:, None] - values[None, :]) <= tolerance, -1), axis=1)
    return jnp.sum(equal, axis=1) > earlier
