"""Packed vectors: all leaves of one dtype as one flat array.

Each operation on a vector of a hundred leaves compiles to a hundred operations, and launches a hundred kernels. Inside
a solver a vector is therefore packed into one flat array for each dtype. Vectors are packed and unpacked around the
matvec, and where they enter and leave a solver.

On several devices vectors are not packed, because packing would move their shards (`placement.spans_devices`).

A slice at a constant place is a kernel of its own, so that a hundred leaves take a hundred kernels to compile at each
place where a vector is unpacked. On a CPU the places are therefore numbers that the compiler does not know: all leaves
of one shape then share a kernel.

On a CPU leaves are also packed by writing one after another: XLA fuses what comes before a concatenation into a loop
that finds the leaf of each number anew, which takes ten times as long.
"""

import dataclasses
import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.vectors.tree import PyTree

# With fewer leaves, the loop that hides their places takes longer to compile than their kernels.
_MANY_LEAVES = 8


@dataclasses.dataclass(frozen=True)
class Packing:
    """Place of each leaf of a vector in its packed form; static.

    >>> packing = packing_of({"a": jnp.ones((2, 2)), "b": jnp.ones(1)})
    >>> print(packing.pack({"a": jnp.zeros((2, 2)), "b": jnp.ones(1)}))
    [0. 0. 0. 0. 1.]
    """

    leaves: tuple[jax.ShapeDtypeStruct, ...]  # the structure of a vector
    treedef: Any

    @property
    def vector_structure(self) -> PyTree:
        """Structure of a vector that is not packed."""
        return jax.tree.unflatten(self.treedef, self.leaves)

    @property
    def groups(self) -> list[list[int]]:
        """Indices of the leaves in each array of a packed vector: those of one dtype."""
        return groups_of(self.leaves)

    @property
    def structure(self) -> PyTree:
        """Structure of a packed vector: one flat array, or a tuple of them."""
        sizes = [sum(self._sizes(group)) for group in self.groups]
        dtypes = [self.leaves[group[0]].dtype for group in self.groups]
        return _one_or_all([jax.ShapeDtypeStruct((n,), dtype) for n, dtype in zip(sizes, dtypes, strict=True)])

    def pack(self, vector: PyTree) -> PyTree:
        """Pack a vector, or several with common leading axes; the dtypes of a group must agree."""
        leaves = [x.reshape(*self._leading(i, x), -1) for i, x in enumerate(jax.tree.leaves(vector))]
        if leaves[0].ndim > 1 or jax.default_backend() != "cpu":
            return _one_or_all([jnp.concatenate([leaves[i] for i in group], axis=-1) for group in self.groups])
        places = _hidden(self.places) if len(leaves) >= _MANY_LEAVES else self.places
        return _one_or_all([self._written([(leaves[i], places[i]) for i in group]) for group in self.groups])

    def unpack(self, packed: PyTree) -> PyTree:
        """Unpack a vector, or several with common leading axes."""
        if len(self.leaves) < _MANY_LEAVES or jax.default_backend() != "cpu":
            return self.split(packed)
        return _unpack_at_hidden_places(self, packed)

    def split(self, packed: PyTree) -> PyTree:
        """Unpack by slices at constant places."""
        leaves: list[Any] = [None] * len(self.leaves)
        for group, array in zip(self.groups, jax.tree.leaves(packed), strict=True):
            # The transpose of a split is one concatenation; that of slices would be a sum of padded arrays.
            parts = jax.lax.split(array, self._sizes(group), axis=array.ndim - 1)
            for i, part in zip(group, parts, strict=True):
                leaves[i] = part.reshape(*array.shape[:-1], *self.leaves[i].shape)
        return jax.tree.unflatten(self.treedef, leaves)

    def take(self, packed: PyTree, places: list[jax.Array]) -> PyTree:
        """Unpack by slices that begin at the given places, () int32 for each leaf."""
        leaves: list[Any] = [None] * len(self.leaves)
        for group, array in zip(self.groups, jax.tree.leaves(packed), strict=True):
            axis = array.ndim - 1
            for i, size in zip(group, self._sizes(group), strict=True):
                part = jax.lax.dynamic_slice_in_dim(array, places[i], size, axis, allow_negative_indices=False)
                leaves[i] = part.reshape(*array.shape[:-1], *self.leaves[i].shape)
        return jax.tree.unflatten(self.treedef, leaves)

    @property
    def places(self) -> list[int]:
        """First index of each leaf in its array."""
        places = [0] * len(self.leaves)
        for group in self.groups:
            first = 0
            for i, size in zip(group, self._sizes(group), strict=True):
                places[i], first = first, first + size
        return places

    def _written(self, leaves: list[tuple[jax.Array, Any]]) -> jax.Array:
        """Write flat leaves of one dtype to their places in one array."""
        (first, _), *others = leaves
        array = jnp.pad(first, (0, sum(leaf.size for leaf, _ in others)))
        for leaf, place in others:
            array = jax.lax.dynamic_update_slice_in_dim(array, leaf, place, 0, allow_negative_indices=False)
        return array

    def _sizes(self, group: list[int]) -> list[int]:
        return [math.prod(self.leaves[i].shape) for i in group]

    def _leading(self, index: int, leaf: Any) -> tuple[int, ...]:
        return leaf.shape[: leaf.ndim - len(self.leaves[index].shape)]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _unpack_at_hidden_places(packing: Packing, packed: PyTree) -> PyTree:
    return packing.take(packed, _hidden(packing.places))


