"""Functions of a symmetric operator: f(A) v, and the traces of f(A).

    f(A) = X f(Lambda) X^H,    f(A) v ~ ||v|| V f(T) e_1,    tr f(A) ~ n mean over probes q of sum_i w_i f(theta_i)

with A V ~ V T from m steps of Lanczos from v, or from q (Golub and Meurant 2010). How far m steps suffice is told by
what the last fifth of them has changed.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax import tree
from eigenjax.operators.base import LinearOperator
from eigenjax.operators.convert import as_operator
from eigenjax.result import EigenResult
from eigenjax.solvers.judgement import tolerance
from eigenjax.solvers.lanczos import LanczosState
from eigenjax.solvers.start import given_start, seed_of
from eigenjax.spectrum.deflation import known_pairs
from eigenjax.spectrum.probes import check_key, checked_int, checked_ints, mean_and_error
from eigenjax.spectrum.quadrature import (
    follow,
    gauss_quadrature,
    held_back,
    ritz_pairs,
    steps_before_breakdown,
    tridiagonals,
)
from eigenjax.spectrum.trace import TraceResult, exact, hutch_plus_plus
from eigenjax.tree import PyTree

# The Ritz values and the sum over the basis are right to about so many units of rounding of the largest |f|.
_ROUNDING = 10.0


class FunctionResult(NamedTuple):
    """f(A) v, and what is known of it."""

    vector: PyTree
    """A vector of the operator, in its working dtypes."""
    error_estimate: jax.Array
    """() of the norm of the error: what the last fifth of the steps has changed."""
    converged: jax.Array
    """() bool: the error estimate is at most tol times the norm of the vector."""
    num_matvecs: jax.Array
    """() int32, products spent."""


def matrix_function(
    op: Any, f: Callable[[jax.Array], jax.Array], v: PyTree, *, krylov_dim: int = 80, tol: Any = None, like: Any = None
) -> FunctionResult:
    """The function of a symmetric operator times a vector, f(A) v = sum_i f(lambda_i) x_i <x_i, v>, by Lanczos.

        f(A) v ~ ||v|| V f(T) e_1,    A V ~ V T

    Exact once v's Krylov space is exhausted, and otherwise as good as f has a polynomial of degree m - 1 on the
    spectrum: exp and smooth functions take a few steps, sqrt and log about the root of the condition number.

    Args:
        op: whatever `as_operator` takes, symmetric or Hermitian; a bare callable takes vectors like v, or `like`.
        f: of an array of eigenvalues, elementwise. Complex values need a complex v.
        v: a vector of the operator.
        krylov_dim: m, steps, static; more than n is n.
        tol: for `converged`, relative to the norm of the result; None is the root of the machine epsilon.
        like: for a bare callable, the vectors that it takes: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        The vector, with an estimate of its error. NaN, and not converged, where f or a product is not finite.

    Raises:
        ValueError: if krylov_dim is less than 1, v does not fit, or f does not keep the shape.
        TypeError: if krylov_dim is no int, or f has complex values and v real ones.

    Cost: m products, m + 4 vectors of memory. Not differentiable in reverse mode.

    Example:
        >>> import jax.numpy as jnp
        >>> found = matrix_function(jnp.diag(jnp.arange(1.0, 51.0)), jnp.sqrt, jnp.ones(50), krylov_dim=40)
        >>> print(jnp.abs(found.vector - jnp.sqrt(jnp.arange(1.0, 51.0))).max() < 1e-3, found.converged)
        True True

    Source: Druskin and Knizhnerman (1989); Saad (1992).
    """
    op = as_operator(op, like=v if like is None else like)
    krylov_dim = checked_int("krylov_dim", krylov_dim)
    start = given_start(op, v)
    state = _krylov_space(op, start, krylov_dim=min(krylov_dim, op.size))
    count = steps_before_breakdown(state)
    length = tree.norm(start)
    coefficients, size = _first_column(state, count, f)
    before, _ = _first_column(state, held_back(count, state.diagonal.shape[0]), f)
    if jnp.iscomplexobj(coefficients) and not jnp.issubdtype(op.dtype, jnp.complexfloating):
        raise TypeError(f"f has complex values, and the operator's vectors are {op.dtype}: make the operator complex")
    vector = tree.scale(length, tree.combine(coefficients, state.basis))
    rounding = _ROUNDING * jnp.finfo(length.dtype).eps * size
    # Of one step nothing is known, unless it was the last.
    alone = (count == 1) & (state.offdiagonal[0] != 0)
    change = jnp.where(alone, jnp.inf, tree.norm(coefficients - before))
    error = jnp.where(length == 0, 0, length * jnp.hypot(change, rounding))
    vector = tree.where(length == 0, jax.tree.map(jnp.zeros_like, vector), vector)
    norm = tree.norm(vector)
    converged = (error <= tolerance(tol, norm.dtype) * norm) & jnp.isfinite(norm)
    return FunctionResult(vector, error, converged, jnp.int32(state.diagonal.shape[0]))


def trace_of_function(
    op: Any,
    f: Callable[[jax.Array], jax.Array],
    *,
    key: jax.Array,
    num_probes: int = 10,
    krylov_dim: int = 80,
    deflate: EigenResult | None = None,
    probe_batch: int = 1,
    like: PyTree = None,
) -> TraceResult:
    """The trace of a function of a symmetric operator, tr f(A) = sum_i f(lambda_i), by stochastic Lanczos quadrature.

        tr f(A) ~ sum over known pairs of f(lambda_i)  +  (n - k) mean over probes of sum_i w_i f(theta_i)

    Args:
        op: whatever `as_operator` takes. Symmetric or Hermitian.
        f: of an array of eigenvalues, real, elementwise.
        key: typed key of the probes.
        num_probes: p, static. More of them against chance.
        krylov_dim: m, steps from each, static; more than n is n. More of them where f is not smooth on the spectrum.
        deflate: eigenpairs known, as `eigsh` returns them; those that have converged count as they are, without chance.
        probe_batch: probes at once (by vmap), static: each holds a basis.
        like: for a bare callable, the vectors that it takes: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        The estimate. Its standard error holds the spread over the probes and, as far as it shows, what m steps fall
        short of: by how much the last fifth of them has changed the estimate.

    Raises:
        ValueError: if num_probes, krylov_dim or probe_batch is less than 1.
        TypeError: if they are no ints, `key` is no typed key, or `deflate` no `EigenResult`.

    Cost: p m products; m + 4 vectors of memory for each of the probes at once. Not differentiable in reverse mode.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> values = jnp.linspace(1.0, 2.0, 200)
        >>> found = trace_of_function(jnp.diag(values), jnp.exp, key=jax.random.key(0), krylov_dim=10)
        >>> print(jnp.abs(found.estimate - jnp.exp(values).sum()) < 4 * found.standard_error, found.num_matvecs)
        True 100

    Source: Ubaru, Chen and Saad (2017), Fast estimation of tr(f(A)) via stochastic Lanczos quadrature.
    """
    op = as_operator(op, like=like)
    check_key(key)
    num_probes, krylov_dim, probe_batch = checked_ints(
        num_probes=num_probes, krylov_dim=krylov_dim, probe_batch=probe_batch
    )
    known = known_pairs(op, deflate)
    krylov_dim = min(krylov_dim, op.size)
    states = tridiagonals(op, key, known, num_probes=num_probes, krylov_dim=krylov_dim, probe_batch=probe_batch)
    quadrature = jax.vmap(lambda state, count: _quadratic_form(state, count, f))
    counts = jax.vmap(steps_before_breakdown)(states)
    forms = quadrature(states, counts)
    rest, there = jnp.asarray(op.size, forms.dtype), jnp.zeros((), forms.dtype)
    if known is not None:
        rest = rest - jnp.sum(known.mass)
        there = jnp.sum(jnp.where(known.mass > 0, f(known.values), 0))
    mean, error = mean_and_error(forms, jnp.finfo(forms.dtype).eps * jnp.abs(jnp.mean(forms)))
    change = jnp.abs(mean - jnp.mean(quadrature(states, jax.vmap(held_back, (0, None))(counts, krylov_dim))))
    return TraceResult(there + rest * mean, rest * jnp.hypot(error, change), jnp.int32(num_probes * krylov_dim))


def logdet(
    op: Any,
    *,
    key: jax.Array,
    num_probes: int = 10,
    krylov_dim: int = 80,
    deflate: EigenResult | None = None,
    probe_batch: int = 1,
    like: PyTree = None,
) -> TraceResult:
    """The logarithm of the determinant of a positive definite operator, log det A = tr log A.

    The logarithm is steep at zero: an ill-conditioned operator takes steps by the root of its condition number, and
    gains by `deflate` of its smallest eigenvalues.

    Args:
        op: as of `trace_of_function`; positive definite.
        key: as there.
        num_probes: as there.
        krylov_dim: as there.
        deflate: as there.
        probe_batch: as there.
        like: as there.

    Returns:
        As there. A Ritz value below zero shows that the operator is not positive definite (or singular, to rounding):
        the estimate is then NaN, and with one that is zero -inf.

    Raises:
        ValueError, TypeError: as there.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> values = jnp.linspace(1.0, 5.0, 200)
        >>> found = logdet(jnp.diag(values), key=jax.random.key(0), krylov_dim=20)
        >>> print(jnp.abs(found.estimate - jnp.log(values).sum()) < 4 * found.standard_error)
        True

    Source: Ubaru, Chen and Saad (2017).
    """
    options = {"num_probes": num_probes, "krylov_dim": krylov_dim, "deflate": deflate, "probe_batch": probe_batch}
    return trace_of_function(op, jnp.log, key=key, like=like, **options)


def frobenius_norm(
    op: Any, *, key: jax.Array, num_matvecs: int = 100, probe_batch: int = 1, like: PyTree = None
) -> TraceResult:
    """The Frobenius norm of an operator, the root of the sum of the squares of its entries.

        ||A||_F^2 = ||A Q||_F^2 + ||A (I - Q Q^H)||_F^2

    with Q the range of A times a third of the probes, and the second part from the lengths of A times random vectors
    outside of it. A budget of n or more is spent on n unit vectors, and the norm is exact.

    Args:
        op: whatever `as_operator` takes; symmetric or not.
        key: typed key of the probes.
        num_matvecs: products to spend, static; exactly these are spent, or n if that is less.
        probe_batch: products at once (by vmap), static.
        like: for a bare callable, the vectors that it takes: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        The norm; its square is what is unbiased.

    Raises:
        ValueError: if num_matvecs is less than 3.
        TypeError: if it is no int, or `key` no typed key.

    Cost: num_matvecs products; two thirds as many vectors. Differentiable in the operator, in both modes.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> matrix = jnp.diag(1 / jnp.arange(1.0, 301.0))
        >>> found = frobenius_norm(matrix, key=jax.random.key(0), num_matvecs=60)
        >>> print(jnp.abs(found.estimate - jnp.linalg.norm(matrix)) < 1e-2)
        True

    Source: Meyer, Musco, Musco and Woodruff (2021), Hutch++, for A^H A.
    """
    op = as_operator(op, like=like)
    check_key(key)
    num_matvecs, probe_batch = checked_int("num_matvecs", num_matvecs, 3), checked_int("probe_batch", probe_batch)
    return _frobenius_norm(op, key, num_matvecs=num_matvecs, probe_batch=probe_batch)


@functools.partial(jax.jit, static_argnames=("num_matvecs", "probe_batch"))
def _frobenius_norm(op: LinearOperator, key: jax.Array, *, num_matvecs: int, probe_batch: int) -> TraceResult:
    square = lambda _, image: tree.inner(image, image).real
    if num_matvecs >= op.size:
        squared = exact(op, square, probe_batch)
    else:
        squared = hutch_plus_plus(op, key, num_matvecs, square, probe_batch)
    norm = jnp.sqrt(squared.estimate)
    # d sqrt(x) = dx / (2 sqrt(x))
    error = jnp.where(norm > 0, squared.standard_error / jnp.where(norm > 0, 2 * norm, 1), squared.standard_error)
    return TraceResult(norm, error, squared.num_matvecs)


@functools.partial(jax.jit, static_argnames=("krylov_dim",))
def _krylov_space(op: LinearOperator, start: PyTree, *, krylov_dim: int) -> LanczosState:
    return follow(op, start, krylov_dim, seed_of(None))


def _first_column(state: LanczosState, count: jax.Array, f: Callable) -> tuple[jax.Array, jax.Array]:
    """f(T) e_1 (m,) of the first rows of T, and the largest |f|."""
    values, vectors, valid = ritz_pairs(state, count)
    images = _checked_values(f, values)
    weights = jnp.where(valid, images * vectors[0].astype(images.dtype), 0)
    column = jnp.matmul(vectors.astype(images.dtype), weights, precision=jax.lax.Precision.HIGHEST)
    return column, jnp.max(jnp.abs(images))


def _quadratic_form(state: LanczosState, count: jax.Array, f: Callable) -> jax.Array:
    """sum_i w_i f(theta_i); what has no weight does not count, were f infinite there."""
    nodes, weights, _ = gauss_quadrature(state, count)
    images = _checked_values(f, nodes)
    if jnp.iscomplexobj(images):
        raise TypeError("f has complex values: take the traces of its real and imaginary parts, one by one")
    return jnp.sum(jnp.where(weights > 0, weights * images, 0))


def _checked_values(f: Callable, nodes: jax.Array) -> jax.Array:
    images = jnp.asarray(f(nodes))
    if images.shape != nodes.shape:
        raise ValueError(f"f gave the shape {images.shape} for eigenvalues of the shape {nodes.shape}: act elementwise")
    return images.astype(jax.lax.complex(nodes, nodes).dtype if jnp.iscomplexobj(images) else nodes.dtype)
