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
from eigenjax.implicit.program import explain_forward_mode
from eigenjax.implicit.systems.tangents import symmetrized
from eigenjax.krylov.general.schur import complex_dtype
from eigenjax.operators.base import LinearOperator, conjugated
from eigenjax.operators.complexified import ComplexifiedOperator, is_real
from eigenjax.operators.convert import as_operator
from eigenjax.operators.functions.captured import CapturedFunction, capture
from eigenjax.operators.packed import packed, packed_operator, packing_used, unpacked
from eigenjax.solvers.convergence.status import tolerance
from eigenjax.solvers.start import given_vector, vector_of
from eigenjax.spectrum.function_adjoint import Space, general_space, pullback, symmetric_space
from eigenjax.spectrum.general_functions import eigendecompositions, general_column
from eigenjax.spectrum.probing.derivatives import first_only, not_differentiable
from eigenjax.spectrum.probing.quadrature import (
    checked_values,
    first_column,
    held_back,
    steps_before_breakdown,
    steps_held_back,
)
from eigenjax.spectrum.status import EstimateStatus, status_of
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree

_DERIVATIVES = ("reverse", "forward")
# Rounding error of the Ritz values and of the sum over the basis: about c * eps times the largest |f|.
_FUNCTION_ROUNDING = 10.0

TOL_REMEDY = "give a number from 0 up, relative to the norm of the result"


class FunctionResult(NamedTuple):
    """Vector f(A) v with an estimate of its error.

    Example:
        >>> found = matrix_function(jnp.diag(jnp.array([1.0, 4.0])), jnp.sqrt, jnp.ones(2))
        >>> print(found.vector.round(4), found.converged, found.num_matvecs)
        [1. 2.] True 2
    """

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
    derivative: str = "reverse",
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
            the exponential. A wrong True is not detected and gives a wrong result: check with `symmetry_error`.
        like: for a bare callable, the vectors that it takes: a pytree of arrays or of `jax.ShapeDtypeStruct`.
        derivative: "reverse" for `jax.grad`, or "forward" for `jax.jvp` and `jax.jacfwd`, which differentiate the
            Lanczos steps and need symmetric=True; static.

    Returns:
        The vector, with an estimate of its error. It is differentiable once, in A, v and the arrays that f reads; the
        estimate is a constant. For symmetric=False the estimate includes rounding times the
        condition number of the eigenvectors in the Krylov space: it is large if the operator is far from normal. NaN
        and not converged if a value of f or a matvec is not finite.

    Raises:
        ValueError: if krylov_dim is less than 1, v does not fit, f does not keep the shape, or derivative is unknown.
        TypeError: if krylov_dim is not an int, symmetric not a bool, or f has complex values and v real ones.

    Cost: m matvecs, m + 4 vectors of memory. A gradient takes m more matvecs, with A^H if symmetric=False, and about
    ten products with the adjoint of dA, in 2 m vectors; m vectors are stored from the forward pass.

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
    if derivative not in _DERIVATIVES:
        raise ValueError(f"derivative={derivative!r}: choose {' or '.join(map(repr, _DERIVATIVES))}")
    if derivative == "forward" and not symmetric:
        raise ValueError("derivative='forward' needs symmetric=True: for other operators take jax.grad")
    op, start = operator_and_vector(op, v)
    op = packed_operator(op, start)
    start = packed(start, packing_used(op))
    method = _Method(min(krylov_dim, op.size), symmetric)
    values = _captured(f, op, method)
    run = _forward_mode if derivative == "forward" else _function
    try:
        parts: Any = run(method, op, values, start)
    except TypeError as error:
        explain_forward_mode(matrix_function, (op, values, start), error)
        raise
    vector, (length, change) = parts
    norm = tree.norm(vector)
    error = jnp.where(length == 0, 0, length * change)
    converged = (error <= tolerance(tol, norm.dtype) * norm) & jnp.isfinite(norm)
    return FunctionResult(
        unpacked(vector, packing_used(op)), error, converged, jnp.int32(method.krylov_dim), status_of(norm)
    )


def operator_and_vector(op: LinearOperator, v: PyTree) -> tuple[LinearOperator, PyTree]:
    """Return a vector in the working dtypes of its operator; a real operator acts on both parts of a complex vector."""
    v = vector_of(v)
    is_complex = [jnp.issubdtype(jnp.result_type(x), jnp.complexfloating) for x in jax.tree.leaves(v)]
    if any(is_complex) and all(is_complex) and is_real(op.structure):
        op = ComplexifiedOperator(op)
    return op, given_vector(v, op.structure, name="v")


class _Method(NamedTuple):
    """Static options."""

    krylov_dim: int
    symmetric: bool


