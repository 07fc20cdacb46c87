"""Whether pairs were missed: what no residual can tell.

A Krylov space holds one vector of a multiple eigenvalue, and nothing of an eigenvector that its start is orthogonal
to. So a probe: the pairs found are set aside, and a random direction orthogonal to them is followed. It ends when the
best pair that it shows is clearly no better than the last of those found, or when its own space is exhausted. If it
brought nothing new the search is over; else it is made again. (With a random direction the chance of an oversight is
that of a random vector being orthogonal to an eigenvector: Kuczynski and Wozniakowski 1992.)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.result import EigenResult
from eigenjax.solvers.extraction import Extraction
from eigenjax.solvers.goal import Goal

# A pair that is not converged will not be wanted when its residual is below this share of its distance from those
# that are.
_SETTLED = 0.1
# However small a residual, an eigenvalue is known to no less than so many units of rounding of the largest Ritz value.
_ROUNDING = 4.0


class Probe(NamedTuple):
    """What is known of pairs missed."""

    running: jax.Array  # () bool, a random direction is being followed
    starts: jax.Array  # () bool, one is to be drawn now
    satisfied: jax.Array  # () bool, all that is wanted is there, as far as was asked
    before: jax.Array  # (k,) the values wanted when the running probe began; NaN if there were none
    at_first: jax.Array  # (k,) the values when they had converged for the first time; NaN until then
    num_probes: jax.Array  # () int32, probes ended


def nothing_probed(k: int, dtype: Any) -> Probe:
    """At the beginning."""
    no, nothing = jnp.zeros((), bool), jnp.full(k, jnp.nan, dtype)
    return Probe(no, no, no, nothing, nothing, jnp.zeros((), jnp.int32))


def begun(probe: Probe) -> Probe:
    """With the direction asked for drawn."""
    return probe._replace(starts=jnp.zeros((), bool))


def judge_probe(
    probe: Probe, goal: Goal, found: Extraction, converged: jax.Array, bound: jax.Array, broken_down: jax.Array
) -> Probe:
    """What follows from a look.

    Args:
        probe: as it was.
        goal: with k, which, near and verify.
        found: at the look.
        converged: () bool, the k pairs wanted have.
        bound: () on residuals.
        broken_down: () bool, the space is exhausted: a random direction is there already.
    """
    values = found.values[: goal.k]
    same = converged & jnp.all(jnp.abs(jnp.sort(values) - jnp.sort(probe.before)) <= 2 * bound)
    ends = probe.running & converged & (broken_down | _is_settled(goal, found, bound))
    nothing_new = ends & same
    asked_for = converged & ~probe.running & (goal.verify | broken_down)
    goes_on = asked_for | (ends & ~same) | (broken_down & ~nothing_new)
    first = converged & jnp.isnan(probe.at_first[0])
    return Probe(
        running=(probe.running | goes_on) & ~nothing_new,
        starts=goes_on & ~broken_down,
        satisfied=nothing_new | (converged & ~goes_on & ~probe.running),
        before=jnp.where(goes_on, jnp.where(converged, values, jnp.nan), probe.before),
        at_first=jnp.where(first, values, probe.at_first),
        num_probes=probe.num_probes + ends.astype(jnp.int32),
    )


def with_neighbours(result: EigenResult, found: Extraction, probe: Probe) -> EigenResult:
    """Adds what is known of eigenvalues nearby: error bounds, the gap to what was not wanted, what probes found."""
    k = result.eigenvalues.shape[0]
    residuals = result.residuals
    nearest = jnp.full(k, jnp.inf, residuals.dtype)
    gap = jnp.full((), jnp.inf, residuals.dtype)
    if found.values.shape[0] > k:
        there = jnp.isfinite(found.residuals[k])
        gap = jnp.where(there, jnp.min(jnp.abs(result.eigenvalues - found.values[k])), jnp.inf)
        nearest = jnp.where(there, jnp.abs(result.eigenvalues - found.values[k]) - found.residuals[k], jnp.inf)
    apart = jnp.abs(result.eigenvalues[:, None] - result.eigenvalues[None, :]) - residuals[None, :]
    nearest = jnp.minimum(nearest, jnp.min(jnp.where(jnp.eye(k, dtype=bool), jnp.inf, apart), axis=1))
    # The residual theorem, and the Kato-Temple bound r^2 / gap where the pair stands apart.
    wide = nearest > residuals
    bounds = jnp.where(wide, residuals * (residuals / jnp.where(wide, nearest, 1)), residuals)
    unit = float(jnp.finfo(residuals.dtype).eps) * jnp.max(jnp.abs(found.values))
    bounds = jnp.maximum(bounds, _ROUNDING * unit)
    matched = _num_matched(result.eigenvalues, probe.at_first, 2 * jnp.max(residuals))
    recovered = jnp.where(jnp.isnan(probe.at_first[0]), 0, k - matched)
    return result._replace(error_bounds=bounds, gap=gap, num_probes=probe.num_probes, num_recovered=recovered)


def _is_settled(goal: Goal, found: Extraction, bound: jax.Array) -> jax.Array:
    """() bool: the best pair that is not converged will not be wanted; of both ends, the best two."""
    index = jnp.arange(found.values.shape[0], dtype=jnp.int32)
    open_pairs = (index >= goal.k) & (found.residuals > bound) & jnp.isfinite(found.residuals)
    key = jnp.abs if goal.which == "LM" and not goal.near else lambda x: x
    distances = jnp.abs(key(found.values)[:, None] - key(found.values[None, : goal.k]))
    settled = found.residuals <= _SETTLED * jnp.min(distances, axis=1)
    place = jnp.cumsum(open_pairs, dtype=jnp.int32)
    considered = open_pairs & (place <= (2 if goal.which == "BE" and not goal.near else 1))
    return jnp.any(open_pairs) & jnp.all(settled | ~considered)


def _num_matched(values: jax.Array, others: jax.Array, tolerance: jax.Array) -> jax.Array:
    """How many of the values are among the others, each of which counts once."""
    equal = jnp.abs(values[:, None] - others[None, :]) <= tolerance
    earlier = jnp.sum(jnp.tril(jnp.abs(values[:, None] - values[None, :]) <= tolerance, -1), axis=1)
    return jnp.sum(jnp.sum(equal, axis=1) > earlier, dtype=jnp.int32)
