"""The vector that an iteration starts from."""

import jax
import jax.numpy as jnp

from eigenjax import tree
from eigenjax.operators.base import LinearOperator, check_vector
from eigenjax.tree import PyTree


def start_vector(op: LinearOperator, v0: PyTree | None, key: jax.Array) -> PyTree:
    """The vector v0 in the working dtypes of an operator, or a standard normal one.

    Raises:
        ValueError: if v0 does not fit the operator; names the leaf.
    """
    structure = tree.working_structure(op.structure)
    if v0 is None:
        return tree.random_normal(key, structure)
    v0 = jax.tree.map(jnp.asarray, v0)
    if jax.tree.structure(v0) == jax.tree.structure(structure):
        v0 = tree.cast_like(v0, structure)
    check_vector(v0, structure, name="v0")
    return v0
