"""Start vectors of an iteration."""

import jax
import jax.numpy as jnp

from eigenjax.operators.base import LinearOperator, check_vector
from eigenjax.operators.matrices import vector_of
from eigenjax.vectors import tree
from eigenjax.vectors.pseudorandom import arbitrary_vector
from eigenjax.vectors.tree import PyTree


def start_vector(op: LinearOperator, v0: PyTree | None, key: jax.Array) -> PyTree:
    """Return v0 in the working dtypes of an operator, or an arbitrary vector if v0 is None.

    Raises:
        ValueError, TypeError: if v0 does not fit the operator; the message names the leaf.
    """
    given = given_start(op, v0)
    return arbitrary_vector(key, tree.working_structure(op.structure)) if given is None else given


def given_start(op: LinearOperator, v0: PyTree | None) -> PyTree | None:
    """Return v0 in the working dtypes of an operator; None stays None.

    Raises:
        ValueError, TypeError: if v0 does not fit the operator; the message names the leaf.
    """
    return None if v0 is None else given_vector(vector_of(v0), op.structure)


def given_vector(v0: PyTree, structure: PyTree, name: str = "v0") -> PyTree:
    """Return a vector, the argument of this name, in the working dtypes of a structure.

    Raises:
        ValueError, TypeError: if v0 does not fit the structure; the message names the leaf.
    """
    structure = tree.working_structure(structure)
    widen = lambda x, like: x.astype(like.dtype) if jnp.iscomplexobj(like) or not jnp.iscomplexobj(x) else x
    v0 = jax.tree.map(jnp.asarray, v0)
    if jax.tree.structure(v0) == jax.tree.structure(structure):
        v0 = jax.tree.map(widen, v0, structure)
    check_vector(v0, structure, name=name)
    return v0
