"""Thick-restart Lanczos: Krylov spaces of bounded size, restarted until the wanted pairs have converged.

    expand until the next convergence check -> Rayleigh-Ritz -> test -> restart when the basis is full -> expand ...

A restart retains the most wanted Ritz vectors (Wu and Simon 2000); `krylov.restart_size` chooses their number.

A Krylov space holds one vector of a multiple eigenvalue. When it is exhausted, or when all copies are wanted, the pairs
found are locked and a missed-pair search (`missed_pairs`) follows. It grows the space from a random direction until a
more wanted eigenvalue is excluded, and is repeated if it finds one.

The solver is `init`, `step` and `finalize` over one `RestartedState`; one step ends with one convergence check.
`propose` and `absorb` split a step for matvecs computed elsewhere (reverse communication).
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

# A basis stored in fewer bits perturbs the vectors by about this fraction of its machine epsilon: smaller residuals of
# the recurrence gain nothing.
_LOST = 0.1


class RestartedState(NamedTuple):
    """Solver state."""

    krylov: KrylovDecomposition  # the decomposition A V = V H + D^T B
    found: Extraction  # Ritz pairs of the last convergence check
    scale: jax.Array  # () the largest |Ritz value| so far, a lower bound of ||A||
    target: jax.Array  # () the shift of the harmonic pairs found; 0 without a sigma
    next_look: jax.Array  # () int32, basis rows at the next convergence check
    distance: jax.Array  # () log(residual / bound) of the worst pair at the last check; inf at first
    last_look: jax.Array  # () int32, matvecs at the last check
    search: missed_pairs.Search  # state of the missed-pair search
    aims: search_targets.Aims  # levels and bounds of the running search
    vouched: jax.Array  # () bool, the residuals are true, not estimated
    done: jax.Array  # () bool, the solve is over


def init(starts: PyTree, goal: Goal, *, krylov_dim: int, first_look: int, seed: jax.Array) -> RestartedState:
    """Initialize the state before the first matvec.

    Args:
        starts: (b, ...) start vectors.
        goal: the static options of the solve.
        krylov_dim: m, the number of basis vectors besides the b of the residual block.
        first_look: number of basis rows at the first convergence check.
        seed: seed of all random directions.
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
    """Expand until the next convergence check, make the check, and restart if necessary.

    Args:
        op: the operator.
        state: the state to advance.
        goal: the static options of the solve.
        tol: relative tolerance on the residuals; None is sqrt(eps).
        sigma: () the shift, used if goal.near.
        known: k or more given vectors whose signed sum is the start vector. If the first matvec shows that they are
            eigenvectors, the solve ends with them.
    """
    # Clear the breakdown flag: the last check handled it.
    first = state.krylov._replace(broken_down=jnp.zeros((), bool))
    goes_on = lambda part: _has_to_grow(part, state.next_look, goal)
    grown = jax.lax.while_loop(goes_on, lambda part: decomposition.expand(op, part), first)
    return _settle(op, state._replace(krylov=grown), goal, tol=tol, sigma=sigma, known=known)


def propose(state: RestartedState) -> PyTree:
    """Return the (b, ...) vectors to multiply next: reverse communication, where the caller computes the matvecs."""
    return decomposition.proposed(state.krylov)


def absorb(
    op: LinearOperator, state: RestartedState, images: PyTree, goal: Goal, *, tol: Any, sigma: Any
) -> RestartedState:
    """Advance the state by the (b, ...) matvecs of the proposed vectors, with the convergence check if one is due.

    Only the structure of the operator is used: `propose` and `absorb` together are `step`.
    """
    state = state._replace(krylov=decomposition.absorb(state.krylov, images))
    is_due = ~_has_to_grow(state.krylov, state.next_look, goal)
    return apply_when(is_due, lambda state: _settle(op, state, goal, tol=tol, sigma=sigma, known=None), state)


def _has_to_grow(part: KrylovDecomposition, next_look: jax.Array, goal: Goal) -> jax.Array:
    """Return () bool: there is room, and no convergence check is due."""
    b, m = part.couplings.shape
    has_room = (part.num_filled + b <= m) & (part.num_matvecs + b <= goal.max_matvecs)
    return (part.num_filled < next_look) & has_room & ~part.broken_down


def _settle(
    op: LinearOperator, state: RestartedState, goal: Goal, *, tol: Any, sigma: Any, known: KnownVectors | None
) -> RestartedState:
    """Make the convergence check and the restart that it asks for."""
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
        # A separate step, so that the last read of the basis precedes its basis change in place.
        part = apply_when(restarting, lambda part: translate(part, coefficients, state.target), part)
    elif part.block_size == 1:
        part = outside(part, restarting)
    fresh, found, levels = state.search.starts, state.found, state.aims.levels
    turn = lambda part: restart(part, coefficients, found, fresh, levels, translated=goal.near)
    return apply_when(restarting, turn, part)


def look(op: LinearOperator, state: RestartedState, goal: Goal, *, tol: Any, sigma: Any) -> RestartedState:
    """Make a convergence check: extract pairs, test them and schedule the next check (`next_look` is relative here)."""
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
    # The basis spans the whole space of a small operator: nothing can be missed.
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
    """End the solve with the Ritz pairs of the given vectors if they have converged."""
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
