"""Looking at an operator: the matrix it stands for, and whether it is symmetric."""

import jax
import jax.numpy as jnp

from eigenjax import tree
from eigenjax.operators.base import LinearOperator, matvec

# How many columns `to_dense` computes at once.
_DENSE_BATCH = 64


def to_dense(op: LinearOperator) -> jax.Array:
    """The (n, n) matrix of an operator, in the order of its raveled leaves.

    Args:
        op: an operator on n numbers.

    Returns:
        (n, n) in the dtype that its scalars are accumulated in. Cost: n products, n^2 numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> from eigenjax import hessian
        >>> print(to_dense(hessian(lambda p: p["a"] * p["b"], {"a": 1.0, "b": 2.0})))
        [[0. 1.]
         [1. 0.]]
    """
    working = tree.working_structure(op.structure)
    dtype = tree.accumulation_dtype(op.structure)
    leaves, treedef = jax.tree.flatten(working)
    ends = [sum(tree.size(leaf) for leaf in leaves[: i + 1]) for i in range(len(leaves))]

    def column(index):
        unit = jnp.zeros(op.size, dtype).at[index].set(1)
        parts = jnp.split(unit, ends[:-1])
        vector = [part.reshape(leaf.shape).astype(leaf.dtype) for part, leaf in zip(parts, leaves, strict=True)]
        image = matvec(op, jax.tree.unflatten(treedef, vector))
        return jnp.concatenate([leaf.reshape(-1).astype(dtype) for leaf in jax.tree.leaves(image)])

    return jax.lax.map(column, jnp.arange(op.size), batch_size=min(_DENSE_BATCH, op.size)).T


def symmetry_error(op: LinearOperator, key: jax.Array) -> jax.Array:
    """How far an operator is from symmetric (Hermitian), seen by two random vectors.

        |<u, A v> - <A u, v>| / (||A u|| + ||A v||),    u, v standard normal

    Args:
        op: an operator.
        key: of the two vectors.

    Returns:
        () about the machine epsilon for a symmetric operator that is the same at every call, about
        ||A - A^H||_F / ||A||_F otherwise. Cost: two products.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from eigenjax import as_operator
        >>> bool(symmetry_error(as_operator(jnp.array([[0.0, 1.0], [-1.0, 0.0]])), jax.random.key(0)) > 0.1)
        True
    """
    first, second = jax.random.split(key)
    structure = tree.working_structure(op.structure)
    u, v = tree.random_normal(first, structure), tree.random_normal(second, structure)
    image_u, image_v = matvec(op, u), matvec(op, v)
    size = tree.norm(image_u) + tree.norm(image_v)
    difference = jnp.abs(tree.inner(u, image_v) - tree.inner(image_u, v))
    return difference / jnp.where(size > 0, size, 1)
