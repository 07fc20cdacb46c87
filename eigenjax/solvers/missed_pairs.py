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

from eigenjax.solvers.goal import Goal
from eigenjax.solvers.judgement import stopping_tolerance
from eigenjax.solvers.residuals import rounding_unit

# The probability that a search overlooks an eigenvector that is there: its random start has less than this over
# sqrt(n) of it.
_OVERSIGHT = 1e-6
# The pairs that a search locks have to stay converged although their residuals are dropped, and within a cluster their
# order is that of the eigenvalues only if they are better than its width: a solve with a search goes on to this share
# of tol first.
VERIFIED_SHARE = 0.1
# A locked pair is as good as the arithmetic allows with a residual of this times the machine epsilon of a product.
LOCKED_ROUNDING = 16.0
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


def levels(goal: Goal, values: jax.Array, distance: jax.Array, sigma: jax.Array) -> jax.Array:
    """The (L,) numbers at which a missed eigenvalue is looked for.

    They are the k values wanted, of which copies may be missing, and, on each side where an eigenvalue may lie that is
    more wanted than all of them but no copy of any, the number that is so by the distance given.

    >>> goal = Goal(k=2, which="LA", near=False, verify=True, max_matvecs=10)
    >>> print(levels(goal, jnp.array([3.0, 2.0]), jnp.float32(0.5), jnp.float32(0.0)))
    [3.  2.  2.5]
    """
    return jnp.concatenate([values, _beyond(goal, values, distance, sigma)])


def _beyond(goal: Goal, values: jax.Array, distance: jax.Array, sigma: jax.Array) -> jax.Array:
    if goal.near:
        radius = jnp.maximum(jnp.max(jnp.abs(values - sigma)) - distance, 0)
        return jnp.stack([sigma - radius, sigma + radius])
    if goal.which == "LM":
        radius = jnp.min(jnp.abs(values)) + distance
        return jnp.stack([radius, -radius])
    if goal.which == "SA":
        return (jnp.max(values) - distance)[None]
    highest = (jnp.min(values[::2] if goal.which == "BE" else values) + distance)[None]
    # Of one pair, which is the largest, no other end is wanted.
    if goal.which == "LA" or goal.k == 1:
        return highest
    return jnp.concatenate([highest, (jnp.max(values[1::2]) - distance)[None]])


def num_levels(goal: Goal) -> int:
    """L, how many numbers `levels` returns."""
    zero = jax.ShapeDtypeStruct((), jnp.float32)
    return jax.eval_shape(lambda z: levels(goal, jnp.zeros(goal.k, z.dtype), z, z), zero).shape[0]


def amplitude_of_certainty(size: int) -> float:
    """What a random start in n dimensions holds less than the inverse of, with a probability of 1e-6.

    >>> print(f"{amplitude_of_certainty(10000):.0e}")
    1e+08
    """
    return size**0.5 / _OVERSIGHT


def needed_amplitudes(
    goal: Goal, values: jax.Array, size: int, *, slack: jax.Array, sigma: jax.Array, missed_before: jax.Array
) -> jax.Array:
    """The (L,) values of the polynomials at which a search has excluded what is looked for at each level.

    Args:
        goal: with k, which and near.
        values: (k,) wanted.
        size: n.
        slack: () what an eigenvalue may be off by.
        sigma: () where goal.near.
        missed_before: () the probability that the solve itself, before any search, missed what is no copy.

    A copy of a value that is as wanted as the last one, to within the slack, takes nobody's place: 0.

    >>> goal = Goal(k=2, which="LA", near=False, verify=True, max_matvecs=10)
    >>> options = {"slack": jnp.float32(0.1), "sigma": jnp.float32(0.0), "missed_before": jnp.float32(1e-2)}
    >>> print(needed_amplitudes(goal, jnp.array([3.0, 2.0]), 10000, **options).round(-2))
    [1.e+08 0.e+00 1.e+06]
    """
    certain = amplitude_of_certainty(size)
    if goal.which == "BE" and not goal.near:
        high = jnp.arange(goal.k, dtype=jnp.int32) % 2 == 0
        ranks = jnp.where(high, values - jnp.min(values[::2]), jnp.max(values[1::2], initial=-jnp.inf) - values)
    else:
        wanted = {"LA": values, "SA": -values, "LM": jnp.abs(values)}
        keys = -jnp.abs(values - sigma) if goal.near else wanted[goal.which]
        ranks = keys - jnp.min(keys)
    copies = jnp.where(ranks > slack, certain, 0)
    others = jnp.full(num_levels(goal) - goal.k, certain, values.dtype) * missed_before
    return jnp.concatenate([copies.astype(values.dtype), others.astype(values.dtype)])


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


