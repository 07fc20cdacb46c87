"""Systems in two rounds: as they are for a few steps, and then with what is known eliminated.

A right-hand side that is made of few eigenvectors, as a loss with the symmetries of its operator gives, is solved for
in as many steps: they make the whole Krylov space. Ritz vectors that have not converged mix those few with all others,
so that after an elimination it takes what any right-hand side does. (sum v^4 on a separable Laplacian: 52 products
against 562.) Whether it is so shows within a few steps: the residual is gone. Where it is not, the elimination goes on
from there. With x the solution so far, r = b - A x, and x = x' + U u,

    A (y + U c) = r   as in `elimination`,    and the whole is  (x' + y) + U (u + c)

so that nothing is lost but what the first few directions have to do with those after them.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.implicit.systems import deflation
from eigenjax.implicit.systems.deflation import Elimination
from eigenjax.solvers.linear import conjugate_gradients, minres
from eigenjax.solvers.linear.minres import LinearSolution
from eigenjax.vectors import tree
from eigenjax.vectors.orthogonalize import normalize
from eigenjax.vectors.tree import PyTree

# Steps of the first round: of a product of sines cubed, three are left beside itself.
_FIRST_STEPS = 3
# A right-hand side made of fewer eigenvectors than that is down to this share of itself by then; that of another loss,
# even of an operator with a dozen outliers, is not.
_GONE = 1e-4


class _Parts(NamedTuple):
    """The second round: z = x + U c."""

    known: Elimination  # with what of it is used
    inside: jax.Array  # (k, q) <U, r> - S^H <D, x'> of that moment
    before: jax.Array  # (k, q) u


def solve(
    system: Callable[[PyTree], PyTree],
    known: Elimination,
    rhs: PyTree,
    *,
    targets: Callable[[jax.Array], jax.Array],
    max_iter: int,
    operator_norm: jax.Array | None,
    by_error: bool,
) -> LinearSolution:
    """The k solutions, by conjugate gradients or by MINRES.

    Args:
        system: k vectors -> their images.
        known: U.
        rhs: b_i.
        targets: the (k,) norms of the solutions -> the residuals to stop at.
        max_iter: products for one system.
        operator_norm: (k,) what is known of it from below, where all systems are definite; None where they are not.
        by_error: as of conjugate gradients; static.
    """
    nothing = jnp.zeros_like(known.inverses)

    def one_round(carry, round_number):
        state, parts = carry
        unfinished = (method.judged(state) > targets(tree.norms(state.solution))) & ~state.ended
        wanted = (round_number > 0) & unfinished & (state.residual > _GONE * start.residual)
        state, parts = _turned(state, known._replace(used=known.used & wanted[:, None]))

        def apply(y):
            return deflation.subtract_schur_term(parts.known, deflation.without(parts.known, system(y)), y)

        limit = jnp.where(round_number > 0, max_iter, min(_FIRST_STEPS, max_iter)).astype(jnp.int32)
        stop = lambda x: targets(jnp.hypot(tree.norms(x), jax.vmap(tree.norm)(_components(parts, x))))
        return (method.advance(apply, state, targets=stop, max_iter=limit), parts), None

    method = _method(operator_norm, by_error)
    start = method.init(rhs)
    first = (start, _Parts(known, nothing, nothing))
    (end, parts), _ = jax.lax.scan(one_round, first, jnp.arange(2, dtype=jnp.int32))
    solution = deflation.completed(known, _components(parts, end.solution), end.solution)
    return LinearSolution(solution, end.residual, method.judged(end), end.num_matvecs)


class _Method(NamedTuple):
    """The linear solver of both rounds."""

    init: Callable  # rhs -> state
    advance: Callable  # state -> state
    judged: Callable  # state -> (k,) what is held against the targets


def _method(operator_norm: jax.Array | None, by_error: bool) -> _Method:
    if operator_norm is None:
        return _Method(functools.partial(minres.init, keep_rest=True), minres.advance, lambda state: state.residual)
    return _Method(
        functools.partial(conjugate_gradients.init, operator_norm=operator_norm),
        functools.partial(conjugate_gradients.advance, by_error=by_error),
        functools.partial(conjugate_gradients.judged, by_error=by_error),
    )


def _components(parts: _Parts, x: PyTree) -> jax.Array:
    """U + c, (k, q)."""
    return parts.before + deflation.components(parts.known, parts.inside, x)


_State = conjugate_gradients.State | minres.State


def _turned(state: _State, known: Elimination) -> tuple[_State, _Parts]:
    """The systems that it is used for from where they are to where the second round begins."""
    # Both of a vector of length one.
    inside = deflation.inside(known, state.rest)
    rest = deflation.reduced(known, state.rest, inside)
    chosen = jnp.any(known.used, axis=1)
    lengths = jnp.where(chosen, tree.norms(rest), 1)
    rest = jax.vmap(normalize)(rest, lengths)
    before = deflation.masked(known, deflation.inside(known, state.solution))
    solution = deflation.without(known, state.solution)
    turned = _restarted(state, chosen, solution, rest, state.residual * lengths)
    whole = state.residual[:, None].astype(inside.dtype) * inside
    return turned, _Parts(known, whole - deflation.coupled(known, solution), before)


def _restarted(state: _State, chosen: jax.Array, solution: PyTree, rest: PyTree, residual: jax.Array) -> _State:
    """The state there; the vectors of a system that is not chosen are what they were."""
    if isinstance(state, minres.State):
        return minres.restarted(state, chosen, solution, rest, residual)
    direction = jax.vmap(tree.where)(chosen, rest, state.direction)
    square = jnp.where(chosen, 1, state.square)
    return state._replace(solution=solution, rest=rest, direction=direction, residual=residual, square=square)
