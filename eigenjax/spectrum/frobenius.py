"""Frobenius norm of an operator from matvecs with random vectors: Hutch++ for A^H A."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.arguments import check_int, check_key
from eigenjax.calls import explained
from eigenjax.operators.base import LinearOperator
from eigenjax.spectrum.probing.host import HostOperator, Plan, operator_or_host
from eigenjax.spectrum.probing.stages import CACHED, Estimator, Inputs, StageState, jitted, unit_stage
from eigenjax.spectrum.status import status_of
from eigenjax.spectrum.trace import TraceResult, combined, form_stages, forms_of
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import safe_divide
from eigenjax.vectors.tree import PyTree


@explained
def frobenius_norm(
    op: Any, *, key: jax.Array, num_matvecs: int = 100, probe_batch: int = 1, like: PyTree = None
) -> TraceResult:
    """Estimate the Frobenius norm of an operator, the root of the sum of the squares of its entries.

        ||A||_F^2 = ||A Q||_F^2 + ||A (I - Q Q^H)||_F^2

    with Q an orthonormal basis of the range of A times a third of the probes. The second term comes from the lengths of
    A times random vectors in the complement of Q. With a budget of n or more, n unit vectors give the exact norm.

    Args:
        op: whatever `as_operator` takes, or a `stream`; symmetric or not.
        key: typed key of the probes.
        num_matvecs: number of matvecs, static; exactly these are spent, or n if that is less.
        probe_batch: matvecs at once (by vmap), static; for a stream, the vectors in one pass over the data.
        like: for a bare callable, the vectors that it takes: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        The norm. Its square is the unbiased estimate. Squares neither overflow nor underflow, whatever the scale of the
        operator. The derivative of a norm of zero is zero.

    Raises:
        ValueError: if num_matvecs is less than 3.
        TypeError: if num_matvecs is not an int, or `key` is not a typed key.

    Cost: num_matvecs matvecs; two thirds as many vectors. Differentiable in the operator, in both modes.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> matrix = jnp.diag(1 / jnp.arange(1.0, 301.0))
        >>> found = frobenius_norm(matrix, key=jax.random.key(0), num_matvecs=60)
        >>> print(jnp.abs(found.estimate - jnp.linalg.norm(matrix)) < 1e-2)
        True

    Source: Meyer, Musco, Musco and Woodruff (2021), Hutch++, for A^H A.
    """
    op = operator_or_host(op, like)
    check_key(key)
    num_matvecs = check_int(None, "num_matvecs", num_matvecs, least=3)
    probe_batch = check_int(None, "probe_batch", probe_batch)
    if isinstance(op, HostOperator):
        options = {"num_matvecs": num_matvecs, "probe_batch": probe_batch}
        estimator = jitted(_estimator(op.size, num_matvecs))
        return op.estimated(Plan("frobenius_norm", estimator, Inputs(key), options))
    return _frobenius_norm(op, key, num_matvecs=num_matvecs, probe_batch=probe_batch)


@functools.partial(jax.jit, static_argnames=("num_matvecs", "probe_batch"))
def _frobenius_norm(op: LinearOperator, key: jax.Array, *, num_matvecs: int, probe_batch: int) -> TraceResult:
    return _estimator(op.size, num_matvecs).compute(op, Inputs(key), probe_batch)


@functools.lru_cache(maxsize=CACHED)
def _estimator(size: int, num_matvecs: int) -> Estimator:
    length = lambda _, image: _length(image)
    if num_matvecs >= size:
        return Estimator((unit_stage(size, length),), _exact)
    return Estimator(form_stages(num_matvecs, length), functools.partial(_estimated, num_matvecs=num_matvecs))


def _exact(op: LinearOperator, _inputs: Inputs, state: StageState) -> TraceResult:
    lengths = state.outputs[0]
    unit = _largest(lengths)
    return _root(unit, jnp.sum(jnp.square(lengths / unit)), jnp.zeros_like(unit), op.size)


def _estimated(op: LinearOperator, _inputs: Inputs, state: StageState, *, num_matvecs: int) -> TraceResult:
    drawn = forms_of(op, state)
    unit = _largest(jnp.concatenate([drawn.inside, drawn.outside]))
    squares = drawn._replace(inside=jnp.square(drawn.inside / unit), outside=jnp.square(drawn.outside / unit))
    return _root(unit, *combined(squares), num_matvecs)


def _root(unit: jax.Array, squared: jax.Array, error: jax.Array, num_matvecs: int) -> TraceResult:
    """Return the norm from its square and the error of the square, both divided by the square of `unit`."""
    # The root has no derivative at zero; the derivative of a norm of zero is set to zero.
    positive = squared > 0
    root = jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1)), 0)
    # d sqrt(x) = dx / (2 sqrt(x))
    error = safe_divide(error, 2 * root, where=positive, otherwise=jnp.sqrt(error))
    norm = unit * root
    return TraceResult(norm, unit * error, jnp.int32(num_matvecs), status_of(norm))


def _length(vector: PyTree) -> jax.Array:
    """Return the norm of a vector, with a derivative of zero at zero."""
    is_zero = tree.norm(jax.lax.stop_gradient(vector)) == 0
    safe = tree.where(is_zero, jax.tree.map(jnp.ones_like, vector), vector)
    return jnp.where(is_zero, 0, tree.norm(safe))


def _largest(lengths: jax.Array) -> jax.Array:
    """Return the largest length, or one if it is zero; squares divided by it neither overflow nor underflow."""
    largest = jax.lax.stop_gradient(jnp.max(lengths))
    return jnp.where(largest == 0, 1, largest)
