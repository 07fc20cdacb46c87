"""General matrices: A V = V T, not symmetric, with complex eigenvalues and eigenvectors.

With T = diag(lambda) + C block diagonal by clusters of close eigenvalues, L = V^-1 and dV = V M,

    E = L dA V,    dT = E within the clusters,    M T - T M = E outside,    dL = -M L.

The rows of L are the left eigenvectors u_i^H / (u_i^H v_i). They come from the decomposition, because each is then as
accurate as its eigenvalue is conditioned. In an explicit inverse of V, one ill-conditioned eigenvalue would spoil all
the others. Within a cluster they are made biorthogonal to the right ones by a solve with that block of U^H V. The
vectors are normalized afterwards, by differentiable arithmetic.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.calls import explained
from eigenjax.dense.clusters import (
    adjoint,
    as_matrices,
    diagonal,
    product,
    relative_tolerance,
    solve_commutator,
    without_diagonal,
)
from eigenjax.dense.phases import phases_of_columns
from eigenjax.vectors.arithmetic import safe_divide
from eigenjax.vectors.placement import default_platform

# Rounding moves an eigenvalue by a few eps times the norm of A, times its condition number.
_SPLIT_ROUNDING = 8.0
# A pivot of U^H V (columns of unit norm) below 8 * eps belongs to a defective eigenvalue.
_DEFECTIVE = 8.0


class GeneralEigen(NamedTuple):
    """Eigenvalues and eigenvectors returned by `eig`."""

    eigenvalues: jax.Array
    """(..., n) complex, in the order of `jnp.linalg.eig`."""
    eigenvectors: jax.Array
    """(..., n, n) complex, one in each column, of unit norm, the component of largest modulus positive."""


class _Decomposition(NamedTuple):
    """Decomposition A V = V T with L = V^-1, as functions of A."""

    values: jax.Array
    coupling: jax.Array  # C, zero, with a nonzero derivative
    inside: jax.Array  # (..., n, n) bool: pairs of eigenvalues in one cluster
    inverse: jax.Array  # L
    vectors: jax.Array  # V


@explained
def eig(a: Any, *, degeneracy_tol: Any = None) -> GeneralEigen:
    """Compute eigenvalues and eigenvectors of (batches of) general square matrices, with their derivatives.

    The result is that of `jnp.linalg.eig`, with the phase of each eigenvector fixed: its component of largest modulus
    is real and positive. Differentiable in forward and reverse mode and to any order; the gradient of a real matrix is
    real.

    Eigenvalues that rounding cannot separate form a cluster. The derivative of an eigenvector leaves out the components
    within its cluster. Exact to any order: eigenvalues and eigenvectors outside of clusters, the spectral projector of
    a whole cluster, and the sum (mean) of its eigenvalues. Exact to first order: other symmetric functions of a
    cluster's eigenvalues. A loss that depends on single vectors of a cluster has no derivative there, and neither has a
    defective eigenvalue with its vector. The derivatives returned are then finite, and zero if right and left vector
    are orthogonal to rounding; `eigenvalue_condition` detects this case.

    Args:
        a: (..., n, n) real or complex.
        degeneracy_tol: eigenvalues that differ by at most this, relative to the largest absolute column sum of `a`,
            belong to one cluster. None is 8 * eps times the larger of their two condition numbers. Set it for losses
            of an invariant subspace whose eigenvalues nearly repeat. At a gap g above it, a first derivative has
            rounding errors of about eps / g and a second one eps / g^2; below it the error is of order g instead.

    Returns:
        The eigenvalues (..., n) and the eigenvectors in columns, complex. A matrix with NaN gives NaN.

    Raises:
        TypeError: for a dtype other than float32, float64, complex64, complex128.
        ValueError: for a shape that is not square.
        NotImplementedError: if the default backend is a TPU, which has no general eigensolver.

    Cost: one decomposition with left and right vectors. A first derivative adds about six products of n x n complex
    matrices, three of them for the left vectors.

    Example:
        >>> top = lambda a: eig(a).eigenvalues[1].real
        >>> print(jax.grad(top)(jnp.array([[1.0, 1.0], [0.0, 2.0]])).round(4))
        [[0. 0.]
         [1. 1.]]

    Source: Magnus (1985), On differentiating eigenvalues and eigenvectors; for clusters, Kato (1995), chapter 2.
    """
    _refuse_tpu()
    a = as_matrices(a, "a")
    tol = relative_tolerance("eig", degeneracy_tol, a, units=_SPLIT_ROUNDING)
    return _eig_normalized(a, tol, degeneracy_tol is None)


@functools.partial(jax.jit, static_argnums=2)
def _eig_normalized(a: jax.Array, tol: jax.Array, by_condition: bool) -> GeneralEigen:
    values, vectors = _pairs(a, tol, by_condition)
    return GeneralEigen(values, normalized(vectors))


def unnormalized_eig(a: jax.Array) -> GeneralEigen:
    """Compute eigenvalues and eigenvectors of a matrix (n, n) as `eig` does, without fixing norms and phases."""
    _refuse_tpu()
    return GeneralEigen(*_pairs(a, relative_tolerance("eig", None, a, units=_SPLIT_ROUNDING), True))


@explained
def eigenvalue_condition(a: Any) -> jax.Array:
    """Compute condition numbers of the eigenvalues, 1 / |u^H v| with left and right vectors of unit norm.

    To first order, a change of A by E moves a simple eigenvalue by at most its condition number times ||E||_2. The
    condition number is the norm of the eigenvalue's derivative: 1 for a normal matrix, infinite for a defective
    eigenvalue, arbitrary for a repeated one. Use it to check derivatives of `eig`: their relative error is about
    condition * eps, and beyond a condition of 1 / sqrt(eps) they have no correct digits.

    Args:
        a: (..., n, n) real or complex.

    Returns:
        (..., n) real, at least 1 up to rounding, in the order of `eig(a).eigenvalues`. Not differentiated.

    Raises:
        TypeError: for a dtype other than float32, float64, complex64, complex128.
        ValueError: for a shape that is not square.
        NotImplementedError: if the default backend is a TPU, which has no general eigensolver.

    Cost: one decomposition.

    Example:
        >>> print(eigenvalue_condition(jnp.array([[1.0, 100.0], [0.0, 2.0]])).round(1))
        [100. 100.]
    """
    _refuse_tpu()
    return _condition(jax.lax.stop_gradient(as_matrices(a, "a")))


@jax.jit
def _condition(a: jax.Array) -> jax.Array:
    _, left, right = _eig(a, compute_left=True)
    return 1 / _overlap_moduli(left, right)


def _refuse_tpu() -> None:
    if default_platform() == "tpu":
        raise NotImplementedError(
            "eig: a TPU has no eigensolver for general matrices; compute on the host: move the matrix there, "
            "jax.device_put(a, jax.devices('cpu')[0]), under jax.default_device(jax.devices('cpu')[0])"
        )


def _eig(a: jax.Array, *, compute_left: bool) -> list[jax.Array]:
    """Compute eigenvalues, left eigenvectors if requested, and right eigenvectors, in columns of unit norm."""
    # LAPACK scales a matrix with entries above 4e11 or below 2e-12 (in float32), and the eigenvalues that JAX 0.10
    # returns for it are not scaled back. A power of two rounds nothing.
    largest = jnp.max(jnp.abs(jax.lax.stop_gradient(a)), axis=(-2, -1), initial=0)
    is_normal = (largest >= float(jnp.finfo(a.dtype).tiny)) & jnp.isfinite(largest)
    _, exponent = jnp.frexp(jnp.where(is_normal, largest, 1))
    # Powers of two beyond these overflow, or are subnormal.
    exponent = jnp.clip(exponent, jnp.finfo(a.dtype).minexp, jnp.finfo(a.dtype).maxexp - 2)
    power = lambda exponent: jnp.ldexp(jnp.ones_like(largest), exponent)
    values, *vectors = jax.lax.linalg.eig(
        a * power(-exponent)[..., None, None].astype(a.dtype), compute_left_eigenvectors=compute_left
    )
    return [values * power(exponent)[..., None].astype(values.dtype), *vectors]


def _overlap_moduli(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.abs(jnp.sum(jnp.conj(left) * right, axis=-2))


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _pairs(a: jax.Array, tol: jax.Array, by_condition: bool) -> tuple[jax.Array, jax.Array]:
    """Compute eigenvalues and right eigenvectors; left ones are computed only for a derivative."""
    del tol, by_condition
    values, vectors = _eig(a, compute_left=False)
    return values, vectors


@_pairs.defjvp
def _derivative_of_pairs(by_condition: bool, primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    (a, tol), (a_dot, _) = primals, tangents
    found, dot = jax.jvp(lambda a: _decompose(a, tol, by_condition), (a,), (a_dot,))
    return (found.values, found.vectors), (dot.values, dot.vectors)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _decompose(a: jax.Array, tol: jax.Array, by_condition: bool) -> _Decomposition:
    values, left, right = _eig(a, compute_left=True)
    inside = _clusters(a, values, _overlap_moduli(left, right) if by_condition else None, tol)
    return _Decomposition(values, jnp.zeros_like(right), inside, _inverse(left, right, inside), right)


@_decompose.defjvp
def _derivative(by_condition: bool, primals: tuple, tangents: tuple) -> tuple[_Decomposition, _Decomposition]:
    (a, tol), (a_dot, _) = primals, tangents
    # Call the function with its custom rule here, because the second derivative needs the rule.
    found = _decompose(a, tol, by_condition)
    values, coupling, inside, inverse, vectors = found
    change = product(product(inverse, a_dot.astype(vectors.dtype)), vectors)
    zeros = jnp.zeros_like(change)
    rotation = solve_commutator(values, coupling, inside, jnp.where(inside, zeros, change))
    coupling_dot = without_diagonal(jnp.where(inside, change, zeros))
    inside_dot = jax.custom_derivatives.zero_from_primal(inside)
    return found, _Decomposition(
        diagonal(change), coupling_dot, inside_dot, -product(rotation, inverse), product(vectors, rotation)
    )


def _clusters(a: jax.Array, values: jax.Array, overlaps: jax.Array | None, tol: jax.Array) -> jax.Array:
    """Return (..., n, n) bool: pairs of eigenvalues that rounding cannot separate."""
    norm = jnp.max(jnp.sum(jnp.abs(a), axis=-2), axis=-1, initial=0)[..., None]
    # Divide by the norm, so that squares neither overflow nor underflow.
    relative = safe_divide(values, norm, where=norm != 0)
    gaps = relative[..., None, :] - relative[..., :, None]
    squares = jnp.real(gaps) ** 2 + jnp.imag(gaps) ** 2
    if overlaps is None:
        return squares <= tol**2
    # Rounding moves a simple eigenvalue by eps ||A|| / overlap, and a defective double eigenvalue by sqrt(eps) ||A||.
    least = float(jnp.finfo(a.dtype).eps) ** 0.5
    width = (tol / jnp.clip(overlaps, least, 1)) ** 2
    return (squares <= width[..., None, :]) | (squares <= width[..., :, None])


@jax.custom_batching.custom_vmap
def _inverse(left: jax.Array, right: jax.Array, inside: jax.Array) -> jax.Array:
    """Compute K^-1 U^H with the diagonal blocks K of U^H V; rows of clusters with a singular block are zero."""
    alone = jnp.broadcast_to(jnp.eye(right.shape[-1], dtype=bool), inside.shape)
    return jax.lax.cond(jnp.all(inside == alone), _inverse_of_simple, _inverse_by_blocks, left, right, inside)


@_inverse.def_vmap
def _inverse_of_batch(size: int, batched: tuple, *arrays: jax.Array) -> tuple[jax.Array, bool]:
    # Under plain vmap, cond would become a select that computes both branches.
    along = lambda x, is_batched: x if is_batched else jnp.broadcast_to(x, (size, *x.shape))
    return _inverse(*map(along, arrays, batched)), True


def _inverse_of_simple(left: jax.Array, right: jax.Array, _: jax.Array) -> jax.Array:
    overlaps = jnp.sum(jnp.conj(left) * right, axis=-2)
    singular = jnp.abs(overlaps) <= _singular_below(left)
    scales = safe_divide(1, overlaps, where=~singular, otherwise=0)
    return scales[..., :, None] * adjoint(left)


def _inverse_by_blocks(left: jax.Array, right: jax.Array, inside: jax.Array) -> jax.Array:
    overlaps = product(adjoint(left), right)
    factors, _, order = jax.lax.linalg.lu(jnp.where(inside, overlaps, jnp.zeros_like(overlaps)))
    singular = jnp.abs(diagonal(factors)) <= _singular_below(left)
    # A pivot of one keeps the rows of the other clusters finite, because the blocks are not coupled.
    on_diagonal = jnp.broadcast_to(jnp.eye(left.shape[-1], dtype=bool), factors.shape)
    factors = jnp.where(on_diagonal & singular[..., None, :], jnp.ones_like(factors), factors)
    rows = jnp.take_along_axis(adjoint(left), order[..., :, None], axis=-2)
    solve = functools.partial(jax.lax.linalg.triangular_solve, factors, left_side=True)
    inverse = solve(b=solve(b=rows, lower=True, unit_diagonal=True), lower=False)
    touched = singular | jnp.any(inside & singular[..., None, :], axis=-1)
    return jnp.where(touched[..., :, None], jnp.zeros_like(inverse), inverse)


def _singular_below(left: jax.Array) -> float:
    return _DEFECTIVE * float(jnp.finfo(left.dtype).eps)


def normalized(vectors: jax.Array) -> jax.Array:
    """Normalize columns to unit norm, with the component of largest modulus real and positive."""
    squares = jnp.real(vectors) ** 2 + jnp.imag(vectors) ** 2
    length = jnp.sqrt(jnp.sum(squares, axis=-2, keepdims=True))
    return vectors * (phases_of_columns(vectors) / length.astype(vectors.dtype))
