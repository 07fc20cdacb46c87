"""Sparse matrix of padded rows, and its construction from matrices of `jax.experimental.sparse`."""

import dataclasses
import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from eigenjax.operators.sparse.layout import Layout, arranged, order_by_rows
from eigenjax.vectors import tree
from eigenjax.vectors.placement import spans_devices

# Smaller matrices are decomposed, or multiplied in the format that they have.
_SMALL = 500
# Columns of a dense matrix that are computed at once.
_AT_ONCE = 64


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class PaddedRows:
    """Entries of a sparse matrix in groups of padded rows (`layout`)."""

    numbers: list[jax.Array]
    columns: list[jax.Array]
    places: jax.Array | None  # (p,) position of each row in the sequence of the groups; None if it is its own
    are_long: tuple[bool, ...] = dataclasses.field(metadata={"static": True})

    def __matmul__(self, vector: jax.Array) -> jax.Array:
        """Compute A x."""
        return _product(self, vector)


@jax.jit
def _product(rows: PaddedRows, vector: jax.Array) -> jax.Array:
    wide = tree.accumulation_dtype(vector)
    take = lambda columns: vector.at[columns].get(mode="promise_in_bounds").astype(wide)
    parts = []
    for numbers, columns, is_long in zip(rows.numbers, rows.columns, rows.are_long, strict=True):
        numbers = numbers.astype(wide)
        if is_long:
            parts.append(jnp.sum(numbers * take(columns), axis=1))
        else:
            terms = [numbers[i] * take(columns[i]) for i in range(numbers.shape[0])]
            parts.append(functools.reduce(operator.add, terms))
    image = jnp.concatenate(parts) if len(parts) > 1 else parts[0]
    if rows.places is not None:
        image = image.at[rows.places].get(mode="promise_in_bounds", unique_indices=True)
    return image.astype(vector.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class SparseMatrix:
    """Sparse matrix (p, n) with fast products A x and A^T y."""

    rows: PaddedRows
    transposed_rows: PaddedRows | None  # those of A^T; None if the matrix is known to be symmetric or Hermitian
    shape: tuple[int, int] = dataclasses.field(metadata={"static": True})

    @property
    def dtype(self) -> jnp.dtype:
        """Dtype of the entries."""
        return self.rows.numbers[0].dtype

    def __matmul__(self, vector: jax.Array) -> jax.Array:
        """Compute A x."""
        return self.rows @ vector

    def transposed_product(self, vector: jax.Array) -> jax.Array:
        """Compute A^T y, without a conjugation."""
        if self.transposed_rows is not None:
            return self.transposed_rows @ vector
        return jax.linear_transpose(self.__matmul__, jax.ShapeDtypeStruct(self.shape[1:], self.dtype))(vector)[0]

    def todense(self) -> jax.Array:
        """Compute the dense matrix, at n products."""
        return _todense(self)


@jax.jit
def _todense(matrix: SparseMatrix) -> jax.Array:
    identity = jnp.eye(matrix.shape[1], dtype=matrix.dtype)
    return jax.lax.map(matrix.__matmul__, identity, batch_size=min(_AT_ONCE, len(identity))).T


def diagonal_of_sparse(matrix: Any) -> jax.Array:
    """Return the (n,) diagonal of a square sparse matrix.

    >>> from jax.experimental import sparse
    >>> print(diagonal_of_sparse(sparse.BCOO.fromdense(jnp.array([[2.0, 1.0], [1.0, 3.0]]))))
    [2. 3.]
    """
    if isinstance(matrix, SparseMatrix):
        return _diagonal(matrix.rows)
    bcoo = matrix if hasattr(matrix, "indices") and not hasattr(matrix, "indptr") else matrix.to_bcoo()
    rows, columns = bcoo.indices[:, 0], bcoo.indices[:, 1]
    return jnp.zeros(matrix.shape[0], bcoo.data.dtype).at[rows].add(jnp.where(rows == columns, bcoo.data, 0))


@jax.jit
def _diagonal(rows: PaddedRows) -> jax.Array:
    parts, first = [], 0
    n = sum(numbers.shape[0 if is_long else 1] for numbers, is_long in zip(rows.numbers, rows.are_long, strict=True))
    order = jnp.arange(n, dtype=jnp.int32) if rows.places is None else jnp.argsort(rows.places).astype(jnp.int32)
    for numbers, columns, is_long in zip(rows.numbers, rows.columns, rows.are_long, strict=True):
        axis = 1 if is_long else 0
        length = numbers.shape[1 - axis]
        own = jnp.expand_dims(order[first : first + length], axis)
        parts.append(jnp.sum(jnp.where(columns == own, numbers, 0), axis=axis))
        first += length
    sequence = jnp.concatenate(parts)
    return sequence if rows.places is None else sequence[rows.places]


def padded(matrix: Any) -> Any:
    """Convert a large matrix of `jax.experimental.sparse` to padded rows; return others unchanged.

    Args:
        matrix: a BCOO or BCSR matrix whose places are concrete and on one device. Its entries may be traced.
    """
    places = _places(matrix)
    if places is None:
        return matrix
    rows, columns = places
    entries, shape = matrix.data, tuple(matrix.shape)
    transposed = None
    if not _is_symmetric(entries, rows, columns, shape):
        transposed = _padded_rows(entries, columns, rows, shape[::-1])
    return SparseMatrix(_padded_rows(entries, rows, columns, shape), transposed, shape)


def _places(matrix: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Return rows and columns of the entries of a matrix that should be converted, else None."""
    leaves = jax.tree.leaves(matrix)
    is_plain = matrix.ndim == 2 and getattr(matrix, "n_batch", 1) == getattr(matrix, "n_dense", 1) == 0
    if not is_plain or max(matrix.shape) <= _SMALL or matrix.data.size == 0 or spans_devices(leaves):
        return None
    if any(isinstance(leaf, Tracer) for leaf in leaves if leaf is not matrix.data):
        return None
    if hasattr(matrix, "indptr"):
        ends, columns = jax.device_get((matrix.indptr, matrix.indices))
        # Entries behind the last row are padding.
        counts = np.append(np.diff(ends), len(columns) - ends[-1])
        return np.repeat(np.arange(matrix.shape[0] + 1), counts), columns
    indices = jax.device_get(matrix.indices)
    return indices[:, 0], indices[:, 1]


def _padded_rows(entries: jax.Array, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> PaddedRows:
    layout = arranged(rows, columns, shape)
    are_long = tuple(group.is_long for group in layout.groups)
    if isinstance(entries, Tracer):
        return _placed(entries, layout, are_long, None)
    # Within a program, known entries would become constants that the compiler gathers, which takes it seconds.
    with jax.ensure_compile_time_eval():
        return _placed(entries, layout, are_long, entries.sharding)


def _placed(entries: jax.Array, layout: Layout, are_long: tuple[bool, ...], device: Any) -> PaddedRows:
    put = functools.partial(jax.device_put, device=device)
    numbers = [_gathered(entries, put(group.sources)) for group in layout.groups]
    places = None if layout.places is None else put(layout.places)
    return PaddedRows(numbers, [put(group.columns) for group in layout.groups], places, are_long)


@jax.jit
def _gathered(entries: jax.Array, sources: jax.Array) -> jax.Array:
    """Return the entries at some positions; zero for a position behind the last one."""
    return entries.at[sources].get(mode="fill", fill_value=0)


def _is_symmetric(entries: jax.Array, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> bool:
    """Return whether a matrix is known to be symmetric, or Hermitian: A^T is then rarely needed."""
    if shape[0] != shape[1] or isinstance(entries, Tracer):
        return False
    numbers = jax.device_get(entries)
    by_rows, by_columns = order_by_rows(rows, columns, shape), order_by_rows(columns, rows, shape)
    same_rows = np.array_equal(rows[by_rows], columns[by_columns])
    same_columns = np.array_equal(columns[by_rows], rows[by_columns])
    return same_rows and same_columns and np.array_equal(numbers[by_rows], numbers[by_columns].conj())
