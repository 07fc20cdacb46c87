"""Symmetric (Hermitian) matrices, and pencils A x = lambda B x with a positive definite B.

With X^H B X = 1 and A X = B X T, let T = diag(lambda) + C be block diagonal by clusters of close eigenvalues. With
dX = X M,

    E_A = X^H dA X,  E_B = X^H dB X
    M = K - E_B / 2,    K T - T K = E    outside the clusters,    E = E_A - (E_B T + T E_B) / 2
    within them:        K = 0,           dT = E

and K is antihermitian, because E is Hermitian.
Without B the terms of E_B vanish.
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
    solve_commutator,
    without_diagonal,
)
from eigenjax.dense.phases import phases_of_columns


class SymmetricEigen(NamedTuple):
    """Eigenvalues and eigenvectors returned by `eigh`."""

    eigenvalues: jax.Array
    """(..., n) real, ascending."""
    eigenvectors: jax.Array
    """(..., n, n), one in each column."""


@explained
def eigh(a: Any, b: Any = None, *, degeneracy_tol: Any = None) -> SymmetricEigen:
    """Compute eigenvalues and eigenvectors of (batches of) symmetric matrices, with derivatives that stay finite.

    The result is that of `jnp.linalg.eigh`, except for the phase of complex eigenvectors: their component of largest
    modulus is real and positive. Derivatives keep this phase.

    Eigenvalues that differ by no more than rounding form a cluster. The derivative of an eigenvector divides by
    lambda_j - lambda_i; the components within its cluster are left out. In forward and reverse mode:

    - exact to any order: eigenvalues and eigenvectors outside of clusters; functions of a whole cluster's invariant
      subspace (such as its projector) and of the sum (mean) of its eigenvalues;
    - exact to first order only: other symmetric functions of a cluster's eigenvalues, such as sum(f(eigenvalues)).
      Their second derivative lacks f'' |E_ij|^2 for i != j within a cluster;
    - not exact where eigenvalues repeat, already in the first derivative: V f(eigenvalues) V^H assembled from the
      parts. The entries f' E_ij, i != j, of a cluster are missing, because derivatives of the parts cannot hold them.
      Use the functions of matrices in `jnp.linalg` and `jax.scipy.linalg` instead;
    - finite but meaningless: derivatives of a loss that depends on single vectors of a cluster; none exists there.

    Args:
        a: (..., n, n) real or complex; its Hermitian part (a + a^H) / 2 is decomposed, so a gradient is Hermitian.
        b: (..., n, n) positive definite, for the problem A x = lambda B x; its Hermitian part is taken. Broadcast
            against `a`. A matrix that is not positive definite gives NaN.
        degeneracy_tol: neighboring eigenvalues that differ by at most this, relative to the largest |eigenvalue|,
            belong to one cluster; None is 32 sqrt(n) * eps. Set it for losses of an invariant subspace whose
            eigenvalues nearly repeat. At a gap g above it, a first derivative has rounding errors of about eps / g and
            a second one eps / g^2. Below it the error is of order g instead, and derivatives of single vectors are left
            out.

    Returns:
        The eigenvalues (..., n), ascending, and the eigenvectors in columns: V^H V = 1, or V^H B V = 1. A matrix with
        NaN gives NaN.

    Raises:
        TypeError: for a dtype other than float32, float64, complex64, complex128, or two different ones.
        ValueError: for a shape that is not square, or two that do not fit.

    Cost: one decomposition; three products of n x n matrices for a first derivative, five if `b` is given.

    Example:
        >>> loss = lambda a: eigh(a).eigenvectors[1, 2] ** 2 + eigh(a).eigenvalues[2]
        >>> print(jax.grad(loss)(jnp.diag(jnp.array([4.0, 1.0, 1.0]))))
        [[1. 0. 0.]
         [0. 0. 0.]
         [0. 0. 0.]]

    Source: Magnus (1985), On differentiating eigenvalues and eigenvectors; for clusters, Kato (1995), chapter 2.
    """
    a = as_matrices(a, "a")
    tol = relative_tolerance("eigh", degeneracy_tol, a)
    if b is not None:
        a, b = _pencil(a, as_matrices(b, "b"))
    return _eigh(a, b, tol)


@jax.jit
def _eigh(a: jax.Array, b: jax.Array | None, tol: jax.Array) -> SymmetricEigen:
    values, _, vectors = _decompose(_hermitian_part(a), None if b is None else _hermitian_part(b), tol)
    # Fix the phase: the one that a decomposition returns is not a smooth function of the matrix.
    return SymmetricEigen(values, vectors * phases_of_columns(vectors) if jnp.iscomplexobj(vectors) else vectors)


def _pencil(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    if a.dtype != b.dtype:
        raise TypeError(f"a has dtype {a.dtype} and b {b.dtype}: give both in the wider one, with .astype")
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(f"a has shape {a.shape} and b {b.shape}: give two of one size")
    a, b = jnp.broadcast_arrays(a, b)
    return a, b


def _hermitian_part(a: jax.Array) -> jax.Array:
    return (a + adjoint(a)) / 2


@jax.custom_jvp
def _decompose(a: jax.Array, b: jax.Array | None, tol: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Compute eigenvalues, the coupling C (zero) and eigenvectors of Hermitian matrices."""
    del tol
    if a.shape[-1] == 0:
        return jnp.zeros_like(a, shape=a.shape[:-1]).real, a, a
    if b is None:
        vectors, values = jax.lax.linalg.eigh(a, symmetrize_input=False)
        return values, jnp.zeros_like(a), vectors
    # B = L L^H:  (L^-1 A L^-H) y = lambda y,  x = L^-H y.
    lower = jax.lax.linalg.cholesky(b, symmetrize_input=False)
    solve = lambda right, **sides: jax.lax.linalg.triangular_solve(lower, right, lower=True, **sides)
    half = solve(a, left_side=True)
    reduced = _hermitian_part(solve(half, left_side=False, transpose_a=True, conjugate_a=True))
    vectors, values = jax.lax.linalg.eigh(reduced, symmetrize_input=False)
    return values, jnp.zeros_like(a), solve(vectors, left_side=True, transpose_a=True, conjugate_a=True)


@_decompose.defjvp
def _derivative(primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    (a, b, tol), (a_dot, b_dot, _) = primals, tangents
    # Call the function with its custom rule here, because the second derivative needs the rule.
    values, coupling, vectors = _decompose(a, b, tol)
    inside = clusters_of_sorted(values, tol)
    zeros = jnp.zeros_like(vectors)
    in_basis = lambda x: product(product(adjoint(vectors), x), vectors)
    block, stretch = in_basis(a_dot), zeros
    if b is not None:
        mass = in_basis(b_dot)
        scaled = mass * values[..., None, :].astype(mass.dtype) + product(mass, coupling)  # E_B T
        block, stretch = block - _hermitian_part(scaled), -mass / 2
    rotation = solve_commutator(values, coupling, inside, jnp.where(inside, zeros, block))
    rotation = antihermitian_rotation(rotation)[0] + stretch
    values_dot, coupling_dot = jnp.real(diagonal(block)), without_diagonal(jnp.where(inside, block, zeros))
    return (values, coupling, vectors), (values_dot, coupling_dot, product(vectors, rotation))
