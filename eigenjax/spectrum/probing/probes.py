"""Random probes and blocks of matvecs, shared by the stochastic estimators.

For a random z with E[z z^H] = I, the quadratic form <z, A z> has the mean tr A. Two distributions are used. Random
signs, +1 and -1 (complex: phases), remove the diagonal's share of the variance, and only they serve to estimate the
diagonal. The uniform distribution on a sphere is invariant under rotations: projections on a subspace stay uniform
there, and can be scaled to a fixed length, which removes the variance of the length.

    Var <z, A z>  =  2 sum_{i != j} |a_ij|^2 (signs),    2 n / (n + 2) (||A||_F^2 - (tr A)^2 / n) (sphere), A real
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.arguments import check_int
from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.operators.packed import packed, packing_used
from eigenjax.vectors import random_vectors, tree
from eigenjax.vectors.arithmetic import positive_or_one
from eigenjax.vectors.orthogonalize import breakdown_length, normalize, orthogonalize
from eigenjax.vectors.pseudorandom import positions
from eigenjax.vectors.tree import PyTree

# The standard error of n samples is multiplied by 1 + c / (n - 1). With this c, twice the error covers the truth in
# nine of ten cases for a mean of chi-squares, the quadratic forms of an operator with one large eigenvalue. Student's
# t, for normal samples, needs less.
FEW = 6.0
# Samples that share all other probes are correlated: for the part of an estimate that depends on r probes at once, the
# spread shows 1 / r of the variance. The factor DEPENDENT is the square root of 2.5, and FEW_DEPENDENT is its c.
DEPENDENT, FEW_DEPENDENT = 1.6, 2.0


def random_signs(key: jax.Array, structure: PyTree) -> PyTree:
    """Draw independent numbers of modulus one: signs for real leaves, phases for complex ones.

    >>> random_signs(jax.random.key(0), jnp.zeros(5, jnp.complex64)).dtype
    dtype('complex64')
    """
    real = jax.tree.map(lambda x: not jnp.issubdtype(x.dtype, jnp.complexfloating), structure)
    signs, normal = random_vectors.rademacher(key, structure), random_vectors.normal(key, structure)
    return jax.tree.map(lambda real, x, z: x if real else z / jnp.abs(z).astype(z.dtype), real, signs, normal)


def random_sphere(key: jax.Array, structure: PyTree) -> PyTree:
    """Draw a vector uniformly on the sphere of radius sqrt(n).

    >>> print(tree.norm(random_sphere(jax.random.key(0), jnp.zeros(16))).round(4))
    4.0
    """
    return of_length(random_vectors.normal(key, structure), tree.size(structure))


def of_length(vector: PyTree, square: Any) -> PyTree:
    """Scale a vector to a given squared norm; a zero vector stays zero."""
    length = tree.norm(vector)
    unit = normalize(vector, length)
    return tree.scale(jnp.sqrt(jnp.asarray(square, length.dtype)), unit)


def unit_vector(structure: PyTree, index: jax.Array) -> PyTree:
    """Return the unit vector with a one at this index, counted through all leaves, on the devices of each leaf.

    >>> print(unit_vector((jnp.zeros(2), jnp.zeros((1, 2))), jnp.int32(2)))
    (Array([0., 0.], dtype=float32), Array([[1., 0.]], dtype=float32))
    """
    leaves, treedef = jax.tree.flatten(structure)
    units, first = [], 0
    for leaf in leaves:
        units.append((positions(leaf).astype(jnp.int32) == index - first).astype(leaf.dtype))
        first += tree.size(leaf)
    return jax.tree.unflatten(treedef, units)


def random_vector(sample: Callable[[jax.Array, PyTree], PyTree], key: jax.Array, op: LinearOperator) -> PyTree:
    """Draw a vector of an operator by `random_signs` or another; its numbers do not depend on the packing."""
    packing = packing_used(op)
    structure = op.structure if packing is None else packing.vector_structure
    return packed(sample(key, tree.working_structure(structure)), packing)


def draw(sample: Callable[[jax.Array, PyTree], PyTree], key: jax.Array, op: LinearOperator, count: int) -> PyTree:
    """Draw `count` random vectors of an operator, with a leading axis, one after another, each from its own key."""
    return jax.lax.map(lambda key: random_vector(sample, key, op), jax.random.split(key, count))


def matvecs(op: LinearOperator, rows: PyTree, probe_batch: int) -> PyTree:
    """Apply A to each row, `probe_batch` rows at once."""
    return each(lambda row: matvec(op, row), rows, probe_batch)


def each(function: Callable[[Any], Any], rows: Any, probe_batch: int) -> Any:
    """Apply a function to each row, `probe_batch` rows at once."""
    return jax.lax.map(function, rows, batch_size=None if probe_batch == 1 else probe_batch)


def orthonormal_rows(rows: PyTree) -> tuple[PyTree, jax.Array]:
    """Compute orthonormal rows Q and a triangle R (k, k) with y_i = sum_j R_ji q_j.

    Row i of Q and R_ii are zero if y_i depends on the rows before it up to rounding. For an operator of low rank, all
    vectors beyond the rank are such: normalized, they would be directions made of rounding errors.
    """
    count = jax.tree.leaves(rows)[0].shape[0]
    dtype = tree.accumulation_dtype(rows)
    largest = jnp.max(jax.vmap(tree.norm)(rows))

    def add(i, carry):
        basis, triangle = carry
        residual = orthogonalize(basis, tree.row(rows, i))
        length = jnp.where(residual.norm > breakdown_length(largest), residual.norm, 0)
        unit = tree.where(length > 0, normalize(residual.vector, length), jax.tree.map(jnp.zeros_like, residual.vector))
        column = residual.coefficients.at[i].set(length.astype(dtype))
        return tree.set_row(basis, i, unit), triangle.at[:, i].set(column)

    start = (jax.tree.map(jnp.zeros_like, rows), jnp.zeros((count, count), dtype))
    return jax.lax.fori_loop(0, count, add, start)


def mean_and_error(samples: jax.Array, rounding: jax.Array, few: float = FEW) -> tuple[jax.Array, jax.Array]:
    """Compute the mean over the first axis and its standard error, at least the given rounding error.

    The error is inf for a single sample.

    >>> print(*mean_and_error(jnp.array([1.0, 3.0]), jnp.zeros(())))
    2.0 7.0
    """
    count, mean = samples.shape[0], jnp.mean(samples, axis=0)
    if count == 1:
        return mean, jnp.full_like(mean, jnp.inf)
    # The root has no derivative at zero, and no derivative of the error is needed.
    deviations = jax.lax.stop_gradient(samples - mean[None])
    # Divided by the largest deviation, so that squares neither overflow nor underflow.
    unit = positive_or_one(jnp.max(jnp.abs(deviations), axis=0))
    spread = unit * jnp.sqrt(jnp.sum(jnp.square(deviations / unit[None]), axis=0) / (count * (count - 1)))
    return mean, jax.lax.stop_gradient(jnp.hypot(widened(count, few) * spread, rounding))


def widened(count: int, few: float = FEW) -> float:
    """Return the factor 1 + c / (n - 1) that widens the standard error of n samples.

    >>> widened(2), widened(61)
    (7.0, 1.1)
    """
    return 1 + few / (count - 1)


def checked_ints(**values: Any) -> list[int]:
    """Convert positive integers to Python ints, in the given order."""
    return [check_int(None, name, value) for name, value in values.items()]
