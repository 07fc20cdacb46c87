"""Thin singular value decomposition of a tall A: A V = U B + D, B = diag(s) + C block diagonal by clusters of s.

Where singular values repeat, only the invariant subspaces of a cluster are differentiable; for zero singular values,
only the two null spaces. D holds the part of A V_null outside the range of U. C and D are zero, but their derivatives
are not, which matters from the second derivative of A on. With dU = U M + Y, U^H Y = 0, dV = V N,

    E = U^H dA V,  W = dA V - U E,    M, N antihermitian:
    M B - B N - Y^H D = E - dB        N B^H - B^H M - D^H Y = (E - dB)^H        Y B - D N = W - (1 - U U^H) dD.

The sum and the difference of the first two decouple at the point itself, where B is diagonal and D is zero:

    (M + N)_ij (s_j - s_i) = (E + E^H)_ij     (M - N)_ij (s_i + s_j) = (E - E^H)_ij     Y_j s_j = W_j.

M + N is set to zero within a cluster, and M, N and Y within the cluster of zero. Within a cluster dB = (E + E^H) / 2;
within that of zero dB = E and dD = W + D N - U Y^H D. Solving for Y and Y^H as two unknowns makes the system linear.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.calls import explained
from eigenjax.dense.clusters import (
    adjoint,
    antihermitian_rotation,
    as_matrices,
    clusters_of_sorted,
    diagonal,
    product,
    relative_tolerance,
)
from eigenjax.dense.phases import phases_of_columns
from eigenjax.vectors.arithmetic import safe_divide


class SingularVectors(NamedTuple):
    """Singular values and vectors returned by `svd`: a = u @ diag(s) @ vh."""

    u: jax.Array
    """(..., m, k), left singular vectors in columns; k = min(m, n)."""
    s: jax.Array
    """(..., k) real, not negative, descending."""
    vh: jax.Array
    """(..., k, n), conjugates of the right singular vectors in rows."""


class _Decomposition(NamedTuple):
    """Decomposition A V = U (diag(s) + C) + D of a tall matrix, as functions of A."""

    values: jax.Array  # s
    coupling: jax.Array  # C, (..., n, n), zero, with a nonzero derivative
    leak: jax.Array  # D, (..., m, n), zero, with a nonzero derivative
    left: jax.Array  # U
    right: jax.Array  # V


class _Rotation(NamedTuple):
    """Derivatives of the two bases, dU = U M + Y and dV = V N."""

    total: jax.Array  # M + N
    relative: jax.Array  # M - N
    away: jax.Array  # Y
    away_adjoint: jax.Array  # Y^H


@explained
def svd(a: Any, *, degeneracy_tol: Any = None) -> SingularVectors:
    """Compute the thin singular value decomposition of (batches of) matrices, with derivatives that stay finite.

    The result is that of `jnp.linalg.svd(a, full_matrices=False)`, except for the phase of complex vectors: the
    component of largest modulus of each right vector is real and positive. Derivatives are those at this phase.

    Singular values that differ by no more than rounding form a cluster; those that are zero to rounding form another.
    The derivative of a vector leaves out the components within its cluster. Results hold in forward and reverse mode:

    - exact to any order: singular values and vectors outside of clusters; for a whole cluster the projectors on both
      sides, their product U_S V_S^H (not for zeros), and the sum of its values;
    - exact to first order only: other symmetric functions of a cluster's values;
    - not exact where values repeat, already in the first derivative: functions of the whole matrix assembled from the
      parts, such as U f(s) V^H.

    A singular value of zero has no derivative; the one-sided derivative Re(u^H dA v) is returned.

    Args:
        a: (..., m, n) real or complex.
        degeneracy_tol: neighboring values that differ by at most this, relative to the largest, belong to one cluster;
            values of at most this belong to the cluster of zero. None is 32 sqrt(max(m, n)) * eps. Set it for losses of
            a subspace whose singular values nearly repeat. At a gap g above it, a first derivative has rounding errors
            of about eps / g and a second one eps / g^2; below it the error is of order g instead.

    Returns:
        u (..., m, k), s (..., k) descending, vh (..., k, n), with k = min(m, n). A matrix with NaN gives NaN.

    Raises:
        TypeError: for a dtype other than float32, float64, complex64, complex128.
        ValueError: for an array with fewer than two axes.

    Cost: one decomposition; for a first derivative six products of the size of U^H A, four of them for a square `a`.

    Example:
        >>> nuclear_norm = lambda a: jnp.sum(svd(a).s)
        >>> print(jax.grad(nuclear_norm)(jnp.array([[2.0, 0.0], [0.0, 2.0], [0.0, 0.0]])).round(4) + 0)
        [[1. 0.]
         [0. 1.]
         [0. 0.]]

    Source: Magnus and Neudecker (2019), Matrix Differential Calculus, chapter 8; for clusters, Kato (1995), chapter 2.
    """
    a = as_matrices(a, "a", square=False)
    tol = relative_tolerance("svd", degeneracy_tol, a)
    return _svd(a, tol)


@jax.jit
def _svd(a: jax.Array, tol: jax.Array) -> SingularVectors:
    if a.shape[-2] < a.shape[-1]:
        values, _, _, right, left = _decompose(adjoint(a), tol)
    else:
        values, _, _, left, right = _decompose(a, tol)
    if jnp.iscomplexobj(a):
        # Fix the common phase of both sides: the phase that a decomposition returns is not a smooth function.
        phases = phases_of_columns(right)
        left, right = left * phases, right * phases
    return SingularVectors(left, values, adjoint(right))


@jax.custom_jvp
def _decompose(a: jax.Array, tol: jax.Array) -> _Decomposition:
    del tol
    left, values, right = jnp.linalg.svd(a, full_matrices=False)
    return _Decomposition(values, jnp.zeros_like(right), jnp.zeros_like(left), left, adjoint(right))


@_decompose.defjvp
def _derivative(primals: tuple, tangents: tuple) -> tuple[_Decomposition, _Decomposition]:
    (a, tol), (a_dot, _) = primals, tangents
    # Call the function with its custom rule here, because the second derivative needs the rule.
    found = _decompose(a, tol)
    inside, null = _clusters(found.values, tol)
    both_null = null[..., :, None] & null[..., None, :]
    image = product(a_dot, found.right)
    change = product(adjoint(found.left), image)
    # A square U spans the whole space, so W = 0. It stays an expression of `image`, for its transpose; the compiler
    # simplifies it to zero.
    is_tall = a.shape[-2] > a.shape[-1]
    away = image - product(found.left, change) if is_tall else jnp.where(is_tall, image, jnp.zeros_like(image))
    rotation = _solve(found, inside, both_null, null, change, away)
    total, relative, moved, again = antihermitian_rotation(
        rotation.total, rotation.relative, extra=(rotation.away, adjoint(rotation.away_adjoint))
    )
    rotation = _Rotation(total, relative, moved, adjoint(again))
    left_rotation, right_rotation = (rotation.total + rotation.relative) / 2, (rotation.total - rotation.relative) / 2
    zeros = jnp.zeros_like(change)
    block = jnp.where(both_null, change, jnp.where(inside, (change + adjoint(change)) / 2, zeros))
    leak = jnp.where(null[..., None, :], away + product(found.leak, right_rotation), jnp.zeros_like(away))
    # The diagonal of a null block may be complex, but a singular value is real.
    values_dot = jnp.real(diagonal(block))
    return found, _Decomposition(
        values_dot,
        block - _on_diagonal(values_dot, block),
        leak - product(found.left, product(rotation.away_adjoint, found.leak)),
        product(found.left, left_rotation) + rotation.away,
        product(found.right, right_rotation),
    )


def _on_diagonal(values: jax.Array, like: jax.Array) -> jax.Array:
    return jnp.where(jnp.eye(like.shape[-1], dtype=bool), values[..., None, :].astype(like.dtype), jnp.zeros_like(like))


def _clusters(values: jax.Array, tol: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return (..., n, n) bool: pairs of values in one cluster, and (..., n) bool: values in the cluster of zero."""
    with_zero = jnp.concatenate([values, jnp.zeros_like(values, shape=(*values.shape[:-1], 1))], axis=-1)
    inside = clusters_of_sorted(with_zero, tol)
    return inside[..., :-1, :-1], inside[..., :-1, -1]


