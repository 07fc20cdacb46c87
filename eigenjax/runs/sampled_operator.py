"""Operator defined by its values at a few vectors, for programs whose matvecs are computed outside of them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.operators.base import LinearOperator
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import safe_divide
from eigenjax.vectors.tree import PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SampledOperator(LinearOperator):
    """Operator with A x = c A v for x = c v, v one of the given vectors; zero if there are none.

    Example:
        >>> images = jnp.array([[1.0, 2.0], [3.0, 4.0]])
        >>> op = sampled_operator(jax.ShapeDtypeStruct((2,), jnp.float32), jnp.eye(2), images)
        >>> print(op(jnp.array([0.0, 2.0])))
        [6. 8.]
    """

    vectors: PyTree  # (q, ...) the v, or None for none
    images: PyTree  # (q, ...) the A v
    leaves: tuple[jax.ShapeDtypeStruct, ...] = dataclasses.field(metadata={"static": True})  # of the structure
    treedef: Any = dataclasses.field(metadata={"static": True})  # of the structure

    @property
    def structure(self) -> PyTree:
        """Structure of a vector."""
        return jax.tree.unflatten(self.treedef, self.leaves)

    def mv(self, vector: PyTree) -> PyTree:
        """Return the scaled A v of the one given vector v that is parallel to this vector."""
        if self.vectors is None:
            return jax.tree.map(jnp.zeros_like, vector)
        lengths = jax.vmap(tree.norm)(self.vectors)
        along = safe_divide(tree.project(self.vectors, vector), lengths)
        best = jnp.argmax(jnp.abs(along))
        factor = along[best] / lengths[best]
        return tree.cast_like(tree.scale(factor, tree.row(self.images, best)), vector)


def sampled_operator(structure: PyTree, vectors: PyTree = None, images: PyTree = None) -> SampledOperator:
    """Create an operator of this structure from (q, ...) vectors v and their (q, ...) A v."""
    leaves, treedef = jax.tree.flatten(structure)
    return SampledOperator(vectors, images, tuple(leaves), treedef)
