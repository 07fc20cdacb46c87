"""Levels and bounds of a search for missed pairs: where it looks, and what ends it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.krylov.solve_spec import Goal
from eigenjax.solvers.convergence.judgement import stopping_tolerance
from eigenjax.solvers.convergence.residuals import rounding_unit

# The probability that a search overlooks an eigenvector that is there: its random start has less than this over
# sqrt(n) of it.
_OVERSIGHT = 1e-6
# The pairs that a search locks have to stay converged although their residuals are dropped, and within a cluster their
# order is that of the eigenvalues only if they are better than its width: a solve with a search goes on to this share
# of tol first.
VERIFIED_SHARE = 0.2
# A locked pair is as good as the arithmetic allows with a residual of this times the machine epsilon of a product.
LOCKED_ROUNDING = 16.0


class Bounds(NamedTuple):
    """Bounds on residuals and eigenvalues, absolute."""

    residual: jax.Array  # () of a pair, to converge
    locked: jax.Array  # () of a locked pair, to stay converged: what was dropped of it is a part of it
    eigenvalue: jax.Array  # () what an eigenvalue may be off by
    same: jax.Array  # () values that differ by less are taken for one
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
    return Bounds(absolute(residual), absolute(locked), absolute(eigenvalue), 2 * absolute(locked), scale)


def bounds_by_condition(op: Any, bounds: Bounds, condition: jax.Array, values: jax.Array) -> Bounds:
    """Bounds on residuals that determine eigenvalues as well as those of a normal operator, where rounding allows it.

    Args:
        op: the operator.
        bounds: for a normal one.
        condition: () of the eigenvalues wanted: they may be off by as much times a residual.
        values: (k,) the eigenvalues.

    Returns:
        The bounds as they were where rounding moves eigenvalues further than a search can tell. Values that are taken
        for one are never half as far from each other as two of those given: a copy that is found is always seen.
    """
    far, rounding = far_enough(bounds), LOCKED_ROUNDING * rounding_unit(op) * bounds.scale
    smaller = jnp.maximum(bounds.residual / condition, jnp.minimum(rounding, bounds.residual))
    distances = jnp.abs(values[:, None] - values[None, :])
    gap = jnp.min(jnp.where(distances > bounds.same, distances, 2 * far))
    same = jnp.maximum(bounds.same, jnp.minimum(2 * condition * smaller, gap / 2))
    tells = condition * rounding <= far
    return bounds._replace(
        residual=jnp.where(tells, smaller, bounds.residual), same=jnp.where(tells, same, bounds.same)
    )


class Aims(NamedTuple):
    """Where a search looks for missed eigenvalues, and what ends it."""

    levels: jax.Array  # (L,)
    needed: jax.Array  # (L,) the amplitudes of the polynomials


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
