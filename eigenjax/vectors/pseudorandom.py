"""Pseudo-random vectors, from a hash of a seed and the position of each number.

A start vector needs no statistical quality. It should be unrelated to the operator, and cheap. Threefry, the generator
of jax.random, compiles to some hundred instructions for every leaf and every call. Eight leaves took 1.3 s to compile
on a CPU, the two hundred leaves of a transformer half a minute, and one split inside a solver 0.2 s. Therefore a key is
hashed to a seed once, and a seed to further seeds. A vector is a hash of a seed and the position of each number. Each
hash takes ten instructions.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.vectors import placement, tree
from eigenjax.vectors.packing import groups_of
from eigenjax.vectors.tree import PyTree


def seed_of(key: jax.Array | None) -> jax.Array:
    """Hash a key to the (2,) uint32 seed of all pseudo-random numbers of a solve; a seed is returned unchanged.

    Args:
        key: typed key of any generator; None is `jax.random.key(0)`.

    Raises:
        TypeError: if `key` is not a typed key.
    """
    key = _default_key() if key is None else key
    if not isinstance(key, jax.Array):
        raise TypeError(f"key={key!r}: give a typed key, such as jax.random.key(0)")
    if key.dtype == jnp.uint32 and key.shape == (2,):
        return key
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.shape != ():
        raise TypeError(f"key: got {key.dtype}{list(key.shape)}; give one typed key, such as jax.random.key(0)")
    return _folded(jax.random.key_data(key))


@jax.jit
def _default_key() -> jax.Array:
    """Return `jax.random.key(0)`; compiled, so that no number is moved to the device implicitly."""
    return jax.random.key(0)


@jax.jit
def _folded(words: jax.Array) -> jax.Array:
    """Hash all words of a key to a seed; compiled, so that no number is moved to the device implicitly."""
    seed = jnp.asarray([0, 0], jnp.uint32)
    for position in range(words.size):
        seed = fold_in(seed ^ words.reshape(-1)[position], position)
    return seed


@jax.jit
def fold_in(seed: jax.Array, data: Any) -> jax.Array:
    """Derive another seed for each number.

    >>> first = seed_of(jax.random.key(0))
    >>> print((fold_in(first, 1) != first).all(), (fold_in(first, 1) != fold_in(first, 2)).all())
    True True
    """
    # Two different counters, so that the two words of a seed are unrelated.
    counters = jnp.asarray(data).astype(jnp.uint32) * jnp.uint32(2) + jnp.arange(2, dtype=jnp.uint32)
    return _mix(seed + _mix(counters + jnp.uint32(_GOLDEN)))


def arbitrary_vector(key: jax.Array, structure: PyTree) -> PyTree:
    """Draw pseudo-random numbers in (-1, 1), each computed where it is stored, whatever the sharding.

    A vector and its packed form get the same numbers.

    Args:
        key: typed key, or a seed of `seed_of`; different keys give different numbers.
        structure: structure of the vector, in working dtypes.

    >>> x = arbitrary_vector(jax.random.key(0), jnp.zeros(10000))
    >>> print(abs(x.mean()) < 0.02, abs(x.var() - 1 / 3) < 0.02, (x != 0).all())
    True True True
    """
    leaves, treedef = jax.tree.flatten(structure)
    seed, drawn = seed_of(key), list(leaves)
    for number, group in enumerate(groups_of(leaves)):
        seed_of_group, first = fold_in(seed, number), 0
        for i in group:
            drawn[i] = _numbers(seed_of_group, tree.structure_of(leaves[i]), first)
            first += math.prod(leaves[i].shape)
    return jax.tree.unflatten(treedef, drawn)


def arbitrary_rows(seed: jax.Array, structure: PyTree, count: int) -> PyTree:
    """Draw `count` pseudo-random vectors, with a leading axis."""
    seeds = jax.vmap(lambda i: fold_in(seed, i))(jnp.arange(count, dtype=jnp.uint32))
    return jax.vmap(lambda seed: arbitrary_vector(seed, structure))(seeds)


def arbitrary_signs(seed: jax.Array, count: int, dtype: Any) -> jax.Array:
    """Draw (count,) signs, +1 or -1 with equal probability.

    >>> print(abs(arbitrary_signs(seed_of(jax.random.key(0)), 10000, jnp.float32).mean()) < 0.02)
    True
    """
    numbers = arbitrary_vector(seed, jax.ShapeDtypeStruct((count,), jnp.float32))
    return jnp.where(numbers > 0, 1, -1).astype(dtype)


def positions(leaf: Any) -> jax.Array:
    """Return the uint32 index of each number of a leaf, counted through its axes modulo 2^32, sharded like the leaf.

    >>> print(positions(jnp.ones((2, 3))))
    [[0 1 2]
     [3 4 5]]
    """
    sharding, stride = placement.explicit_sharding(leaf), 1
    index = jnp.zeros(leaf.shape, jnp.uint32, out_sharding=sharding)
    for axis in reversed(range(len(leaf.shape))):
        along = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis, out_sharding=sharding)
        index, stride = index + along * jnp.uint32(stride % 2**32), stride * leaf.shape[axis]
    return index


# The number from which `fold_in` derives the seed of imaginary parts.
_IMAGINARY = 1
# 2^32 over the golden ratio: separates small counters and a seed of zeros.
_GOLDEN = 0x9E3779B9


@functools.partial(jax.jit, static_argnums=(1, 2))
def _numbers(seed: jax.Array, leaf: jax.ShapeDtypeStruct, first: int) -> jax.Array:
    real = _uniform(seed, leaf, first)
    if not jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        return real
    return jax.lax.complex(real, _uniform(fold_in(seed, _IMAGINARY), leaf, first))


def _uniform(seed: jax.Array, leaf: Any, first: int) -> jax.Array:
    places = positions(leaf) + jnp.uint32(first % 2**32)
    bits = _mix(_mix(places ^ seed[0]) + seed[1])
    # 24 bits, the midpoint of each of 2^24 intervals of (-1, 1): never zero.
    return (bits >> 8).astype(tree.real_dtype(leaf.dtype)) * 2.0**-23 + (2.0**-24 - 1)


def _mix(bits: jax.Array) -> jax.Array:
    # A bijection of 32 bits in which each input bit flips each output bit about half the time (Wellons 2018).
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> 15)) * jnp.uint32(0x846CA68B)
    return bits ^ (bits >> 16)
