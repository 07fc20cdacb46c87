"""The vectors that an iteration starts from.

A start need not be random to a statistician's standard, only without any relation to the operator, and it should
cost nothing. Threefry, jax.random's generator, compiles to some hundred instructions for every leaf and every place:
eight leaves took 1.3 s to compile on a CPU, a transformer's two hundred half a minute. So a vector is hashed from
the position of each number, ten instructions a leaf, with seeds drawn by jax.random.
"""

from typing import Any

import jax
import jax.numpy as jnp

from eigenjax import tree
from eigenjax.operators.base import LinearOperator, check_vector
from eigenjax.tree import PyTree


def start_vector(op: LinearOperator, v0: PyTree | None, key: jax.Array) -> PyTree:
    """The vector v0 in the working dtypes of an operator, or an arbitrary one.

    Raises:
        ValueError, TypeError: if v0 does not fit the operator; names the leaf.
    """
    given = given_start(op, v0)
    return arbitrary_vector(key, tree.working_structure(op.structure)) if given is None else given


def given_start(op: LinearOperator, v0: PyTree | None) -> PyTree | None:
    """The vector v0 in the working dtypes of an operator; None stays None.

    Raises:
        ValueError, TypeError: if v0 does not fit the operator; names the leaf.
    """
    if v0 is None:
        return None
    structure = tree.working_structure(op.structure)
    widen = lambda x, like: x.astype(like.dtype) if jnp.iscomplexobj(like) or not jnp.iscomplexobj(x) else x
    v0 = jax.tree.map(jnp.asarray, v0)
    if jax.tree.structure(v0) == jax.tree.structure(structure):
        v0 = jax.tree.map(widen, v0, structure)
    check_vector(v0, structure, name="v0")
    return v0


def arbitrary_vector(key: jax.Array, structure: PyTree) -> PyTree:
    """Numbers in (-1, 1), uniform to the eye, computed where they are stored whatever the sharding.

    Args:
        key: typed key; another one gives other numbers.
        structure: of the vector, in working dtypes.

    >>> x = arbitrary_vector(jax.random.key(0), jnp.zeros(10000))
    >>> print(abs(x.mean()) < 0.02, abs(x.var() - 1 / 3) < 0.02, (x != 0).all())
    True True True
    """
    leaves, treedef = jax.tree.flatten(structure)
    seeds = jax.random.bits(key, (len(leaves), 2, 2), jnp.uint32)
    return jax.tree.unflatten(treedef, [_numbers(seed, leaf) for seed, leaf in zip(seeds, leaves, strict=True)])


def _numbers(seeds: jax.Array, leaf: Any) -> jax.Array:
    real, imaginary = (_uniform(seed, leaf) for seed in seeds)
    return jax.lax.complex(real, imaginary) if jnp.issubdtype(leaf.dtype, jnp.complexfloating) else real


def _uniform(seed: jax.Array, leaf: Any) -> jax.Array:
    position, stride = jnp.zeros(leaf.shape, jnp.uint32), 1
    for axis in reversed(range(len(leaf.shape))):
        along = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis, out_sharding=tree.explicit_sharding(leaf))
        position, stride = position + along * jnp.uint32(stride % 2**32), stride * leaf.shape[axis]
    bits = _mix(_mix(position ^ seed[0]) + seed[1])
    # 24 bits, the middle of each of 2^24 intervals of (-1, 1): never zero.
    return (bits >> 8).astype(tree.real_dtype(leaf.dtype)) * 2.0**-23 + (2.0**-24 - 1)


def _mix(bits: jax.Array) -> jax.Array:
    # A bijection of 32 bits in which each input bit flips each output bit about half the time (Wellons 2018).
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> 15)) * jnp.uint32(0x846CA68B)
    return bits ^ (bits >> 16)
