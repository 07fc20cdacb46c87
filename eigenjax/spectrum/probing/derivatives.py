"""First derivatives of traces of functions, from the Krylov spaces of the estimate itself.

With A V ~ V T, T = S diag(theta) S^T from m Lanczos steps, the derivative of a quadratic form q^H f(A) q is

    sum_ij s_1i f[theta_i, theta_j] s_1j <V s_i, dA V s_j>  =  sum_k c_k <z_k, dA z_k>

with the divided differences f[x, y] = (f(x) - f(y)) / (x - y), and c, z the eigenpairs of the matrix of coefficients.
For smooth functions their sizes fall like a geometric series, by a factor of about ten from one to the next: for the
logarithm, whose divided difference is the integral of 1 / ((x + t) (y + t)) over t > 0, and with condition numbers to
1e6 the seventh is below 1e-6 of the first. A probe therefore costs a few products with dA, not m of them. In reverse
mode dA is the adjoint of the matvec in the parameters of the operator.

The term <f'(A) q, dA q>, of one product, has the same mean, but a larger variance: it weighs dA between x_i and x_j by
(f'(x_i) + f'(x_j)) / 2.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.operators.functions.captured import CapturedFunction
from eigenjax.spectrum.probing.deflation import DeflatedPairs
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree

# Products with dA for each probe; the next term is below 1e-6 of the first, far below the random error.
PRODUCTS = 6
# Values nearer than this power of eps times the larger one have a divided difference by Simpson's rule for f'. Its
# error is of the fourth order in the distance, and the cancellation of the quotient is eps^(3/4).
_NEAR_POWER = 0.25


@jax.custom_jvp
def slope(op: LinearOperator, factor: jax.Array, vector: PyTree) -> jax.Array:
    """Return zero, with the derivative of c <z, A z> in A for a number c and a vector z held constant."""
    del op, vector
    return batched_zeros(factor)


@slope.defjvp
def _(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    op, factor, vector = primals
    _, change = jax.jvp(lambda op: matvec(op, vector), (op,), (tangents[0],))
    return slope(op, factor, vector), factor * tree.inner(vector, change).real


def batched_zeros(x: jax.Array) -> jax.Array:
    """Return zeros that are no constant: under vmap a value has to be batched like its derivative."""
    return jnp.where(x == 0, x, jnp.zeros_like(x))


def slopes(op: LinearOperator, factors: jax.Array, vectors: PyTree) -> jax.Array:
    """Return the sum of the slopes of several vectors, one after another."""
    return jnp.sum(jax.lax.map(lambda row: slope(op, *row), (factors, vectors)))


def frozen(name: str, x: Any) -> Any:
    """Return a pytree as a constant for the first derivative; a second one raises an error that names the function."""
    return jax.lax.stop_gradient(differentiable_once(name, x))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def differentiable_once(name: str, x: Any) -> Any:
    """Return a pytree whose second derivative raises a NotImplementedError that names the function."""
    del name
    return x


@differentiable_once.defjvp
def _(name: str, primals: tuple, tangents: tuple) -> tuple[Any, Any]:
    return not_differentiable(first_only(name), primals[0]), tangents[0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def not_differentiable(message: str, x: Any) -> Any:
    """Return a pytree, whose derivative raises a NotImplementedError with this message."""
    del message
    return x


@not_differentiable.defjvp
def _(message: str, _primals: tuple, _tangents: tuple) -> tuple[Any, Any]:
    raise NotImplementedError(message)


def first_only(name: str) -> str:
    """Format the message for a second derivative of a function."""
    return (
        f"{name} has first derivatives only, because its Krylov spaces are constants of the gradient: for a second "
        "derivative write the function of a dense matrix, eigenjax.to_dense(op), with jax.numpy"
    )


def terms(
    values: jax.Array, first_row: jax.Array, valid: jax.Array, vectors: jax.Array, f: Callable
) -> tuple[jax.Array, jax.Array]:
    """Compute the largest coefficients c (r,), and the vectors z in columns (m, r) in the basis of the Krylov space.

    Args:
        values: (m,) Ritz values theta.
        first_row: (m,) s_1.
        valid: (m,) bool, the Ritz values with weight.
        vectors: (m, m) S.
        f: function of (m,) values.
    """
    weights = jnp.where(valid, first_row, 0)
    matrix = weights[:, None] * divided_differences(f, values, values) * weights[None]
    # An infinite value of f without weight must not spoil the matrix.
    coefficients, columns = jnp.linalg.eigh(jnp.where(weights[:, None] * weights[None] == 0, 0, matrix))
    _, largest = jax.lax.top_k(jnp.abs(coefficients), min(PRODUCTS, values.shape[0]))
    return coefficients[largest], jnp.matmul(vectors, columns[:, largest], precision=jax.lax.Precision.HIGHEST)


def divided_differences(f: Callable, first: jax.Array, second: jax.Array) -> jax.Array:
    """Compute the (m, m) matrix (f(x_i) - f(y_j)) / (x_i - y_j), for f of arrays of the shape (m,)."""
    x, y = first[:, None], second[None]
    distance = x - y
    is_near = jnp.abs(distance) <= jnp.finfo(first.dtype).eps ** _NEAR_POWER * jnp.maximum(jnp.abs(x), jnp.abs(y))
    quotient = (f(first)[:, None] - f(second)[None]) / jnp.where(is_near, 1, distance)
    middle = jax.vmap(lambda row: derivative_of(f, row))((x + y) / 2)
    ends = derivative_of(f, first)[:, None] + derivative_of(f, second)[None]
    return jnp.where(is_near, (ends + 4 * middle) / 6, quotient)


def derivative_of(f: Callable, values: jax.Array) -> jax.Array:
    """Compute f' at each value, for f elementwise."""
    return jax.jvp(f, (values,), (jnp.ones_like(values),))[1]


def slope_of_pairs(op: LinearOperator, f: CapturedFunction, pairs: DeflatedPairs) -> jax.Array:
    """Return zero with the derivative of the sum of f over known eigenvalues, f'(lambda) <x, dA x> for each."""
    derivatives = jnp.where(pairs.mass > 0, derivative_of(f, pairs.values), 0)
    return slopes(op, derivatives, pairs.vectors)
