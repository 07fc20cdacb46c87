"""Vector space of pytrees: inner products, norms, sums and bases.

A vector is a pytree of arrays, shaped and sharded like the parameters of a model; a flat array is a pytree with one
leaf. Every operation acts leaf by leaf and adds up scalars. Leaves keep their sharding, on meshes with Auto and with
Explicit axes. Where no leaf is sharded, solvers work on packed vectors, of one flat leaf for each dtype (`packing`).

A basis of m vectors has a leading axis m on every leaf. Scalars are accumulated in the widest precision among the
leaves, and at least in float32. `working_structure` gives the dtypes in which a solver holds vectors.

Cost: every function reads each argument once and moves at most a few numbers between devices.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.vectors.arithmetic import combinations, inner_products
from eigenjax.vectors.placement import explicit_sharding

PyTree = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MetricVector:
    """Vector v of a space with the inner product <u, v> = u^H B v, together with B v; or a basis of such vectors.

    Linear combinations act on both parts and take no matvec with B. `inner`, `norm`, `project` and `gram`, and
    with them all solvers, use this inner product.
    """

    v: PyTree
    bv: PyTree


def accumulation_dtype(structure: PyTree) -> jnp.dtype:
    """Return the dtype of scalars over these leaves: the widest of them, at least float32 or complex64.

    >>> accumulation_dtype([jnp.ones(2, jnp.bfloat16), jnp.ones((), jnp.float32)])
    dtype('float32')
    """
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(structure)]
    is_complex = any(jnp.issubdtype(dtype, jnp.complexfloating) for dtype in dtypes)
    is_double = any(jnp.finfo(dtype).bits == 64 for dtype in dtypes)
    return jnp.dtype(f"complex{128 if is_double else 64}" if is_complex else f"float{64 if is_double else 32}")


def common_dtype(structure: PyTree) -> jnp.dtype:
    """Return the dtype of the leaves if they agree, else the dtype in which their scalars are accumulated.

    >>> common_dtype([jnp.ones(2, jnp.bfloat16), jnp.ones((), jnp.float32)])
    dtype('float32')
    """
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(structure)}
    return dtypes.pop() if len(dtypes) == 1 else accumulation_dtype(structure)


def real_dtype(dtype: Any) -> jnp.dtype:
    """Return the dtype of the real part.

    >>> real_dtype(jnp.complex64)
    dtype('float32')
    """
    return jnp.finfo(dtype).dtype


def structure_of(tree: PyTree) -> PyTree:
    """Return shapes, dtypes and explicit shardings of a vector, without its numbers.

    >>> structure_of(jnp.ones(3))
    ShapeDtypeStruct(shape=(3,), dtype=float32)
    """
    describe = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=explicit_sharding(x))
    return jax.tree.map(describe, tree)


def working_structure(structure: PyTree) -> PyTree:
    """Return the structure in which a solver holds its vectors: leaves narrower than float32 are widened to it.

    >>> working_structure(jax.ShapeDtypeStruct((3,), jnp.bfloat16)).dtype
    dtype('float32')
    """
    widen = lambda x: jax.ShapeDtypeStruct(x.shape, accumulation_dtype(x), sharding=x.sharding)
    return jax.tree.map(widen, structure)


def cast_like(tree: PyTree, structure: PyTree) -> PyTree:
    """Cast each leaf to the dtype of its counterpart in `structure`."""
    return jax.tree.map(lambda x, y: x.astype(y.dtype), tree, structure)


def size(structure: PyTree) -> int:
    """Return the number of components of a vector.

    >>> size({"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)})
    9
    """
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(structure))


def add_scaled(y: PyTree, factor: Any, x: PyTree) -> PyTree:
    """Compute y + factor x, in the dtypes of `y`."""
    return jax.tree.map(lambda y, x: y + _cast(factor, y.dtype) * x.astype(y.dtype), y, x)


def scale(factor: Any, x: PyTree) -> PyTree:
    """Compute factor times x, in the dtypes of `x`.

    >>> scale(2.0, (jnp.ones(2),))
    (Array([2., 2.], dtype=float32),)
    """
    return jax.tree.map(lambda x: _cast(factor, x.dtype) * x, x)


def where(predicate: jax.Array, x: PyTree, y: PyTree) -> PyTree:
    """Return x if the () predicate holds, else y."""
    return jax.tree.map(lambda x, y: jnp.where(predicate, x, y), x, y)


def inner(x: PyTree, y: PyTree) -> jax.Array:
    """Compute the inner product <x, y> = sum conj(x) y, accumulated in `accumulation_dtype`.

    >>> print(inner((jnp.array([1j]), jnp.ones(2)), (jnp.array([1j]), jnp.ones(2))))
    (3+0j)
    """
    if isinstance(x, MetricVector):
        return inner(x.v, y.bv)
    dtype = accumulation_dtype((x, y))
    # Multiply and sum: this form keeps any sharding, and XLA sums it pairwise.
    product = lambda x, y: jnp.sum(jnp.conj(x.astype(dtype)) * y.astype(dtype))
    return _total(jax.tree.map(product, x, y), dtype)


# Compiled functions are traced once for each structure, however often they stand in a program.
@jax.jit
def norm(x: PyTree) -> jax.Array:
    """Compute the Euclidean norm, without overflow or underflow of the squares.

    Components are divided by the largest one, rounded to a power of two: a float32 vector of norm 1e-30 keeps its
    digits. Three sums at three scales (Blue 1978) need one reduction over devices only. But they read the vector three
    times, and take three times as long to compile.

    >>> print(norm(jnp.full(4, 1e-30)))
    2e-30
    """
    if isinstance(x, MetricVector):
        return _metric_norm(x)
    dtype = real_dtype(accumulation_dtype(x))
    parts = _all_parts(x, dtype)
    if not parts:
        return jnp.zeros((), dtype)
    unit = _unit(parts)
    return unit * jnp.sqrt(_total([jnp.sum(jnp.square(part / unit)) for part in parts], dtype))


def _metric_norm(x: MetricVector) -> jax.Array:
    """Compute |v^H B v|^(1/2); the modulus, because the sign of a vector of rounding errors means nothing."""
    dtype = real_dtype(accumulation_dtype(x))
    v, bv = _all_parts(x.v, dtype), _all_parts(x.bv, dtype)
    unit, unit_of_image = _unit(v), _unit(bv)
    terms = [jnp.sum((x / unit) * (y / unit_of_image)) for x, y in zip(v, bv, strict=True)]
    return jnp.sqrt(unit) * jnp.sqrt(unit_of_image) * jnp.sqrt(jnp.abs(_total(terms, dtype)))


def _all_parts(x: PyTree, dtype: Any) -> list[jax.Array]:
    """Return the real and imaginary parts of all leaves that are not empty."""
    return [part.astype(dtype) for leaf in jax.tree.leaves(x) if leaf.size for part in _real_parts(leaf)]


def _unit(parts: list[jax.Array]) -> jax.Array:
    """Return the largest magnitude, rounded to a power of two."""
    limits = jnp.finfo(parts[0].dtype)
    largest = functools.reduce(jnp.maximum, [jnp.max(jnp.abs(part)) for part in parts])
    # At most half of the largest power of two, so that the reciprocal is a normal number; NaN stays NaN.
    held = jnp.minimum(jnp.maximum(largest, float(limits.tiny)), float(limits.max) / 4)
    return jax.lax.stop_gradient(jax.lax.reduce_precision(held, limits.nexp, 0))


def norms(basis: PyTree) -> jax.Array:
    """Compute the (m,) norms of the vectors of a basis, one after another, because XLA may copy a scaled basis.

    >>> print(norms(jnp.eye(3) * 2))
    [2. 2. 2.]
    """
    return jax.lax.map(norm, basis)


def zeros(structure: PyTree) -> PyTree:
    """Create a zero vector with the shapes, dtypes and explicit shardings of a structure.

    >>> print(zeros(jax.ShapeDtypeStruct((2,), jnp.float32)))
    [0. 0.]
    """
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype, out_sharding=explicit_sharding(x)), structure)


def zero_basis(x: PyTree, length: int) -> PyTree:
    """Create a basis of `length` zero vectors, shaped and sharded like x."""
    # zeros_like of a broadcast, because plain zeros would lose the sharding.
    return jax.tree.map(lambda x: jnp.zeros_like(jnp.broadcast_to(x[None], (length, *x.shape))), x)


def row(basis: PyTree, index: Any) -> PyTree:
    """Return the vector of a basis at this index."""
    return jax.tree.map(lambda b: jax.lax.dynamic_index_in_dim(b, index, keepdims=False), basis)


def set_row(basis: PyTree, index: Any, x: PyTree) -> PyTree:
    """Replace the vector of a basis at this index."""
    write = jax.lax.dynamic_update_index_in_dim
    return jax.tree.map(lambda b, x: write(b, x.astype(b.dtype), index, 0), basis, x)


def set_rows(basis: PyTree, index: Any, rows: PyTree) -> PyTree:
    """Replace the vectors of a basis from this index on by `rows`."""
    write = jax.lax.dynamic_update_slice_in_dim
    return jax.tree.map(lambda b, x: write(b, x.astype(b.dtype), index, 0), basis, rows)


def project(basis: PyTree, x: PyTree, valid: jax.Array | None = None) -> jax.Array:
    """Compute the (m,) coefficients <b_i, x>: a matrix product per leaf, and one small sum over devices.

    Args:
        basis: m vectors.
        x: a vector.
        valid: (m,) bool, the vectors that are not zero; the others need not be read. None: all.
    """
    if isinstance(basis, MetricVector):
        return project(basis.v, x.bv, valid)
    dtype = accumulation_dtype((basis, x))

    coefficients = lambda b, x: inner_products(jnp.conj(b).astype(dtype), x.astype(dtype), x.ndim, valid)
    return _total(jax.tree.map(coefficients, basis, x), dtype)


def combine(coefficients: jax.Array, basis: PyTree) -> PyTree:
    """Compute sum_i c_i b_i for coefficients (m,); for coefficients (m, k), a basis of k such vectors."""
    return jax.tree.map(lambda b: combinations(_cast(coefficients, b.dtype), b), basis)


def gram(x: PyTree, y: PyTree) -> jax.Array:
    """Compute the (m, k) matrix of inner products <x_i, y_j> of two bases.

    >>> print(gram(jnp.eye(3)[:2], jnp.ones((1, 3))))
    [[1.]
     [1.]]
    """
    if isinstance(x, MetricVector):
        return gram(x.v, y.bv)
    dtype = accumulation_dtype((x, y))

    products = lambda x, y: inner_products(jnp.conj(x).astype(dtype), y.astype(dtype), x.ndim - 1)
    return _total(jax.tree.map(products, x, y), dtype)


def self_gram(x: PyTree) -> jax.Array:
    """Compute the (m, m) matrix of inner products <x_i, x_j> of one basis, a few columns at a time."""
    few, one = (functools.partial(_gram_by_columns, count) for count in (_GRAM_COLUMNS, 1))
    return jax.lax.platform_dependent(x, cuda=one, rocm=one, default=few)


# Columns computed at once. For all columns at once XLA would copy the basis, and a GPU copies it for any number but one
# unless its length is a multiple of a power of two.
_GRAM_COLUMNS = 4


def _gram_by_columns(count: int, x: PyTree) -> jax.Array:
    m = jax.tree.leaves(x)[0].shape[0]
    group = min(count, m)
    # The last group overlaps the one before it, so that it stays inside the basis.
    firsts = jnp.asarray([min(first, m - group) for first in range(0, m, group)], jnp.int32)
    few = lambda first: jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, group), x)
    columns = jnp.swapaxes(jax.lax.map(lambda first: gram(x, few(first)), firsts), 0, 1).reshape(m, -1)
    num_last = m % group
    return columns if num_last == 0 else jnp.concatenate([columns[:, : m - num_last], columns[:, -num_last:]], axis=1)


def _total(terms: PyTree, dtype: Any) -> jax.Array:
    return functools.reduce(jnp.add, jax.tree.leaves(terms), jnp.zeros((), dtype))


def _real_parts(x: jax.Array) -> tuple[jax.Array, ...]:
    return (x.real, x.imag) if jnp.iscomplexobj(x) else (x,)


def _cast(factor: Any, dtype: Any) -> jax.Array:
    factor = jnp.asarray(factor)
    if jnp.iscomplexobj(factor) and not jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(f"a complex factor (dtype {factor.dtype}) times a real leaf (dtype {dtype})")
    return factor.astype(dtype)
