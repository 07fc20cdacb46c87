"""Thick-restart Lanczos: Krylov spaces of bounded size, restarted until what is wanted has converged.

    expand until a look is due -> look (extract, judge) -> compress when the basis is full -> expand ...

A restart keeps the most wanted Ritz vectors (Wu and Simon 2000), as many as `retention` finds best.

A Krylov space shows one vector of a multiple eigenvalue. Where it is exhausted, or where all copies are asked for, the
pairs found are locked and a fresh random direction is followed until it excludes that anything more wanted is left; if
it has found something, once more (`missed_pairs`).

`init`, `step` and `finalize` over one `RestartedState` are the solver; one step is one look. `propose` and `absorb` are
a step in pieces, for products that are taken elsewhere.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.krylov import decomposition, lanczos_polynomials, ritz
from eigenjax.krylov.decomposition import KrylovDecomposition
from eigenjax.krylov.rayleigh_ritz import Extraction, harmonic_pairs, ritz_pairs, stand_off
from eigenjax.krylov.solve_spec import Goal
from eigenjax.krylov.thick_restart import begin_search, kept_coefficients, outside, restart, translate
from eigenjax.operators.base import LinearOperator
from eigenjax.solvers.convergence import missed_pairs, search_targets
from eigenjax.solvers.convergence.check_schedule import rows_to_wait
from eigenjax.solvers.warm_start import KnownVectors, distance_from, rayleigh_ritz
from eigenjax.vectors import tree
from eigenjax.vectors.conditional import apply_when
from eigenjax.vectors.tree import PyTree

# A basis that is kept in fewer bits spoils the vectors by about this share of its machine epsilon: to ask more of the
# recurrence gains nothing.
_LOST = 0.1


class RestartedState(NamedTuple):
    """Where a solve stands."""

    krylov: KrylovDecomposition
    found: Extraction  # at the last look
    scale: jax.Array  # () the largest |Ritz value| so far: ||A|| from below
    target: jax.Array  # () the shift of the harmonic pairs found; 0 without a sigma
    next_look: jax.Array  # () int32, rows filled at which to look again
    distance: jax.Array  # () how far the worst pair was from converged, log(residual / bound); inf at first
    last_look: jax.Array  # () int32, products spent by then
    search: missed_pairs.Search
    aims: search_targets.Aims  # of the running search
    vouched: jax.Array  # () bool, the residuals were computed, not inferred
    done: jax.Array  # () bool


def init(starts: PyTree, goal: Goal, *, krylov_dim: int, first_look: int, seed: jax.Array) -> RestartedState:
    """The state before the first product.

    Args:
        starts: (b, ...) start vectors.
        goal: what is asked for.
        krylov_dim: m, the vectors there is room for beside the b that are next.
        first_look: rows to fill before it.
        seed: of all random directions.
    """
    real_dtype = tree.real_dtype(tree.accumulation_dtype(starts))
    aims = search_targets.no_aims(search_targets.num_levels(goal), real_dtype, real_dtype)
    state = decomposition.begin(starts, krylov_dim, seed, goal.kept, levels=aims.levels)
    zero = jnp.zeros_like(state.operator_norm)
    m = krylov_dim
    return RestartedState(
        krylov=state,
        found=Extraction(
            jnp.zeros(m, zero.dtype), jnp.eye(m, dtype=state.matrix.dtype), jnp.full(m, jnp.inf, zero.dtype)
        ),
        scale=zero,
        target=zero,
        next_look=jnp.asarray(first_look, jnp.int32),
        distance=zero + jnp.inf,
        last_look=jnp.zeros((), jnp.int32),
        search=missed_pairs.no_search(goal.k, zero.dtype),
        aims=aims,
        vouched=jnp.zeros((), bool),
        done=jnp.asarray(goal.max_matvecs < state.block_size),
    )


def step(
    op: LinearOperator, state: RestartedState, goal: Goal, *, tol: Any, sigma: Any, known: KnownVectors | None = None
) -> RestartedState:
    """Products until a look is due, the look, and the restart that it asks for.

    Args:
        op: the operator.
        state: of `init`.
        goal: as of `init`.
        tol: as of `eigsh`.
        sigma: () the number that is approached, where goal.near.
        known: k vectors or more, of which the start is the sum; if they turn out to be eigenvectors after the first
            product, the solve ends with them.
    """
    # A breakdown before has been looked at.
    first = state.krylov._replace(broken_down=jnp.zeros((), bool))
    goes_on = lambda part: _has_to_grow(part, state.next_look, goal)
    grown = jax.lax.while_loop(goes_on, lambda part: decomposition.expand(op, part), first)
    return _settle(op, state._replace(krylov=grown), goal, tol=tol, sigma=sigma, known=known)


def propose(state: RestartedState) -> PyTree:
    """The (b, ...) vectors whose products come next: for who takes products outside of a compiled program."""
    return decomposition.proposed(state.krylov)


def absorb(
    op: LinearOperator, state: RestartedState, images: PyTree, goal: Goal, *, tol: Any, sigma: Any
) -> RestartedState:
    """The state after the (b, ...) products of the vectors proposed, and after the look if one is due.

    `step` in pieces: nothing is asked of the operator but its structure.
    """
    state = state._replace(krylov=decomposition.absorb(state.krylov, images))
    is_due = ~_has_to_grow(state.krylov, state.next_look, goal)
    return apply_when(is_due, lambda state: _settle(op, state, goal, tol=tol, sigma=sigma, known=None), state)


def _has_to_grow(part: KrylovDecomposition, next_look: jax.Array, goal: Goal) -> jax.Array:
    """() bool: there is room, and no look is due."""
    b, m = part.couplings.shape
    has_room = (part.num_filled + b <= m) & (part.num_matvecs + b <= goal.max_matvecs)
    return (part.num_filled < next_look) & has_room & ~part.broken_down


def _settle(
    op: LinearOperator, state: RestartedState, goal: Goal, *, tol: Any, sigma: Any, known: KnownVectors | None
) -> RestartedState:
    """The look, and the restart that it asks for."""
    b, m = state.krylov.couplings.shape
    state = look(op, state, goal, tol=tol, sigma=sigma)
    if known is not None:
        bound = _bounds(op, goal, tol, state.scale).residual
        length = tree.norm(state.krylov.couplings)
        outside = distance_from(known.rows, tree.row(state.krylov.directions, 0), length)
        is_close = (state.krylov.num_matvecs == 1) & (outside <= bound) & known.independent
        state = apply_when(is_close, lambda state: _try_known(op, state, goal, known, bound, tol, sigma), state)
    if m < op.size:
        is_full = state.krylov.num_filled + b > m
        restarting = (is_full | state.search.starts) & ~state.done
        bound = _bounds(op, goal, tol, state.scale).residual
        state = state._replace(krylov=_restart(state, goal, restarting, bound), search=missed_pairs.begun(state.search))
    return state._replace(next_look=state.next_look + state.krylov.num_filled)


def _restart(state: RestartedState, goal: Goal, restarting: jax.Array, bound: jax.Array) -> KrylovDecomposition:
    part = state.krylov
    coefficients = kept_coefficients(part, state.found, goal, state.search.starts, bound)
    if goal.near:
        # A step of its own, so that the basis is read for the last time before it is turned in place.
        part = apply_when(restarting, lambda part: translate(part, coefficients, state.target), part)
    elif part.block_size == 1:
        part = outside(part, restarting)
    fresh, found, levels = state.search.starts, state.found, state.aims.levels
    turn = lambda part: restart(part, coefficients, found, fresh, levels, translated=goal.near)
    return apply_when(restarting, turn, part)


def look(op: LinearOperator, state: RestartedState, goal: Goal, *, tol: Any, sigma: Any) -> RestartedState:
    """Extracts the pairs, judges them, and says when to look again (in rows from now)."""
    found, target = _extract(state, goal, sigma)
    b, m = state.krylov.couplings.shape
    num_filled, spent = state.krylov.num_filled, state.krylov.num_matvecs
    scale = jnp.maximum(state.scale, jnp.max(jnp.abs(found.values)))
    bounds = _bounds(op, goal, tol, scale)
    complete = num_filled >= op.size
    exhausted = state.krylov.broken_down & ~complete
    values, residuals = found.values[: goal.k], found.residuals[: goal.k]
    check = missed_pairs.check(
        state.search,
        goal,
        values,
        residuals,
        lanczos_polynomials.amplitudes(state.krylov.polynomials),
        state.aims,
        search_targets.aims_of(goal, values, jnp.max(residuals), bounds, size=op.size, sigma=sigma),
        bounds,
        exhausted,
    )
    polynomials = state.krylov.polynomials
    polynomials = tree.where(check.begins_here, begin_search(state.krylov, check.aims.levels), polynomials)
    # A space that holds all of a small operator is filled: that is all there is to know.
    finished = check.search.satisfied | missed_pairs.has_given_up(check.search, goal.k) if m < op.size else False
    out_of_budget = spent + b > goal.max_matvecs
    wait = rows_to_wait(state.distance, check.remaining, spent - state.last_look, least=b)
    return state._replace(
        krylov=state.krylov._replace(polynomials=polynomials),
        found=found,
        scale=scale,
        target=target,
        aims=check.aims,
        next_look=jnp.maximum(wait, goal.k - num_filled),
        distance=check.remaining,
        last_look=spent,
        search=check.search,
        done=finished | complete | out_of_budget | ~jnp.isfinite(state.krylov.operator_norm),
    )


def _bounds(op: LinearOperator, goal: Goal, tol: Any, scale: jax.Array) -> search_targets.Bounds:
    return search_targets.bounds_of(op, goal, tol, scale, _LOST * goal.kept.unit)


def _extract(state: RestartedState, goal: Goal, sigma: Any) -> tuple[Extraction, jax.Array]:
    if not goal.near:
        return ritz_pairs(state.krylov, goal.which), state.target
    number = jnp.asarray(sigma).astype(state.scale.dtype)
    looked_before = jnp.isfinite(state.found.residuals[0])
    target = jnp.where(looked_before, stand_off(number, state.found.values[: goal.k]), number)
    return harmonic_pairs(state.krylov, number, target, goal.k), target


def _try_known(
    op: LinearOperator, state: RestartedState, goal: Goal, known: KnownVectors, bound: jax.Array, tol: Any, sigma: Any
) -> RestartedState:
    """Ends the solve with the Ritz pairs of known vectors if they have converged."""
    pairs = rayleigh_ritz(op, known.rows)
    order = ritz.pair_order(pairs.values, goal.which, sigma if goal.near else None)[: goal.k]
    scale = jnp.maximum(state.scale, jnp.max(jnp.abs(pairs.values)))
    success = jnp.all(pairs.residuals[order] <= bound)
    m = state.found.values.shape[0]
    padded = lambda x, fill: jnp.full(m, fill, x.dtype).at[: goal.k].set(x[order])
    values, residuals = padded(pairs.values, 0), padded(pairs.residuals, jnp.inf)
    dtype = state.krylov.matrix.dtype
    basis = tree.set_rows(
        jax.tree.map(jnp.zeros_like, state.krylov.basis), 0, jax.tree.map(lambda x: x[order], pairs.vectors)
    )
    part = state.krylov._replace(
        basis=basis,
        filled=jnp.arange(m, dtype=jnp.int32) < goal.k,
        matrix=jnp.diag(values.astype(dtype)),
        couplings=jnp.zeros_like(state.krylov.couplings),
        last_length=jnp.zeros_like(state.krylov.last_length),
    )
    search = missed_pairs.advance(
        state.search,
        goal,
        values[: goal.k],
        same=jnp.zeros((), bool),
        converged=success,
        excluded=jnp.zeros((), bool),
        exhausted=jnp.zeros((), bool),
    )
    found = Extraction(values, jnp.eye(m, dtype=dtype), residuals)
    worst, bounds = jnp.max(pairs.residuals[order]), _bounds(op, goal, tol, scale)
    aims = search_targets.aims_of(goal, values[: goal.k], worst, bounds, size=op.size, sigma=sigma)
    ended = state._replace(
        krylov=part,
        found=found,
        scale=scale,
        aims=aims,
        search=search,
        vouched=~search.running,
        done=~search.running,
    )
    count = pairs.values.shape[0]
    state = tree.where(success, ended, state)
    return state._replace(krylov=state.krylov._replace(num_matvecs=state.krylov.num_matvecs + count))
