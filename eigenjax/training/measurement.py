"""Measurement of the tracked pairs, the work of one update.

Apply A to all rows, compute their Ritz pairs, and search if the residuals are too large. Then match signs and track
numbers to the previous measurement, and take one power step to the rows of the next one.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.krylov.solve_spec import SolveSpec
from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.operators.packed import packed, packed_operator, packing_used, unpacked
from eigenjax.solvers.convergence.status import stopping_tolerance
from eigenjax.training.matching import continued_tracks, match
from eigenjax.training.search import Found, search
from eigenjax.training.simultaneous import (
    TrackedPairs,
    advanced,
    block_ritz_pairs,
    matvecs,
    scaled,
    tracked_norm_estimate,
)
from eigenjax.training.tracker_state import TrackerState, keep_first, no_value
from eigenjax.vectors import tree
from eigenjax.vectors.conditional import apply_when
from eigenjax.vectors.pseudorandom import fold_in
from eigenjax.vectors.signs import fix_signs

# Least number of basis vectors of a search.
_LEAST_DIM = 20
# One matvec verifies the residuals of a search.
_VERIFICATION = 1
# Numbers of the keys of a search, and of the random vector that is mixed into the guard vector.
_SEARCHING, _STIRRING = 0, 1


class TrackerSpec(NamedTuple):
    """Options of a tracker, checked; static."""

    k: int  # pairs at the start
    max_k: int  # most pairs
    which: str  # order of the wanted eigenvalues
    matvecs_per_update: int  # most matvecs of an update
    tol: float  # of the residuals, relative to ||A||
    threshold: float | None  # eigenvalue beyond which the number of pairs grows
    krylov_dim: int | None  # basis vectors of a search; None is the default

    @property
    def grows(self) -> bool:
        """True if the number of pairs varies."""
        return self.max_k > self.k


def measure(plan: TrackerSpec, op: LinearOperator, state: TrackerState) -> TrackerState:
    """Measure the pairs of an operator, from the rows of a state."""
    op = packed_operator(op, state)
    packing = packing_used(op)
    packed_state = state._replace(eigenvectors=packed(state.eigenvectors, packing), rows=packed(state.rows, packing))
    new = _measured(plan, op, packed_state)
    return new._replace(eigenvectors=unpacked(new.eigenvectors, packing), rows=unpacked(new.rows, packing))


def _measured(plan: TrackerSpec, op: LinearOperator, state: TrackerState) -> TrackerState:
    """Measure the pairs of an operator on packed vectors."""
    q = state.tracks.shape[0]
    count = jnp.minimum(state.num_active + 1, q)
    seed = fold_in(state.seed, state.num_matvecs)
    images = matvecs(op, state.rows, count if plan.grows else None)
    pairs = block_ritz_pairs(state.rows, images, count, plan.which)
    finite = ~jnp.any(jnp.isnan(pairs.residuals))
    found = Found(pairs, _extended(plan.which, state, pairs), count)
    tracked = jnp.arange(q, dtype=jnp.int32) < state.num_active
    lacking = finite & jnp.any(tracked & ~_is_good(plan, op, found))
    spec = _search_spec(plan, op.size)
    if spec is not None:
        check_convergence = functools.partial(_searched, plan, op, state.num_active, spec, fold_in(seed, _SEARCHING))
        found = apply_when(lacking, check_convergence, found)
    found, tracks, num_tracks = _identified(state, found, tracked)
    k, pairs = plan.max_k, found.pairs
    num_active = _resized(plan, pairs.values, state.num_active)
    measured = state._replace(
        eigenvalues=jnp.where(tracked, pairs.values, no_value(plan.which))[:k],
        eigenvectors=keep_first(jax.tree.map(lambda x: x[:k], pairs.vectors), state.num_active),
        residuals=jnp.where(tracked, pairs.residuals, jnp.inf)[:k],
        converged=(_is_good(plan, op, found) & tracked)[:k],
        active=tracked[:k],
        tracks=tracks,
        next_eigenvalue=_after(pairs.values, state.num_active, no_value(plan.which)),
        rows=advanced(pairs, num_active, plan.which, found.far_end, fold_in(seed, _STIRRING)),
        far_end=found.far_end,
        norm_estimate=tracked_norm_estimate(pairs, found.far_end),
        num_active=num_active,
        num_tracks=num_tracks,
        searched=lacking if spec is not None else jnp.zeros((), bool),
    )
    measured = tree.where(finite, measured, _without_values(state, jnp.sum(found.pairs.residuals)))
    return measured._replace(num_matvecs=state.num_matvecs + found.num_matvecs)


def first_followed(plan: TrackerSpec, op: LinearOperator, state: TrackerState) -> TrackerState:
    """Compute Rayleigh quotient, residual and convergence flag of the first pair's vector, at one matvec.

    ||A|| is not measured here. Its estimate is that of the last update, reduced in proportion if ||A v|| is smaller,
    and at least |<v, A v>|. Otherwise the residual of an operator that shrinks would be compared with a norm that is
    too large.
    """
    op = packed_operator(op, state)
    vector = packed(tree.row(state.eigenvectors, 0), packing_used(op))
    image = matvec(op, vector)
    value = tree.inner(vector, image).real
    residual = tree.norm(tree.add_scaled(image, -value, vector))
    # An infinite matvec is treated as NaN, which an update does too.
    finite = jnp.isfinite(value) & jnp.isfinite(residual)
    residual = jnp.where(finite, residual, 0 * (value + residual))
    before, now = jnp.hypot(state.eigenvalues[0], state.residuals[0]), jnp.hypot(value, residual)
    shrinks = finite & (now < before)
    ratio = jnp.where(shrinks, now, 1) / jnp.where(shrinks, before, 1)
    norm_estimate = jnp.maximum(jnp.abs(value), ratio * state.norm_estimate)
    converged = finite & (residual <= stopping_tolerance(op, plan.tol, residual.dtype) * norm_estimate)
    return state._replace(
        eigenvalues=state.eigenvalues.at[0].set(value),
        residuals=state.residuals.at[0].set(residual),
        converged=state.converged.at[0].set(converged),
        norm_estimate=jnp.where(finite, norm_estimate, state.norm_estimate),
        num_matvecs=state.num_matvecs + 1,
    )


def _search_spec(plan: TrackerSpec, size: int) -> SolveSpec | None:
    """Return the options of a search; None if the budget is too small for one."""
    max_matvecs = plan.matvecs_per_update - min(plan.max_k + 1, size) - _VERIFICATION
    spec = SolveSpec(k=plan.max_k, which=plan.which, interior=False, verify=False, max_matvecs=max_matvecs)
    return spec if max_matvecs >= plan.max_k else None


def _krylov_dim(plan: TrackerSpec, size: int) -> int:
    dim = max(2 * plan.max_k + 10, _LEAST_DIM) if plan.krylov_dim is None else plan.krylov_dim
    return size if dim + 1 > size else dim


def _is_good(plan: TrackerSpec, op: LinearOperator, found: Found) -> jax.Array:
    """Compare the residuals with the tolerance, (q,) bool."""
    tol = stopping_tolerance(op, plan.tol, found.far_end.dtype)
    return found.pairs.residuals <= tol * tracked_norm_estimate(found.pairs, found.far_end)


def _searched(
    plan: TrackerSpec, op: LinearOperator, num_active: jax.Array, spec: SolveSpec, seed: jax.Array, previous: Found
) -> Found:
    """Run a search, and return its pairs unless the previous ones are better; the matvecs of both are counted."""
    dim = _krylov_dim(plan, op.size)
    found = search(op, previous.pairs.vectors, num_active, spec=spec, krylov_dim=dim, tol=plan.tol, seed=seed)
    active = jnp.arange(found.pairs.values.shape[0], dtype=jnp.int32) < num_active
    worst = lambda pairs: jnp.max(jnp.where(active, pairs.residuals, 0))
    is_better = jnp.all(_is_good(plan, op, found) | ~active) | (worst(found.pairs) <= worst(previous.pairs))
    # A Ritz value is never beyond the eigenvalue of its rank, so a search must reach the previous values again.
    slack = plan.tol * tracked_norm_estimate(found.pairs, found.far_end)
    reached = _outwards(found.pairs.values, plan.which) >= _outwards(previous.pairs.values, plan.which) - slack
    is_better &= jnp.all(reached | ~active)
    chosen = tree.where(is_better, found, previous)
    return chosen._replace(num_matvecs=previous.num_matvecs + found.num_matvecs)


def _outwards(values: jax.Array, which: str) -> jax.Array:
    """Map values to numbers that increase towards the wanted end of the spectrum."""
    if which == "BE":
        return jnp.where(jnp.arange(values.shape[0]) % 2 == 0, values, -values)
    return {"LA": values, "SA": -values, "LM": jnp.abs(values)}[which]


def _identified(state: TrackerState, found: Found, tracked: jax.Array) -> tuple[Found, jax.Array, jax.Array]:
    """Give the pairs the signs of the rows that they continue, and their track numbers."""
    vectors, phases = fix_signs(found.pairs.vectors, references=state.rows)
    partners = match(jnp.abs(tree.gram(state.rows, vectors)))
    tracks, num_tracks = continued_tracks(state.tracks, partners, tracked, state.num_tracks)
    residual_vectors = scaled(phases, found.pairs.residual_vectors)
    pairs = found.pairs._replace(vectors=vectors, residual_vectors=residual_vectors)
    return found._replace(pairs=pairs), tracks, num_tracks


def _resized(plan: TrackerSpec, values: jax.Array, num_active: jax.Array) -> jax.Array:
    """Increase the number of pairs if the last one is beyond the threshold, decrease it if the last but one is not."""
    if plan.threshold is None:
        return num_active
    beyond = {
        "LA": values > plan.threshold,
        "SA": values < plan.threshold,
        "LM": jnp.abs(values) > plan.threshold,
    }[plan.which]
    grows = beyond[num_active - 1] & (num_active < plan.max_k)
    shrinks = (num_active > plan.k) & ~beyond[jnp.maximum(num_active - 2, 0)]
    return num_active + grows.astype(jnp.int32) - shrinks.astype(jnp.int32)


def _extended(which: str, state: TrackerState, pairs: TrackedPairs) -> jax.Array:
    """Return () the previous far end of the spectrum, or a Ritz value beyond it."""
    valid = jnp.isfinite(pairs.residuals)
    if which == "SA":
        return jnp.maximum(state.far_end, jnp.max(jnp.where(valid, pairs.values, state.far_end)))
    return jnp.minimum(state.far_end, jnp.min(jnp.where(valid, pairs.values, state.far_end)))


def _after(values: jax.Array, place: jax.Array, otherwise: float) -> jax.Array:
    return jnp.where(place < values.shape[0], values[jnp.minimum(place, values.shape[0] - 1)], otherwise)


def _without_values(state: TrackerState, nan: jax.Array) -> TrackerState:
    """Set all values to NaN after matvecs with NaN; keep the vectors and track numbers.

    Args:
        state: state before the measurement.
        nan: () NaN of the matvecs. No other NaN is created, so that `jax_debug_nans` finds its origin.
    """
    nans = jnp.broadcast_to(nan, state.eigenvalues.shape)
    return state._replace(
        eigenvalues=nans,
        residuals=nans,
        converged=jnp.zeros_like(state.converged),
        next_eigenvalue=nan,
        searched=jnp.zeros_like(state.searched),
    )
