"""Functions of an operator times a vector.

    f(A) = X f(Lambda) X^H,    f(A) v ~ ||v|| V f(T) e_1

with A V ~ V T from m steps of Lanczos from v (Golub and Meurant 2010). The error is estimated by the change over the
last fifth of the steps.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax import printing
from eigenjax.arguments import check_bool, check_int, check_number
from eigenjax.calls import explained
from eigenjax.krylov.general.krylov_space import krylov_space
from eigenjax.operators.base import LinearOperator
from eigenjax.operators.complexified import ComplexifiedOperator, is_real
from eigenjax.operators.convert import as_operator
from eigenjax.operators.packed import packed, packed_operator, packing_used, unpacked
from eigenjax.solvers.convergence.status import tolerance
from eigenjax.solvers.start import given_vector, vector_of
from eigenjax.solvers.symmetric.lanczos import LanczosState
from eigenjax.spectrum.general_functions import general_column, without_gaps
from eigenjax.spectrum.probing.quadrature import (
    first_column,
    follow,
    held_back,
    steps_before_breakdown,
    steps_held_back,
)
from eigenjax.spectrum.status import EstimateStatus, status_of
from eigenjax.vectors import tree
from eigenjax.vectors.pseudorandom import seed_of
from eigenjax.vectors.tree import PyTree

# Rounding error of the Ritz values and of the sum over the basis: about c * eps times the largest |f|.
_FUNCTION_ROUNDING = 10.0

TOL_REMEDY = "give a number from 0 up, relative to the norm of the result"


class FunctionResult(NamedTuple):
    """Vector f(A) v with an estimate of its error."""

    vector: PyTree
    """A vector of the operator, in its working dtypes."""
    error_estimate: jax.Array
    """() estimate of the norm of the error: the change over the last fifth of the steps."""
    converged: jax.Array
    """() bool: the error estimate is at most tol times the norm of the vector."""
    num_matvecs: jax.Array
    """() int32, number of matvecs."""
    status: jax.Array | int = int(EstimateStatus.ESTIMATED)
    """() int32, an `EstimateStatus`."""

    __repr__ = printing.short_repr


@explained
def matrix_function(
    op: Any,
    f: Callable[[jax.Array], jax.Array],
    v: PyTree,
    *,
    krylov_dim: int = 80,
    tol: Any = None,
    symmetric: bool = True,
    like: Any = None,
) -> FunctionResult:
    """Compute a function of an operator times a vector, f(A) v = sum_i f(lambda_i) x_i <y_i, v>, by Lanczos or Arnoldi.

        f(A) v ~ ||v|| V f(T) e_1,    A V ~ V T

    Exact to rounding once the Krylov space of v is exhausted. Otherwise the error is that of the best polynomial
    approximation of f with degree m - 1 on the spectrum. Smooth functions such as exp take a few steps; sqrt and log
    take about the root of the condition number.

    Args:
        op: whatever `as_operator` takes; a bare callable takes vectors like v, or `like`.
        f: function of an array of eigenvalues, elementwise. Complex values need a complex v. With symmetric=False the
            array is complex, f analytic, and for a real operator f(conj z) = conj f(z).
        v: a vector of the operator.
        krylov_dim: m, number of steps, static; at most n are taken.
        tol: tolerance for `converged`, relative to the norm of the result; None is sqrt(eps).
        symmetric: A is symmetric or Hermitian, static. False for any other operator; `expm_multiply` is then better for
            the exponential. A wrong True is not noticed and gives a wrong result: `symmetry_error` tells.
        like: for a bare callable, the vectors that it takes: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        The vector, with an estimate of its error. For symmetric=False the estimate includes rounding times the
        condition number of the eigenvectors in the Krylov space: it is large if the operator is far from normal. NaN
        and not converged if a value of f or a matvec is not finite.

    Raises:
        ValueError: if krylov_dim is less than 1, v does not fit, or f does not keep the shape.
        TypeError: if krylov_dim is not an int, symmetric not a bool, or f has complex values and v real ones.

    Cost: m matvecs, m + 4 vectors of memory. Not differentiable in reverse mode.

    Example:
        >>> import jax.numpy as jnp
        >>> found = matrix_function(jnp.diag(jnp.arange(1.0, 51.0)), jnp.sqrt, jnp.ones(50), krylov_dim=40)
        >>> print(jnp.abs(found.vector - jnp.sqrt(jnp.arange(1.0, 51.0))).max() < 1e-3, found.converged)
        True True

    Source: Druskin and Knizhnerman (1989); Saad (1992).
    """
    op = as_operator(op, like=v if like is None else like)
    krylov_dim = check_int(None, "krylov_dim", krylov_dim)
    check_bool("matrix_function", "symmetric", symmetric)
    check_number("matrix_function", "tol", tol, least=0, remedy=TOL_REMEDY)
    op, start = operator_and_vector(op, v)
    op = packed_operator(op, start)
    start = packed(start, packing_used(op))
    krylov_dim = min(krylov_dim, op.size)
    length = tree.norm(start)
    column = _symmetric_column if symmetric else _general_column
    basis, coefficients, change, size = column(op, start, f, krylov_dim)
    if jnp.iscomplexobj(coefficients) and not jnp.issubdtype(op.dtype, jnp.complexfloating):
        raise TypeError(f"f has complex values, and the operator's vectors are {op.dtype}: make the operator complex")
    vector = tree.scale(length, tree.combine(coefficients, basis))
    rounding = _FUNCTION_ROUNDING * jnp.finfo(length.dtype).eps * size
    error = jnp.where(length == 0, 0, length * jnp.hypot(change, rounding))
    vector = tree.where(length == 0, jax.tree.map(jnp.zeros_like, vector), vector)
    norm = tree.norm(vector)
    converged = (error <= tolerance(tol, norm.dtype) * norm) & jnp.isfinite(norm)
    return FunctionResult(unpacked(vector, packing_used(op)), error, converged, jnp.int32(krylov_dim), status_of(norm))


def operator_and_vector(op: LinearOperator, v: PyTree) -> tuple[LinearOperator, PyTree]:
    """Return a vector in the working dtypes of its operator; a real operator acts on both parts of a complex vector."""
    v = vector_of(v)
    is_complex = [jnp.issubdtype(jnp.result_type(x), jnp.complexfloating) for x in jax.tree.leaves(v)]
    if any(is_complex) and all(is_complex) and is_real(op.structure):
        op = ComplexifiedOperator(op)
    return op, given_vector(v, op.structure, name="v")


class _Column(NamedTuple):
    """Approximation of f(A) v / ||v|| in a Krylov space."""

    basis: PyTree  # (m, ...)
    coefficients: jax.Array  # (m,)
    change: jax.Array  # () over the last fifth of the steps
    size: jax.Array  # () the factor of the rounding error


def _symmetric_column(op: LinearOperator, start: PyTree, f: Callable, krylov_dim: int) -> _Column:
    state = _lanczos_space(op, start, krylov_dim=krylov_dim)
    count = steps_before_breakdown(state)
    coefficients, size = first_column(state, count, f)
    before, _ = first_column(state, held_back(count, krylov_dim), f)
    # The error after one step is unknown, unless the step exhausts the space.
    alone = (count == 1) & (state.offdiagonal[0] != 0)
    return _Column(state.basis, coefficients, jnp.where(alone, jnp.inf, tree.norm(coefficients - before)), size)


def _general_column(op: LinearOperator, start: PyTree, f: Callable, krylov_dim: int) -> _Column:
    space = _arnoldi_space(op, start, krylov_dim)
    matrix = without_gaps(space)
    coefficients, separation, size = general_column(matrix, f)
    fewer = steps_held_back(krylov_dim)
    before, _, _ = general_column(matrix[:fewer, :fewer], f)
    change = jnp.linalg.norm(coefficients.at[:fewer].add(-before))
    # An invariant space has no error; the error after one step is unknown.
    change = separation + jnp.where(space.coupling == 0, 0, jnp.where(fewer == krylov_dim, jnp.inf, change))
    if jnp.issubdtype(op.dtype, jnp.complexfloating):
        return _Column(space.basis, coefficients, change, size)
    # The imaginary parts of conjugate pairs cancel, if f(conj z) = conj f(z).
    return _Column(space.basis, coefficients.real, jnp.hypot(change, jnp.linalg.norm(coefficients.imag)), size)


@functools.partial(jax.jit, static_argnames=("krylov_dim",))
def _lanczos_space(op: LinearOperator, start: PyTree, *, krylov_dim: int) -> LanczosState:
    return follow(op, start, krylov_dim, seed_of(None))


_arnoldi_space = jax.jit(krylov_space, static_argnums=2)
