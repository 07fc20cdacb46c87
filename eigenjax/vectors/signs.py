"""Sign (phase) convention of eigenvectors."""

import jax
import jax.numpy as jnp

from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import safe_divide
from eigenjax.vectors.pseudorandom import positions
from eigenjax.vectors.tree import PyTree

# Components whose magnitudes differ by less than this times eps count as equal.
TIED = 16.0
# Position of no component.
_NOWHERE = 2**32 - 1


def fix_signs(
    vectors: PyTree, reference: PyTree | None = None, *, references: PyTree | None = None
) -> tuple[PyTree, jax.Array]:
    """Make the component of largest magnitude positive (real), or the inner product with a reference vector.

    Args:
        vectors: k vectors.
        reference: the vector of a warm start. Vectors orthogonal to it up to sqrt(eps) follow the component rule.
        references: several reference vectors of norm about one; each vector uses the one with the largest overlap.

    Returns:
        The vectors times the phases, and the (k,) signs (phases) themselves.

    Example:
        >>> print(fix_signs(jnp.array([[0.6, -0.8]]))[0])
        [[-0.6  0.8]]
    """
    by_component = jax.vmap(_phase_of_largest)(vectors)
    if reference is None and references is None:
        return _rotate(vectors, by_component), by_component
    overlaps, tells, _ = _overlaps(vectors, reference, references)
    phases = jnp.where(tells, _phase(jnp.conj(overlaps)), by_component)
    return _rotate(vectors, phases), phases


def holding(vectors: PyTree, reference: PyTree | None = None, references: PyTree | None = None) -> PyTree:
    """Return the k vectors f_i for which `fix_signs` makes <f_i, x_i> real and positive.

    Args:
        vectors: k vectors x_i, with or without fixed signs: their phases make no difference.
        reference: the vector of a warm start. Vectors orthogonal to it up to sqrt(eps) follow the component rule.
        references: several reference vectors of norm about one; each vector uses the one with the largest overlap.

    >>> print(holding(jnp.array([[0.6, -0.8]])))
    [[0. 1.]]
    """
    by_component = jax.vmap(at_largest)(vectors)
    if reference is None and references is None:
        return by_component
    _, tells, nearest = _overlaps(vectors, reference, references)
    return jax.vmap(tree.where)(
        tells, jax.tree.map(lambda x, y: x.astype(y.dtype), nearest, by_component), by_component
    )


def _overlaps(
    vectors: PyTree, reference: PyTree | None, references: PyTree | None
) -> tuple[jax.Array, jax.Array, PyTree]:
    """Return the inner products <x_i, r_i> with the references, whether each determines a phase, and the r_i."""
    k = jax.tree.leaves(vectors)[0].shape[0]
    if references is None:
        overlaps, length = tree.project(vectors, reference), tree.norm(reference)
        nearest = jax.tree.map(lambda x: jnp.broadcast_to(x, (k, *x.shape)), reference)
    else:
        products = tree.gram(vectors, references)
        which = jnp.argmax(jnp.abs(products), axis=1)
        overlaps = jnp.take_along_axis(products, which[:, None], axis=1)[:, 0]
        length = jnp.ones((), overlaps.real.dtype)
        nearest = jax.tree.map(lambda x: x[which], references)
    threshold = float(jnp.finfo(overlaps.dtype).eps) ** 0.5 * length
    return overlaps, (jnp.abs(overlaps) > threshold) & jnp.isfinite(jnp.abs(overlaps)), nearest


def _phase_of_largest(vector: PyTree) -> jax.Array:
    leaves = [leaf for leaf in jax.tree.leaves(vector) if leaf.size]
    if jnp.issubdtype(tree.accumulation_dtype(vector), jnp.complexfloating):
        return _phase(tree.inner(at_largest(vector), vector))
    # Two reductions keep any sharding; an argmax and an index would gather the vector.
    highest = jnp.stack([jnp.max(leaf).astype(tree.accumulation_dtype(vector)) for leaf in leaves])
    lowest = jnp.stack([jnp.min(leaf).astype(tree.accumulation_dtype(vector)) for leaf in leaves])
    return jnp.where(jnp.max(highest) >= -jnp.min(lowest), 1, -1).astype(highest.dtype)


def at_largest(vector: PyTree) -> PyTree:
    """Return the unit vector e_j of the component of largest magnitude; of equal ones, the first.

    >>> print(at_largest((jnp.array([1.0, -3.0]), jnp.array([3.0]))))
    (Array([0., 1.], dtype=float32), Array([0.], dtype=float32))
    """
    leaves, treedef = jax.tree.flatten(vector)
    sizes = [jnp.abs(leaf) for leaf in leaves]
    largest = jnp.max(jnp.stack([jnp.max(size, initial=0).astype(jnp.result_type(*sizes)) for size in sizes]))
    # Not an equality test: the compiler may round one number differently in two kernels.
    least = (1 - TIED * float(jnp.finfo(largest.dtype).eps)) * largest
    nowhere, found, units = jnp.uint32(_NOWHERE), jnp.zeros((), bool), []
    for leaf, size in zip(leaves, sizes, strict=True):
        is_largest, position = size >= least.astype(size.dtype), positions(leaf)
        first = jnp.min(jnp.where(is_largest, position, nowhere), initial=nowhere)
        units.append(jnp.where(is_largest & (position == first) & ~found, jnp.ones_like(leaf), jnp.zeros_like(leaf)))
        found = found | (first < nowhere)
    return jax.tree.unflatten(treedef, units)


def _phase(numbers: jax.Array) -> jax.Array:
    return safe_divide(jnp.conj(numbers), jnp.abs(numbers), otherwise=1)


def _rotate(vectors: PyTree, phases: jax.Array) -> PyTree:
    spread = lambda leaf: phases.reshape(-1, *[1] * (leaf.ndim - 1)).astype(leaf.dtype)
    return jax.tree.map(lambda leaf: spread(leaf) * leaf, vectors)
