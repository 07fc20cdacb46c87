"""Linear systems in two stages: a few steps of the original systems, then the deflated ones.

A right-hand side that is a sum of a few eigenvectors is solved in as many steps, as they span the Krylov space. Losses
with the symmetries of their operator give such right-hand sides. Ritz vectors that have not converged mix these
eigenvectors with all others, so that deflation would take as many steps as any right-hand side. (For sum v^4 on a
separable Laplacian: 562 matvecs instead of 52.) A few steps decide: if the residual has not vanished, stage 2 continues
with deflation. With x the current solution, r = b - A x, and x = x' + U u,

    A (y + U c) = r   by `deflation`,    and the solution is  (x' + y) + U (u + c)

so that only the orthogonality of the first few directions to the later ones is lost.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.implicit.systems import deflation
from eigenjax.implicit.systems.deflation import Deflation
from eigenjax.solvers.linear import conjugate_gradients, minres
from eigenjax.solvers.linear.minres import LinearSolution
from eigenjax.vectors import tree
from eigenjax.vectors.orthogonalize import normalize
from eigenjax.vectors.tree import PyTree

# Steps of stage 1: for a product of cubed sines, three eigenvectors remain besides the solution itself.
_FIRST_STEPS = 3
# A right-hand side of fewer eigenvectors is reduced to this fraction by then; that of other losses, even with a dozen
# outliers in the spectrum, is not.
_REDUCED = 1e-4


class _Parts(NamedTuple):
    """Deflation of stage 2: z = x + U c."""

    deflated: Deflation  # the deflation, with the vectors used
    inside: jax.Array  # (k, q) <U, r> - S^H <D, x'> at the start of the stage
    before: jax.Array  # (k, q) u at the start of the stage


def solve(
    system: Callable[[PyTree], PyTree],
    deflated: Deflation,
    rhs: PyTree,
    *,
    targets: Callable[[jax.Array], jax.Array],
    max_iter: int,
    operator_norm: jax.Array | None,
    by_error: bool,
) -> LinearSolution:
    """Solve k systems, by conjugate gradients or by MINRES.

    Args:
        system: k vectors z_i -> (lambda_i - A) z_i, projected.
        deflated: the deflation U.
        rhs: b_i.
        targets: the (k,) norms of the solutions -> the residuals to stop at.
        max_iter: maximal number of matvecs for one system.
        operator_norm: (k,) lower bound of ||A|| if all systems are definite; None if not.
        by_error: targets bound the errors of the solutions, each times the eigenvalue nearest to zero; static.
    """
    zeros = jnp.zeros_like(deflated.inverses)

    def one_stage(carry, stage):
        state, parts = carry
        unfinished = (method.tested(state) > targets(tree.norms(state.solution))) & ~state.ended
        wanted = (stage > 0) & unfinished & (state.residual > _REDUCED * start.residual)
        state, parts = _project_state(state, deflated._replace(used=deflated.used & wanted[:, None]))

        def apply(y):
            return deflation.subtract_schur_term(parts.deflated, deflation.without(parts.deflated, system(y)), y)

        limit = jnp.where(stage > 0, max_iter, min(_FIRST_STEPS, max_iter)).astype(jnp.int32)
        stop = lambda x: targets(jnp.hypot(tree.norms(x), jax.vmap(tree.norm)(_components(parts, x))))
        return (method.advance(apply, state, targets=stop, max_iter=limit), parts), None

    method = _method(operator_norm, by_error)
    start = method.init(rhs)
    first = (start, _Parts(deflated, zeros, zeros))
    (end, parts), _ = jax.lax.scan(one_stage, first, jnp.arange(2, dtype=jnp.int32))
    solution = deflation.completed(deflated, _components(parts, end.solution), end.solution)
    return LinearSolution(solution, end.residual, method.tested(end), end.num_matvecs)


class _Method(NamedTuple):
    """Linear solver of both stages."""

    init: Callable  # rhs -> state
    advance: Callable  # state -> state
    tested: Callable  # state -> (k,) numbers to compare with the targets


def _method(operator_norm: jax.Array | None, by_error: bool) -> _Method:
    if operator_norm is None:
        return _Method(
            functools.partial(minres.init, keep_residual_vector=True), minres.advance, lambda state: state.residual
        )
    return _Method(
        functools.partial(conjugate_gradients.init, operator_norm=operator_norm),
        functools.partial(conjugate_gradients.advance, by_error=by_error),
        functools.partial(conjugate_gradients.tested, by_error=by_error),
    )


def _components(parts: _Parts, x: PyTree) -> jax.Array:
    """Compute u + c, (k, q)."""
    return parts.before + deflation.components(parts.deflated, parts.inside, x)


_State = conjugate_gradients.State | minres.State


def _project_state(state: _State, deflated: Deflation) -> tuple[_State, _Parts]:
    """Project the current state for stage 2, in the systems that use deflation."""
    # Both for a residual of unit norm.
    inside = deflation.inside(deflated, state.residual_vector)
    residual_vector = deflation.reduced(deflated, state.residual_vector, inside)
    chosen = jnp.any(deflated.used, axis=1)
    lengths = jnp.where(chosen, tree.norms(residual_vector), 1)
    residual_vector = jax.vmap(normalize)(residual_vector, lengths)
    before = deflation.masked(deflated, deflation.inside(deflated, state.solution))
    solution = deflation.without(deflated, state.solution)
    projected = _restarted(state, chosen, solution, residual_vector, state.residual * lengths)
    whole = state.residual[:, None].astype(inside.dtype) * inside
    return projected, _Parts(deflated, whole - deflation.coupled(deflated, solution), before)


def _restarted(
    state: _State, chosen: jax.Array, solution: PyTree, residual_vector: PyTree, residual: jax.Array
) -> _State:
    """Replace the state of the chosen systems; the vectors of the others are unchanged."""
    if isinstance(state, minres.State):
        return minres.restarted(state, chosen, solution, residual_vector, residual)
    direction = jax.vmap(tree.where)(chosen, residual_vector, state.direction)
    square = jnp.where(chosen, 1, state.square)
    return state._replace(
        solution=solution, residual_vector=residual_vector, direction=direction, residual=residual, square=square
    )