class Bounds(NamedTuple):
    """What is small enough."""

    residual: jax.Array  # () of a pair, to converge
    locked: jax.Array  # () of a locked pair, to stay converged: what was dropped of it is a part of it
    eigenvalue: jax.Array  # () what an eigenvalue may be off by
    scale: jax.Array  # () the largest |Ritz value| seen


def bounds_of(op: Any, goal: Goal, tol: Any, scale: jax.Array, lost: float = 0.0) -> Bounds:
    """Bounds for the tolerance of a solve.

    Args:
        op: the operator.
        goal: with verify.
        tol: relative to the scale, or None.
        scale: () the largest |Ritz value| seen.
        lost: what the storage of the basis loses, relative to the scale.
    """
    share = VERIFIED_SHARE if goal.verify else 1.0
    residual, eigenvalue = (stopping_tolerance(op, tol, scale.dtype, part) for part in (share, 1.0))
    locked = jnp.maximum(eigenvalue, LOCKED_ROUNDING * rounding_unit(op))
    absolute = lambda relative: jnp.maximum(relative, lost) * scale
    return Bounds(absolute(residual), absolute(locked), absolute(eigenvalue), scale)


class Aims(NamedTuple):
    """Where a search looks for missed eigenvalues, and what ends it."""

    levels: jax.Array  # (L,)
    needed: jax.Array  # (L,) the amplitudes of the polynomials


class Check(NamedTuple):
    """What a convergence check says of the search."""

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
    known = _matched(values, search.before, 2 * bounds.locked)
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


def aims_of(
    goal: Goal,
    values: jax.Array,
    worst: jax.Array,
    bounds: Bounds,
    *,
    size: int,
    sigma: jax.Array | float = 0.0,
) -> Aims:
    """The aims of a search that begins when these values have been found.

    Args:
        goal: with k, which, near and random_start.
        values: (k,) found.
        worst: () the largest of their residuals.
        bounds: on residuals and eigenvalues.
        size: n.
        sigma: () where goal.near.
    """
    distance = far_enough(bounds)
    number = jnp.asarray(sigma).astype(distance.dtype)
    missed_before = probability_missed(goal, worst, distance)
    needed = needed_amplitudes(goal, values, size, slack=bounds.eigenvalue, sigma=number, missed_before=missed_before)
    return Aims(levels(goal, values, distance, number), needed)


def far_enough(bounds: Bounds) -> jax.Array:
    """() sqrt(tol) ||A||, the distance at which what is no copy is looked for."""
    scale = jnp.where(bounds.scale > 0, bounds.scale, 1)
    return jnp.sqrt(bounds.eigenvalue / scale) * bounds.scale


def probability_missed(goal: Goal, worst: jax.Array, distance: jax.Array) -> jax.Array:
    """() the probability that a solve has missed an eigenvector that is no copy, its eigenvalue at this distance.

    From a random start a Ritz vector holds so much of it only where the residual is as large, times the distance.
    """
    if not goal.random_start:
        return jnp.ones_like(worst)
    return jnp.minimum(worst / jnp.where(distance > 0, distance, 1), 1)


def no_aims(num: int, dtype: Any, real_dtype: Any) -> Aims:
    """Before any search."""
    return Aims(jnp.zeros(num, dtype), jnp.zeros(num, real_dtype))


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
