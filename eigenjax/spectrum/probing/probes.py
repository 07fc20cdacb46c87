"""What stochastic estimators have in common: random probes, blocks of products.

All rest on one fact: for a random z with E[z z^H] = I, the quadratic form <z, A z> has the mean tr A. Two kinds are
used. Signs, +1 and -1 (complex: phases), leave out the diagonal's share of the variance, and alone serve estimates of
the diagonal. Directions uniform on a sphere are the same from any basis one looks; their parts in a subspace stay
uniform there, and can be given the length that has no variance.

    Var <z, A z>  =  2 sum_{i != j} |a_ij|^2 (signs),    2 n / (n + 2) (||A||_F^2 - (tr A)^2 / n) (sphere), A real
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.arguments import plain_int
from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.vectors import random_vectors, tree
from eigenjax.vectors.orthogonalize import breakdown_length, normalize, orthogonalize
from eigenjax.vectors.pseudorandom import positions
from eigenjax.vectors.tree import PyTree

# The spread of n samples is widened by 1 + c / (n - 1). With this c twice the error of a mean of chi-squares, the
# quadratic forms of an operator with one large eigenvalue, holds the truth in nine of ten cases; Student's t, of normal
# samples, asks for less.
FEW = 6.0
# Samples with all others' probes in common depend on each other: of the part of an estimate that comes of r probes at
# once the spread shows one part in r of the variance. This is the root of two and a half, and c where it is applied.
DEPENDENT, FEW_DEPENDENT = 1.6, 2.0


def random_signs(key: jax.Array, structure: PyTree) -> PyTree:
    """Independent numbers of modulus one: signs in real leaves, phases in complex ones.

    >>> random_signs(jax.random.key(0), jnp.zeros(5, jnp.complex64)).dtype
    dtype('complex64')
    """
    real = jax.tree.map(lambda x: not jnp.issubdtype(x.dtype, jnp.complexfloating), structure)
    signs, normal = random_vectors.rademacher(key, structure), random_vectors.normal(key, structure)
    return jax.tree.map(lambda real, x, z: x if real else z / jnp.abs(z).astype(z.dtype), real, signs, normal)


def random_sphere(key: jax.Array, structure: PyTree) -> PyTree:
    """A vector uniform on the sphere of radius sqrt(n).

    >>> print(tree.norm(random_sphere(jax.random.key(0), jnp.zeros(16))).round(4))
    4.0
    """
    return of_length(random_vectors.normal(key, structure), tree.size(structure))


def of_length(vector: PyTree, square: Any) -> PyTree:
    """The vector with this square of a norm; a zero vector stays zero."""
    length = tree.norm(vector)
    unit = normalize(vector, length)
    return tree.scale(jnp.sqrt(jnp.asarray(square).astype(length.dtype)), unit)


def unit_vector(structure: PyTree, index: jax.Array) -> PyTree:
    """The vector with a one at this position, counted through all leaves, computed where it is stored.

    >>> print(unit_vector((jnp.zeros(2), jnp.zeros((1, 2))), jnp.int32(2)))
    (Array([0., 0.], dtype=float32), Array([[1., 0.]], dtype=float32))
    """
    leaves, treedef = jax.tree.flatten(structure)
    units, first = [], 0
    for leaf in leaves:
        units.append((positions(leaf).astype(jnp.int32) == index - first).astype(leaf.dtype))
        first += tree.size(leaf)
    return jax.tree.unflatten(treedef, units)


def draw(sample: Callable[[jax.Array, PyTree], PyTree], key: jax.Array, op: LinearOperator, count: int) -> PyTree:
    """So many random vectors of an operator, with a leading axis, one after another: each has its own key."""
    structure = tree.working_structure(op.structure)
    return jax.lax.map(lambda key: sample(key, structure), jax.random.split(key, count))


def products(op: LinearOperator, rows: PyTree, probe_batch: int) -> PyTree:
    """A times each of the rows, so many of them at once."""
    return each(lambda row: matvec(op, row), rows, probe_batch)


def each(function: Callable[[Any], Any], rows: Any, probe_batch: int) -> Any:
    """The function of each of the rows, of so many at once."""
    return jax.lax.map(function, rows, batch_size=None if probe_batch == 1 else probe_batch)


def orthonormal_rows(rows: PyTree) -> tuple[PyTree, jax.Array]:
    """Orthonormal rows Q and a triangle R (k, k) with y_i = sum_j R_ji q_j; Q and R are zero where y_i adds nothing.

    Of an operator of low rank all products beyond the rank add nothing but rounding; left in, they would be
    directions made of it.
    """
    count = jax.tree.leaves(rows)[0].shape[0]
    dtype = tree.accumulation_dtype(rows)
    largest = jnp.max(jax.vmap(tree.norm)(rows))

    def add(i, carry):
        basis, triangle = carry
        rest = orthogonalize(basis, tree.row(rows, i))
        length = jnp.where(rest.norm > breakdown_length(largest), rest.norm, 0)
        unit = tree.where(length > 0, normalize(rest.vector, length), jax.tree.map(jnp.zeros_like, rest.vector))
        column = rest.coefficients.at[i].set(length.astype(dtype))
        return tree.set_row(basis, i, unit), triangle.at[:, i].set(column)

    start = (jax.tree.map(jnp.zeros_like, rows), jnp.zeros((count, count), dtype))
    return jax.lax.fori_loop(0, count, add, start)


def mean_and_error(samples: jax.Array, rounding: jax.Array, few: float = FEW) -> tuple[jax.Array, jax.Array]:
    """The mean over the first axis and its standard error, which no rounding of this size is beneath.

    Of one sample the error is not known: inf.

    >>> print(*mean_and_error(jnp.array([1.0, 3.0]), jnp.zeros(())))
    2.0 7.0
    """
    count, mean = samples.shape[0], jnp.mean(samples, axis=0)
    if count == 1:
        return mean, jnp.full_like(mean, jnp.inf)
    # The root has no derivative at zero, and an error needs none.
    deviations = jax.lax.stop_gradient(samples - mean[None])
    # Squares of deviations from this unit neither overflow nor vanish.
    unit = jnp.max(jnp.abs(deviations), axis=0)
    unit = jnp.where(unit > 0, unit, 1)
    spread = unit * jnp.sqrt(jnp.sum(jnp.square(deviations / unit[None]), axis=0) / (count * (count - 1)))
    return mean, jax.lax.stop_gradient(jnp.hypot(widened(count, few) * spread, rounding))


def widened(count: int, few: float = FEW) -> float:
    """By what factor the spread of so many samples is too small, where it is: one of their large number.

    >>> widened(2), widened(61)
    (7.0, 1.1)
    """
    return 1 + few / (count - 1)


def checked_int(name: str, value: Any, least: int = 1, why: str = "") -> int:
    """The value as an int of Python; an error unless it is an integer, and so large."""
    value = plain_int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}={value!r}: give an int; it is static under jit")
    if value < least:
        raise ValueError(f"{name}={value}: give {least} or more{why}")
    return value


def checked_ints(**values: Any) -> list[int]:
    """Positive integers as ints of Python, in this order."""
    return [checked_int(name, value) for name, value in values.items()]
