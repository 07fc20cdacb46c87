"""Clusters of close eigenvalues, and the equation for the derivative of an eigenbasis with clusters.

An eigenbasis of A is not differentiable where eigenvalues repeat: a small change of A may rotate it within the
cluster by any angle. The invariant subspaces of the clusters are differentiable, and so is a basis V of them with
A V = V T, T block diagonal. Let dV = V M with M zero within the clusters. Differentiating V^-1 A V = T gives

    dT = E  within the clusters,    M T - T M = E  outside,    E = V^-1 dA V.

For Hermitian E, (lambda_j - lambda_i) M_ij is Hermitian and M is antihermitian. A loss that depends only on an
invariant subspace has a cotangent of M whose antihermitian part vanishes within that subspace. Rounding leaves small
entries there, which must not be divided by a small gap: `antihermitian_rotation` sets them to zero.

At the point itself T is the diagonal of the eigenvalues, so that M_ij = E_ij / (lambda_j - lambda_i). Near the point T
has off-diagonal entries, which matter from the second derivative on. T is therefore carried as diag(lambda) + C, with
a coupling C that is zero and has a nonzero derivative. With it, the same rule is right at every order.
"""

from typing import Any

import jax
import jax.numpy as jnp

from eigenjax import arguments
from eigenjax.operators.convert import refuse_stream
from eigenjax.vectors.arithmetic import safe_divide

# Rounding splits a repeated eigenvalue by a few eps times the largest one (measured: at most 15 eps for n up to 60).
# At a gap of 32 eps, derivatives of functions of the invariant subspace still have two digits.
_CLUSTER_ROUNDING = 32.0
# Cotangent entries below 32 * eps * (the sum of their two column lengths) count as rounding error.
ROUNDING_OF_PRODUCTS = 32.0
_SUPPORTED = ("float32", "float64", "complex64", "complex128")


def as_matrices(a: Any, name: str, *, square: bool = True) -> jax.Array:
    """Convert to an array (..., m, n) of a dtype that decompositions support; raise an error for other input."""
    refuse_stream(a)
    try:
        a = jnp.asarray(a)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} is {arguments.brief(a)}, and a dense array (..., m, n) is needed: of a sparse matrix give "
            f"{name}.todense(), of an operator to_dense({name}); eigsh, eigs and svds take both as they are"
        ) from error
    if a.dtype.name not in _SUPPORTED:
        raise TypeError(
            f"{name} has dtype {a.dtype}, and decompositions work in {', '.join(_SUPPORTED)}: "
            f"give {name}.astype(jnp.float32)"
        )
    if a.ndim < 2:
        raise ValueError(f"{name} has shape {a.shape}, and a matrix (..., m, n) is needed")
    if square and a.shape[-2] != a.shape[-1]:
        raise ValueError(f"{name} has shape {a.shape}, and square matrices (..., n, n) are needed; svd takes others")
    return a


def relative_tolerance(function: str, degeneracy_tol: Any, a: jax.Array, *, units: float | None = None) -> jax.Array:
    """Return `degeneracy_tol`, or its default c * eps, as a scalar in the real dtype of `a`, without a gradient.

    By default c = `units`, or 32 sqrt(max(m, n)), a bound on the rounding error that splits repeated values.
    """
    dtype = jnp.finfo(a.dtype).dtype
    if degeneracy_tol is None:
        usual = _CLUSTER_ROUNDING * max(a.shape[-2:]) ** 0.5
        degeneracy_tol = (usual if units is None else units) * float(jnp.finfo(dtype).eps)
    remedy = "give one number from 0 up, relative to the largest, or None"
    arguments.check_number(function, "degeneracy_tol", degeneracy_tol, least=0.0, remedy=remedy)
    tol = arguments.on_device(degeneracy_tol)
    return jax.lax.stop_gradient(jnp.asarray(tol).astype(dtype))


