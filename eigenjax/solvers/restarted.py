"""Thick-restart Lanczos: Krylov spaces of bounded size, restarted until what is wanted has converged.

    expand until a look is due -> look (extract, judge) -> compress when the basis is full -> expand ...

A restart keeps the most wanted Ritz vectors (Wu and Simon 2000), as many as `retention` finds best.

A Krylov space shows one vector of a multiple eigenvalue. Where it is exhausted, or where the caller wants to be sure,
the pairs found are kept and a fresh random direction is followed until its own best pair is seen to be unwanted; if
it was wanted, once more.

`init`, `step` and `finalize` over one `RestartedState` are the solver; one step is one look. `propose` and `absorb` are
a step in pieces, for products that are taken elsewhere.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax import storage, tree
from eigenjax.operators.base import LinearOperator
from eigenjax.result import EigenResult
from eigenjax.solvers import completeness, krylov, ritz
from eigenjax.solvers.control import apply_when
from eigenjax.solvers.extraction import Extraction, harmonic_pairs, ritz_pairs, stand_off
from eigenjax.solvers.goal import Goal
from eigenjax.solvers.judgement import judge, stopping_tolerance
from eigenjax.solvers.krylov import KrylovDecomposition
from eigenjax.solvers.looks import rows_to_wait
from eigenjax.solvers.residuals import audited_residuals
from eigenjax.solvers.signs import fix_signs
from eigenjax.solvers.thick_restart import kept_coefficients, restart, translate
from eigenjax.solvers.warm_start import KnownVectors, RayleighRitz, distance_from, known_vectors, rayleigh_ritz
from eigenjax.tree import PyTree

# A basis that is kept in fewer bits spoils the vectors by about this share of its machine epsilon: to ask more of the
# recurrence gains nothing.
_LOST = 0.1
# Who wants to be sure of the order within a cluster needs pairs better than its width: a verified solve goes on to
# this share of tol.
_VERIFIED_SHARE = 0.1


class RestartedState(NamedTuple):
    """Where a solve stands."""

    krylov: KrylovDecomposition
    found: Extraction  # at the last look
    scale: jax.Array  # () the largest |Ritz value| so far: ||A|| from below
    target: jax.Array  # () the shift of the harmonic pairs found; 0 without a sigma
    next_look: jax.Array  # () int32, rows filled at which to look again
    distance: jax.Array  # () how far the worst pair was from converged, log(residual / bound); inf at first
    last_look: jax.Array  # () int32, products spent by then
    probe: completeness.Probe
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
    state = krylov.begin(starts, krylov_dim, seed, goal.kept)
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
        probe=completeness.nothing_probed(goal.k, zero.dtype),
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
    grown = jax.lax.while_loop(goes_on, lambda part: krylov.expand(op, part), first)
    return _settle(op, state._replace(krylov=grown), goal, tol=tol, sigma=sigma, known=known)


def propose(state: RestartedState) -> PyTree:
    """The (b, ...) vectors whose products come next: for who takes products outside of a compiled program."""
    return krylov.proposed(state.krylov)


def absorb(
    op: LinearOperator, state: RestartedState, images: PyTree, goal: Goal, *, tol: Any, sigma: Any
) -> RestartedState:
    """The state after the (b, ...) products of the vectors proposed, and after the look if one is due.

    `step` in pieces: nothing is asked of the operator but its structure.
    """
    state = state._replace(krylov=krylov.absorb(state.krylov, images))
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
        bound = stopping_tolerance(op, tol, state.scale.dtype) * state.scale
        length = tree.norm(state.krylov.couplings)
        outside = distance_from(known.rows, tree.row(state.krylov.directions, 0), length)
        is_close = (state.krylov.num_matvecs == 1) & (outside <= bound) & known.independent
        state = apply_when(is_close, lambda state: _try_known(op, state, goal, known, bound, sigma), state)
    if m < op.size:
        is_full = state.krylov.num_filled + b > m
        restarting = (is_full | state.probe.starts) & ~state.done
        state = state._replace(krylov=_restart(state, goal, restarting), probe=completeness.begun(state.probe))
    return state._replace(next_look=state.next_look + state.krylov.num_filled)


def _restart(state: RestartedState, goal: Goal, restarting: jax.Array) -> KrylovDecomposition:
    part = state.krylov
    coefficients = kept_coefficients(part, state.found, goal, state.probe.starts)
    if goal.near:
        # A step of its own, so that the basis is read for the last time before it is turned in place.
        part = apply_when(restarting, lambda part: translate(part, coefficients, state.target), part)
    turn = lambda part: restart(part, coefficients, state.found, state.probe.starts, translated=goal.near)
    return apply_when(restarting, turn, part)


def look(op: LinearOperator, state: RestartedState, goal: Goal, *, tol: Any, sigma: Any) -> RestartedState:
    """Extracts the pairs, judges them, and says when to look again (in rows from now)."""
    found, target = _extract(state, goal, sigma)
    b, m = state.krylov.couplings.shape
    num_filled, spent = state.krylov.num_filled, state.krylov.num_matvecs
    scale = jnp.maximum(state.scale, jnp.max(jnp.abs(found.values)))
    share = _VERIFIED_SHARE if goal.verify else 1.0
    least = _LOST * goal.kept.unit
    bound = jnp.maximum(stopping_tolerance(op, tol, scale.dtype, share), least) * scale
    k = min(goal.k, m)
    converged = jnp.all(found.residuals[:k] <= bound)
    complete = num_filled >= op.size
    probe = completeness.judge_probe(state.probe, goal, found, converged, bound, state.krylov.broken_down & ~complete)
    # A space that holds all of a small operator is filled: that is all there is to know.
    finished = probe.satisfied if m < op.size else jnp.zeros((), bool)
    out_of_budget = spent + b > goal.max_matvecs
    worst = jnp.max(found.residuals[:k])
    distance = jnp.log(jnp.maximum(worst, jnp.finfo(worst.dtype).tiny) / jnp.where(bound > 0, bound, 1))
    wait = rows_to_wait(state.distance, distance, spent - state.last_look, least=b)
    return state._replace(
        found=found,
        scale=scale,
        target=target,
        next_look=jnp.maximum(wait, goal.k - num_filled),
        distance=distance,
        last_look=spent,
        probe=probe,
        done=finished | complete | out_of_budget | ~jnp.isfinite(state.krylov.operator_norm),
    )


def finalize(
    op: LinearOperator,
    state: RestartedState,
    goal: Goal,
    *,
    tol: Any,
    sigma: Any = 0.0,
    references: PyTree | None = None,
) -> EigenResult:
    """The result of a state, with residuals vouched for: one product, or k + 1 where that one finds fault."""
    k = goal.k
    values, residuals = state.found.values[:k], state.found.residuals[:k]
    coefficients = state.found.coefficients[:, :k]
    vectors = storage.combine(coefficients, state.krylov.basis)
    if storage.is_narrow(state.krylov.basis):
        pairs = _polished(op, vectors, goal, sigma)
        vectors, _ = fix_signs(pairs.vectors, references=references)
        spent, scale = state.krylov.num_matvecs + k, jnp.maximum(state.scale, jnp.max(jnp.abs(pairs.values)))
        there = jnp.isfinite(residuals)
        result = EigenResult(pairs.values, vectors, pairs.residuals, there, jnp.int32(0), spent)
        return _judged(op, result, state, goal, tol, scale, jnp.zeros_like(scale))
    vectors, phases = fix_signs(vectors, references=references)
    there = jnp.isfinite(residuals)

    def predict(signs):
        turned = coefficients @ (signs.astype(phases.dtype) * phases)
        inside = storage.combine(state.krylov.matrix @ turned, state.krylov.basis)
        return jax.tree.map(jnp.add, inside, tree.combine(state.krylov.couplings @ turned, state.krylov.directions))

    # Without the defects: the audit finds them, if they are still there.
    inside = state.krylov.matrix @ coefficients - coefficients * values.astype(coefficients.dtype)[None, :]
    claimed = jax.vmap(tree.norm, in_axes=1)((inside, state.krylov.couplings @ coefficients))

    needed = ~state.vouched & jnp.any(there)
    believed = jnp.where(needed, jnp.where(there, claimed, 0), residuals)
    seed, turns = state.krylov.seed, state.krylov.num_restarts
    norm = jnp.maximum(state.scale, state.krylov.operator_norm)  # a Ritz value of few products may be far below
    residuals, discrepancy, audits = audited_residuals(
        op, values, vectors, believed, predict, norm, seed, turns, needed
    )
    residuals = jnp.where(there | jnp.isnan(residuals), residuals, jnp.inf)
    result = EigenResult(values, vectors, residuals, there, jnp.int32(0), state.krylov.num_matvecs + audits)
    return _judged(op, result, state, goal, tol, state.scale, discrepancy)


def _judged(
    op: LinearOperator,
    result: EigenResult,
    state: RestartedState,
    goal: Goal,
    tol: Any,
    scale: jax.Array,
    discrepancy: jax.Array,
) -> EigenResult:
    finite = jnp.isfinite(state.krylov.operator_norm)
    result = judge(op, result, tol=tol, scale=scale, discrepancy=discrepancy, finite=finite, lost=goal.kept.unit)
    return completeness.with_neighbours(result, state.found, state.probe)


def _polished(op: LinearOperator, vectors: PyTree, goal: Goal, sigma: Any) -> RayleighRitz:
    """The Ritz pairs of vectors that were put together from rounded rows, in the order wanted; k products.

    Their eigenvalues are off by the square of what the vectors are.
    """
    pairs = rayleigh_ritz(op, known_vectors(vectors).rows)
    order = _order(pairs.values, goal, sigma)
    return RayleighRitz(pairs.values[order], jax.tree.map(lambda x: x[order], pairs.vectors), pairs.residuals[order])


def _order(values: jax.Array, goal: Goal, sigma: Any) -> jax.Array:
    if goal.near:
        return jnp.argsort(jnp.abs(values - jnp.asarray(sigma).astype(values.dtype)))
    return ritz.wanted_order(values, goal.which)


def _extract(state: RestartedState, goal: Goal, sigma: Any) -> tuple[Extraction, jax.Array]:
    if not goal.near:
        return ritz_pairs(state.krylov, goal.which), state.target
    number = jnp.asarray(sigma).astype(state.scale.dtype)
    looked_before = jnp.isfinite(state.found.residuals[0])
    target = jnp.where(looked_before, stand_off(number, state.found.values[: goal.k]), number)
    return harmonic_pairs(state.krylov, number, target, goal.k), target


def _try_known(
    op: LinearOperator, state: RestartedState, goal: Goal, known: KnownVectors, bound: jax.Array, sigma: Any
) -> RestartedState:
    """Ends the solve with the Ritz pairs of known vectors if they have converged."""
    pairs = rayleigh_ritz(op, known.rows)
    order = _order(pairs.values, goal, sigma)[: goal.k]
    scale = jnp.maximum(state.scale, jnp.max(jnp.abs(pairs.values)))
    success = jnp.all(pairs.residuals[order] <= bound)
    m = state.found.values.shape[0]
    padded = lambda x, fill: jnp.full(m, fill, x.dtype).at[: goal.k].set(x[order])
    found = Extraction(
        padded(pairs.values, 0), jnp.eye(m, dtype=state.krylov.matrix.dtype), padded(pairs.residuals, jnp.inf)
    )
    basis = tree.set_rows(state.krylov.basis, 0, jax.tree.map(lambda x: x[order], pairs.vectors))
    ended = state._replace(
        krylov=state.krylov._replace(basis=basis), found=found, scale=scale, vouched=success, done=success
    )
    count = pairs.values.shape[0]
    state = tree.where(success, ended, state)
    return state._replace(krylov=state.krylov._replace(num_matvecs=state.krylov.num_matvecs + count))
