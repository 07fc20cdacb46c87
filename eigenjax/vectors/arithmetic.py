"""Arithmetic of arrays: division that is safe in derivatives, products in full precision, accurate inner products."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from eigenjax.vectors.placement import explicit_sharding


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


# A matrix-vector product on a CPU, or one of a few vectors with a few, is summed sequentially in a few lanes. In
# float32 an inner product of 2e6 numbers has an error of 6e-5 ||x|| ||y|| or 1e-3; of 5e7 numbers 8e-3 or 0.1; of 1e5
# numbers 3e-5 if one number is as large as all others. A product of larger matrices is summed in blocks, and so is an
# inner product alone: an error of 3e-7, in 1.1 to 1.6 times the time of the plain product.
#
# A matrix product on a TPU has a layout of its own for arrays of several axes. Where a basis is also read by rows, the
# compiler holds a copy in each layout, three to five in all. Sums of elementwise products read it as it is.
_LARGEST_PRODUCT, _FEW = 2**14, 16
# Numbers in a part that is summed by itself where vectors may be on several devices.
_ROW = 1024


def inner_products(x: jax.Array, y: jax.Array, ndim: int, valid: jax.Array | None = None) -> jax.Array:
    """Compute the inner products of the m arrays in x, which are conjugated, with the one or k arrays in y.

    Args:
        x: m arrays of ndim axes each.
        y: one such array, or k of them.
        ndim: number of axes of one array.
        valid: (m,) bool, the arrays in x that are not zero; the others need not be read. None: all.

    Returns:
        (m,) or (m, k) products, replicated on an Explicit mesh.
    """
    axes = lambda x: tuple(range(x.ndim - ndim, x.ndim))
    # A sum over sharded axes needs the sharding of its result: the same numbers on every device.
    sharding, free = explicit_sharding(y), x.ndim + y.ndim - 2 * ndim
    replicated = NamedSharding(sharding.mesh, PartitionSpec(*[None] * free)) if sharding else None
    multiply = lambda x, y, _: contract(x, y, axes(x), axes(y), replicated)
    m, k = x.shape[0], y.shape[0] if y.ndim > ndim else 1
    if math.prod(x.shape[1:]) <= _LARGEST_PRODUCT or jnp.finfo(x.dtype).bits > 32:
        return multiply(x, y, valid)
    elementwise = functools.partial(_elementwise, ndim)
    on_cpu = functools.partial(_one_by_one, ndim) if jax.device_count() == 1 else elementwise
    on_cpu = multiply if min(m, k) > 1 and m * k > _FEW else on_cpu
    on_tpu = multiply if ndim == 1 and not jnp.iscomplexobj(x) else functools.partial(_as_stored, ndim)
    return jax.lax.platform_dependent(x, y, valid, cpu=on_cpu, tpu=on_tpu, default=multiply)


def combinations(coefficients: jax.Array, basis: jax.Array) -> jax.Array:
    """Compute sum_i c_i b_i of m arrays for coefficients (m,); for coefficients (m, k), k such arrays.

    >>> print(combinations(jnp.array([1.0, 2.0]), jnp.ones((2, 3))))
    [3. 3. 3.]
    """
    multiply = lambda coefficients, basis: contract(coefficients, basis, (0,), (0,))
    if math.prod(basis.shape[1:]) <= _LARGEST_PRODUCT:
        return multiply(coefficients, basis)
    return jax.lax.platform_dependent(coefficients, basis, tpu=_combined_elementwise, default=multiply)


def _combined_elementwise(coefficients: jax.Array, basis: jax.Array) -> jax.Array:
    add = lambda c: jnp.sum(c.reshape(-1, *[1] * (basis.ndim - 1)) * basis, axis=0)
    return add(coefficients) if coefficients.ndim == 1 else jax.lax.map(add, coefficients.T)


def _one_by_one(ndim: int, x: jax.Array, y: jax.Array, valid: jax.Array | None) -> jax.Array:
    """Compute inner products one after another, without those of vectors that are not valid."""
    if y.ndim > ndim:
        return jax.lax.map(lambda y: _one_by_one(ndim, x, y, valid), y).T
    m, rows = x.shape[0], jnp.arange(x.shape[0], dtype=jnp.int32)
    order, count = rows, m
    if valid is not None:
        place = jnp.sum(valid[None, :] & (rows[None, :] < rows[:, None]), axis=1)
        order = jnp.sum(jnp.where(valid[:, None] & (place[:, None] == rows[None, :]), rows[:, None], 0), axis=0)
        count = jnp.sum(valid, dtype=jnp.int32)

    def add(i, products):
        return products.at[order[i]].set(jnp.sum(x[order[i]] * y))

    return jax.lax.fori_loop(0, count, add, jnp.zeros(m, x.dtype))


def _elementwise(ndim: int, x: jax.Array, y: jax.Array, _: Any) -> jax.Array:
    # No axis may be split, except into parts that are on one device each. Elementwise products, summed in two stages,
    # take three times as long. They are computed one after another, because XLA may write all products out in full.
    if ndim == 1 and x[0].size % (_ROW * jax.device_count()) == 0 and explicit_sharding(x) is None:
        x, y, ndim = x.reshape(x.shape[0], -1, _ROW), y.reshape(*y.shape[:-1], -1, _ROW), 2
    return _as_stored(ndim, x, y, None)


def _as_stored(ndim: int, x: jax.Array, y: jax.Array, _: Any) -> jax.Array:
    add = lambda x, y: jnp.sum(x * y[None], axis=tuple(range(1, 1 + ndim)))
    return jax.lax.map(lambda y: add(x, y), y).T if y.ndim > ndim else add(x, y)


def contract(
    a: jax.Array, b: jax.Array, a_axes: tuple[int, ...], b_axes: tuple[int, ...], out_sharding: Any = None
) -> jax.Array:
    """Contract axes of two arrays in full precision.

    >>> print(contract(jnp.ones(3), jnp.ones((3, 2)), (0,), (0,)))
    [3. 3.]
    """
    axes = ((a_axes, b_axes), ((), ()))
    return jax.lax.dot_general(a, b, axes, precision=jax.lax.Precision.HIGHEST, out_sharding=out_sharding)