def clusters_of_sorted(values: jax.Array, tol: jax.Array) -> jax.Array:
    """Return (..., n, n) bool: pairs of sorted real values (..., n) in one cluster.

    Neighboring values whose gap is at most tol * max |value| belong to the same cluster.
    """
    values = jax.lax.stop_gradient(values)
    width = tol * jnp.max(jnp.abs(values), axis=-1, keepdims=True, initial=0)
    cluster = jnp.cumsum(jnp.abs(jnp.diff(values, axis=-1)) > width, axis=-1, dtype=jnp.int32)
    cluster = jnp.concatenate(
        [jnp.zeros_like(cluster, shape=(*values.shape[:-1], min(1, values.shape[-1]))), cluster], -1
    )
    return cluster[..., :, None] == cluster[..., None, :]


def solve_commutator(values: jax.Array, coupling: jax.Array, inside: jax.Array, right: jax.Array) -> jax.Array:
    """Solve M T - T M = R outside the clusters and M = R within them, for T = diag(values) + coupling.

    The solution is computed for a coupling of zero. Derivatives are those of the equation with the coupling, because
    the quotient R_ij / (lambda_j - lambda_i) solves the equation only at the point itself. Costs n^2, and two matrix
    products per derivative.

    Args:
        values: (..., n).
        coupling: (..., n, n), zero.
        inside: (..., n, n) bool, True where two values belong to one cluster.
        right: (..., n, n), zero within the clusters.

    Returns:
        (..., n, n).
    """
    values = values.astype(right.dtype)
    columns, rows = values[..., None, :], values[..., :, None]

    def commutator(m):
        outside = m * columns - rows * m + product(m, coupling) - product(coupling, m)
        return jnp.where(inside, m, outside)

    solve = lambda _, right: safe_divide(right, columns - rows, where=~inside)
    return jax.lax.custom_linear_solve(commutator, right, solve, solve)


def antihermitian_rotation(*rotations: jax.Array, extra: tuple[jax.Array, ...] = ()) -> list[jax.Array]:
    """Return antihermitian matrices unchanged, and remove rounding error from their cotangents.

    The cotangents are projected to their antihermitian part; then entries of rounding size are set to zero.

    Args:
        *rotations: (..., n, n) matrices M, antihermitian to rounding.
        extra: (..., m, n) matrices whose cotangents count in the column lengths that rounding is measured against;
            they are returned too.
    """
    n, count = rotations[0].shape[-1], len(rotations)
    ends = [sum(x.shape[-2] for x in (*rotations, *extra)[: i + 1]) for i in range(count + len(extra))][:-1]
    # Concatenate, so that there is one cotangent: with several arrays, the one of an unused output would be missing.
    whole = jnp.concatenate([*rotations, *extra], axis=-2)
    clean = lambda _, cotangent: _without_rounding(cotangent, n, count)
    whole = jax.lax.custom_linear_solve(lambda x: x, whole, lambda _, x: x, clean)
    found = jnp.split(whole, ends, axis=-2)
    return [*map(_antihermitian, found[:count]), *found[count:]]


def _without_rounding(cotangent: jax.Array, n: int, count: int) -> jax.Array:
    lengths = jnp.sqrt(jnp.sum(jnp.square(jnp.abs(cotangent)), axis=-2))
    noise = ROUNDING_OF_PRODUCTS * float(jnp.finfo(lengths.dtype).eps) * (lengths[..., None, :] + lengths[..., :, None])
    noise = jnp.concatenate([noise] * count, axis=-2)
    square, others = jnp.split(cotangent, [n * count], axis=-2)
    return jnp.concatenate([jnp.where(jnp.abs(square) <= noise, jnp.zeros_like(square), square), others], axis=-2)


def _antihermitian(x: jax.Array) -> jax.Array:
    return (x - adjoint(x)) / 2


def product(x: jax.Array, y: jax.Array) -> jax.Array:
    """Compute X Y in the full precision of the dtype on every device."""
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def adjoint(x: jax.Array) -> jax.Array:
    """Compute X^H."""
    return jnp.conj(jnp.swapaxes(x, -1, -2))


def diagonal(x: jax.Array) -> jax.Array:
    """Return the diagonals (..., n) of (..., n, n) matrices."""
    return jnp.diagonal(x, axis1=-2, axis2=-1)


def without_diagonal(x: jax.Array) -> jax.Array:
    """Return X with zeros on the diagonal."""
    return jnp.where(jnp.eye(x.shape[-1], dtype=bool), jnp.zeros_like(x), x)