def _solve(found: _Decomposition, inside, both_null, null, change: jax.Array, away: jax.Array) -> _Rotation:
    """Solve the linear system of the module's docstring for M, N and Y, with the components left out set to zero."""
    dtype = change.dtype
    values = found.values.astype(dtype)
    columns, rows = values[..., None, :], values[..., :, None]
    null_columns, null_rows = null[..., None, :], null[..., :, None]
    times_b = lambda x: x * columns + product(x, found.coupling)
    adjoint_b_times = lambda x: rows * x + product(adjoint(found.coupling), x)
    b_times = lambda x: rows * x + product(found.coupling, x)
    times_adjoint_b = lambda x: x * columns + product(x, adjoint(found.coupling))

    def system(rotation: _Rotation) -> _Rotation:
        m, n = (rotation.total + rotation.relative) / 2, (rotation.total - rotation.relative) / 2
        first = times_b(m) - b_times(n) - product(rotation.away_adjoint, found.leak)
        second = times_adjoint_b(n) - adjoint_b_times(m) - product(adjoint(found.leak), rotation.away)
        return _Rotation(
            jnp.where(inside, rotation.total, first + second),
            jnp.where(both_null, rotation.relative, first - second),
            jnp.where(null_columns, rotation.away, times_b(rotation.away) - product(found.leak, n)),
            jnp.where(
                null_rows,
                rotation.away_adjoint,
                adjoint_b_times(rotation.away_adjoint) + product(n, adjoint(found.leak)),
            ),
        )

    def solve(_, right: _Rotation) -> _Rotation:
        return _Rotation(
            safe_divide(right.total, columns - rows, where=~inside),
            safe_divide(right.relative, columns + rows, where=~both_null),
            safe_divide(right.away, columns, where=~null_columns),
            safe_divide(right.away_adjoint, rows, where=~null_rows),
        )

    without = lambda x, where: jnp.where(where, jnp.zeros_like(x), x)
    right = _Rotation(
        without(change + adjoint(change), inside),
        without(change - adjoint(change), both_null),
        without(away, null_columns),
        without(adjoint(away), null_rows),
    )
    return jax.lax.custom_linear_solve(system, right, solve, solve)
