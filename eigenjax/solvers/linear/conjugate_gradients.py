"""Conjugate gradients: the linear solver for definite systems, in four vectors.

    min (x* - x)^H A (x* - x)  over the Krylov space of A and b

for A definite, of either sign (Hestenes and Stiefel 1952). The recurrence uses normalized residuals, rest = r / ||r||
and direction = p / ||r||, so that no square over- or underflows:

    alpha = 1 / <p, A p>,    t = r - alpha A p,    r+ = t / ||t||,    p+ = r+ + ||t|| p

with x+ = x + alpha ||r|| p. MINRES stores two or three vectors more, for the least residual in the Krylov space.
Conjugate gradients give its norm too: r+ and p are orthogonal, so that ||p+||^2 = 1 + ||t||^2 ||p||^2 in these units,
and

    ||r_least|| = ||r|| / ||p||,    mu ||x* - x||^2  <=  <x* - x, A (x* - x)>  <=  ||r_least||^2 / mu

for A with no eigenvalue within mu of zero (bound on the energy: Meurant and Tichy 2019). With a tolerance on the error,
not on the residual, this takes no more matvecs than MINRES.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.solvers.linear.minres import LinearSolution
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import safe_divide
from eigenjax.vectors.orthogonalize import normalize
from eigenjax.vectors.tree import PyTree

# A direction that A shrinks by more than eps to this power, relative to ||A||, is numerically in the null space: a step
# along it would amplify rounding.
_SINGULAR_POWER = 2 / 3
# Residuals below this times eps ||b|| are rounding.
_ATTAINABLE = 10.0


class State(NamedTuple):
    """Solver state of k systems, with a leading axis k on every leaf."""

    solution: PyTree  # x
    residual_vector: PyTree  # (b - A x) / ||b - A x||
    direction: PyTree  # p / ||b - A x||
    residual: jax.Array  # (k,) ||b - A x||
    square: jax.Array  # (k,) ||p||^2 / ||r||^2
    attainable: jax.Array  # (k,) smallest attainable residual, rounding below it
    operator_norm: jax.Array  # (k,) the largest |<p, A p>| / ||p||^2 so far
    ended: jax.Array  # (k,) bool, the system is numerically singular
    num_matvecs: jax.Array  # (k,) int32, matvecs so far


def conjugate_gradients_together(
    operator: Callable[[PyTree], PyTree],
    rhs: PyTree,
    *,
    targets: Callable[[PyTree], jax.Array],
    max_iter: int,
    operator_norm: jax.Array | float = 0.0,
    by_error: bool = False,
) -> LinearSolution:
    """Solve k systems A_i x_i = b_i simultaneously, with one matvec of all k vectors per step.

    Args:
        operator: k vectors v_i -> k vectors A_i v_i, each A_i Hermitian and definite. With an indefinite one the
            iteration continues as long as no direction p has <p, A p> = 0, and stops there, as the residual shows.
        rhs: the b_i, with a leading axis k on every leaf.
        targets: the current x_i -> (k,) residuals to stop at. A system at its target pauses, and continues if the
            target falls below its residual later.
        max_iter: maximal number of matvecs for one system; static.
        operator_norm: lower bound of ||A_i||. It distinguishes a right-hand side of rounding along a null vector that
            the operator projects out from that of a small operator.
        by_error: targets bound the errors of the x_i, each times the eigenvalue of A_i nearest to zero; static.

    Returns:
        The k solutions, (k,) residuals and (k,) numbers of matvecs, without the steps in which a system paused. Cost:
        one matvec per step for each; memory of four times k vectors, including those of the k matvecs.

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
    return LinearSolution(end.solution, end.residual, tested(end, by_error), end.num_matvecs)


def init(rhs: PyTree, operator_norm: jax.Array | float = 0.0) -> State:
    """Initialize k systems at x_i = 0; operator_norm is a lower bound of ||A_i||."""
    lengths = tree.norms(rhs)
    residual_vector = jax.vmap(normalize)(rhs, lengths)
    return State(
        solution=jax.tree.map(jnp.zeros_like, rhs),
        residual_vector=residual_vector,
        direction=residual_vector,
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
    """Iterate until each system meets its target, or has used max_iter matvecs in all."""

    def unfinished(state, target):
        # NaN compares False and ends the loop too.
        unconverged = tested(state, by_error) > jnp.maximum(target, state.attainable)
        return unconverged & ~state.ended & (state.num_matvecs < max_iter)

    start = state, unfinished(state, targets(state.solution))
    step = functools.partial(_step, operator, targets, unfinished)
    return jax.lax.while_loop(lambda carry: jnp.any(carry[1]), step, start)[0]


def tested(state: State, by_error: bool) -> jax.Array:
    """Return (k,) the numbers to compare with the targets: residuals, or the least residuals in the Krylov spaces."""
    return state.residual / jnp.sqrt(state.square) if by_error else state.residual


_scaled, _added, _inner = jax.vmap(tree.scale), jax.vmap(tree.add_scaled), jax.vmap(tree.inner)


def _step(
    operator: Callable[[PyTree], PyTree],
    targets: Callable[[PyTree], jax.Array],
    unfinished: Callable[[State, jax.Array], jax.Array],
    carry: tuple[State, jax.Array],
) -> tuple[State, jax.Array]:
    """Advance the systems that move, with one matvec for each; return which of them move next.

    Across devices this takes two small reductions for all systems, <p, A p> and ||t||. (||t|| from <r, A p> and ||A p||
    would share the first, and lose the digits of a residual that shrinks in one step.)

    A paused system is multiplied by ones and zeros, so that each vector is updated in place.
    """
    state, moves = carry
    images = operator(state.direction)
    # Normalized residuals keep these within the range of the dtype.
    curvature = _inner(state.direction, images).real
    quotient = jnp.abs(curvature) / state.square
    operator_norm = jnp.where(moves, jnp.maximum(state.operator_norm, quotient), state.operator_norm)
    null = float(jnp.finfo(curvature.dtype).eps) ** _SINGULAR_POWER * operator_norm
    # NaN is not singular: it propagates into the solution, where it is visible.
    singular = moves & (quotient <= null)
    on = moves & ~singular
    alpha = safe_divide(1, curvature, where=on, otherwise=0)
    solution = _added(state.solution, alpha * state.residual, state.direction)
    target = targets(solution)
    # Compute the target first: else XLA would keep the direction for it, and write the next one beside it.
    on = on & ~jnp.isnan(target)
    residual_vector = _added(state.residual_vector, -alpha, images)
    # The modulus, because that of a `MetricVector` of rounding errors may be negative.
    reduction = jnp.where(on, jnp.sqrt(jnp.abs(_inner(residual_vector, residual_vector).real)), 1)
    residual_vector = jax.vmap(normalize)(residual_vector, reduction)
    stepped = state._replace(
        solution=solution,
        residual_vector=residual_vector,
        direction=_added(_scaled(reduction, state.direction), on.astype(reduction.dtype), residual_vector),
        residual=state.residual * reduction,
        square=jnp.where(on, 1 + jnp.square(reduction) * state.square, state.square),
        operator_norm=operator_norm,
        ended=state.ended | singular,
        num_matvecs=state.num_matvecs + moves.astype(jnp.int32),
    )
    return stepped, unfinished(stepped, target)
