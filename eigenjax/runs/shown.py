"""An operator known by what it did to a few vectors: for programs that take products elsewhere."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.operators.base import LinearOperator
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ShownOperator(LinearOperator):
    """A x = c A v for x = c v, v one of the vectors shown; zero where none was.

    Example:
        >>> op = shown(jax.ShapeDtypeStruct((2,), jnp.float32), jnp.eye(2), jnp.array([[1.0, 2.0], [3.0, 4.0]]))
        >>> print(op(jnp.array([0.0, 2.0])))
        [6. 8.]
    """

    vectors: PyTree  # (q, ...), None for none
    images: PyTree
    leaves: tuple[jax.ShapeDtypeStruct, ...] = dataclasses.field(metadata={"static": True})
    treedef: Any = dataclasses.field(metadata={"static": True})

    @property
    def structure(self) -> PyTree:
        """As it was told."""
        return jax.tree.unflatten(self.treedef, self.leaves)

    def mv(self, vector: PyTree) -> PyTree:
        """The image of the one vector shown that is parallel to this one."""
        if self.vectors is None:
            return jax.tree.map(jnp.zeros_like, vector)
        lengths = jax.vmap(tree.norm)(self.vectors)
        along = tree.project(self.vectors, vector) / jnp.where(lengths > 0, lengths, 1)
        best = jnp.argmax(jnp.abs(along))
        factor = along[best] / lengths[best]
        return tree.cast_like(tree.scale(factor, tree.row(self.images, best)), vector)


def shown(structure: PyTree, vectors: PyTree = None, images: PyTree = None) -> ShownOperator:
    """An operator of this structure, with the (q, ...) images of (q, ...) vectors."""
    leaves, treedef = jax.tree.flatten(structure)
    return ShownOperator(vectors, images, tuple(leaves), treedef)
