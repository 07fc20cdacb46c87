"""MINRES: the linear solver for symmetric systems, definite or indefinite.

    min ||b - A x||  over the Krylov space of A and b

by the Lanczos recurrence and a QR factorization of its tridiagonal matrix, updated by one rotation per step (Paige and
Saunders 1975). For a singular system it stops at a least-squares solution instead of diverging.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.vectors import tree
from eigenjax.vectors.orthogonalize import normalize
from eigenjax.vectors.tree import PyTree

# A residual that A shrinks by more than eps to this power, relative to ||A||, is numerically in the null space: the
# system is singular, and a step would amplify rounding. (A threshold of eps itself is too small.)
_SINGULAR_POWER = 2 / 3
# A coupling beta below this times eps ||A|| ends the recurrence: the Krylov space is exhausted, and the remainder is
# rounding.
_EXHAUSTED = 100.0
# Residuals below this times eps ||b|| are rounding.
_ATTAINABLE = 10.0


class LinearSolution(NamedTuple):
    """Solution of A x = b with convergence information."""

    solution: PyTree  # x
    residual: jax.Array  # () ||b - A x||, estimated by the recurrence
    tested: jax.Array  # () the number compared with the target: the residual, or the least one in the Krylov space
    num_matvecs: jax.Array  # () int32, number of matvecs


class State(NamedTuple):
    """Solver state of k systems, with a leading axis k on every leaf."""

    solution: PyTree  # x
    vector: PyTree  # v_j of the Lanczos recurrence
    previous: PyTree  # v_{j-1}
    coupling: jax.Array  # (k,) beta_j, which couples the two
    direction: PyTree  # w_j, the current search direction
    before: PyTree  # w_{j-1}
    residual_vector: PyTree | None  # (b - A x) / ||b - A x||, or None if it is not needed
    cosine: jax.Array  # (k,) cosine of the last rotation
    sine: jax.Array  # (k,) sine of the last rotation
    carried: jax.Array  # (k,) entry left of the diagonal, for the next rotation
    skipped: jax.Array  # (k,) entry two left of the diagonal
    residual: jax.Array  # (k,) ||b - A x||
    attainable: jax.Array  # (k,) smallest attainable residual, rounding below it
    operator_norm: jax.Array  # (k,) the largest ||A v_j|| so far
    ended: jax.Array  # (k,) bool, the system is singular or the Krylov space exhausted
    num_matvecs: jax.Array  # (k,) int32, matvecs so far


def minres(operator: Callable[[PyTree], PyTree], rhs: PyTree, *, target: jax.Array, max_iter: int) -> LinearSolution:
    """Solve A x = b for a symmetric (Hermitian) A.

    Args:
        operator: v -> A v.
        rhs: b.
        target: () absolute ||b - A x|| to stop at, at least rounding; a b of at most this norm takes no matvec.
        max_iter: maximal number of matvecs; static.

    Returns:
        The solution, starting from zero. Cost: one matvec per step, six vectors of memory.

    Example:
        >>> import jax.numpy as jnp
        >>> matrix = jnp.array([[2.0, 1.0], [1.0, -3.0]])
        >>> found = minres(lambda v: matrix @ v, jnp.array([4.0, -5.0]), target=1e-5, max_iter=10)
        >>> print(found.solution.round(4), found.num_matvecs)
        [1. 2.] 2

    Source: Paige and Saunders (1975), Solution of sparse indefinite systems of linear equations.
    """
    one = functools.partial(jax.tree.map, lambda x: x[None])
    alone = lambda v: one(operator(tree.row(v, 0)))
    found = minres_together(alone, one(rhs), targets=lambda _: jnp.reshape(target, (1,)), max_iter=max_iter)
    return tree.row(found, 0)


def minres_together(
    operator: Callable[[PyTree], PyTree],
    rhs: PyTree,
    *,
    targets: Callable[[PyTree], jax.Array],
    max_iter: int,
) -> LinearSolution:
    """Solve k systems A_i x_i = b_i simultaneously, with one matvec of all k vectors per step.

    Args:
        operator: k vectors v_i -> k vectors A_i v_i, each A_i symmetric (Hermitian).
        rhs: the b_i, with a leading axis k on every leaf.
        targets: the current x_i -> (k,) residuals to stop at. A system at its target pauses, and continues if the
            target falls below its residual later.
        max_iter: maximal number of matvecs for one system; static.

    Returns:
        The k solutions, (k,) residuals and (k,) numbers of matvecs, without the steps in which a system paused. Cost:
        one matvec per step for each; memory of six times k vectors, including those of the k matvecs.

    Example:
        >>> import jax.numpy as jnp
        >>> matrix, shifts = jnp.diag(jnp.array([1.0, 2.0])), jnp.array([[0.0], [3.0]])
        >>> shifted = lambda v: v @ matrix - shifts * v
        >>> print(minres_together(shifted, jnp.ones((2, 2)), targets=lambda x: 1e-5, max_iter=9).solution.round(4))
        [[ 1.   0.5]
         [-0.5 -1. ]]
    """
    end = advance(operator, init(rhs), targets=targets, max_iter=max_iter)
    return LinearSolution(end.solution, end.residual, end.residual, end.num_matvecs)


def advance(
    operator: Callable[[PyTree], PyTree], state: State, *, targets: Callable[[PyTree], jax.Array], max_iter: Any
) -> State:
    """Iterate until each system meets its target, or has used max_iter matvecs in all."""

    def unfinished(state):
        # NaN compares False and ends the loop too.
        target = jnp.maximum(targets(state.solution), state.attainable)
        return (state.residual > target) & ~state.ended & (state.num_matvecs < max_iter)

    def move(carry):
        state, moves = carry
        state = _step(operator(state.vector), state, moves)
        return state, unfinished(state)

    return jax.lax.while_loop(lambda carry: jnp.any(carry[1]), move, (state, unfinished(state)))[0]


_scaled, _added, _chosen = jax.vmap(tree.scale), jax.vmap(tree.add_scaled), jax.vmap(tree.where)


def init(rhs: PyTree, *, keep_residual_vector: bool = False) -> State:
    """Initialize k systems at x_i = 0; `keep_residual_vector` stores k more vectors, which `restarted` needs."""
    lengths = tree.norms(rhs)
    zero, zeros = jnp.zeros_like(lengths), jax.tree.map(jnp.zeros_like, rhs)
    vector = jax.vmap(normalize)(rhs, lengths)
    return State(
        solution=zeros,
        vector=vector,
        previous=zeros,
        coupling=zero,
        direction=zeros,
        before=zeros,
        residual_vector=vector if keep_residual_vector else None,
        cosine=zero - 1,
        sine=zero,
        carried=zero,
        skipped=zero,
        residual=lengths,
        attainable=_ATTAINABLE * jnp.finfo(lengths.dtype).eps * lengths,
        operator_norm=zero,
        ended=jnp.zeros(lengths.shape, bool),
        num_matvecs=jnp.zeros(lengths.shape, jnp.int32),
    )


def restarted(state: State, chosen: jax.Array, solution: PyTree, residual_vector: PyTree, residual: jax.Array) -> State:
    """Restart the chosen systems from other solutions, with residual vectors of unit norm and (k,) residual norms."""
    fresh = init(residual_vector, keep_residual_vector=True)._replace(
        operator_norm=state.operator_norm, num_matvecs=state.num_matvecs
    )
    fresh = fresh._replace(solution=solution, residual=residual, attainable=state.attainable, ended=state.ended)
    return jax.tree.map(lambda new, old: jax.vmap(jnp.where)(chosen, new, old), fresh, state)


def _step(images: PyTree, state: State, moves: jax.Array) -> State:
    """Advance the systems that move, given A v_j."""
    images = _added(images, -state.coupling, state.previous)
    alpha = jax.vmap(tree.inner)(state.vector, images).real
    images = _added(images, -alpha, state.vector)
    beta = tree.norms(images)
    operator_norm = jnp.maximum(state.operator_norm, jnp.hypot(jnp.hypot(state.coupling, alpha), beta))

    # The new column (epsilon, beta_j, alpha, beta) of the tridiagonal matrix, with the rotations so far applied ...
    above = state.cosine * state.carried + state.sine * alpha
    diagonal = state.sine * state.carried - state.cosine * alpha
    # ... and the one that annihilates beta.
    pivot = jnp.hypot(diagonal, beta)
    eps = float(jnp.finfo(beta.dtype).eps)
    null = eps**_SINGULAR_POWER * operator_norm
    # ||A r|| = ||r|| root: where it vanishes, the residual is orthogonal to the range, and x is a least-squares
    # solution.
    root = jnp.hypot(diagonal, state.cosine * beta)
    singular = (root <= null) | (pivot <= null)
    safe = jnp.where(singular, 1, pivot)
    cosine, sine = diagonal / safe, beta / safe

    on = moves & ~singular
    # In this order each vector overwrites one that is no longer needed.
    previous = _chosen(on, state.vector, state.previous)
    vector = _chosen(on, jax.vmap(normalize)(images, beta), state.vector)
    direction = _added(_added(previous, -state.skipped, state.before), -above, state.direction)
    direction = _scaled(1 / safe, direction)
    residual_vector = state.residual_vector
    if residual_vector is not None:
        # r_{j+1} = sine^2 r_j - cosine ||r_{j+1}|| v_{j+1}, normalized.
        residual_vector = _chosen(on, _added(_scaled(sine, residual_vector), -cosine, vector), residual_vector)
    numbers = {
        "coupling": beta,
        "cosine": cosine,
        "sine": sine,
        "carried": -state.cosine * beta,
        "skipped": state.sine * beta,
        "residual": sine * state.residual,
        "operator_norm": operator_norm,
    }
    return state._replace(
        solution=_added(state.solution, jnp.where(on, cosine * state.residual, 0), direction),
        vector=vector,
        previous=previous,
        direction=_chosen(on, direction, state.direction),
        before=_chosen(on, state.direction, state.before),
        residual_vector=residual_vector,
        ended=state.ended | (moves & (singular | (beta <= _EXHAUSTED * eps * operator_norm))),
        num_matvecs=state.num_matvecs + moves.astype(jnp.int32),
        **{name: jnp.where(on, value, getattr(state, name)) for name, value in numbers.items()},
    )
