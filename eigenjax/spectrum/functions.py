"""Functions of a symmetric operator times a vector.

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
from eigenjax.arguments import check_int, check_number
from eigenjax.calls import explained
from eigenjax.operators.base import LinearOperator
from eigenjax.operators.convert import as_operator
from eigenjax.operators.packed import packed, packed_operator, packing_used, unpacked
from eigenjax.solvers.convergence.status import tolerance
from eigenjax.solvers.start import given_start
from eigenjax.solvers.symmetric.lanczos import LanczosState
from eigenjax.spectrum.probing.quadrature import first_column, follow, held_back, steps_before_breakdown
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
    op: Any, f: Callable[[jax.Array], jax.Array], v: PyTree, *, krylov_dim: int = 80, tol: Any = None, like: Any = None
) -> FunctionResult:
    """Compute a function of a symmetric operator times a vector, f(A) v = sum_i f(lambda_i) x_i <x_i, v>, by Lanczos.

        f(A) v ~ ||v|| V f(T) e_1,    A V ~ V T

    Exact once the Krylov space of v is exhausted. Otherwise the error is that of the best polynomial approximation of f
    with degree m - 1 on the spectrum. Smooth functions such as exp take a few steps; sqrt and log take about the root
    of the condition number.

    Args:
        op: whatever `as_operator` takes, symmetric or Hermitian; a bare callable takes vectors like v, or `like`.
        f: function of an array of eigenvalues, elementwise. Complex values need a complex v.
        v: a vector of the operator.
        krylov_dim: m, number of steps, static; at most n are taken.
        tol: tolerance for `converged`, relative to the norm of the result; None is sqrt(eps).
        like: for a bare callable, the vectors that it takes: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        The vector, with an estimate of its error. NaN and not converged if a value of f or a matvec is not finite.

    Raises:
        ValueError: if krylov_dim is less than 1, v does not fit, or f does not keep the shape.
        TypeError: if krylov_dim is not an int, or f has complex values and v real ones.

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
    check_number("matrix_function", "tol", tol, least=0, remedy=TOL_REMEDY)
    start = given_start(op, v)
    op = packed_operator(op, start)
    start = packed(start, packing_used(op))
    state = _krylov_space(op, start, krylov_dim=min(krylov_dim, op.size))
    count = steps_before_breakdown(state)
    length = tree.norm(start)
    coefficients, size = first_column(state, count, f)
    before, _ = first_column(state, held_back(count, state.diagonal.shape[0]), f)
    if jnp.iscomplexobj(coefficients) and not jnp.issubdtype(op.dtype, jnp.complexfloating):
        raise TypeError(f"f has complex values, and the operator's vectors are {op.dtype}: make the operator complex")
    vector = tree.scale(length, tree.combine(coefficients, state.basis))
    rounding = _FUNCTION_ROUNDING * jnp.finfo(length.dtype).eps * size
    # The error after one step is unknown, unless the step exhausts the space.
    alone = (count == 1) & (state.offdiagonal[0] != 0)
    change = jnp.where(alone, jnp.inf, tree.norm(coefficients - before))
    error = jnp.where(length == 0, 0, length * jnp.hypot(change, rounding))
    vector = tree.where(length == 0, jax.tree.map(jnp.zeros_like, vector), vector)
    norm = tree.norm(vector)
    converged = (error <= tolerance(tol, norm.dtype) * norm) & jnp.isfinite(norm)
    return FunctionResult(
        unpacked(vector, packing_used(op)), error, converged, jnp.int32(state.diagonal.shape[0]), status_of(norm)
    )


@functools.partial(jax.jit, static_argnames=("krylov_dim",))
def _krylov_space(op: LinearOperator, start: PyTree, *, krylov_dim: int) -> LanczosState:
    return follow(op, start, krylov_dim, seed_of(None))
