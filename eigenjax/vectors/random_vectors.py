"""Random vectors shaped like the parameters, with the sharding of each leaf."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from eigenjax.vectors.placement import explicit_sharding
from eigenjax.vectors.tree import PyTree, accumulation_dtype


def normal(key: jax.Array, structure: PyTree) -> PyTree:
    """Draw independent standard normal numbers in the working dtype of each leaf, sharded like the leaf."""
    return _random(jax.random.normal, key, structure)


def rademacher(key: jax.Array, structure: PyTree) -> PyTree:
    """Draw independent signs, +1 or -1 with equal probability, in the working dtype of each leaf, sharded like it.

    >>> bool(jnp.all(jnp.abs(rademacher(jax.random.key(0), jnp.ones(5))) == 1))
    True
    """

    def draw(key, shape, dtype, out_sharding):
        signs = jax.random.bernoulli(key, shape=shape, out_sharding=out_sharding)
        return jnp.where(signs, jnp.ones((), dtype), -jnp.ones((), dtype))

    return _random(draw, key, structure)


def _random(draw: Callable, key: jax.Array, structure: PyTree) -> PyTree:
    leaves, treedef = jax.tree.flatten(structure)
    keys = jax.random.split(key, len(leaves))
    drawn = [
        draw(key, leaf.shape, accumulation_dtype(leaf), out_sharding=explicit_sharding(leaf))
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, drawn)
