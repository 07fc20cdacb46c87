"""Arithmetic of numbers and small matrices: division that is safe in derivatives, products in full precision."""

import functools
from typing import Any

import jax
import jax.numpy as jnp


def safe_divide(numerator: Any, denominator: jax.Array, *, where: Any = None, otherwise: Any = None) -> jax.Array:
    """Divide two arrays; entries with an invalid denominator are replaced, and have no infinite derivative.

    Args:
        numerator: x.
        denominator: y; if it is real, it may divide a complex x.
        where: bool, the valid entries; None for y > 0, which suits a norm, a modulus or a distance.
        otherwise: value of the other entries; None for x, undivided.

    Returns:
        x / y where valid. The denominator is replaced by one elsewhere: a derivative through a discarded division by
        zero would be NaN.

    >>> print(safe_divide(jnp.ones(2), jnp.array([4.0, 0.0])), safe_divide(1, jnp.zeros(()), otherwise=jnp.inf))
    [0.25 1.  ] inf
    """
    valid = denominator > 0 if where is None else where
    divisor = jnp.where(valid, denominator, 1)
    if jnp.iscomplexobj(numerator):
        divisor = divisor.astype(numerator.dtype)
    quotient = numerator / divisor
    return quotient if otherwise is None else jnp.where(valid, quotient, otherwise)


def positive_or_one(x: jax.Array) -> jax.Array:
    """Replace numbers that are not positive by one, to make them valid divisors.

    >>> print(positive_or_one(jnp.array([2.0, 0.0])))
    [2. 1.]
    """
    return jnp.where(x > 0, x, 1)


def set_columns(x: jax.Array, columns: jax.Array, values: jax.Array) -> jax.Array:
    """Replace columns of a small array, by comparison, because a scatter takes long to compile.

    Args:
        x: (..., m).
        columns: (b,) int32, different indices; those that are not below m are ignored.
        values: (..., b), the new columns.

    >>> print(set_columns(jnp.zeros((2, 3)), jnp.array([2]), jnp.ones((2, 1))))
    [[0. 0. 1.]
     [0. 0. 1.]]
    """
    hit = columns[:, None] == jnp.arange(x.shape[-1], dtype=jnp.int32)[None, :]
    spread = lambda mask: mask.reshape(*[1] * (x.ndim - 1), *mask.shape)
    placed = jnp.sum(jnp.where(spread(hit), values[..., None], 0), axis=-2)
    return jnp.where(spread(jnp.any(hit, axis=0)), placed.astype(x.dtype), x)


def matmul(*factors: jax.Array) -> jax.Array:
    """Multiply matrices (or vectors) in the full precision of their dtype.

    The default precision of a GPU or TPU keeps 10 or 7 bits of a float32 factor. The Ritz values of a solve, and all
    results that follow from them, would have errors of that size.

    >>> print(matmul(jnp.eye(2), jnp.ones((2, 2)), jnp.ones(2)))
    [2. 2.]
    """
    return functools.reduce(lambda a, b: jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST), factors)
