"""Conversion of dense and sparse matrices to floating-point arrays that JAX can multiply."""

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eigenjax.arguments import brief
from eigenjax.operators.sparse.padded import padded
from eigenjax.vectors.tree import PyTree

_NUMBERS = (int, float, complex, np.generic, np.ndarray, jax.Array)


def is_matrix(a: Any) -> bool:
    """Return whether `a` is an array, nested lists, or a sparse matrix of JAX or SciPy."""
    return isinstance(a, jax.Array | np.ndarray | list | tuple) or is_jax_sparse(a) or is_scipy_sparse(a)


def as_matrix(a: Any) -> Any:
    """Convert a matrix to a floating-point `jax.Array`, or to a sparse one that JAX can multiply.

    Args:
        a: matrix of numbers or booleans, of any dtype, byte order and layout; all sparse formats of SciPy.

    Raises:
        TypeError: if it does not hold numbers.
        ValueError: if nested lists do not form a matrix.

    Example:
        >>> print(as_matrix([[0, 1], [1, 0]]))
        [[0. 1.]
         [1. 0.]]
    """
    if is_scipy_sparse(a):
        return padded(_from_scipy(a))
    if is_jax_sparse(a):
        # The values are the first leaf; the other leaves are indices.
        numbers, *places = jax.tree.leaves(a)
        return padded(jax.tree.unflatten(jax.tree.structure(a), [floating(numbers), *places]))
    return floating(_array(a))


def floating(matrix: jax.Array) -> jax.Array:
    """Convert an integer or boolean matrix to the default floating dtype; return others unchanged."""
    return matrix if jnp.issubdtype(matrix.dtype, jnp.inexact) else matrix.astype(float)


def is_jax_sparse(a: Any) -> bool:
    """Return whether `a` is a sparse matrix of `jax.experimental.sparse`."""
    # A sparse matrix exists only if its module is imported already; importing it here would cost time for nothing.
    sparse = sys.modules.get("jax.experimental.sparse")
    return sparse is not None and isinstance(a, sparse.JAXSparse)


def is_scipy_sparse(a: Any) -> bool:
    """Return whether `a` is a sparse array or matrix of SciPy."""
    sparse = sys.modules.get("scipy.sparse")
    return sparse is not None and sparse.issparse(a)


def vector_of(v0: Any) -> PyTree:
    """Convert a start vector: nested lists of numbers become one array of floats instead of a pytree of scalars.

    >>> print(vector_of([1, 0]), vector_of({"a": 1.0}))
    [1. 0.] {'a': 1.0}
    """
    if isinstance(v0, list | tuple) and v0 and _is_of_numbers(v0):
        return floating(_array(v0))
    if isinstance(v0, np.ndarray):
        return _array(v0)
    return v0


def _is_of_numbers(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(map(_is_of_numbers, value))
    return isinstance(value, int | float | complex | np.number) and not isinstance(value, bool)


def _array(a: Any) -> jax.Array:
    if isinstance(a, list | tuple):
        entries = jax.tree.leaves(a, is_leaf=lambda x: x is None)
        if any(isinstance(entry, str | bytes) for entry in entries):
            raise TypeError("the matrix is a list that holds text: give numbers")
        if not all(isinstance(entry, _NUMBERS) for entry in entries):
            raise TypeError(
                f"expected an operator, an (n, n) array or a callable, and got {brief(a)}, which is no array of numbers"
            )
        try:
            is_wide = all(isinstance(entry, int | np.integer) for entry in entries)
            return jnp.asarray(np.asarray(a, float) if is_wide else a)
        except (TypeError, ValueError) as error:
            raise ValueError(f"nested lists must have rows of equal length, of numbers: {error}") from error
    if not isinstance(a, np.ndarray):
        return a
    if a.dtype.kind not in "biufcV" or (a.dtype.kind == "V" and a.dtype.names is not None):
        raise TypeError(f"the matrix is an array of dtype {a.dtype}: give numbers, such as a.astype(float)")
    if a.dtype.kind in "fc" and a.dtype.itemsize > (8 if a.dtype.kind == "f" else 16):
        a = a.astype(float if a.dtype.kind == "f" else complex)
    if a.dtype.kind in "iu" and a.dtype.itemsize > 4:
        # Without jax_enable_x64, JAX truncates 64-bit integers to their last 32 bits.
        a = a.astype(float)
    if not a.dtype.isnative:
        a = a.astype(a.dtype.newbyteorder("="))
    return jnp.asarray(np.asarray(a))


def _from_scipy(a: Any) -> Any:
    from jax.experimental import sparse

    if len(a.shape) != 2:
        raise ValueError(f"expected a sparse matrix (p, n), and got the shape {tuple(a.shape)}")
    # Copy, because sum_duplicates would modify the user's matrix if it is in CSR format.
    entries = a.tocsr(copy=True)
    entries.sum_duplicates()
    rows = np.repeat(np.arange(a.shape[0], dtype=np.int32), np.diff(entries.indptr))
    numbers = floating(_array(np.asarray(entries.data)))
    indices = jnp.asarray(np.stack([rows, entries.indices.astype(np.int32)], axis=1))
    return sparse.BCOO((numbers, indices), shape=tuple(a.shape), indices_sorted=True, unique_indices=True)
