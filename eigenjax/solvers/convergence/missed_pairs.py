"""Missed-pair search: evidence that no wanted eigenvalue is missing, which residuals cannot give.

A Krylov space contains one vector of a multiple eigenvalue, and no eigenvector that is orthogonal to its start. So k
converged pairs are locked, and a Krylov space is grown from a random vector orthogonal to them. Its polynomials
(`lanczos_polynomials`) bound the component of the random vector along any eigenvector with a more wanted eigenvalue.
The search ends when a random vector has so small a component with probability at most 1e-6, or when the space is
exhausted. If the search finds nothing new, the solve is finished; else the search is repeated.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.krylov.rayleigh_ritz import Extraction
from eigenjax.krylov.solve_spec import SolveSpec
from eigenjax.solvers.convergence.search_targets import Bounds, SearchTargets
from eigenjax.vectors.arithmetic import safe_divide

# A search may find only one copy, so that k searches may be needed; after this many the solve gives up.
_SEARCHES_PER_PAIR, _MORE_SEARCHES = 2, 4


class Search(NamedTuple):
    """State of the missed-pair search."""

    running: jax.Array  # () bool, the space grows from a random vector
    starts: jax.Array  # () bool, the next restart draws such a vector
    satisfied: jax.Array  # () bool, all wanted pairs are found, as far as requested
    before: jax.Array  # (k,) wanted values at the start of the running search; inf without one
    at_first: jax.Array  # (k,) values at the first convergence of all pairs; inf until then
    num_searches: jax.Array  # () int32, finished searches


def wanted_pairs(found: Extraction, spec: SolveSpec) -> tuple[jax.Array, jax.Array]:
    """Return (k,) values and residuals of the wanted pairs.

    With a floor, only values above it are wanted. The others count as converged at the floor, so that they neither
    delay a solve nor differ from each other.
    """
    values, residuals = found.values[: spec.k], found.residuals[: spec.k]
    if spec.floor is None:
        return values, residuals
    above = (values > spec.floor) & jnp.isfinite(residuals)
    return jnp.where(above, values, spec.floor), jnp.where(above, residuals, 0)


def no_search(k: int, dtype: Any) -> Search:
    """Return the state before any search."""
    no, nothing = jnp.zeros((), bool), jnp.full(k, jnp.inf, dtype)
    return Search(no, no, no, nothing, nothing, jnp.zeros((), jnp.int32))


def begun(search: Search) -> Search:
    """Mark the random vector of a search as drawn."""
    return search._replace(starts=jnp.zeros((), bool))


def advance(
    search: Search,
    spec: SolveSpec,
    values: jax.Array,
    *,
    same: jax.Array,
    converged: jax.Array,
    excluded: jax.Array,
    exhausted: jax.Array,
) -> Search:
    """Update the search at a convergence check.

    Args:
        search: state before the check.
        spec: options, with k and verify.
        values: (k,) values found at the check.
        same: () bool, the values equal those from before the running search.
        converged: () bool, these k pairs have converged.
        excluded: () bool, the polynomials exclude more wanted eigenvalues.
        exhausted: () bool, the space is invariant: an uncoupled random vector continues it already.
    """
    # A search that found something is always followed by another.
    ends = search.running & converged & (exhausted | excluded | ~same)
    nothing_new = ends & same
    asked_for = converged & ~search.running & (spec.verify | exhausted)
    search_again = asked_for | (ends & ~same) | (exhausted & ~nothing_new)
    first = converged & jnp.isinf(search.at_first[0])
    return Search(
        running=(search.running | search_again) & ~nothing_new,
        starts=search_again & ~exhausted,
        satisfied=nothing_new | (converged & ~search_again & ~search.running),
        before=jnp.where(search_again, jnp.where(converged, values, jnp.inf), search.before),
        at_first=jnp.where(first, values, search.at_first),
        num_searches=search.num_searches + ends.astype(jnp.int32),
    )


class Check(NamedTuple):
    """Missed-pair search after a convergence check."""

    search: Search
    targets: SearchTargets  # targets of the search that runs or begins
    remaining: jax.Array  # () log of the factor that residuals must fall by or, in a search, polynomials must grow by
    begins_in_place: jax.Array  # () bool, a search begins at the random vector that is already in the space


def check(
    search: Search,
    spec: SolveSpec,
    values: jax.Array,
    residuals: jax.Array,
    amplitudes: jax.Array,
    targets: SearchTargets,
    new_targets: SearchTargets,
    bounds: Bounds,
    exhausted: jax.Array,
    *,
    center: Any = None,
) -> Check:
    """Advance the missed-pair search at a convergence check.

    Args:
        search: state before the check.
        spec: options, with k and verify.
        values: (k,) values found at the check.
        residuals: (k,) their residuals.
        amplitudes: (L,) amplitudes of the polynomials of the space.
        targets: targets of the running search.
        new_targets: targets of a search that begins at this check.
        bounds: bounds on the residuals.
        exhausted: () bool, the space is invariant: an uncoupled random vector continues it already.
        center: () the number whose distance orders the values; None if they are not ordered by a distance. Of two
            values on both sides at equal distance either may be found, so that their distances are compared.
    """
    found_before = _matched(values, search.before, bounds.same)
    # The dropped residuals of locked pairs are a part of their copies, and grow like unrelated errors.
    searches = 1 + search.num_searches.astype(residuals.dtype)
    of_copies = jnp.minimum(bounds.residual * jnp.sqrt(2 * searches), bounds.locked)
    allowed = jnp.where(search.running, jnp.where(found_before, bounds.locked, of_copies), bounds.residual)
    converged = jnp.all(residuals <= allowed)
    growths = jnp.log(jnp.maximum(targets.needed, 1) / jnp.maximum(amplitudes, 1))
    growth_left = jnp.max(growths)
    if spec.floor is not None:
        # Values below the floor prove nothing: the polynomials must exclude that another one lies above it.
        converged = converged & (growths[-1] <= 0)
    state = {
        "same": jnp.all(
            found_before if center is None else _matched_around(center, values, search.before, bounds.same)
        ),
        "converged": converged,
        "excluded": growth_left <= 0,
        "exhausted": exhausted,
    }
    after = advance(search, spec, values, **state)
    begins_in_place = exhausted & after.running
    begins = after.starts | begins_in_place
    chosen = SearchTargets(*(jnp.where(begins, x, y) for x, y in zip(new_targets, targets, strict=True)))
    at_least = jnp.maximum(residuals, jnp.finfo(residuals.dtype).tiny)
    remaining = jnp.max(jnp.log(safe_divide(at_least, allowed)))
    remaining = jnp.where(search.running & converged, growth_left, remaining)
    if spec.floor is not None:
        remaining = jnp.maximum(remaining, growths[-1])
    return Check(after, chosen, remaining, begins_in_place)


def has_given_up(search: Search, k: int) -> jax.Array:
    """Return whether to give up, () bool: every search finds other values, so the tolerance does not determine them."""
    return search.num_searches >= _SEARCHES_PER_PAIR * k + _MORE_SEARCHES


def num_recovered(search: Search, values: jax.Array, tolerance: jax.Array) -> jax.Array:
    """Return the number of values that are not among those converged for the first time, () int32."""
    new = jnp.sum(~_matched(values, search.at_first, tolerance), dtype=jnp.int32)
    return jnp.where(jnp.isinf(search.at_first[0]), 0, new)


def _matched_around(center: Any, values: jax.Array, others: jax.Array, tolerance: jax.Array) -> jax.Array:
    return _matched(jnp.abs(values - center), jnp.abs(others - center), tolerance)


def _matched(values: jax.Array, others: jax.Array, tolerance: jax.Array) -> jax.Array:
    """Return which of the values match one of the others, (k,) bool; each of the others counts once."""
    equal = jnp.abs(values[:, None] - others[None, :]) <= tolerance
    earlier = jnp.sum(jnp.tril(jnp.abs(values[:, None] - values[None, :]) <= tolerance, -1), axis=1)
    return jnp.sum(equal, axis=1) > earlier
