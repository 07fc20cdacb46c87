"""Conjugate gradients: the linear solver for definite systems, in four vectors.

    min (x* - x)^H A (x* - x)  over the Krylov space of A and b

for A definite, of either sign (Hestenes and Stiefel 1952). Written for residuals of length one, rest = r / ||r|| and
direction = p / ||r||, so that no square over- or underflows:

    alpha = 1 / <p, A p>,    t = r - alpha A p,    r+ = t / ||t||,    p+ = r+ + ||t|| p

with x+ = x + alpha ||r|| p. MINRES holds two or three vectors more, for the least residual that there is in the Krylov
space. Its length is known here too: r+ and p are orthogonal, so that ||p+||^2 = 1 + ||t||^2 ||p||^2 in these units, and

    ||r_least|| = ||r|| / ||p||,    mu ||x* - x||^2  <=  <x* - x, A (x* - x)>  <=  ||r_least||^2 / mu

for A with no eigenvalue within mu of zero (the energy is bounded so by Meurant and Tichy 2019). Who asks for an error,
and not for a residual, needs no more products than with MINRES.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.solvers.linear.minres import LinearSolution
from eigenjax.vectors import tree
from eigenjax.vectors.orthogonalize import normalize
from eigenjax.vectors.tree import PyTree

# A direction that A shrinks by more than eps to this power, relative to ||A||, lies in the null space for all that the
# arithmetic can tell: a step along it would amplify rounding.
_SINGULAR_POWER = 2 / 3
# No residual can be told from rounding below so many units of ||b||.
_ATTAINABLE = 10.0


class State(NamedTuple):
    """Where k systems are, with a leading axis k on every leaf."""

    solution: PyTree  # x
    rest: PyTree  # (b - A x) over its length
    direction: PyTree  # p, over the same length
    residual: jax.Array  # ||b - A x||
    square: jax.Array  # ||p||^2 / ||r||^2
    attainable: jax.Array  # what it cannot be told from rounding below
    operator_norm: jax.Array  # the largest |<p, A p>| / ||p||^2 so far
    ended: jax.Array  # bool, the system is singular for all that is known
    num_matvecs: jax.Array


def conjugate_gradients_together(
    operator: Callable[[PyTree], PyTree],
    rhs: PyTree,
    *,
    targets: Callable[[PyTree], jax.Array],
    max_iter: int,
    operator_norm: jax.Array | float = 0.0,
    by_error: bool = False,
) -> LinearSolution:
    """Solves k systems A_i x_i = b_i side by side, one product of all k vectors a step.

    Args:
        operator: k vectors v_i -> k vectors A_i v_i, each A_i Hermitian and definite. With one that is not, it goes
            on as long as no direction p has <p, A p> = 0, and stops there: the residual tells.
        rhs: the b_i, with a leading axis k on every leaf.
        targets: the x_i so far -> (k,) residuals to stop at. A system that has reached its own rests, and goes on if
            the target falls below it later.
        max_iter: products for one system at most, static.
        operator_norm: what is known of ||A_i|| from below: tells a right-hand side that is rounding, along a null
            vector that the operator has projected out, from one of a small operator.
        by_error: the targets are for the errors of the x_i, each times the eigenvalue of A_i next to zero; static.

    Returns:
        The k solutions, (k,) residuals and (k,) products, of the steps in which a system did not rest. Cost: a
        product a step for each, four times k vectors of memory, that of the k products among them.

    Example:
        >>> import jax.numpy as jnp
        >>> matrix, shifts = jnp.diag(jnp.array([1.0, 2.0])), jnp.array([[0.0], [3.0]])
        >>> shifted = lambda v: v @ matrix - shifts * v
        >>> found = conjugate_gradients_together(shifted, jnp.ones((2, 2)), targets=lambda x: 1e-5, max_iter=9)
        >>> print(found.solution.round(4))
        [[ 1.   0.5]
         [-0.5 -1. ]]

    Source: Hestenes and Stiefel (1952), Methods of conjugate gradients for solving linear systems.
    """
    end = advance(operator, init(rhs, operator_norm), targets=targets, max_iter=max_iter, by_error=by_error)
    return LinearSolution(end.solution, end.residual, judged(end, by_error), end.num_matvecs)


def init(rhs: PyTree, operator_norm: jax.Array | float = 0.0) -> State:
    """Of k systems, at x_i = 0; operator_norm is what is known of ||A_i|| from below."""
    lengths = tree.norms(rhs)
    rest = jax.vmap(normalize)(rhs, lengths)
    return State(
        solution=jax.tree.map(jnp.zeros_like, rhs),
        rest=rest,
        direction=rest,
        residual=lengths,
        square=jnp.ones_like(lengths),
        attainable=_ATTAINABLE * jnp.finfo(lengths.dtype).eps * lengths,
        operator_norm=jnp.full_like(lengths, operator_norm),
        ended=jnp.zeros(lengths.shape, bool),
        num_matvecs=jnp.zeros(lengths.shape, jnp.int32),
    )


def advance(
    operator: Callable[[PyTree], PyTree],
    state: State,
    *,
    targets: Callable[[PyTree], jax.Array],
    max_iter: Any,
    by_error: bool = False,
) -> State:
    """Goes on until each system is at its target, or at max_iter, of all its products."""

    def unfinished(state, target):
        # Also ends on NaN, which compares False.
        far = judged(state, by_error) > jnp.maximum(target, state.attainable)
        return far & ~state.ended & (state.num_matvecs < max_iter)

    def move(carry):
        state, moves = carry
        state, target = _step(operator(state.direction), state, moves, targets)
        return state, unfinished(state, target)

    start = state, unfinished(state, targets(state.solution))
    return jax.lax.while_loop(lambda carry: jnp.any(carry[1]), move, start)[0]


def judged(state: State, by_error: bool) -> jax.Array:
    """(k,) what is held against the targets: the residuals, or the least that there are in the Krylov spaces."""
    return state.residual / jnp.sqrt(state.square) if by_error else state.residual


_scaled, _added, _inner = jax.vmap(tree.scale), jax.vmap(tree.add_scaled), jax.vmap(tree.inner)


def _step(
    images: PyTree, state: State, moves: jax.Array, targets: Callable[[PyTree], jax.Array]
) -> tuple[State, jax.Array]:
    """The next state of the systems that move, given A p, and where to stop.

    Over devices these are two small reductions for all systems, <p, A p> and ||t||.
    (||t|| from <r, A p> and ||A p|| would go with the first, and lose the digits of a residual that shrinks at once.)

    A system that rests is multiplied by ones and zeros, so that each vector is written over itself.
    """
    # Residuals of length one keep these within the range of the dtype.
    curvature = _inner(state.direction, images).real
    quotient = jnp.abs(curvature) / state.square
    operator_norm = jnp.where(moves, jnp.maximum(state.operator_norm, quotient), state.operator_norm)
    null = float(jnp.finfo(curvature.dtype).eps) ** _SINGULAR_POWER * operator_norm
    # Not where it is NaN: that goes on into the solution, for everybody to see.
    singular = moves & (quotient <= null)
    on = moves & ~singular
    alpha = jnp.where(on, 1 / jnp.where(on, curvature, 1), 0)
    solution = _added(state.solution, alpha * state.residual, state.direction)
    target = targets(solution)
    # The target is asked for first: else XLA would keep the direction for it, and write the next one beside.
    on = on & ~jnp.isnan(target)
    rest = _added(state.rest, -alpha, images)
    shrunk = jnp.where(on, jnp.sqrt(_inner(rest, rest).real), 1)
    rest = jax.vmap(normalize)(rest, shrunk)
    stepped = state._replace(
        solution=solution,
        rest=rest,
        direction=_added(_scaled(shrunk, state.direction), on.astype(shrunk.dtype), rest),
        residual=state.residual * shrunk,
        square=jnp.where(on, 1 + jnp.square(shrunk) * state.square, state.square),
        operator_norm=operator_norm,
        ended=state.ended | singular,
        num_matvecs=state.num_matvecs + moves.astype(jnp.int32),
    )
    return stepped, target
