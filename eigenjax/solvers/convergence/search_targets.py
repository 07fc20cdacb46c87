"""Targets and bounds of the missed-pair search: the levels it tests, and what ends it."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.krylov.solve_spec import SolveSpec
from eigenjax.operators.functions.precision import rounding_unit
from eigenjax.solvers.convergence.status import stopping_tolerance, tolerance
from eigenjax.vectors.arithmetic import safe_divide

# Probability that a search misses an existing eigenvector: its random start has a component along the eigenvector below
# this over sqrt(n).
_MISS_PROBABILITY = 1e-6
# Locked pairs must stay converged although a search drops their residuals. Within a cluster, the order of locked pairs
# is that of the eigenvalues only if their errors are below the width of the cluster. Therefore a solve with a search
# first continues to this share of tol.
VERIFIED_SHARE = 0.2
# A locked pair is as accurate as the arithmetic allows with a residual of this times the machine epsilon of a matvec.
LOCKED_ROUNDING = 16.0


class Bounds(NamedTuple):
    """Absolute bounds on residuals and eigenvalues."""

    residual: jax.Array  # () on the residual of a pair, to converge
    locked: jax.Array  # () on the residual of a locked pair, to stay converged: includes its dropped part
    eigenvalue: jax.Array  # () on the error of an eigenvalue
    same: jax.Array  # () values closer than this count as equal
    norm_estimate: jax.Array  # () the largest |Ritz value| seen, the norm estimate


def bounds_of(
    op: Any,
    spec: SolveSpec,
    tol: Any,
    norm_estimate: jax.Array,
    storage_error: float = 0.0,
    values: jax.Array | None = None,
) -> Bounds:
    """Return the bounds for the tolerance of a solve.

    Args:
        op: the operator.
        spec: options, with k, verify and relative.
        tol: tolerance relative to `norm_estimate`, `Tolerances`, or None.
        norm_estimate: () the largest |Ritz value| seen, the norm estimate.
        storage_error: rounding error of the storage of the basis, relative to `norm_estimate`.
        values: the Ritz values, the k wanted first; used if spec.relative.
    """
    if spec.relative and values is not None:
        least = jnp.min(jnp.abs(values[: spec.k]))
        # An error e of theta = 1 / (lambda - s) is one of e / theta^2 of lambda.
        tol = tolerance(tol, least.dtype, safe_divide(1, least)) * safe_divide(least, norm_estimate, otherwise=0)
    share = VERIFIED_SHARE if spec.verify else 1.0
    stop = functools.partial(stopping_tolerance, op, tol, norm_estimate.dtype, norm_estimate=norm_estimate)
    residual, eigenvalue = stop(share), stop(1.0)
    locked = jnp.maximum(eigenvalue, LOCKED_ROUNDING * rounding_unit(op))
    absolute = lambda relative: jnp.maximum(relative, storage_error) * norm_estimate
    return Bounds(absolute(residual), absolute(locked), absolute(eigenvalue), 2 * absolute(locked), norm_estimate)


def bounds_by_condition(op: Any, bounds: Bounds, condition: jax.Array, values: jax.Array) -> Bounds:
    """Tighten residual bounds by the condition of the eigenvalues, as far as rounding allows.

    The eigenvalues are then as accurate as those of a normal operator.

    Args:
        op: the operator.
        bounds: bounds for a normal operator.
        condition: () condition of the wanted eigenvalues: their errors are at most this times a residual.
        values: (k,) the eigenvalues.

    Returns:
        The tighter bounds, or the given ones if rounding moves eigenvalues too far for a search to distinguish them.
        Values that count as equal are closer than half the distance of any two distinct given values. So a copy that
        is found is always recognized.
    """
    far, rounding = far_enough(bounds), LOCKED_ROUNDING * rounding_unit(op) * bounds.norm_estimate
    smaller = jnp.maximum(bounds.residual / condition, jnp.minimum(rounding, bounds.residual))
    distances = jnp.abs(values[:, None] - values[None, :])
    gap = jnp.min(jnp.where(distances > bounds.same, distances, 2 * far))
    same = jnp.maximum(bounds.same, jnp.minimum(2 * condition * smaller, gap / 2))
    tells = condition * rounding <= far
    return bounds._replace(
        residual=jnp.where(tells, smaller, bounds.residual), same=jnp.where(tells, same, bounds.same)
    )


class SearchTargets(NamedTuple):
    """Targets of the missed-pair search: the levels it tests, and the amplitudes that end it."""

    levels: jax.Array  # (L,) numbers at which the polynomials are evaluated
    needed: jax.Array  # (L,) amplitudes of the polynomials that exclude a missed eigenvalue there


def targets_of(
    spec: SolveSpec,
    values: jax.Array,
    worst: jax.Array,
    bounds: Bounds,
    *,
    size: int,
    sigma: jax.Array | float = 0.0,
) -> SearchTargets:
    """Return the targets of a search that begins when these values have been found.

    Args:
        spec: options, with k, which, interior and random_start.
        values: (k,) values found.
        worst: () the largest of their residuals.
        bounds: bounds on residuals and eigenvalues.
        size: n.
        sigma: () the shift, used if spec.interior.
    """
    distance = far_enough(bounds)
    shift = jnp.asarray(sigma).astype(distance.dtype)
    missed_before = probability_missed(spec, worst, distance)
    needed = needed_amplitudes(spec, values, size, slack=bounds.eigenvalue, sigma=shift, missed_before=missed_before)
    return SearchTargets(levels(spec, values, distance, shift), needed)


def far_enough(bounds: Bounds) -> jax.Array:
    """Return sqrt(tol) ||A||, (): the distance at which missed eigenvalues that are no copies are searched."""
    return jnp.sqrt(safe_divide(bounds.eigenvalue, bounds.norm_estimate)) * bounds.norm_estimate


def probability_missed(spec: SolveSpec, worst: jax.Array, distance: jax.Array) -> jax.Array:
    """Estimate the probability, (), that a solve missed an eigenvector at this distance that is no copy.

    With a random start, a Ritz vector has a component along it only if the residual is at least the component times
    the distance.
    """
    if not spec.random_start:
        return jnp.ones_like(worst)
    return jnp.minimum(safe_divide(worst, distance), 1)


def no_targets(num: int, dtype: Any, real_dtype: Any) -> SearchTargets:
    """Return the targets before any search."""
    return SearchTargets(jnp.zeros(num, dtype), jnp.zeros(num, real_dtype))


def levels(spec: SolveSpec, values: jax.Array, distance: jax.Array, sigma: jax.Array) -> jax.Array:
    """Return the (L,) numbers at which a missed eigenvalue is searched.

    These are the k wanted values, which may have missing copies, and one more on each side where a more wanted
    eigenvalue may lie. The latter is more wanted than all found values by the given distance, so it is no copy.

    >>> spec = SolveSpec(k=2, which="LA", interior=False, verify=True, max_matvecs=10)
    >>> print(levels(spec, jnp.array([3.0, 2.0]), jnp.float32(0.5), jnp.float32(0.0)))
    [3.  2.  2.5]
    """
    return jnp.concatenate([values, _beyond(spec, values, distance, sigma)])


def _beyond(spec: SolveSpec, values: jax.Array, distance: jax.Array, sigma: jax.Array) -> jax.Array:
    if spec.interior:
        radius = jnp.maximum(jnp.max(jnp.abs(values - sigma)) - distance, 0)
        return jnp.stack([sigma - radius, sigma + radius])
    if spec.which == "LM":
        radius = jnp.min(jnp.abs(values)) + distance
        return jnp.stack([radius, -radius])
    if spec.which == "SA":
        return (jnp.max(values) - distance)[None]
    highest = (jnp.min(values[::2] if spec.which == "BE" else values) + distance)[None]
    # For k = 1 the pair is the largest one: there is no other end.
    if spec.which == "LA" or spec.k == 1:
        return highest
    return jnp.concatenate([highest, (jnp.max(values[1::2]) - distance)[None]])


def num_levels(spec: SolveSpec) -> int:
    """Return L, the number of levels that `levels` returns."""
    zero = jax.ShapeDtypeStruct((), jnp.float32)
    return jax.eval_shape(lambda z: levels(spec, jnp.zeros(spec.k, z.dtype), z, z), zero).shape[0]


def certain_amplitude(size: int) -> float:
    """Return the amplitude whose inverse is a lower bound, with near certainty, of a random start's components.

    A random start in n dimensions has a smaller component along a given unit vector with probability at most 1e-6.

    >>> print(f"{certain_amplitude(10000):.0e}")
    1e+08
    """
    return size**0.5 / _MISS_PROBABILITY


def needed_amplitudes(
    spec: SolveSpec, values: jax.Array, size: int, *, slack: jax.Array, sigma: jax.Array, missed_before: jax.Array
) -> jax.Array:
    """Return the (L,) polynomial amplitudes at which a search has excluded a missed eigenvalue at each level.

    Args:
        spec: options, with k, which and interior.
        values: (k,) wanted values.
        size: n.
        slack: () error bound of an eigenvalue.
        sigma: () the shift, used if spec.interior.
        missed_before: () probability that the solve itself, before any search, missed an eigenvalue that is no copy.

    A copy of a value that is as wanted as the last one, to within the slack, displaces no result: it needs 0.

    >>> spec = SolveSpec(k=2, which="LA", interior=False, verify=True, max_matvecs=10)
    >>> options = {"slack": jnp.float32(0.1), "sigma": jnp.float32(0.0), "missed_before": jnp.float32(1e-2)}
    >>> print(needed_amplitudes(spec, jnp.array([3.0, 2.0]), 10000, **options).round(-2))
    [1.e+08 0.e+00 1.e+06]
    """
    certain = certain_amplitude(size)
    if spec.which == "BE" and not spec.interior:
        high = jnp.arange(spec.k, dtype=jnp.int32) % 2 == 0
        ranks = jnp.where(high, values - jnp.min(values[::2]), jnp.max(values[1::2], initial=-jnp.inf) - values)
    else:
        wanted = {"LA": values, "SA": -values, "LM": jnp.abs(values)}
        keys = -jnp.abs(values - sigma) if spec.interior else wanted[spec.which]
        ranks = keys - jnp.min(keys)
    copies = jnp.where(ranks > slack, certain, 0)
    others = jnp.full(num_levels(spec) - spec.k, certain, values.dtype) * missed_before
    return jnp.concatenate([copies.astype(values.dtype), others.astype(values.dtype)])
