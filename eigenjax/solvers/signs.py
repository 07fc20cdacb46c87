"""The sign (phase) of an eigenvector: the one place where it is fixed."""

import jax
import jax.numpy as jnp

from eigenjax import tree
from eigenjax.tree import PyTree


def fix_signs(
    vectors: PyTree, reference: PyTree | None = None, *, references: PyTree | None = None
) -> tuple[PyTree, jax.Array]:
    """Makes the component of largest magnitude positive (real), or the product with a reference vector.

    Args:
        vectors: k vectors.
        reference: the warm start's vector; a vector practically orthogonal to it follows the first rule.
        references: several of them, of about unit norm: to each vector the one nearest to it.

    Returns:
        The vectors turned, and the (k,) signs (phases) that they were multiplied with.

    Example:
        >>> print(fix_signs(jnp.array([[0.6, -0.8]]))[0])
        [[-0.6  0.8]]
    """
    by_component = jax.vmap(_phase_of_largest)(vectors)
    if reference is None and references is None:
        return _rotate(vectors, by_component), by_component
    if references is None:
        overlaps, length = tree.project(vectors, reference), tree.norm(reference)
    else:
        products = tree.gram(vectors, references)
        nearest = jnp.argmax(jnp.abs(products), axis=1)
        overlaps, length = (
            jnp.take_along_axis(products, nearest[:, None], axis=1)[:, 0],
            jnp.ones((), by_component.real.dtype),
        )
    threshold = float(jnp.finfo(overlaps.dtype).eps) ** 0.5 * length
    tells = (jnp.abs(overlaps) > threshold) & jnp.isfinite(jnp.abs(overlaps))
    phases = jnp.where(tells, _phase(jnp.conj(overlaps)), by_component)
    return _rotate(vectors, phases), phases


def _phase_of_largest(vector: PyTree) -> jax.Array:
    leaves = [leaf for leaf in jax.tree.leaves(vector) if leaf.size]
    if jnp.issubdtype(tree.accumulation_dtype(vector), jnp.complexfloating):
        return _phase(_largest_component(leaves))
    # Two reductions keep any sharding, where an argmax and a look-up would gather.
    highest = jnp.stack([jnp.max(leaf).astype(tree.accumulation_dtype(vector)) for leaf in leaves])
    lowest = jnp.stack([jnp.min(leaf).astype(tree.accumulation_dtype(vector)) for leaf in leaves])
    return jnp.where(jnp.max(highest) >= -jnp.min(lowest), 1, -1).astype(highest.dtype)


def _largest_component(leaves: list[jax.Array]) -> jax.Array:
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in leaves]))

    def first_in(leaf):
        position = jnp.arange(leaf.size).reshape(leaf.shape)
        first = jnp.min(jnp.where(jnp.abs(leaf) == largest, position, leaf.size))
        return jnp.sum(jnp.where(position == first, leaf, 0)), first < leaf.size

    component, found = first_in(leaves[0])
    for leaf in leaves[1:]:
        other, found_here = first_in(leaf)
        component, found = jnp.where(found, component, other), found | found_here
    return component


def _phase(numbers: jax.Array) -> jax.Array:
    modulus = jnp.abs(numbers)
    return jnp.where(modulus > 0, jnp.conj(numbers) / jnp.where(modulus > 0, modulus, 1).astype(numbers.dtype), 1)


def _rotate(vectors: PyTree, phases: jax.Array) -> PyTree:
    spread = lambda leaf: phases.reshape(-1, *[1] * (leaf.ndim - 1)).astype(leaf.dtype)
    return jax.tree.map(lambda leaf: spread(leaf) * leaf, vectors)