def _captured(f: Callable, op: LinearOperator, method: _Method) -> CapturedFunction:
    """Trace f at the eigenvalues of the projected matrices."""
    dtype = tree.accumulation_dtype(op.structure)
    m = method.krylov_dim
    if method.symmetric:
        counts, dtype = (m,), tree.real_dtype(dtype)
    else:
        counts, dtype = dict.fromkeys((m, steps_held_back(m))), complex_dtype(dtype)
    values = capture(
        lambda nodes: checked_values(f, nodes), [(jax.ShapeDtypeStruct((n,), dtype),) for n in counts], "f"
    )
    is_complex = method.symmetric and jnp.issubdtype(values.results[0].dtype, jnp.complexfloating)
    if is_complex and not jnp.issubdtype(op.dtype, jnp.complexfloating):
        raise TypeError(f"f has complex values, and the operator's vectors are {op.dtype}: make the operator complex")
    return values


class _Column(NamedTuple):
    """Approximation of f(A) v / ||v|| in a Krylov space."""

    coefficients: jax.Array  # (m,)
    change: jax.Array  # () over the last fifth of the steps, and rounding


def _solve(method: _Method, op: LinearOperator, f: CapturedFunction, start: PyTree) -> tuple[PyTree, Any, Space]:
    """Compute the vector, its norm with the error estimate, and the Krylov space."""
    space, column = (_symmetric if method.symmetric else _general)(op, f, start, method.krylov_dim)
    vector = tree.scale(space.length, tree.combine(column.coefficients, space.basis))
    vector = tree.where(space.length == 0, jax.tree.map(jnp.zeros_like, vector), vector)
    return vector, (space.length, column.change), space


def _symmetric(op: LinearOperator, f: Callable, start: PyTree, krylov_dim: int) -> tuple[Space, _Column]:
    space, state = symmetric_space(op, start, krylov_dim)
    count = steps_before_breakdown(state)
    coefficients, size = first_column(state, count, f)
    before, _ = first_column(state, held_back(count, krylov_dim), f)
    # The error after one step is unknown, unless the step exhausts the space.
    alone = (count == 1) & (state.offdiagonal[0] != 0)
    change = jnp.where(alone, jnp.inf, tree.norm(coefficients - before))
    # A basis of the whole space leaves no error.
    change = jnp.zeros_like(change) if krylov_dim == op.size else change
    return space, _Column(coefficients, _with_rounding(change, size))


def _general(op: LinearOperator, f: Callable, start: PyTree, krylov_dim: int) -> tuple[Space, _Column]:
    space, matrix, coupling = general_space(op, start, krylov_dim)
    coefficients, separation, size = general_column(space.decompositions, f)
    fewer = steps_held_back(krylov_dim)
    before, _, _ = general_column(eigendecompositions(matrix[:fewer, :fewer]), f)
    change = jnp.linalg.norm(coefficients.at[:fewer].add(-before))
    # An invariant space, or the whole one, has no error; the error after one step is unknown.
    is_invariant = (coupling == 0) | (krylov_dim == op.size)
    change = separation + jnp.where(is_invariant, 0, jnp.where(fewer == krylov_dim, jnp.inf, change))
    if not jnp.issubdtype(op.dtype, jnp.complexfloating):
        # The imaginary parts of conjugate pairs cancel, if f(conj z) = conj f(z).
        change = jnp.hypot(change, jnp.linalg.norm(coefficients.imag))
        coefficients = coefficients.real
    return space, _Column(coefficients, _with_rounding(change, size))


def _with_rounding(change: jax.Array, size: jax.Array) -> jax.Array:
    return jnp.hypot(change, _FUNCTION_ROUNDING * jnp.finfo(change.dtype).eps * size)


@functools.partial(jax.jit, static_argnums=0)
def _forward_mode(method: _Method, op: LinearOperator, f: CapturedFunction, start: PyTree) -> Any:
    return _solve(method, op, f, start)[:2]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _function(method: _Method, op: LinearOperator, f: CapturedFunction, start: PyTree) -> Any:
    return _forward_mode(method, op, f, start)


def _save(method: _Method, op: LinearOperator, f: CapturedFunction, start: PyTree) -> Any:
    op, f, start = not_differentiable(first_only("matrix_function"), (op, f, start))
    vector, estimates, space = _compiled_solve(method, op, f, start)
    return (vector, estimates), (op, f, space)


def _pull(method: _Method, saved: Any, cotangents: Any) -> Any:
    return _compiled_pull(method, *saved, cotangents[0])


_function.defvjp(_save, _pull)
_compiled_solve = jax.jit(_solve, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def _compiled_pull(
    method: _Method, op: LinearOperator, f: CapturedFunction, of_v: Space, cotangent: PyTree
) -> tuple[Any, Any, PyTree]:
    build = symmetric_space if method.symmetric else general_space
    of_w, *_ = build(op if method.symmetric else op.H, conjugated(cotangent), method.krylov_dim)
    of_op, of_f, of_start = pullback(op, f, of_v, of_w, cotangent)
    return symmetrized(of_op) if method.symmetric else of_op, of_f, of_start
