"""Storage of a basis: in working precision, in fewer bits, or in host memory.

A basis in working precision is a pytree with a leading axis m; for it the functions below are those of `tree`. A
`StoredBasis` is read a few rows at a time. Each row is moved to the device and widened to the working dtype, so that
all arithmetic has working precision and the basis is never copied. A narrower dtype loses digits when a row is written;
`rounded` returns the vector that is read back.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree

# Rows read at once: a read holds this many vectors.
_AT_ONCE = 4


class Storage(NamedTuple):
    """Storage of a basis: dtype and place; static."""

    dtype: str | None = None  # of the rows, if narrower than the working dtype; None: working dtype
    on_host: bool = False  # whether the rows are in host memory

    @property
    def unit(self) -> float:
        """Machine epsilon of the stored rows; 0 if nothing is lost."""
        return 0.0 if self.dtype is None else float(jnp.finfo(self.dtype).eps)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StoredBasis:
    """Basis of m rows with a storage other than the default."""

    rows: PyTree  # (m, ...) as stored
    storage: Storage = dataclasses.field(metadata={"static": True})  # dtype and place of the rows
    working: tuple[str, ...] = dataclasses.field(metadata={"static": True})  # working dtypes of the leaves


def zero_basis(x: PyTree, length: int, storage: Storage) -> PyTree:
    """Create a basis of `length` zero vectors, shaped and sharded like x."""
    if storage == Storage():
        return tree.zero_basis(x, length)
    working = tuple(str(leaf.dtype) for leaf in jax.tree.leaves(x))
    stored = jax.tree.map(lambda leaf: jnp.zeros_like(_words(leaf.astype(_stored_dtype(leaf.dtype, storage)))), x)
    if not storage.on_host:
        return StoredBasis(tree.zero_basis(stored, length), storage, working)
    # One row is moved and then repeated: a TPU would hold all rows that are moved together.
    rows = jax.tree.map(lambda x: jnp.broadcast_to(x[None], (length, *x.shape)), _placed(stored, storage))
    return StoredBasis(rows, storage, working)


def loses(structure: PyTree, storage: Storage) -> bool:
    """Return whether storage rounds any leaf of vectors of this structure.

    Raises:
        ValueError: if a leaf is complex and the dtype has no complex counterpart.
    """
    leaves = jax.tree.leaves(tree.working_structure(structure))
    return any(_stored_dtype(leaf.dtype, storage) != leaf.dtype for leaf in leaves)


def vector_bytes(structure: PyTree, storage: Storage) -> int:
    """Return the number of bytes that one stored row takes."""
    leaves = jax.tree.leaves(tree.working_structure(structure))
    return sum(leaf.size * _stored_dtype(leaf.dtype, storage).itemsize for leaf in leaves)


def is_narrow(basis: PyTree) -> bool:
    """Return whether writing a row loses digits."""
    return isinstance(basis, StoredBasis) and basis.storage.dtype is not None


def rounded(basis: PyTree, x: PyTree) -> PyTree:
    """Return the vector that is read back after x is written as a row.

    >>> basis = zero_basis(jnp.ones(2), 3, Storage("bfloat16"))
    >>> print(rounded(basis, jnp.array([1.0, 1.001])))
    [1. 1.]
    """
    if not is_narrow(basis):
        return x

    def cut(x):
        limits = jnp.finfo(_stored_dtype(x.dtype, basis.storage))
        # Not two casts, because a compiler may remove them.
        one = lambda x: jax.lax.reduce_precision(x, limits.nexp, limits.nmant)
        return jax.lax.complex(one(x.real), one(x.imag)) if jnp.iscomplexobj(x) else one(x)

    return jax.tree.map(cut, x)


def row(basis: PyTree, index: Any) -> PyTree:
    """Return the vector at this index, in the working dtype."""
    return _working(basis, tree.row(basis.rows, index)) if isinstance(basis, StoredBasis) else tree.row(basis, index)


def set_row(basis: PyTree, index: Any, x: PyTree) -> PyTree:
    """Replace the vector of a basis at this index."""
    if not isinstance(basis, StoredBasis):
        return tree.set_row(basis, index, x)
    stored = jax.tree.map(lambda x: _words(x.astype(_stored_dtype(x.dtype, basis.storage))), x)
    return dataclasses.replace(basis, rows=tree.set_row(basis.rows, index, _placed(stored, basis.storage)))


def keep_rows(basis: PyTree, mask: jax.Array) -> PyTree:
    """Set the rows of a basis to zero except those marked in `mask`, (m,) bool."""
    if not isinstance(basis, StoredBasis):
        spread = lambda b: mask.reshape(-1, *[1] * (b.ndim - 1))
        return jax.tree.map(lambda b: jnp.where(spread(b), b, jnp.zeros_like(b)), basis)
    keep = lambda i, basis: set_row(basis, i, tree.scale(mask[i].astype(jnp.float32), row(basis, i)))
    return jax.lax.fori_loop(0, mask.shape[0], keep, basis)


def project(basis: PyTree, x: PyTree, valid: jax.Array | None = None) -> jax.Array:
    """Compute the (m,) coefficients <b_i, x>; rows that are not in `valid`, (m,) bool, are zero."""
    if not isinstance(basis, StoredBasis):
        return tree.project(basis, x, valid)
    m, (firsts, places) = _length(basis), _groups(basis)
    parts = jax.lax.map(lambda first: tree.project(_few(basis, first), x), firsts)
    return jnp.zeros(m, parts.dtype).at[places.reshape(-1)].set(parts.reshape(-1))


def combine(coefficients: jax.Array, basis: PyTree) -> PyTree:
    """Compute sum_i c_i b_i for coefficients (m,); for coefficients (m, k), a basis of k such vectors.

    >>> basis = set_row(zero_basis(jnp.ones(2), 3, Storage("bfloat16")), 1, jnp.array([1.0, 2.0]))
    >>> print(combine(jnp.array([0.0, 3.0, 0.0]), basis), project(basis, jnp.ones(2)))
    [3. 6.] [0. 3. 0.]
    """
    if not isinstance(basis, StoredBasis):
        return tree.combine(coefficients, basis)
    firsts, places = _groups(basis)
    # Rows that two groups share are counted once.
    fresh = places >= (jnp.arange(len(firsts), dtype=jnp.int32) * places.shape[1])[:, None]

    def add(total, group):
        first, places, fresh = group
        weights = jnp.where(fresh.reshape(-1, *[1] * (coefficients.ndim - 1)), coefficients[places], 0)
        return tree.add_scaled(total, 1.0, tree.combine(weights, _few(basis, first))), None

    zeros = jax.tree.map(jnp.zeros_like, row(basis, 0))
    zeros = zeros if coefficients.ndim == 1 else tree.zero_basis(zeros, coefficients.shape[1])
    total, _ = jax.lax.scan(add, zeros, (firsts, places, fresh))
    return total


def self_gram(basis: PyTree) -> jax.Array:
    """Compute the (m, m) matrix of inner products <b_i, b_j>.

    >>> print(self_gram(zero_basis(jnp.ones(2), 2, Storage("bfloat16"))))
    [[0. 0.]
     [0. 0.]]
    """
    if not isinstance(basis, StoredBasis):
        return tree.self_gram(basis)
    return jax.lax.map(lambda i: project(basis, row(basis, i)), jnp.arange(_length(basis), dtype=jnp.int32)).T


def _stored_dtype(dtype: Any, storage: Storage) -> jnp.dtype:
    """Return the narrower of a working dtype and the dtype of the storage."""
    if storage.dtype is None or jnp.finfo(dtype).bits <= jnp.finfo(storage.dtype).bits:
        return jnp.dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.complexfloating):
        return jnp.dtype(storage.dtype)
    if jnp.finfo(storage.dtype).bits < 32:
        raise ValueError(f"basis_dtype={storage.dtype!r}: there are no complex numbers of so few bits; give 'float32'")
    return jnp.dtype("complex64")


def _placed(x: PyTree, storage: Storage) -> PyTree:
    return jax.device_put(x, jax.memory.Space.Host) if storage.on_host else x


def _working(basis: StoredBasis, x: PyTree) -> PyTree:
    x = jax.device_put(x, jax.memory.Space.Device) if basis.storage.on_host else x
    leaves, treedef = jax.tree.flatten(x)
    pairs = zip(leaves, basis.working, strict=True)
    return jax.tree.unflatten(treedef, [_numbers(leaf, to, basis.storage).astype(to) for leaf, to in pairs])


# Numbers of 16 bits are stored as integers of 16 bits. A backend without arithmetic for such floats would widen a whole
# basis to write one row; a CPU held three copies.


def _words(x: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(x, jnp.uint16) if jnp.finfo(x.dtype).bits == 16 else x


def _numbers(words: jax.Array, working: Any, storage: Storage) -> jax.Array:
    dtype = _stored_dtype(working, storage)
    return words if words.dtype == dtype else jax.lax.bitcast_convert_type(words, dtype)


def _few(basis: StoredBasis, first: jax.Array) -> PyTree:
    count = min(_AT_ONCE, _length(basis))
    return _working(basis, jax.tree.map(lambda b: jax.lax.dynamic_slice_in_dim(b, first, count), basis.rows))


def _groups(basis: StoredBasis) -> tuple[jax.Array, jax.Array]:
    """Return the (g,) first rows and the (g, few) rows of each group; the last group may overlap the one before it."""
    m = _length(basis)
    count = min(_AT_ONCE, m)
    firsts = jnp.minimum(jnp.arange(0, m, count, dtype=jnp.int32), m - count)
    return firsts, firsts[:, None] + jnp.arange(count, dtype=jnp.int32)[None, :]


def _length(basis: StoredBasis) -> int:
    return jax.tree.leaves(basis.rows)[0].shape[0]
