"""The result of a restarted solve: pairs from its last convergence check, with residuals confirmed by products."""

from typing import Any

import jax
import jax.numpy as jnp

from eigenjax import storage, tree
from eigenjax.operators.base import LinearOperator
from eigenjax.result import EigenResult
from eigenjax.solvers import missed_pairs, ritz
from eigenjax.solvers.error_bounds import with_error_bounds
from eigenjax.solvers.goal import Goal
from eigenjax.solvers.judgement import judge
from eigenjax.solvers.residuals import audited_residuals
from eigenjax.solvers.restarted import RestartedState
from eigenjax.solvers.signs import fix_signs
from eigenjax.solvers.warm_start import RayleighRitz, known_vectors, rayleigh_ritz
from eigenjax.tree import PyTree


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
    complete = state.krylov.num_filled >= op.size
    verified = complete | state.search.satisfied if goal.verify else jnp.ones((), bool)
    result = judge(
        op,
        result,
        tol=tol,
        scale=scale,
        discrepancy=discrepancy,
        finite=finite,
        lost=goal.kept.unit,
        verified=verified,
    )
    recovered = missed_pairs.num_recovered(state.search, result.eigenvalues, 2 * jnp.max(result.residuals))
    result = result._replace(num_probes=state.search.num_searches, num_recovered=recovered)
    return with_error_bounds(result, state.found, complete=complete)


def _polished(op: LinearOperator, vectors: PyTree, goal: Goal, sigma: Any) -> RayleighRitz:
    """The Ritz pairs of vectors that were put together from rounded rows, in the order wanted; k products.

    Their eigenvalues are off by the square of what the vectors are.
    """
    pairs = rayleigh_ritz(op, known_vectors(vectors).rows)
    order = ritz.pair_order(pairs.values, goal.which, sigma if goal.near else None)
    return RayleighRitz(pairs.values[order], jax.tree.map(lambda x: x[order], pairs.vectors), pairs.residuals[order])
