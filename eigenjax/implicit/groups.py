"""A projection of k vectors, a few of them at a time and in their own place."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from eigenjax import tree
from eigenjax.tree import PyTree

# Vectors at a time: what a projection takes away is as many vectors more, held beside them.
_GROUP = 4


def in_groups(projection: Callable[[PyTree], PyTree], block: PyTree) -> PyTree:
    """The projection of each vector of a block; it is applied twice to some, which must not matter to it.

    >>> print(in_groups(lambda rows: rows.at[:, 0].set(0), jnp.ones((6, 2))).sum())
    6.0
    """
    k = jax.tree.leaves(block)[0].shape[0]
    if k <= _GROUP:
        return projection(block)
    # The last group reaches back rather than over the end.
    firsts = jnp.minimum(jnp.arange(0, k, _GROUP, dtype=jnp.int32), k - _GROUP)

    def project(done, first):
        few = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, _GROUP), done)
        return tree.set_rows(done, first, projection(few)), None

    return jax.lax.scan(project, block, firsts)[0]