@_unpack_at_hidden_places.defjvp
def _unpack_tangent(packing: Packing, packed: tuple[PyTree], tangent: tuple[PyTree]) -> tuple[PyTree, PyTree]:
    return _unpack_at_hidden_places(packing, *packed), packing.split(*tangent)


def _hidden(numbers: list[int]) -> list[jax.Array]:
    """Return the numbers, () int32 each, as results of a loop, which the compiler does not know in advance.

    The loop exchanges neighbors twice.
    """
    pairs = [jnp.asarray(n, jnp.int32) for n in numbers] + [jnp.zeros((), jnp.int32)] * (len(numbers) % 2)
    exchange = lambda _, xs: [xs[j ^ 1] for j in range(len(xs))]
    return jax.lax.fori_loop(0, 2, exchange, pairs)[: len(numbers)]


def packing_of(structure: PyTree) -> Packing | None:
    """Return the packing of vectors of this structure; None if they are flat already.

    Args:
        structure: a vector, or its `jax.ShapeDtypeStruct`s.
    """
    leaves, treedef = jax.tree.flatten(structure)
    if not leaves or (len(leaves) == 1 and len(leaves[0].shape) == 1 and treedef == _ONE_LEAF):
        return None
    return Packing(tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves), treedef)


def groups_of(leaves: Any) -> list[list[int]]:
    """Group the indices of leaves by their dtype, in the order of first appearance."""
    groups: dict[Any, list[int]] = {}
    for i, leaf in enumerate(leaves):
        groups.setdefault(jnp.dtype(leaf.dtype), []).append(i)
    return list(groups.values())


def ravel(vector: PyTree, dtype: Any) -> jax.Array:
    """Return all components of a vector in one flat array (n,) of the given dtype.

    >>> print(ravel({"a": jnp.ones((2, 1)), "b": jnp.zeros(1)}, jnp.float32))
    [1. 1. 0.]
    """
    return jnp.concatenate([leaf.reshape(-1).astype(dtype) for leaf in jax.tree.leaves(vector)])


def unravel(components: jax.Array, structure: PyTree) -> PyTree:
    """Return the vector with these components, or several, from an array (..., n); the inverse of `ravel`.

    >>> print(unravel(jnp.arange(3.0), {"a": jnp.ones((2, 1)), "b": jnp.zeros(1)})["a"])
    [[0.]
     [1.]]
    """
    leaves, treedef = jax.tree.flatten(structure)
    leading = components.shape[:-1]
    parts = jnp.split(components, list(itertools.accumulate(math.prod(x.shape) for x in leaves))[:-1], axis=-1)
    shaped = [part.reshape(*leading, *x.shape).astype(x.dtype) for part, x in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(treedef, shaped)


_ONE_LEAF = jax.tree.structure(0)


def _one_or_all(arrays: list[Any]) -> PyTree:
    return arrays[0] if len(arrays) == 1 else tuple(arrays)
