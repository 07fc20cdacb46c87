"""The vector space of pytrees: inner products, norms, bases, random vectors.

A vector is a pytree of arrays, shaped and sharded like the parameters of a model; a flat array is a pytree with one
leaf. Nothing is ever raveled: every operation below acts leaf by leaf and adds up scalars, so that leaves keep
their sharding, on meshes with Auto and with Explicit axes alike.

A basis of m vectors has a leading axis m on every leaf. Scalars are accumulated in the widest precision among the
leaves, and in float32 at least; `working_structure` says in which dtypes a solver holds the vectors of an operator.

Cost: every function here reads each argument once and moves at most a few numbers between devices.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

PyTree = Any


def accumulation_dtype(structure: PyTree) -> jnp.dtype:
    """The dtype of scalars over these leaves: the widest of them, float32 or complex64 at least.

    >>> accumulation_dtype([jnp.ones(2, jnp.bfloat16), jnp.ones((), jnp.float32)])
    dtype('float32')
    """
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(structure)]
    is_complex = any(jnp.issubdtype(dtype, jnp.complexfloating) for dtype in dtypes)
    is_double = any(jnp.finfo(dtype).bits == 64 for dtype in dtypes)
    return jnp.dtype(f"complex{128 if is_double else 64}" if is_complex else f"float{64 if is_double else 32}")


def common_dtype(structure: PyTree) -> jnp.dtype:
    """The dtype of the leaves where they agree, else the one that their scalars are accumulated in.

    >>> common_dtype([jnp.ones(2, jnp.bfloat16), jnp.ones((), jnp.float32)])
    dtype('float32')
    """
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(structure)}
    return dtypes.pop() if len(dtypes) == 1 else accumulation_dtype(structure)


def real_dtype(dtype: Any) -> jnp.dtype:
    """The dtype of the real part.

    >>> real_dtype(jnp.complex64)
    dtype('float32')
    """
    return jnp.finfo(dtype).dtype


def explicit_sharding(leaf: Any) -> NamedSharding | None:
    """The sharding of a leaf where it is a part of its type (meshes with Explicit axes), else None."""
    sharding = leaf.sharding if isinstance(leaf, jax.ShapeDtypeStruct) else jax.typeof(leaf).sharding
    if not isinstance(sharding, NamedSharding) or not sharding.mesh.are_all_axes_explicit or sharding.mesh.empty:
        return None
    return sharding


def structure_of(tree: PyTree) -> PyTree:
    """Shapes, dtypes and explicit shardings of a vector, without its numbers.

    >>> structure_of(jnp.ones(3))
    ShapeDtypeStruct(shape=(3,), dtype=float32)
    """
    describe = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=explicit_sharding(x))
    return jax.tree.map(describe, tree)


def working_structure(structure: PyTree) -> PyTree:
    """The structure in which a solver holds its vectors: narrow leaves are widened to float32.

    >>> working_structure(jax.ShapeDtypeStruct((3,), jnp.bfloat16)).dtype
    dtype('float32')
    """
    widen = lambda x: jax.ShapeDtypeStruct(x.shape, accumulation_dtype(x), sharding=x.sharding)
    return jax.tree.map(widen, structure)


def placed_like(x: PyTree, like: PyTree) -> PyTree:
    """X, spread over devices as a vector of the same shapes is; the numbers are those of x.

    With Explicit axes a type says how its array is spread. With Auto axes nothing in a program does, only its compiler
    knows, and it spreads alike what meets in one operation. A product whose parameters are gathered before they are
    used (FSDP) is no such operation: without more the vectors of a solver would be whole on every device.

    >>> print(placed_like(jnp.array([1.0, 2.0]), jnp.array([jnp.inf, jnp.nan])))
    [1. 2.]
    """
    return jax.tree.map(_meeting, x, like) if jax.device_count() > 1 else x


def _meeting(x: jax.Array, like: jax.Array) -> jax.Array:
    if explicit_sharding(like) is not None:
        return x
    # Nothing is above infinity, but no compiler pass before the spreading knows. Linear in x, which a predicate made
    # of x would not be.
    like = jax.lax.stop_gradient(like)
    number = like.real if jnp.issubdtype(like.dtype, jnp.inexact) else like.astype(jnp.float32)
    return jnp.where(number > jnp.inf, like.astype(x.dtype), x)


def cast_like(tree: PyTree, structure: PyTree) -> PyTree:
    """Each leaf in the dtype of its counterpart."""
    return jax.tree.map(lambda x, y: x.astype(y.dtype), tree, structure)


def size(structure: PyTree) -> int:
    """How many numbers a vector holds.

    >>> size({"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)})
    9
    """
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(structure))


def add_scaled(y: PyTree, factor: Any, x: PyTree) -> PyTree:
    """The sum y + factor x, in the dtypes of y."""
    return jax.tree.map(lambda y, x: y + _cast(factor, y.dtype) * x.astype(y.dtype), y, x)


def scale(factor: Any, x: PyTree) -> PyTree:
    """Factor times x, in the dtypes of x.

    >>> scale(2.0, (jnp.ones(2),))
    (Array([2., 2.], dtype=float32),)
    """
    return jax.tree.map(lambda x: _cast(factor, x.dtype) * x, x)


def where(predicate: jax.Array, x: PyTree, y: PyTree) -> PyTree:
    """X if the () predicate holds, else y."""
    return jax.tree.map(lambda x, y: jnp.where(predicate, x, y), x, y)


def inner(x: PyTree, y: PyTree) -> jax.Array:
    """The inner product <x, y> = sum conj(x) y, accumulated in `accumulation_dtype`.

    >>> print(inner((jnp.array([1j]), jnp.ones(2)), (jnp.array([1j]), jnp.ones(2))))
    (3+0j)
    """
    dtype = accumulation_dtype((x, y))
    # Multiply and sum: the one spelling that keeps any sharding, and that XLA sums pairwise.
    product = lambda x, y: jnp.sum(jnp.conj(x.astype(dtype)) * y.astype(dtype))
    return _total(jax.tree.map(product, x, y), dtype)


def norm(x: PyTree) -> jax.Array:
    """The Euclidean norm, without over- or underflow of the squares.

    They are summed in units of the largest component, to the nearest power of two: a float32 vector of norm 1e-30 keeps
    its digits. (Three sums at three scales, Blue 1978, would do with one reduction over devices, but read the vector
    three times, and take three times as long to compile.)

    >>> print(norm(jnp.full(4, 1e-30)))
    2e-30
    """
    dtype = real_dtype(accumulation_dtype(x))
    parts = [part.astype(dtype) for leaf in jax.tree.leaves(x) if leaf.size for part in _real_parts(leaf)]
    if not parts:
        return jnp.zeros((), dtype)
    limits = jnp.finfo(dtype)
    largest = functools.reduce(jnp.maximum, [jnp.max(jnp.abs(part)) for part in parts])
    # A half of the largest power of two at most, whose reciprocal is a normal number; NaN stays NaN.
    held = jnp.minimum(jnp.maximum(largest, float(limits.tiny)), float(limits.max) / 4)
    unit = jax.lax.stop_gradient(jax.lax.reduce_precision(held, limits.nexp, 0))
    return unit * jnp.sqrt(_total([jnp.sum(jnp.square(part / unit)) for part in parts], dtype))


def norms(basis: PyTree) -> jax.Array:
    """The (m,) norms of the vectors of a basis, one after another: at once XLA may write their scales out in full.

    >>> print(norms(jnp.eye(3) * 2))
    [2. 2. 2.]
    """
    return jax.lax.map(norm, basis)


def zero_basis(x: PyTree, length: int) -> PyTree:
    """A basis of `length` zero vectors, shaped and sharded like x."""
    # zeros_like of a broadcast, because plain zeros would lose the sharding.
    return jax.tree.map(lambda x: jnp.zeros_like(jnp.broadcast_to(x[None], (length, *x.shape))), x)


def row(basis: PyTree, index: Any) -> PyTree:
    """The vector at this index of a basis."""
    return jax.tree.map(lambda b: jax.lax.dynamic_index_in_dim(b, index, keepdims=False), basis)


def set_row(basis: PyTree, index: Any, x: PyTree) -> PyTree:
    """The basis with the vector at this index replaced."""
    write = jax.lax.dynamic_update_index_in_dim
    return jax.tree.map(lambda b, x: write(b, x.astype(b.dtype), index, 0), basis, x)


def set_rows(basis: PyTree, index: Any, rows: PyTree) -> PyTree:
    """The basis with the vectors from this index on replaced by these rows."""
    write = jax.lax.dynamic_update_slice_in_dim
    return jax.tree.map(lambda b, x: write(b, x.astype(b.dtype), index, 0), basis, rows)


def project(basis: PyTree, x: PyTree) -> jax.Array:
    """The (m,) coefficients <b_i, x>: a matrix product per leaf, and one small sum over devices."""
    dtype = accumulation_dtype((basis, x))

    coefficients = lambda b, x: _inner_products(jnp.conj(b).astype(dtype), x.astype(dtype), x.ndim)
    return _total(jax.tree.map(coefficients, basis, x), dtype)


def combine(coefficients: jax.Array, basis: PyTree) -> PyTree:
    """The vector sum_i c_i b_i for coefficients (m,); for coefficients (m, k) a basis of k such vectors."""
    return jax.tree.map(lambda b: _contract(_cast(coefficients, b.dtype), b, (0,), (0,)), basis)


def gram(x: PyTree, y: PyTree) -> jax.Array:
    """The (m, k) matrix of inner products <x_i, y_j> of two bases.

    >>> print(gram(jnp.eye(3)[:2], jnp.ones((1, 3))))
    [[1.]
     [1.]]
    """
    dtype = accumulation_dtype((x, y))

    products = lambda x, y: _inner_products(jnp.conj(x).astype(dtype), y.astype(dtype), x.ndim - 1)
    return _total(jax.tree.map(products, x, y), dtype)


def self_gram(x: PyTree) -> jax.Array:
    """The (m, m) matrix of inner products <x_i, x_j> of one basis, a few columns at a time."""
    m = jax.tree.leaves(x)[0].shape[0]
    group = min(_GRAM_COLUMNS, m)
    # The last group reaches back rather than over the end.
    firsts = jnp.minimum(jnp.arange(0, m, group, dtype=jnp.int32), m - group)
    few = lambda first: jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, group), x)
    columns = jax.lax.map(lambda first: gram(x, few(first)), firsts)
    places = firsts[:, None] + jnp.arange(group, dtype=jnp.int32)[None, :]
    return jnp.zeros((m, m), columns.dtype).at[:, places.reshape(-1)].set(jnp.swapaxes(columns, 0, 1).reshape(m, -1))


# Taken at once: for all of them XLA would copy the basis.
_GRAM_COLUMNS = 4


# A CPU's product of a matrix with a vector, or of a few vectors with a few, adds up in a few lanes, each number after
# the last. In float32 an inner product of 2e6 numbers is off by 6e-5 ||x|| ||y|| or 1e-3, of 5e7 by 8e-3 or 0.1; of 1e5
# by 3e-5 where one number is as large as all others. A product of larger matrices is added up in blocks. So a vector is
# cut in r parts, <x, y> = sum_p <x_p, y_p> is the diagonal of the r^2 products of all parts with all, and right to 1e-7
# in 1.2 to 1.6 times the time of the plain product.
_LARGEST_PRODUCT, _FEW, _PARTS = 2**14, 16, (4, 6, 5, 7, 9, 3)


def _inner_products(x: jax.Array, y: jax.Array, ndim: int) -> jax.Array:
    # Of the m arrays in x, conjugated, with the one or the k in y; each has ndim axes.
    axes = lambda x: tuple(range(x.ndim - ndim, x.ndim))
    # The sum over sharded axes must be told its result: the same numbers on every device.
    sharding, free = explicit_sharding(y), x.ndim + y.ndim - 2 * ndim
    replicated = NamedSharding(sharding.mesh, PartitionSpec(*[None] * free)) if sharding else None
    multiply = lambda x, y: _contract(x, y, axes(x), axes(y), replicated)
    m, k = x.shape[0], y.shape[0] if y.ndim > ndim else 1
    is_small = math.prod(x.shape[1:]) <= _LARGEST_PRODUCT or (min(m, k) > 1 and m * k > _FEW)
    if is_small or jnp.finfo(x.dtype).bits > 32:
        return multiply(x, y)
    return jax.lax.platform_dependent(x, y, cpu=functools.partial(_in_blocks, ndim), default=multiply)


def _in_blocks(ndim: int, x: jax.Array, y: jax.Array) -> jax.Array:
    n = math.prod(x.shape[1:])
    parts = next((r for r in _PARTS if n % r == 0), None)
    if parts and jax.device_count() == 1:
        cut = lambda x: x.reshape(-1, n // parts)
        table = _contract(cut(x), cut(y), (1,), (1,)).reshape(x.shape[0], parts, -1, parts)
        total = jnp.sum(jnp.diagonal(table, axis1=1, axis2=3), axis=-1)
        return total if y.ndim > ndim else total[:, 0]
    # Over devices no axis may be cut. Products one by one, summed in a tree: in three times the time. And one after
    # another: of all at once XLA may write the products out in full.
    add = lambda x, y: jnp.sum(x * y[None], axis=tuple(range(1, 1 + ndim)))
    return jax.lax.map(lambda y: add(x, y), y).T if y.ndim > ndim else add(x, y)


def _contract(a, b, a_axes, b_axes, out_sharding: Any = None) -> jax.Array:
    axes = ((a_axes, b_axes), ((), ()))
    return jax.lax.dot_general(a, b, axes, precision=jax.lax.Precision.HIGHEST, out_sharding=out_sharding)


def _total(terms: PyTree, dtype: Any) -> jax.Array:
    return functools.reduce(jnp.add, jax.tree.leaves(terms), jnp.zeros((), dtype))


def _real_parts(x: jax.Array) -> tuple[jax.Array, ...]:
    return (x.real, x.imag) if jnp.iscomplexobj(x) else (x,)


def _cast(factor: Any, dtype: Any) -> jax.Array:
    factor = jnp.asarray(factor)
    if jnp.iscomplexobj(factor) and not jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(f"a complex factor (dtype {factor.dtype}) times a real leaf (dtype {dtype})")
    return factor.astype(dtype)
