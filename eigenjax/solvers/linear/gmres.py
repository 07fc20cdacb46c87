"""GMRES: the restarted linear solver for systems without symmetry.

    min ||b - A x||  over the Krylov space of A and b,    A V_j = V_{j+1} H,    min_y || ||b|| e_1 - H y ||

by the Arnoldi recurrence and a QR factorization of H, updated by one rotation per step (Saad and Schultz 1986).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.solvers.linear.minres import LinearSolution
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import safe_divide
from eigenjax.vectors.orthogonalize import normalize, orthogonalize
from eigenjax.vectors.tree import PyTree

# A residual block below this times eps ||A|| is rounding: the Krylov space is exhausted.
_EXHAUSTED = 10.0
# Residuals below this times eps ||b|| are rounding.
_ATTAINABLE = 10.0
# A cycle that reduces the residual by less than this stagnates, as would the next ones.
_STAGNATED = 0.999
# A diagonal entry of R below this times eps of the largest is zero: the system is singular.
_SINGULAR = 100.0


class _Cycle(NamedTuple):
    basis: PyTree  # (r + 1, ...) V
    triangle: jax.Array  # (r, r) R of H = Q R, the columns computed so far
    rotation: jax.Array  # (r + 1, r + 1) Q^H
    target: jax.Array  # (r + 1,) Q^H ||b|| e_1; the entry after the last column is the residual
    operator_norm: jax.Array  # () the largest ||A v|| of this cycle
    length: jax.Array  # () int32, number of columns
    ended: jax.Array  # () bool, the space is exhausted


def gmres(
    operator: Callable[[PyTree], PyTree], rhs: PyTree, *, target: jax.Array, restart: int, max_iter: int
) -> LinearSolution:
    """Solve A x = b.

    Args:
        operator: v -> A v.
        rhs: b.
        target: () absolute ||b - A x|| to stop at, at least rounding; a b of at most this norm takes no matvec.
        restart: r, the number of basis vectors between restarts; static.
        max_iter: maximal number of matvecs, which the last cycle may exceed; static.

    Returns:
        The solution, starting from zero, and its true residual. Cost: one matvec per step and one per cycle, r + 4
        vectors of memory; each step reads the basis four times.

    Example:
        >>> import jax.numpy as jnp
        >>> matrix = jnp.array([[2.0, 1.0], [0.0, -3.0]])
        >>> found = gmres(lambda v: matrix @ v, jnp.array([4.0, -6.0]), target=1e-5, restart=5, max_iter=10)
        >>> print(found.solution.round(4), found.num_matvecs)
        [1. 2.] 3

    Source: Saad and Schultz (1986), GMRES.
    """
    length = tree.norm(rhs)
    target = jnp.maximum(target, _ATTAINABLE * jnp.finfo(length.dtype).eps * length)

    def has_to_go_on(carry):
        _, _, residual, before, count = carry
        # NaN compares False and ends the loop too.
        return (residual > target) & (residual < _STAGNATED * before) & (count < max_iter)

    def cycle(carry):
        solution, residual_vector, residual, _, count = carry
        correction, num_steps = _one_cycle(operator, residual_vector, residual, target, restart)
        moved = jax.tree.map(jnp.add, solution, correction)
        residual_vector = tree.add_scaled(rhs, -1.0, operator(moved))
        after = tree.norm(residual_vector)
        # If a cycle increases the residual, the previous solution is returned.
        better = after < residual
        solution = tree.where(better, moved, solution)
        return solution, residual_vector, jnp.where(better, after, residual), residual, count + num_steps + 1

    start = (jax.tree.map(jnp.zeros_like, rhs), rhs, length, length * 0 + jnp.inf, jnp.zeros((), jnp.int32))
    solution, _, residual, _, count = jax.lax.while_loop(has_to_go_on, cycle, start)
    return LinearSolution(solution, residual, residual, count)


def _one_cycle(
    operator: Callable[[PyTree], PyTree], residual_vector: PyTree, length: jax.Array, target: jax.Array, restart: int
) -> tuple[PyTree, jax.Array]:
    """Compute the correction from one Krylov space, and the number of its matvecs."""
    dtype = tree.accumulation_dtype(residual_vector)
    start = _Cycle(
        basis=tree.set_row(tree.zero_basis(residual_vector, restart + 1), 0, normalize(residual_vector, length)),
        triangle=jnp.zeros((restart, restart), dtype),
        rotation=jnp.eye(restart + 1, dtype=dtype),
        target=jnp.zeros(restart + 1, dtype).at[0].set(length.astype(dtype)),
        operator_norm=jnp.zeros_like(length),
        length=jnp.zeros((), jnp.int32),
        ended=jnp.zeros((), bool),
    )

    def has_to_go_on(state):
        return (jnp.abs(state.target[state.length]) > target) & ~state.ended & (state.length < restart)

    end = jax.lax.while_loop(has_to_go_on, lambda state: _step(operator, state), start)
    valid = jnp.arange(restart, dtype=jnp.int32) < end.length
    diagonal = jnp.where(valid, jnp.diag(end.triangle), 1)
    floor = _SINGULAR * jnp.finfo(length.dtype).eps * jnp.max(jnp.abs(end.triangle))
    solvable = jnp.abs(diagonal) > jnp.where(valid, floor, 0)
    diagonal = jnp.where(solvable, diagonal, 1)
    square = jnp.triu(end.triangle, 1) + jnp.diag(diagonal)
    numbers = jnp.where(valid & solvable, end.target[:restart], 0)
    weights = jax.lax.linalg.triangular_solve(square, numbers[:, None], left_side=True, lower=False)[:, 0]
    return tree.combine(jnp.append(weights, jnp.zeros(1, dtype)), end.basis), end.length


def _step(operator: Callable[[PyTree], PyTree], state: _Cycle) -> _Cycle:
    j = state.length
    valid = jnp.arange(state.rotation.shape[0], dtype=jnp.int32) <= j
    residual = orthogonalize(state.basis, operator(tree.row(state.basis, j)), valid=valid)
    norm = jnp.maximum(state.operator_norm, tree.norm((residual.coefficients, residual.norm)))
    ended = residual.norm <= _EXHAUSTED * jnp.finfo(norm.dtype).eps * norm
    column = residual.coefficients.at[j + 1].set(jnp.where(ended, 0, residual.norm).astype(residual.coefficients.dtype))
    column = jnp.matmul(state.rotation, column, precision=jax.lax.Precision.HIGHEST)
    # One rotation of the rows j and j + 1 annihilates the last entry.
    pair = jax.lax.dynamic_slice(column, (j,), (2,))
    length = tree.norm(pair)
    cosine, sine = safe_divide(pair[0], length, otherwise=1), safe_divide(pair[1], length)
    plane = jnp.stack([jnp.stack([jnp.conj(cosine), jnp.conj(sine)]), jnp.stack([-sine, cosine])])

    def rotated(rows):
        two = jax.lax.dynamic_slice_in_dim(rows, j, 2)
        two = jnp.matmul(plane, two, precision=jax.lax.Precision.HIGHEST)
        return jax.lax.dynamic_update_slice_in_dim(rows, two, j, 0)

    return _Cycle(
        basis=tree.set_row(state.basis, j + 1, normalize(residual.vector, residual.norm)),
        triangle=state.triangle.at[:, j].set(rotated(column)[:-1]),
        rotation=rotated(state.rotation),
        target=rotated(state.target),
        operator_norm=norm,
        length=j + 1,
        ended=ended,
    )
