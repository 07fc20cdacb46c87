"""MINRES: the linear solver for symmetric systems, definite or not.

    min ||b - A x||  over the Krylov space of A and b

by the Lanczos recurrence and a QR factorisation of its tridiagonal matrix, updated by one rotation a step (Paige and
Saunders 1975). Where the system is singular it stops at a least-squares solution instead of blowing up.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.vectors import tree
from eigenjax.vectors.orthogonalize import normalize
from eigenjax.vectors.tree import PyTree

# A residual that A shrinks by more than eps to this power, relative to ||A||, lies in the null space for all that the
# arithmetic can tell: the system is singular, and a step would amplify rounding. (At eps itself it is too late.)
_SINGULAR_POWER = 2 / 3
# A coupling beta below so many units of rounding of ||A|| ends the recurrence: the Krylov space is exhausted, and the
# rest is noise.
_EXHAUSTED = 100.0
# No residual can be told from rounding below so many units of ||b||.
_ATTAINABLE = 10.0


class LinearSolution(NamedTuple):
    """The solution of A x = b and what is known of it."""

    solution: PyTree
    residual: jax.Array  # () ||b - A x||, of the recurrence
    judged: jax.Array  # () what was held against the target: the same, where no error was asked for
    num_matvecs: jax.Array  # () int32


class State(NamedTuple):
    """Where k systems are, with a leading axis k on every leaf."""

    solution: PyTree
    vector: PyTree  # v_j of the Lanczos recurrence
    previous: PyTree  # v_{j-1}
    coupling: jax.Array  # beta_j, between the two
    direction: PyTree  # w_j, the last search direction
    before: PyTree  # w_{j-1}
    rest: PyTree | None  # (b - A x) over its length, where it is kept
    cosine: jax.Array  # of the last rotation
    sine: jax.Array
    carried: jax.Array  # the entry left of the diagonal that the next rotation takes up
    skipped: jax.Array  # the entry two left of it
    residual: jax.Array  # ||b - A x||
    attainable: jax.Array  # what it cannot be told from rounding below
    operator_norm: jax.Array
    ended: jax.Array  # there is nowhere to go on to: the system is singular, or the Krylov space exhausted
    num_matvecs: jax.Array


def minres(operator: Callable[[PyTree], PyTree], rhs: PyTree, *, target: jax.Array, max_iter: int) -> LinearSolution:
    """Solves A x = b for a symmetric (Hermitian) A.

    Args:
        operator: v -> A v.
        rhs: b.
        target: () the absolute ||b - A x|| to stop at, rounding allowing; a b no longer than that costs
            no product.
        max_iter: products at most, static.

    Returns:
        The solution, starting from zero. Cost: one product a step, six vectors of memory.

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
    """Solves k systems A_i x_i = b_i side by side, one product of all k vectors a step.

    Args:
        operator: k vectors v_i -> k vectors A_i v_i, each A_i symmetric (Hermitian).
        rhs: the b_i, with a leading axis k on every leaf.
        targets: the x_i so far -> (k,) residuals to stop at. A system that has reached its own rests, and goes on if
            the target falls below it later.
        max_iter: products for one system at most, static.

    Returns:
        The k solutions, (k,) residuals and (k,) products, of the steps in which a system did not rest. Cost: a
        product a step for each, six times k vectors of memory, that of the k products among them.

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
    """Goes on until each system is at its target, or at max_iter, of all its products."""

    def unfinished(state):
        # Also ends on NaN, which compares False.
        target = jnp.maximum(targets(state.solution), state.attainable)
        return (state.residual > target) & ~state.ended & (state.num_matvecs < max_iter)

    def move(carry):
        state, moves = carry
        state = _step(operator(state.vector), state, moves)
        return state, unfinished(state)

    return jax.lax.while_loop(lambda carry: jnp.any(carry[1]), move, (state, unfinished(state)))[0]


_scaled, _added, _chosen = jax.vmap(tree.scale), jax.vmap(tree.add_scaled), jax.vmap(tree.where)


def init(rhs: PyTree, *, keep_rest: bool = False) -> State:
    """Of k systems, at x_i = 0; keep_rest: with the residual as a vector, for `restarted`, k vectors more."""
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
        rest=vector if keep_rest else None,
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


def restarted(state: State, chosen: jax.Array, solution: PyTree, rest: PyTree, residual: jax.Array) -> State:
    """The chosen systems begin anew, from other solutions with residuals of length one times (k,) lengths."""
    fresh = init(rest, keep_rest=True)._replace(operator_norm=state.operator_norm, num_matvecs=state.num_matvecs)
    fresh = fresh._replace(solution=solution, residual=residual, attainable=state.attainable, ended=state.ended)
    return jax.tree.map(lambda new, old: jax.vmap(jnp.where)(chosen, new, old), fresh, state)


def _step(images: PyTree, state: State, moves: jax.Array) -> State:
    """The next state of the systems that move, given A v_j."""
    images = _added(images, -state.coupling, state.previous)
    alpha = jax.vmap(tree.inner)(state.vector, images).real
    images = _added(images, -alpha, state.vector)
    beta = tree.norms(images)
    operator_norm = jnp.maximum(state.operator_norm, jnp.hypot(jnp.hypot(state.coupling, alpha), beta))

    # The new column (epsilon, beta_j, alpha, beta) of the tridiagonal matrix, turned by the rotations so far ...
    above = state.cosine * state.carried + state.sine * alpha
    diagonal = state.sine * state.carried - state.cosine * alpha
    # ... and by the one that annihilates beta.
    pivot = jnp.hypot(diagonal, beta)
    eps = float(jnp.finfo(beta.dtype).eps)
    null = eps**_SINGULAR_POWER * operator_norm
    # ||A r|| = ||r|| root: where it vanishes, the residual is orthogonal to the range, and x is as good as it gets.
    root = jnp.hypot(diagonal, state.cosine * beta)
    singular = (root <= null) | (pivot <= null)
    safe = jnp.where(singular, 1, pivot)
    cosine, sine = diagonal / safe, beta / safe

    on = moves & ~singular
    # In this order each is written over one that is not needed any more.
    previous = _chosen(on, state.vector, state.previous)
    vector = _chosen(on, jax.vmap(normalize)(images, beta), state.vector)
    direction = _added(_added(previous, -state.skipped, state.before), -above, state.direction)
    direction = _scaled(1 / safe, direction)
    rest = state.rest
    if rest is not None:
        # r_{j+1} = sine^2 r_j - cosine ||r_{j+1}|| v_{j+1}, over its length.
        rest = _chosen(on, _added(_scaled(sine, rest), -cosine, vector), rest)
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
        rest=rest,
        ended=state.ended | (moves & (singular | (beta <= _EXHAUSTED * eps * operator_norm))),
        num_matvecs=state.num_matvecs + moves.astype(jnp.int32),
        **{name: jnp.where(on, number, getattr(state, name)) for name, number in numbers.items()},
    )
